use std::collections::BTreeSet;

use sluice_catalog::{
    BackupType, Checked, DestinationId, Found, InstanceId, NewPoint, NewTask, Page, Point,
    ProjectId, ProofState, Record, Tx, VerifyDepth, Visible,
};

use crate::records::{instance, project};
use crate::support::{Lab, on_both};
use crate::tasks::backup;

on_both! {
    damage_is_gone_when_as_much_was_read_again
    what_is_younger_or_elsewhere_is_not_proven
    what_was_not_looked_at_is_proven_no_longer
    the_newest_of_each_instance_is_found_at_once
    a_verification_waits_by_what_it_became_due_by
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
    let (mut all, mut page) = (Vec::new(), Page { after: None, limit: Page::LARGEST });
    loop {
        let part = tx.points(&Visible::All, None, &page).await.unwrap();
        let Some(last) = part.last() else { return all };
        page.after = Some(last.id.to_string());
        all.extend(part);
    }
}

async fn sound(tx: &mut Tx) -> BTreeSet<String> {
    let is = |point: &Point| point.proof.is_some_and(|one| one.state == ProofState::Sound);
    points(tx).await.into_iter().filter(is).map(|point| point.new.point).collect()
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
    let both = named(&["s.web@a", "s.web@b"]);
    let look = |depth| Checked {
        seen: Some(&both),
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
    let all = points(&mut tx).await;
    let shop = all.iter().find(|point| point.new.point == "s.web@a").and_then(|one| one.project);
    let (shop, blog) = (shop.unwrap(), ProjectId::new(2));
    for (visible, project, many) in [
        (Visible::All, None, 1),
        (Visible::All, Some(shop), 1),
        (Visible::All, Some(blog), 0),
        (Visible::projects([shop]), None, 1),
        (Visible::projects([blog]), None, 0),
    ] {
        assert_eq!(tx.damaged_points(&visible, project).await.unwrap().len(), many, "{visible:?}");
    }
    let since = |found: Found<Point>| -> Vec<String> {
        found.items.into_iter().map(|point| point.new.point).collect()
    };
    assert_eq!(since(tx.damaged_since(6000).await.unwrap()), ["s.web@a"]);
    assert!(since(tx.damaged_since(6001).await.unwrap()).is_empty(), "it is known since then");
    tx.set_proofs(look(data), &named(&[]), 8000).await.unwrap();
    assert_eq!(state(&mut tx, "s.web@a").await, Some((ProofState::Sound, data, 8000)));
    // What the structure showed, the structure takes back.
    tx.set_proofs(look(structure), &named(&["s.web@b"]), 9000).await.unwrap();
    tx.set_proofs(look(structure), &named(&[]), 9500).await.unwrap();
    assert_eq!(state(&mut tx, "s.web@b").await, Some((ProofState::Sound, structure, 9500)));
    assert!(tx.damaged_points(&Visible::All, None).await.unwrap().is_empty());
}

async fn what_is_younger_or_elsewhere_is_not_proven(Lab { catalog, .. }: Lab) {
    let (web, db) = (InstanceId::new(WEB), InstanceId::new(2));
    let (near, far) = (DestinationId::new(NEAR), DestinationId::new(2));
    let mut tx = catalog.begin().await.unwrap();
    add(&mut tx, web, near, "s.web@a", 1000).await;
    add(&mut tx, web, near, "s.web@b", 5000).await;
    add(&mut tx, web, far, "s.web@a", 1000).await;
    add(&mut tx, db, near, "s.db@a", 1000).await;
    let all = named(&["s.web@a", "s.web@b", "s.db@a"]);
    let looked = Checked {
        seen: Some(&all),
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
    // A single one is proven by a node that does not tell what it looked at, too.
    let one = Checked { point: Some("s.web@b"), before_ms: 9000, seen: None, ..looked };
    tx.set_proofs(one, &named(&["s.web@b"]), 9000).await.unwrap();
    assert_eq!(state(&mut tx, "s.web@b").await.unwrap().0, ProofState::Damaged);
    tx.set_proofs(one, &named(&[]), 9000).await.unwrap();
    assert_eq!(state(&mut tx, "s.web@b").await.unwrap().0, ProofState::Sound);
    assert_eq!(state(&mut tx, "s.db@a").await, None);
}

async fn the_newest_of_each_instance_is_found_at_once(Lab { catalog, .. }: Lab) {
    let shop = project(&catalog, "shop").await;
    let (near, far) = (DestinationId::new(NEAR), DestinationId::new(2));
    let mut tx = catalog.begin().await.unwrap();
    let mut ids = Vec::new();
    // More than one statement names.
    for at in 0..501 {
        let name = format!("i{at}");
        let one: Record<_> = tx.insert(Some(shop), &name, instance(&[]), 7).await.unwrap();
        ids.push(one.id);
    }
    let (first, last) = (ids[0], ids[500]);
    add(&mut tx, first, near, "s.i0@b", 3000).await;
    add(&mut tx, first, near, "s.i0@a", 2000).await;
    add(&mut tx, first, far, "s.i0@c", 9000).await;
    add(&mut tx, last, near, "s.i500@a", 1000).await;
    let newest = tx.newest_points(near, &ids).await.unwrap();
    let names: BTreeSet<String> = newest.into_iter().map(|point| point.new.point).collect();
    assert_eq!(names, named(&["s.i0@b", "s.i500@a"]));
    let seen = named(&["s.i0@a", "s.i500@a"]);
    let looked = Checked {
        destination: near,
        instance: None,
        point: None,
        depth: VerifyDepth::Data,
        before_ms: 9000,
        seen: Some(&seen),
    };
    tx.set_proofs(looked, &named(&["s.i500@a"]), 9000).await.unwrap();
    assert_eq!(tx.proven_of(near, &ids).await.unwrap(), [first].into());
    assert!(tx.proven_of(far, &ids).await.unwrap().is_empty());
}

async fn what_was_not_looked_at_is_proven_no_longer(Lab { catalog, .. }: Lab) {
    let (web, near) = (InstanceId::new(WEB), DestinationId::new(NEAR));
    let mut tx = catalog.begin().await.unwrap();
    // More than one statement names.
    let all: Vec<String> = (0..1200).map(|at| format!("s.web@{at}")).collect();
    for point in &all {
        add(&mut tx, web, near, point, 1000).await;
    }
    add(&mut tx, InstanceId::new(2), near, "s.db@a", 1000).await;
    let seen: BTreeSet<String> = all.iter().cloned().chain(["s.db@a".to_owned()]).collect();
    let looked = Checked {
        destination: near,
        instance: None,
        point: None,
        depth: VerifyDepth::Data,
        before_ms: 5000,
        seen: Some(&seen),
    };
    tx.set_proofs(looked, &named(&["s.web@7"]), 6000).await.unwrap();
    assert_eq!((sound(&mut tx).await.len(), seen.len()), (1200, 1201));
    // Most of the instance is lost; of others nothing was asked, and damage stays noted.
    let left = named(&["s.web@3"]);
    let looked = Checked { instance: Some(web), seen: Some(&left), ..looked };
    tx.set_proofs(looked, &named(&[]), 7000).await.unwrap();
    assert_eq!(sound(&mut tx).await, named(&["s.web@3", "s.db@a"]));
    assert_eq!(state(&mut tx, "s.web@7").await.unwrap().0, ProofState::Damaged);
    assert_eq!(state(&mut tx, "s.web@8").await, None);
    // When it is not told what was looked at, all stays as it is.
    let unknown = Checked { instance: None, seen: None, ..looked };
    tx.set_proofs(unknown, &named(&[]), 8000).await.unwrap();
    assert_eq!(sound(&mut tx).await, named(&["s.web@3", "s.db@a"]));
    assert_eq!(state(&mut tx, "s.web@3").await.unwrap().2, 7000);
}

async fn a_verification_waits_by_what_it_became_due_by(Lab { catalog, .. }: Lab) {
    let web = InstanceId::new(WEB);
    let mut tx = catalog.begin().await.unwrap();
    let verify = |due_key: Option<&str>| NewTask {
        instance: Some(web),
        kind: "verify".into(),
        due_key: due_key.map(str::to_owned),
        ..backup()
    };
    tx.add_task(&verify(None), 1000).await.unwrap();
    tx.add_task(&verify(Some("p/all/daily/i/5")), 1000).await.unwrap();
    assert!(tx.is_verified(web, "p/all/daily/i/").await.unwrap());
    assert!(!tx.is_verified(web, "p/all/weekly/i/").await.unwrap());
    assert!(!tx.is_verified(InstanceId::new(2), "p/all/daily/i/").await.unwrap());
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
    assert_eq!(tx.last_full(&Visible::All, None).await.unwrap()[&web], 2000);
    // Of what somebody may not know of, nothing is told.
    let shop = points(&mut tx).await[0].project.unwrap();
    let blog = ProjectId::new(2);
    for (visible, project, many) in [
        (Visible::projects([shop]), None, 1),
        (Visible::projects([shop]), Some(shop), 1),
        (Visible::projects([blog]), None, 0),
        (Visible::projects([blog]), Some(shop), 0),
        (Visible::All, Some(blog), 0),
    ] {
        let told = tx.last_full(&visible, project).await.unwrap();
        assert_eq!(told.len(), many, "{visible:?} {project:?}");
    }
}
