use std::collections::BTreeSet;

use sluice_catalog::{
    BackupType, Checked, DestinationId, InstanceId, NewPoint, Page, Point, ProjectId, ProofState,
    Tx, VerifyDepth, Visible,
};

use crate::support::{Lab, on_both};

on_both! {
    damage_is_gone_when_as_much_was_read_again
    what_is_younger_or_elsewhere_is_not_proven
    only_full_backups_count_as_full
}

const WEB: u64 = 1;
const NEAR: u64 = 1;

async fn add(tx: &mut Tx, instance: InstanceId, at: DestinationId, point: &str, now_ms: u64) {
    let new = NewPoint {
        destination: at,
        task: None,
        point: point.to_owned(),
        taken_ms: now_ms,
        image_bytes: 1,
        new_bytes: 1,
        stored_bytes: 1,
    };
    tx.add_point(instance, Some(ProjectId::new(1)), &new, now_ms).await.unwrap();
}

async fn points(tx: &mut Tx) -> Vec<Point> {
    tx.points(&Visible::All, None, &Page { after: None, limit: 100 }).await.unwrap()
}

async fn state(tx: &mut Tx, name: &str) -> Option<(ProofState, VerifyDepth, u64)> {
    let all = points(tx).await;
    let found = all.into_iter().find(|point| point.new.point == name).unwrap();
    found.proof.map(|proof| (proof.state, proof.depth, proof.at_ms))
}

fn named(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

async fn damage_is_gone_when_as_much_was_read_again(Lab { catalog, .. }: Lab) {
    let (web, near) = (InstanceId::new(WEB), DestinationId::new(NEAR));
    let mut tx = catalog.begin().await.unwrap();
    add(&mut tx, web, near, "s.web@a", 1000).await;
    add(&mut tx, web, near, "s.web@b", 1000).await;
    let look = |depth| Checked {
        destination: near,
        instance: Some(web),
        point: None,
        depth,
        before_ms: 5000,
    };
    let (structure, sample, data) =
        (VerifyDepth::Structure, VerifyDepth::Sample, VerifyDepth::Data);
    tx.set_proofs(look(sample), &named(&["s.web@a"]), 6000).await.unwrap();
    assert_eq!(state(&mut tx, "s.web@a").await, Some((ProofState::Damaged, sample, 6000)));
    assert_eq!(state(&mut tx, "s.web@b").await, Some((ProofState::Sound, sample, 6000)));
    // Another sample and the structure alone prove nothing of it, and it is known since then.
    tx.set_proofs(look(sample), &named(&[]), 7000).await.unwrap();
    tx.set_proofs(look(structure), &named(&["s.web@a"]), 7000).await.unwrap();
    assert_eq!(state(&mut tx, "s.web@a").await, Some((ProofState::Damaged, sample, 6000)));
    let damaged = tx.damaged_points(Some(web), Some(near)).await.unwrap();
    assert_eq!(damaged.len(), 1);
    tx.set_proofs(look(data), &named(&[]), 8000).await.unwrap();
    assert_eq!(state(&mut tx, "s.web@a").await, Some((ProofState::Sound, data, 8000)));
    // What the structure showed, the structure takes back.
    tx.set_proofs(look(structure), &named(&["s.web@b"]), 9000).await.unwrap();
    tx.set_proofs(look(structure), &named(&[]), 9500).await.unwrap();
    assert_eq!(state(&mut tx, "s.web@b").await, Some((ProofState::Sound, structure, 9500)));
    assert!(tx.damaged_points(None, None).await.unwrap().is_empty());
}

async fn what_is_younger_or_elsewhere_is_not_proven(Lab { catalog, .. }: Lab) {
    let (web, db) = (InstanceId::new(WEB), InstanceId::new(2));
    let (near, far) = (DestinationId::new(NEAR), DestinationId::new(2));
    let mut tx = catalog.begin().await.unwrap();
    add(&mut tx, web, near, "s.web@a", 1000).await;
    add(&mut tx, web, near, "s.web@b", 5000).await;
    add(&mut tx, web, far, "s.web@a", 1000).await;
    add(&mut tx, db, near, "s.db@a", 1000).await;
    let looked = Checked {
        destination: near,
        instance: Some(web),
        point: None,
        depth: VerifyDepth::Data,
        before_ms: 5000,
    };
    tx.set_proofs(looked, &named(&[]), 6000).await.unwrap();
    let proven: Vec<_> =
        points(&mut tx).await.into_iter().filter(|point| point.proof.is_some()).collect();
    assert_eq!(proven.len(), 1);
    assert!(tx.any_proven(web, near).await.unwrap() && !tx.any_proven(web, far).await.unwrap());
    let one = Checked { point: Some("s.web@b"), before_ms: 9000, ..looked };
    tx.set_proofs(one, &named(&[]), 9000).await.unwrap();
    assert!(state(&mut tx, "s.web@b").await.is_some());
    assert_eq!(state(&mut tx, "s.db@a").await, None);
}

async fn only_full_backups_count_as_full(Lab { catalog, .. }: Lab) {
    let (web, near) = (InstanceId::new(WEB), DestinationId::new(NEAR));
    let mut tx = catalog.begin().await.unwrap();
    for (point, at, backup_type) in [
        ("s.web@a", 1000, BackupType::Full),
        ("s.web@b", 2000, BackupType::Full),
        ("s.web@c", 3000, BackupType::Incremental),
    ] {
        add(&mut tx, web, near, point, at).await;
        tx.set_backup_type(near, point, backup_type).await.unwrap();
    }
    add(&mut tx, web, near, "s.web@d", 4000).await;
    let types: Vec<_> = points(&mut tx).await.iter().map(|point| point.backup_type).collect();
    assert_eq!((types[0], types[3]), (Some(BackupType::Full), None), "{types:?}");
    assert_eq!(tx.last_full().await.unwrap()[&web], 2000);
}
