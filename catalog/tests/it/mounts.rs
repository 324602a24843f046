//! Mounted restore points.

use serde_json::json;
use sluice_catalog::{
    DestinationId, ErrorKind, InstanceId, MountFilter, MountId, MountProtocol, MountSpec,
    MountState, NewMount, NodeId, Page, PointId, ProjectId, Visible,
};

use crate::support::{Lab, on_both};

on_both! {
    a_mount_goes_through_its_states_and_never_back
    mounts_are_seen_by_their_project_only
    what_is_under_way_or_over_is_to_be_settled
}

use MountState::{Failed, Gone, Ready, Releasing, Requested};

pub fn new(project: ProjectId, lease_end_ms: u64) -> NewMount {
    NewMount {
        project: Some(project),
        instance: InstanceId::new(1),
        point: PointId::new(1),
        destination: DestinationId::new(1),
        node: NodeId::new(1),
        lease_end_ms,
        spec: MountSpec {
            point: "shop.web@k3".into(),
            folder: None,
            image: Some("root".into()),
            protocol: MountProtocol::Iscsi,
            writable: false,
            clients: vec!["192.0.2.0/24".into()],
            initiators: vec!["iqn.2026-01.test:host-1".into()],
            chap_user: None,
        },
    }
}

async fn a_mount_goes_through_its_states_and_never_back(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let (id, wanted) = (MountId::new(1), new(ProjectId::new(1), 100));
    tx.add_mount(id, &wanted, 1).await.unwrap();
    let made = tx.mount(id, &Visible::All).await.unwrap();
    assert_eq!((&made.new, made.state, made.revision), (&wanted, Requested, 1));
    let place = json!({"uri": "iscsi://192.0.2.7:3260/x/0"});
    let wanted_states = [Requested, Ready, Failed];
    assert!(tx.change_mount(id, &[Requested], Ready, Some(&place), "", 2).await.unwrap());
    assert!(!tx.change_mount(id, &[Requested], Failed, None, "late", 3).await.unwrap());
    assert!(tx.change_mount(id, &[Ready], Failed, None, "it broke", 3).await.unwrap());
    let failed = tx.mount(id, &Visible::All).await.unwrap();
    assert_eq!((failed.state, &failed.place, &*failed.message), (Failed, &place, "it broke"));
    tx.renew_mount(id, 500, 4).await.unwrap();
    assert!(tx.change_mount(id, &wanted_states, Releasing, None, "", 5).await.unwrap());
    let late = tx.renew_mount(id, 900, 6).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
    assert_eq!(tx.mounts_of_node(wanted.node).await.unwrap().items.len(), 1);
    assert!(tx.change_mount(id, &[Releasing], Gone, None, "", 7).await.unwrap());
    let gone = tx.mount(id, &Visible::All).await.unwrap();
    assert_eq!((gone.new.lease_end_ms, gone.updated_ms, gone.revision), (500, 7, 6));
    assert!(tx.mounts_of_node(wanted.node).await.unwrap().items.is_empty());
    tx.commit().await.unwrap();
}

async fn mounts_are_seen_by_their_project_only(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let (one, two) = (ProjectId::new(1), ProjectId::new(2));
    let mut ids = Vec::new();
    for (number, project) in [one, one, two, one].into_iter().enumerate() {
        let id = MountId::new(10 + number as u64);
        tx.add_mount(id, &new(project, 100), 1).await.unwrap();
        ids.push(id);
    }
    assert!(tx.change_mount(ids[3], &[Requested], Gone, None, "", 2).await.unwrap());
    let own = Visible::projects([one]);
    let page = Page { after: None, limit: 1 };
    let newest = tx.mounts(&own, &MountFilter::default(), &page).await.unwrap();
    assert_eq!(newest.iter().map(|mount| mount.id).collect::<Vec<_>>(), [ids[1]]);
    let page = Page { after: Some(ids[1].to_string()), limit: 9 };
    let rest = tx.mounts(&own, &MountFilter::default(), &page).await.unwrap();
    assert_eq!(rest.iter().map(|mount| mount.id).collect::<Vec<_>>(), [ids[0]]);
    let gone = MountFilter { state: Some(Gone), ..MountFilter::default() };
    let gone = tx.mounts(&own, &gone, &Page::default()).await.unwrap();
    assert_eq!(gone.iter().map(|mount| mount.id).collect::<Vec<_>>(), [ids[3]]);
    let other = tx.mount(ids[2], &own).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::NotFound);
}

async fn what_is_under_way_or_over_is_to_be_settled(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let mut ids = Vec::new();
    for (end, state) in [(100, Requested), (100, Ready), (900, Ready), (900, Releasing), (1, Gone)]
    {
        let id = MountId::new(5 + ids.len() as u64);
        tx.add_mount(id, &new(ProjectId::new(1), end), 1).await.unwrap();
        tx.change_mount(id, &[Requested], state, None, "", 1).await.unwrap();
        ids.push(id);
    }
    let found = tx.mounts_to_settle(100).await.unwrap();
    let found: Vec<_> = found.items.into_iter().map(|mount| mount.id).collect();
    assert_eq!(found, [ids[0], ids[1], ids[3]]);
    let before = tx.mounts_to_settle(99).await.unwrap();
    assert_eq!(before.items.len(), 2, "a lease that is not over yet is left alone");
}
