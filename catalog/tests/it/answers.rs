//! Requests that may be sent twice.

use sluice_catalog::{
    Answer, Catalog, Claim, Claimed, ErrorKind, Page, Project, Visible, claimed, rehearsed,
};

use crate::support::{Lab, on_both};

on_both! {
    what_was_done_is_not_done_again_though_nobody_knows_the_answer
    a_claim_that_was_taken_over_does_nothing_any_more
    of_several_at_once_one_has_the_claim
}

const MINUTE: u64 = 60_000;

fn claim(id: &str) -> Claim {
    Claim { actor: "anna".into(), key: "k".into(), id: id.into() }
}

async fn ask(catalog: &Catalog, id: &str, hash: &str, now: u64) -> Claimed {
    let mut tx = catalog.begin().await.unwrap();
    let before = (now.saturating_sub(MINUTE), now.saturating_sub(100 * MINUTE));
    let told = tx.claim(&claim(id), hash, now, before).await.unwrap();
    tx.commit().await.unwrap();
    told
}

/// Does what was asked; returns whether it happened.
async fn perform(catalog: &Catalog, id: &str) -> Result<(), ErrorKind> {
    claimed(claim(id), async {
        let mut tx = catalog.begin().await.unwrap();
        tx.insert(None, "shop", Project::default(), 1).await.unwrap();
        tx.commit().await.map_err(|error| error.kind())
    })
    .await
}

async fn projects(catalog: &Catalog) -> usize {
    let mut tx = catalog.read().await.unwrap();
    tx.list::<Project>(&Visible::All, &Page::default()).await.unwrap().len()
}

async fn what_was_done_is_not_done_again_though_nobody_knows_the_answer(lab: Lab) {
    let catalog = &lab.catalog;
    assert_eq!(ask(catalog, "1", "h", 5).await, Claimed::Mine);
    assert_eq!(ask(catalog, "2", "h", 6).await, Claimed::UnderWay);
    assert_eq!(ask(catalog, "2", "other", 6).await, Claimed::Other);
    // A rehearsal does nothing.
    rehearsed(perform(catalog, "1")).await.unwrap();
    assert_eq!(ask(catalog, "2", "h", 6).await, Claimed::UnderWay);
    perform(catalog, "1").await.unwrap();
    // The server was killed here.
    assert_eq!(ask(catalog, "2", "h", 7).await, Claimed::Lost);
    assert_eq!(ask(catalog, "2", "h", 3 * MINUTE).await, Claimed::Lost, "also later");
    let answer = Answer { status: 201, headers: "{}".into(), body: "done".into() };
    let mut tx = catalog.begin().await.unwrap();
    tx.give_up(&claim("1"), true).await.unwrap();
    tx.keep_answer(&claim("2"), &Answer { body: "not mine".into(), ..answer.clone() })
        .await
        .unwrap();
    tx.keep_answer(&claim("1"), &answer).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ask(catalog, "2", "h", 8).await, Claimed::Answered(answer));
    assert_eq!(ask(catalog, "2", "h", 200 * MINUTE).await, Claimed::Mine, "it is forgotten");
}

async fn a_claim_that_was_taken_over_does_nothing_any_more(lab: Lab) {
    let catalog = &lab.catalog;
    assert_eq!(ask(catalog, "1", "h", 5).await, Claimed::Mine);
    assert_eq!(ask(catalog, "2", "h", 5 + MINUTE).await, Claimed::UnderWay, "not yet");
    assert_eq!(ask(catalog, "2", "h", 6 + MINUTE).await, Claimed::Mine);
    assert_eq!(perform(catalog, "1").await, Err(ErrorKind::Stale));
    assert_eq!(projects(catalog).await, 0);
    perform(catalog, "2").await.unwrap();
    assert_eq!(projects(catalog).await, 1);
}

async fn of_several_at_once_one_has_the_claim(lab: Lab) {
    let names = ["1", "2", "3", "4"];
    let all = names.map(|id| {
        let catalog = lab.catalog.clone();
        tokio::spawn(async move { ask(&catalog, id, "h", 5).await })
    });
    let mut mine = 0;
    for one in all {
        match one.await.unwrap() {
            Claimed::Mine => mine += 1,
            told => assert_eq!(told, Claimed::UnderWay),
        }
    }
    assert_eq!(mine, 1);
}
