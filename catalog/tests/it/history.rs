use sluice_catalog::{DestinationId, InstanceId, NewPoint, ProjectId, Tx, Visible, Within};

use crate::support::{Lab, on_both};

on_both! {
    moments_of_points_are_told_with_the_last_one_before
}

const ALL: Visible = Visible::All;

fn within(from_ms: u64, until_ms: u64) -> Within {
    Within { from_ms, until_ms, project: None }
}

async fn add(tx: &mut Tx, of: (ProjectId, InstanceId), destination: u64, taken_ms: u64) {
    let new = NewPoint {
        destination: DestinationId::new(destination),
        task: None,
        point: format!("{}@{destination}-{taken_ms}", of.1),
        taken_ms,
        image_bytes: 1,
        new_bytes: 1,
        stored_bytes: 1,
    };
    tx.add_point(of.1, Some(of.0), &new, taken_ms).await.unwrap();
}

async fn moments_of_points_are_told_with_the_last_one_before(Lab { catalog, .. }: Lab) {
    let (shop, bank) = (ProjectId::new(1), ProjectId::new(2));
    let (web, db, vault) = (InstanceId::new(1), InstanceId::new(2), InstanceId::new(3));
    let mut tx = catalog.begin().await.unwrap();
    for at in [10, 20, 100, 150, 200] {
        add(&mut tx, (shop, web), 1, at).await;
    }
    // A copy holds the same moment, and what was removed was there.
    add(&mut tx, (shop, web), 2, 150).await;
    let gone = [format!("{web}@1-100")];
    tx.points_removed(DestinationId::new(1), &gone, 500).await.unwrap();
    add(&mut tx, (shop, db), 1, 5).await;
    add(&mut tx, (bank, vault), 1, 120).await;
    let told = tx.taken(&ALL, &within(100, 200)).await.unwrap();
    let mut wanted = vec![(web, 20), (web, 100), (web, 150), (db, 5), (vault, 120)];
    wanted.sort_unstable();
    assert_eq!(told, wanted);
    let own = Visible::projects([bank]);
    assert_eq!(tx.taken(&own, &within(100, 200)).await.unwrap(), [(vault, 120)]);
    let of_bank = Within { project: Some(bank), ..within(0, 200) };
    assert_eq!(tx.taken(&ALL, &of_bank).await.unwrap(), [(vault, 120)]);
    let hidden = Visible::projects([shop]);
    assert!(tx.taken(&hidden, &of_bank).await.unwrap().is_empty());
}
