use sluice_catalog::{
    ApprovalFilter, ApprovalState, Catalog, Consent, ErrorKind, NewApproval, Page, Project, Sealer,
    UserId, Visible, approved, rehearsed,
};
use zeroize::Zeroizing;

use crate::support::{Lab, on_both};

on_both! {
    a_rehearsal_changes_nothing
    what_is_approved_twice_is_done_once
    a_decision_comes_once_and_in_time
    requests_are_sealed_and_seen_in_their_project
}

fn sealer() -> Sealer {
    Sealer::new(&[7; 32])
}

fn request(expires_ms: u64) -> NewApproval {
    NewApproval {
        project: None,
        action: "remove-project".into(),
        object: "x".into(),
        requester: UserId::new(1),
        requester_login: "anna".into(),
        expires_ms,
        method: "DELETE".into(),
        path: "/api/v1/projects/x".into(),
        headers: vec![("if-match".into(), "\"3\"".into())],
        body: Zeroizing::new("hush".into()),
    }
}

/// Somebody who has asked for nothing.
fn stranger() -> UserId {
    UserId::new(2)
}

async fn ask(catalog: &Catalog, expires_ms: u64) -> Consent {
    let mut tx = catalog.begin().await.unwrap();
    let approval = tx.add_approval(&sealer(), &request(expires_ms), 10).await.unwrap();
    tx.commit().await.unwrap();
    Consent { approval, decider: "otto".into(), reason: "fine".into(), now_ms: 20 }
}

async fn state(catalog: &Catalog, consent: &Consent, now_ms: u64) -> ApprovalState {
    let mut tx = catalog.read().await.unwrap();
    tx.approval(&sealer(), consent.approval, (&Visible::All, stranger()), now_ms)
        .await
        .unwrap()
        .state
}

async fn make(catalog: &Catalog, name: &str) -> sluice_catalog::Result<()> {
    let mut tx = catalog.begin().await?;
    tx.insert(None, name, Project::default(), 30).await?;
    tx.commit().await
}

async fn projects(catalog: &Catalog) -> usize {
    let mut tx = catalog.read().await.unwrap();
    tx.list::<Project>(&Visible::All, &Page::default()).await.unwrap().len()
}

async fn a_rehearsal_changes_nothing(Lab { catalog, .. }: Lab) {
    rehearsed(make(&catalog, "one")).await.unwrap();
    assert_eq!(projects(&catalog).await, 0);
    make(&catalog, "one").await.unwrap();
    let told = rehearsed(make(&catalog, "one")).await;
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Conflict, "what would fail fails");
}

async fn what_is_approved_twice_is_done_once(Lab { catalog, url, .. }: Lab) {
    let consent = ask(&catalog, 100).await;
    // As two server processes would: each with connections of its own.
    let other = Catalog::open(&url).await.unwrap();
    let one = approved(consent.clone(), make(&catalog, "one"));
    let two = approved(consent.clone(), make(&other, "two"));
    let (one, two) = tokio::join!(one, two);
    let failed = match (one, two) {
        (Ok(()), Err(error)) | (Err(error), Ok(())) => error,
        both => panic!("{both:?}"),
    };
    assert_eq!(failed.kind(), ErrorKind::Conflict);
    assert_eq!(projects(&catalog).await, 1);
    assert_eq!(state(&catalog, &consent, 30).await, ApprovalState::Done);
    let audit = catalog.read().await.unwrap().audit_list(&Visible::All, 0, 10).await.unwrap();
    let told: Vec<_> = audit.iter().map(|row| (row.actor.as_str(), row.action.as_str())).collect();
    assert_eq!(told, [("otto", "approval.approve")]);
    assert!(approved(consent, make(&catalog, "three")).await.is_err());
    assert_eq!(projects(&catalog).await, 1);
}

async fn a_decision_comes_once_and_in_time(Lab { catalog, .. }: Lab) {
    let late = Consent { now_ms: 100, ..ask(&catalog, 100).await };
    assert_eq!(state(&catalog, &late, 99).await, ApprovalState::Pending);
    assert_eq!(state(&catalog, &late, 100).await, ApprovalState::Expired);
    let told = approved(late.clone(), make(&catalog, "late")).await;
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(projects(&catalog).await, 0);
    let consent = ask(&catalog, 100).await;
    let mut tx = catalog.begin().await.unwrap();
    tx.end_approval(ApprovalState::Rejected, &consent).await.unwrap();
    tx.commit().await.unwrap();
    assert!(approved(consent.clone(), make(&catalog, "rejected")).await.is_err());
    assert_eq!(projects(&catalog).await, 0);
    let mut tx = catalog.begin().await.unwrap();
    assert!(tx.end_approval(ApprovalState::Withdrawn, &consent).await.is_err());
    assert_eq!(tx.forget_approvals(11, 100).await.unwrap(), 2);
}

async fn requests_are_sealed_and_seen_in_their_project(Lab { catalog, .. }: Lab) {
    let consent = ask(&catalog, 100).await;
    let (page, nobody) = (Page::default(), Visible::projects([]));
    let mut tx = catalog.read().await.unwrap();
    for (wanted, now_ms, many) in [
        (None, 20, 1),
        (Some(ApprovalState::Pending), 20, 1),
        (Some(ApprovalState::Pending), 100, 0),
        (Some(ApprovalState::Expired), 100, 1),
        (Some(ApprovalState::Done), 20, 0),
    ] {
        let filter = ApprovalFilter { state: wanted, ..ApprovalFilter::default() };
        let found = tx
            .approvals(&sealer(), (&Visible::All, stranger()), &filter, &page, now_ms)
            .await
            .unwrap();
        assert_eq!(found.items.len(), many, "{wanted:?} {now_ms}");
    }
    let all = ApprovalFilter::default();
    let found = tx.approvals(&sealer(), (&nobody, stranger()), &all, &page, 20).await.unwrap();
    assert!(found.items.is_empty());
    assert!(tx.approval(&sealer(), consent.approval, (&nobody, stranger()), 20).await.is_err());
    let found =
        tx.approval(&sealer(), consent.approval, (&Visible::All, stranger()), 20).await.unwrap();
    assert_eq!(*found.new.body, "hush");
    let own = (&nobody, found.new.requester);
    assert_eq!(tx.approvals(&sealer(), own, &all, &page, 20).await.unwrap().items.len(), 1);
    assert!(tx.approval(&sealer(), consent.approval, own, 20).await.is_ok(), "one's own");
    assert_eq!(found.new.headers, request(0).headers);
    let other = Sealer::new(&[8; 32]);
    assert!(tx.approval(&other, consent.approval, (&Visible::All, stranger()), 20).await.is_err());
}
