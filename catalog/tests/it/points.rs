use std::collections::BTreeSet;

use sluice_catalog::{Catalog, DestinationId, InstanceId, NewPoint, Page, ProjectId, Tx, Visible};

use crate::support::{Lab, on_both};

on_both! {
    what_a_prune_kept_is_what_is_left_of_what_it_looked_at
    a_list_of_points_goes_on_where_it_ended_and_leaves_out_what_is_gone
}

async fn add(tx: &mut Tx, of: (InstanceId, DestinationId), point: &str, now_ms: u64) {
    let new = NewPoint {
        destination: of.1,
        task: None,
        point: point.to_owned(),
        taken_ms: now_ms,
        image_bytes: 1,
        new_bytes: 1,
        stored_bytes: 1,
    };
    tx.add_point(of.0, Some(ProjectId::new(1)), &new, now_ms).await.unwrap();
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
