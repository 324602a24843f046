use std::collections::BTreeSet;

use sluice_catalog::{
    Catalog, DestinationId, InstanceId, NewPoint, Page, ProjectId, Resource, Scope, Tx, Visible,
};

use crate::support::{Lab, on_both};

on_both! {
    what_a_prune_kept_is_what_is_left_of_what_it_looked_at
    a_list_of_points_goes_on_where_it_ended_and_leaves_out_what_is_gone
    pages_are_full_and_have_each_row_once_for_who_sees_rows_in_several_ways
}

async fn add(tx: &mut Tx, of: (InstanceId, DestinationId), point: &str, now_ms: u64) {
    add_in(tx, ProjectId::new(1), of, point, now_ms).await;
}

async fn add_in(
    tx: &mut Tx,
    project: ProjectId,
    of: (InstanceId, DestinationId),
    point: &str,
    now_ms: u64,
) {
    let new = NewPoint {
        destination: of.1,
        task: None,
        point: point.to_owned(),
        taken_ms: now_ms,
        image_bytes: 1,
        new_bytes: 1,
        stored_bytes: 1,
    };
    tx.add_point(of.0, Some(project), &new, now_ms).await.unwrap();
}

async fn listed(tx: &mut Tx) -> Vec<String> {
    let page = Page { after: None, limit: 100 };
    let points = tx.points(&Visible::All, None, &page).await.unwrap();
    points.into_iter().map(|point| point.new.point).collect()
}

async fn what_a_prune_kept_is_what_is_left_of_what_it_looked_at(Lab { catalog, .. }: Lab) {
    let (web, db) = (InstanceId::new(1), InstanceId::new(2));
    let (near, far) = (DestinationId::new(1), DestinationId::new(2));
    let mut tx = catalog.begin().await.unwrap();
    for point in ["s.web@a", "s.web@b", "s.web@c"] {
        add(&mut tx, (web, near), point, 1000).await;
    }
    // Of the same name elsewhere, of others, of a longer name, and made since.
    add(&mut tx, (web, far), "s.web@a", 1000).await;
    add(&mut tx, (db, near), "s.db@a", 1000).await;
    add(&mut tx, (db, near), "s.web2@a", 1000).await;
    add(&mut tx, (web, near), "s.web@d", 5000).await;
    let left: BTreeSet<String> = ["s.web@b".to_owned()].into();
    let gone = tx.points_left((near, Some(web)), &left, 5000, 6000).await.unwrap();
    assert_eq!(gone, 2);
    let mut now = listed(&mut tx).await;
    now.sort();
    assert_eq!(now, ["s.db@a", "s.web2@a", "s.web@a", "s.web@b", "s.web@d"]);
    // Of all instances: those of which it says nothing stay.
    let left: BTreeSet<String> = ["s.db@x".to_owned()].into();
    assert_eq!(tx.points_left((near, None), &left, 5000, 7000).await.unwrap(), 1);
    assert_eq!(tx.points_left((near, None), &BTreeSet::new(), 9000, 9000).await.unwrap(), 0);
    assert!(tx.point_known(near, "s.db@a").await.unwrap(), "that it was there is known");
    assert!(!tx.point_known(far, "s.db@a").await.unwrap());
}

async fn a_list_of_points_goes_on_where_it_ended_and_leaves_out_what_is_gone(lab: Lab) {
    let catalog: Catalog = lab.catalog;
    let (web, near) = (InstanceId::new(1), DestinationId::new(1));
    let mut tx = catalog.begin().await.unwrap();
    for number in 0..10 {
        add(&mut tx, (web, near), &format!("s.web@{number}"), 1000 + number).await;
    }
    let gone: Vec<String> = (0..4).map(|number| format!("s.web@{number}")).collect();
    tx.points_removed(near, &gone, 2000).await.unwrap();
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = Page { after: after.clone(), limit: 4 };
        let part = tx.points(&Visible::All, Some(web), &page).await.unwrap();
        let Some(last) = part.last() else { break };
        after = Some(last.id.to_string());
        seen.extend(part.into_iter().map(|point| point.new.point));
    }
    let expected: Vec<String> = (4..10).map(|number| format!("s.web@{number}")).collect();
    assert_eq!(seen, expected);
    let own = Visible::projects([ProjectId::new(1)]);
    let page = Page { after: None, limit: 4 };
    assert!(tx.points(&own, Some(web), &page).await.unwrap().is_empty(), "another project's");
}

/// All pages of a list, and how many rows each had.
async fn pages(
    tx: &mut Tx,
    visible: &Visible,
    of: Option<InstanceId>,
) -> (Vec<usize>, Vec<String>) {
    let (mut sizes, mut seen) = (Vec::new(), Vec::new());
    let mut page = Page { after: None, limit: 4 };
    loop {
        let part = tx.points(visible, of, &page).await.unwrap();
        let Some(last) = part.last() else { return (sizes, seen) };
        page.after = Some(last.id.to_string());
        sizes.push(part.len());
        seen.extend(part.into_iter().map(|point| point.new.point));
    }
}

async fn pages_are_full_and_have_each_row_once_for_who_sees_rows_in_several_ways(lab: Lab) {
    let catalog: Catalog = lab.catalog;
    let near = DestinationId::new(1);
    let projects = [1, 2, 3].map(ProjectId::new);
    let instances = [1, 2, 3, 4, 5, 6].map(InstanceId::new);
    let mut tx = catalog.begin().await.unwrap();
    for moment in 0..3 {
        for (number, instance) in instances.into_iter().enumerate() {
            let (project, name) = (projects[number / 2], format!("s.{number}@{moment}"));
            let now = 1000 + moment * 10 + number as u64;
            add_in(&mut tx, project, (instance, near), &name, now).await;
        }
    }
    let one = |number: usize| Scope::Resource(Resource::Instance(instances[number]));
    let own = |number: usize| Scope::Project(projects[number]);
    let names = |numbers: &[usize]| -> Vec<String> {
        let at = |moment| numbers.iter().map(move |number| format!("s.{number}@{moment}"));
        (0..3).flat_map(at).collect()
    };
    for (scopes, seen) in [
        (vec![own(1)], vec![2, 3]),
        (vec![own(0), own(2)], vec![0, 1, 4, 5]),
        // What is seen in two ways is there once.
        (vec![own(0), one(0), one(1), one(5)], vec![0, 1, 5]),
        (vec![one(3), one(4)], vec![3, 4]),
        (vec![], vec![]),
    ] {
        let all = names(&seen);
        let sizes: Vec<usize> = all.chunks(4).map(<[String]>::len).collect();
        let visible = Visible::within(scopes.clone());
        assert_eq!(
            pages(&mut tx, &visible, None).await,
            (sizes.clone(), all.clone()),
            "{scopes:?}"
        );
        // Also when there are many ways, of which most lead nowhere.
        let others = (0..100).map(|_| Scope::Resource(Resource::Instance(InstanceId::new(9))));
        let more = Visible::within(scopes.iter().copied().chain(others));
        assert_eq!(pages(&mut tx, &more, None).await, (sizes, all), "{scopes:?} and others");
        for (number, instance) in instances.into_iter().enumerate() {
            let wanted = if seen.contains(&number) { names(&[number]) } else { Vec::new() };
            for visible in [&visible, &more] {
                let told = pages(&mut tx, visible, Some(instance)).await.1;
                assert_eq!(told, wanted, "{number} for {scopes:?}");
            }
        }
    }
}
