//! What somebody who can write to the source puts there: it is told, nothing at the replica gives
//! way to it, and no point is lost.

use bytes::Bytes;
use sluice_destination::Key;
use sluice_engine::{BackupOptions, Change, Progress, backup};
use sluice_repository::format::descriptor::Descriptor;
use sluice_repository::format::header::Header;
use sluice_repository::format::record::epoch_object;
use sluice_repository::replicate::{Options, Report, Source};
use sluice_repository::{ErrorKind, Repository, RestorePoint, RotateData};
use tokio_util::sync::CancellationToken;

use crate::replicate::*;
use crate::support::*;

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// A repository in its second data epoch with a point, and a replica of it.
async fn rotated() -> (Side, Repository, Side) {
    let (source, repository) = new_repository().await;
    point_of(&repository, "a", &noise(1, 100_000)).await;
    let target = memory();
    replicate(keyless(&source), &target).await;
    let mine = "correct horse".to_owned().into();
    let rotation = RotateData { passphrases: vec![mine], kdf: CHEAP, ..RotateData::default() };
    repository.rotate_data(&rotation).await.unwrap();
    let repository = open(source.clone()).await;
    point_of(&repository, "a", &noise(2, 100_000)).await;
    (source, repository, target)
}

fn told(report: &Report) -> Vec<&str> {
    report.damage.iter().map(|damage| damage.object.as_str()).collect()
}

/// The record of the first epoch as that of another one. Its layout is right, and its seal is not.
async fn forged_epoch(source: &Side, number: u32) -> Bytes {
    let record = get(source, &key("e/00000001")).await;
    let header = Header { object: epoch_object(number), ..Header::decode(&record).unwrap() };
    [&header.encode()[..], &record[header.encode().len()..]].concat().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_data_epoch_comes_to_the_replica_and_what_names_none_does_not() {
    let (source, repository, target) = rotated().await;
    let (other, _, _) = rotated().await;
    let strange = get(&other, &key("e/00000001")).await;
    let forged = [
        ("e/00000002", strange),
        ("e/00000009", forged_epoch(&source, 9).await),
        ("e/7", Bytes::from_static(b"x")),
        ("e/junk", Bytes::new()),
    ];
    for (name, body) in &forged {
        source.put(&key(name), body.clone()).await.unwrap();
    }
    for from in [keyless(&source), keyed(&source, &repository)] {
        let report = replicate(from, &target).await;
        let mut damage = told(&report);
        damage.sort_unstable();
        assert_eq!(damage, forged.each_ref().map(|(name, _)| *name));
        assert_eq!(objects(&target, "e/").await, [key("e/00000001")]);
        let there = open(target.clone()).await;
        assert_eq!(listed(&there).await.len(), 2, "the points come all the same");
    }
    let raised = Descriptor::decode(&get(&target, &key("format")).await).unwrap();
    assert!(raised.has_epochs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_epoch_of_the_right_layout_is_named_and_costs_no_point() {
    let (source, repository, target) = rotated().await;
    replicate(keyless(&source), &target).await;
    source.put(&key("e/00000002"), forged_epoch(&source, 2).await).await.unwrap();
    // With the key nobody is fooled.
    let report = replicate(keyed(&source, &repository), &target).await;
    assert_eq!(told(&report), ["e/00000002"]);
    assert_sound(&target).await;
    // Without it, it comes; who opens the replica is told what it is, and what to do.
    let before = objects(&target, "").await;
    assert_eq!(told(&replicate(keyless(&source), &target).await), [""; 0]);
    let opened =
        Repository::open(target.clone(), repository.clock().clone(), passphrase(), settings(None));
    let error = opened.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let text = error.to_string();
    assert!(text.contains("e/00000002") && text.contains("remove it"), "{text}");
    let after = objects(&target, "").await;
    assert!(before.iter().all(|key| after.contains(key)), "nothing is removed because of it");
    target.delete(&key("e/00000002")).await.unwrap();
    assert_eq!(assert_sound(&target).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_descriptor_does_not_take_the_place_of_the_replica_s() {
    let (source, repository) = new_repository().await;
    let target = memory();
    replicate(keyless(&source), &target).await;
    let own = get(&target, &key("format")).await;
    let descriptor = Descriptor::decode(&own).unwrap();
    let others = [
        Descriptor { encryption: "open".into(), ..descriptor.clone() },
        Descriptor { min_writer: 7, ..descriptor.clone() },
        Descriptor { created: "yesterday".into(), ..descriptor.with_epochs() },
    ];
    for (number, other) in others.into_iter().enumerate() {
        let point = point_of(&repository, "a", &noise(number as u64, 10_000)).await;
        source.put(&key("format"), other.encode().into()).await.unwrap();
        for from in [keyless(&source), keyed(&source, &repository)] {
            let report = replicate(from, &target).await;
            assert_eq!(told(&report), ["format"], "{other:?}");
            assert_eq!(get(&target, &key("format")).await, own, "{other:?}");
        }
        source.put(&key("format"), own.clone()).await.unwrap();
        let there = open(target.clone()).await;
        assert_eq!(listed(&there).await.last().unwrap().id, point.id);
    }
}

async fn mirror(from: Source, target: &Side) -> Report {
    let how = Options { mirror_prunes: true, ..Options::default() };
    replicate_with(from, target, how).await.unwrap()
}

async fn shows(target: &Side, point: &RestorePoint) -> bool {
    listed(&open(target.clone()).await).await.iter().any(|one| one.id == point.id)
}

/// A point that is on hold by its manifest, or by what was said later, at both sides.
async fn held(by_manifest: bool) -> (Side, Repository, RestorePoint, Side) {
    let (source, repository) = new_repository().await;
    let how = BackupOptions { hold: by_manifest, ..options() };
    let images = vec![image("disk", &noise(1, 10_000), Change::Rescan)];
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    let made = backup(&repository, "a", images, how, progress, cancel).await.unwrap().point;
    point_of(&repository, "a", &noise(2, 10_000)).await;
    if !by_manifest {
        hold(&repository, &made, true).await;
    }
    let target = memory();
    replicate(keyless(&source), &target).await;
    (source, repository, made, target)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_at_the_replica_is_ended_by_who_has_the_key_and_nobody_else() {
    for by_manifest in [false, true] {
        let (source, repository, point, target) = held(by_manifest).await;
        hold(&repository, &point, false).await;
        repository.forget(&point, "test", "test").await.unwrap();
        // Without the key nobody can tell whether it was released by who may.
        let report = mirror(keyless(&source), &target).await;
        assert_eq!((report.pruned.len(), report.kept.len()), (0, 1));
        assert!(shows(&target, &point).await);
        let record = key(&format!("h/default/{}/{}", point.chain, point.id));
        let released = flip(&source, &record).await;
        let report = mirror(keyed(&source, &repository), &target).await;
        assert_eq!((report.pruned.len(), report.kept.len()), (0, 1));
        assert_eq!(told(&report), [record.as_str()]);
        assert!(shows(&target, &point).await);
        source.put(&record, released).await.unwrap();
        let report = mirror(keyed(&source, &repository), &target).await;
        assert_eq!((report.pruned.len(), report.kept.len(), report.damage.len()), (1, 0, 0));
        assert!(!shows(&target, &point).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_said_at_the_source_comes_without_the_key() {
    let (source, repository, point, target) = held(false).await;
    hold(&repository, &point, false).await;
    replicate(keyed(&source, &repository), &target).await;
    let there = open(target.clone()).await;
    let is_held = async || {
        let points = listed(&there).await;
        points.iter().find(|one| one.id == point.id).unwrap().hold
    };
    assert!(!is_held().await);
    hold(&repository, &point, true).await;
    replicate(keyless(&source), &target).await;
    assert!(is_held().await);
    assert_ne!(listed(&there).await.len(), 0);
}
