//! Users whom identity providers know.

use std::collections::BTreeSet;

use serde_json::json;
use sluice_catalog::{
    BeginningLogin, ErrorKind, Grant, IdentityProvider, NewGroup, ProviderId, Role, Sealer,
};

use crate::support::{Lab, on_both};

on_both! {
    somebody_is_known_by_the_subject_and_not_by_the_name
    what_a_provider_says_is_replaced_as_a_whole
    a_login_ends_once
}

fn provider() -> IdentityProvider {
    let via = json!({"kind": "oidc", "issuer": "https://id.example.org", "client_id": "sluice"});
    serde_json::from_value(json!({ "via": via })).unwrap()
}

async fn somebody_is_known_by_the_subject_and_not_by_the_name(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let one = tx.insert(None, "one", provider(), 1).await.unwrap().id;
    let two = tx.insert(None, "two", provider(), 1).await.unwrap().id;
    tx.add_user("local", "hash", 1).await.unwrap();
    let anna = tx.add_provided_user("anna", one, "s1", 1).await.unwrap();
    assert_eq!((anna.provider, anna.password_hash.as_str()), (Some(one), ""));
    // The name is another one by now, and she is the same.
    let found = tx.provided_user(one, "s1", "anna-maria").await.unwrap();
    assert_eq!(found.map(|user| user.id), Some(anna.id));
    for (provider, subject, login) in
        [(two, "s1", "anna"), (one, "s2", "anna"), (one, "s2", "local"), (one, "", "anna")]
    {
        assert_eq!(tx.provided_user(provider, subject, login).await.unwrap(), None, "{subject}");
    }
    // Who was expected by name is taken at the first login only.
    let otto = tx.add_provided_user("otto", two, "", 1).await.unwrap();
    assert_eq!(tx.provided_user(one, "s3", "otto").await.unwrap(), None);
    let found = tx.provided_user(two, "s3", "otto").await.unwrap();
    assert_eq!(found.map(|user| user.id), Some(otto.id));
    assert_eq!(tx.provided_user(two, "s4", "otto").await.unwrap(), None);
    assert_eq!(tx.count_provided_users(two).await.unwrap(), 1);
    tx.commit().await.unwrap();
    let mut tx = lab.catalog.begin().await.unwrap();
    let taken = tx.add_provided_user("otto-2", two, "s3", 1).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Conflict);
}

async fn what_a_provider_says_is_replaced_as_a_whole(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let one = tx.insert(None, "one", provider(), 1).await.unwrap().id;
    let anna = tx.add_provided_user("anna", one, "s1", 1).await.unwrap().id;
    let grant = Grant::system;
    let new =
        NewGroup { name: "team".into(), members: Vec::new(), grants: vec![grant(Role::Operator)] };
    let team = tx.add_group(&new, 1).await.unwrap().id;
    tx.set_grants(anna, &[grant(Role::Viewer)]).await.unwrap();
    tx.set_mapped(anna, &[grant(Role::Admin)], &[team].into()).await.unwrap();
    let roles = |grants: Vec<Grant>| {
        let mut roles: Vec<Role> = grants.iter().map(|grant| grant.role).collect();
        roles.sort();
        roles
    };
    let all = roles(tx.all_grants(anna).await.unwrap());
    assert_eq!(all, [Role::Viewer, Role::Operator, Role::Admin]);
    // Without a password of this server she is not the one who lets others in.
    assert_eq!(tx.count_administrators().await.unwrap(), 0);
    tx.set_mapped(anna, &[], &BTreeSet::new()).await.unwrap();
    assert_eq!(roles(tx.all_grants(anna).await.unwrap()), [Role::Viewer]);
    tx.add_session("hash", anna, "here", 1, 99).await.unwrap();
    assert_eq!(tx.end_provided_sessions(one).await.unwrap(), 1);
    assert!(tx.who("hash", 2).await.is_err());
}

fn login<'a>(
    provider: ProviderId,
    hash: &'a str,
    state: &'a str,
    address: &'a str,
    expires_ms: u64,
) -> BeginningLogin<'a> {
    BeginningLogin { hash, provider, state, address, expires_ms }
}

async fn a_login_ends_once(lab: Lab) {
    let sealer = Sealer::new(&[7; 32]);
    let mut tx = lab.catalog.begin().await.unwrap();
    let one = tx.insert(None, "one", provider(), 1).await.unwrap().id;
    tx.begin_login(&sealer, &login(one, "h1", "nonce", "a", 10), 1).await.unwrap();
    tx.begin_login(&sealer, &login(one, "h3", "", "b", 20), 1).await.unwrap();
    let mut of = Vec::new();
    for (address, now) in [("a", 9), ("a", 10), ("b", 10), ("c", 1)] {
        of.push(tx.count_pending_logins(address, now).await.unwrap());
    }
    assert_eq!(of, [1, 0, 1, 0]);
    let (of, state) = tx.pending_login(&sealer, "h1", 9).await.unwrap().unwrap();
    assert_eq!((of, state.as_str()), (one, "nonce"));
    assert!(tx.pending_login(&sealer, "h1", 10).await.unwrap().is_none());
    assert!(tx.pending_login(&sealer, "h2", 9).await.unwrap().is_none());
    assert!(tx.end_login("h1").await.unwrap());
    assert!(!tx.end_login("h1").await.unwrap());
    for number in 0..sluice_catalog::MOST_PENDING {
        let hash = number.to_string();
        tx.begin_login(&sealer, &login(one, &hash, "", "a", 30), 20).await.unwrap();
    }
    let full = tx.begin_login(&sealer, &login(one, "more", "", "b", 30), 20).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Unavailable);
    // What is over makes room.
    tx.begin_login(&sealer, &login(one, "more", "", "a", 40), 30).await.unwrap();
}
