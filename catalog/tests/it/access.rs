use sluice_catalog::{
    Capabilities, ErrorKind, Grant, NewGroup, Node, Page, Role, Sealer, token_hash,
};

use crate::records::project;
use crate::support::{Lab, on_both};

on_both! {
    a_session_is_somebody_until_it_ends
    tokens_last_until_removed
    a_join_token_is_used_up
    single_values_are_set_and_removed
    a_zero_byte_is_the_callers_mistake
    a_second_factor_is_used_up_step_by_step
    what_a_group_may_do_its_members_may
    passwords_are_remembered_and_sessions_can_be_ended
}

async fn a_session_is_somebody_until_it_ends(Lab { catalog, .. }: Lab) {
    let own = project(&catalog, "one").await;
    let mut tx = catalog.begin().await.unwrap();
    assert_eq!(tx.count_users().await.unwrap(), 0);
    let anna = tx.add_user("anna", "hash", 7).await.unwrap();
    let grants = vec![Grant::system(Role::Admin), Grant::project(Role::Viewer, own)];
    tx.set_grants(anna.id, &grants).await.unwrap();
    assert_eq!(tx.count_administrators().await.unwrap(), 1);
    tx.add_session("s1", anna.id, "", 10, 20).await.unwrap();
    let session = tx.who("s1", 19).await.unwrap();
    assert_eq!((session.user, session.grants), (anna.clone(), grants));
    assert_eq!(tx.who("s1", 20).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(tx.who("s2", 10).await.unwrap_err().kind(), ErrorKind::NotFound);
    tx.set_password(anna.id, "other").await.unwrap();
    assert!(tx.who("s1", 11).await.is_err(), "another password ends sessions");
    assert_eq!(tx.user_by_login("anna").await.unwrap().unwrap().password_hash, "other");
    tx.add_session("s3", anna.id, "", 10, 20).await.unwrap();
    tx.end_session("s3").await.unwrap();
    assert!(tx.who("s3", 11).await.is_err());
    tx.set_grants(anna.id, &[]).await.unwrap();
    assert_eq!(tx.count_administrators().await.unwrap(), 0);
    tx.delete_user(anna.id).await.unwrap();
    assert!(tx.users_called("*", &Page::default()).await.unwrap().is_empty());
}

async fn tokens_last_until_removed(Lab { catalog, .. }: Lab) {
    let mut tx = catalog.begin().await.unwrap();
    let anna = tx.add_user("anna", "hash", 7).await.unwrap();
    let otto = tx.add_user("otto", "hash", 7).await.unwrap();
    let hash = token_hash("secret");
    let token = tx.add_token(anna.id, "ci", &hash, 7, None).await.unwrap();
    let short = tx.add_token(anna.id, "short", "h2", 7, Some(9)).await.unwrap();
    assert_eq!(tx.who(&hash, u64::MAX / 4).await.unwrap().user, anna);
    assert!(tx.who("h2", 8).await.is_ok() && tx.who("h2", 9).await.is_err());
    assert_eq!(tx.tokens(anna.id, &Page::default()).await.unwrap(), [token.clone(), short.clone()]);
    let first = Page { after: None, limit: 1 };
    assert_eq!(tx.tokens(anna.id, &first).await.unwrap(), std::slice::from_ref(&token));
    let next = Page { after: Some(token.id.to_string()), limit: 1 };
    assert_eq!(tx.tokens(anna.id, &next).await.unwrap(), [short]);
    assert!(tx.delete_token(otto.id, token.id).await.is_err(), "it is not theirs");
    tx.delete_token(anna.id, token.id).await.unwrap();
    assert!(tx.who(&hash, 8).await.is_err());
}

async fn a_join_token_is_used_up(Lab { catalog, .. }: Lab) {
    let mut tx = catalog.begin().await.unwrap();
    let capabilities = Capabilities { host: "h".into(), slots: 2, ..Capabilities::default() };
    let node = Node { capabilities, ..Node::default() };
    tx.add_join_token("t", 1, 100).await.unwrap();
    assert!(tx.join("t", "late", node.clone(), "own", 100).await.is_err());
    let joined = tx.join("t", "mover", node.clone(), "own", 50).await.unwrap();
    assert_eq!(joined.body, node);
    assert!(tx.join("t", "second", node, "other", 50).await.is_err());
    assert_eq!(tx.node_by_token("own").await.unwrap(), joined.id);
    assert!(tx.node_by_token("t").await.is_err());
    tx.node_seen(joined.id, 77).await.unwrap();
    let seen = tx.liveness().await.unwrap()[&joined.id];
    assert_eq!((seen.last_seen_ms, seen.running), (77, 0));
}

async fn single_values_are_set_and_removed(Lab { catalog, .. }: Lab) {
    let mut tx = catalog.begin().await.unwrap();
    assert_eq!(tx.setting("a").await.unwrap(), None);
    tx.set_setting("a", "1").await.unwrap();
    tx.set_setting("a", "2").await.unwrap();
    assert_eq!(tx.setting("a").await.unwrap().as_deref(), Some("2"));
    assert!(tx.remove_setting("a").await.unwrap() && !tx.remove_setting("a").await.unwrap());
}

async fn a_zero_byte_is_the_callers_mistake(Lab { catalog, .. }: Lab) {
    match catalog.read().await.unwrap().user_by_login("an\0na").await {
        Ok(found) => assert_eq!(found, None),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid),
    }
    let page = Page { after: Some("\0".into()), limit: 1 };
    match catalog.read().await.unwrap().users_called("*", &page).await {
        Ok(found) => assert!(found.is_empty()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid),
    }
}

async fn a_second_factor_is_used_up_step_by_step(Lab { catalog, .. }: Lab) {
    let sealer = Sealer::new(&[1; 32]);
    let mut tx = catalog.begin().await.unwrap();
    let anna = tx.add_user("anna", "hash", 7).await.unwrap().id;
    let otto = tx.add_user("otto", "hash", 7).await.unwrap().id;
    tx.begin_totp(&sealer, anna, "FIRST").await.unwrap();
    tx.begin_totp(&sealer, anna, "SECOND").await.unwrap();
    let known = tx.totp(anna).await.unwrap().unwrap();
    assert!(!known.confirmed && *known.secret(&sealer).unwrap() == "SECOND");
    tx.add_session("s", anna, "", 10, 20).await.unwrap();
    assert!(!tx.who("s", 11).await.unwrap().second_factor, "it counts when it is confirmed");
    tx.confirm_totp(anna).await.unwrap();
    tx.set_recovery_codes(anna, &["a".into(), "b".into()]).await.unwrap();
    assert!(tx.who("s", 11).await.unwrap().second_factor);
    assert_eq!(tx.recovery_codes_left(anna).await.unwrap(), 2);
    assert!(tx.use_totp_step(anna, 100).await.unwrap());
    for (step, good) in [(100, false), (99, false), (101, true), (101, false)] {
        assert_eq!(tx.use_totp_step(anna, step).await.unwrap(), good, "{step}");
    }
    assert!(!tx.use_totp_step(otto, 100).await.unwrap(), "who has none uses none");
    assert!(!tx.use_recovery_code(otto, "a").await.unwrap(), "it is not theirs");
    assert!(tx.use_recovery_code(anna, "a").await.unwrap());
    assert!(!tx.use_recovery_code(anna, "a").await.unwrap());
    let told = tx.begin_totp(&sealer, anna, "THIRD").await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Conflict);
    assert!(tx.remove_totp(anna).await.unwrap() && !tx.remove_totp(anna).await.unwrap());
    assert_eq!(tx.recovery_codes_left(anna).await.unwrap(), 0);
}

async fn what_a_group_may_do_its_members_may(Lab { catalog, .. }: Lab) {
    let mut tx = catalog.begin().await.unwrap();
    let anna = tx.add_user("anna", "hash", 7).await.unwrap().id;
    let robot = tx.add_service("robot", 7).await.unwrap();
    assert!(robot.service && robot.password_hash.is_empty());
    let admin = Grant::system(Role::Admin);
    let viewer = Grant::system(Role::Viewer);
    tx.set_grants(anna, &[viewer]).await.unwrap();
    let new = NewGroup { name: "ops".into(), members: vec![anna, robot.id], grants: vec![admin] };
    let group = tx.add_group(&new, 8).await.unwrap();
    assert_eq!((group.revision, group.members.len()), (1, 2));
    assert_eq!(tx.grants(anna).await.unwrap(), [viewer]);
    assert_eq!(tx.all_grants(anna).await.unwrap(), [admin, viewer]);
    assert_eq!(tx.count_administrators().await.unwrap(), 1, "programs do not count");
    let empty = NewGroup { members: vec![robot.id], ..new.clone() };
    let told = tx.change_group(group.id, 9, &empty, 9).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Stale);
    let changed = tx.change_group(group.id, 1, &empty, 9).await.unwrap();
    assert_eq!((changed.revision, changed.members), (2, vec![robot.id]));
    assert_eq!(tx.count_administrators().await.unwrap(), 0);
    assert_eq!(tx.all_grants(anna).await.unwrap(), [viewer]);
    assert_eq!(tx.groups_called("*", &Page::default()).await.unwrap().len(), 1);
    tx.delete_group(group.id).await.unwrap();
    assert!(tx.group(group.id).await.is_err() && tx.all_grants(robot.id).await.unwrap().is_empty());
}

async fn passwords_are_remembered_and_sessions_can_be_ended(Lab { catalog, .. }: Lab) {
    let mut tx = catalog.begin().await.unwrap();
    let anna = tx.add_user("anna", "one", 7).await.unwrap().id;
    tx.must_change_password(anna).await.unwrap();
    assert!(tx.user(anna).await.unwrap().must_change);
    for hash in ["two", "three"] {
        tx.set_password(anna, hash).await.unwrap();
    }
    assert!(!tx.user(anna).await.unwrap().must_change);
    assert_eq!(tx.last_passwords(anna, 9).await.unwrap(), ["three", "two", "one"]);
    assert_eq!(tx.last_passwords(anna, 2).await.unwrap(), ["three", "two"]);
    assert!(tx.last_passwords(anna, 0).await.unwrap().is_empty());
    let otto = tx.add_user("otto", "hash", 7).await.unwrap().id;
    let first = tx.add_session("s1", anna, "192.0.2.1", 10, 30).await.unwrap();
    tx.add_session("s2", anna, "192.0.2.2", 11, 30).await.unwrap();
    tx.add_session("s3", anna, "192.0.2.3", 12, 13).await.unwrap();
    let open = tx.sessions(anna, &Page::default(), 20).await.unwrap();
    let from: Vec<_> = open.iter().map(|session| session.address.as_str()).collect();
    assert_eq!((from, open[0].id), (vec!["192.0.2.1", "192.0.2.2"], first));
    assert_eq!(tx.end_sessions(otto, Some(first)).await.unwrap(), 0, "it is not theirs");
    assert_eq!(tx.end_sessions(anna, Some(first)).await.unwrap(), 1);
    assert!(tx.who("s1", 20).await.is_err() && tx.who("s2", 20).await.is_ok());
    tx.end_sessions(anna, None).await.unwrap();
    assert!(tx.who("s2", 20).await.is_err());
}
