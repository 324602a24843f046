use sluice_catalog::{
    DestinationId, InstanceId, MountProtocol, MountSpec, NewMount, NodeId, PointId, ProjectId,
};

use super::*;

const NOW: u64 = 1_000_000;
const HOUR: u64 = 3_600_000;

fn mount(state: MountState, left: u64) -> Mount {
    Mount {
        id: MountId::new(1),
        new: NewMount {
            project: Some(ProjectId::new(1)),
            instance: InstanceId::new(1),
            point: PointId::new(1),
            destination: DestinationId::new(1),
            node: NodeId::new(1),
            lease_end_ms: NOW + left,
            spec: MountSpec {
                point: "shop.web@k3".into(),
                folder: None,
                image: None,
                protocol: MountProtocol::Nbd,
                writable: false,
                clients: vec!["192.0.2.0/24".into()],
                initiators: vec![],
                chap_user: None,
            },
        },
        state,
        task: None,
        place: json!({"uri": "nbd://192.0.2.7:4711/"}),
        message: String::new(),
        revision: 1,
        created_ms: 0,
        updated_ms: 0,
    }
}

fn held(mount: &Mount, state: HeldState) -> Held {
    let lease_ms = mount.new.lease_end_ms - NOW;
    Held { mount: mount.id.to_string(), state, lease_ms, ..Held::default() }
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let ready = mount(Ready, HOUR);
    let late = Held { lease_ms: HOUR - SLACK_MS, ..held(&ready, HeldState::Running) };
    let moving = held(&ready, HeldState::Moving);
    for one in [late, moving] {
        assert_eq!(decide(std::slice::from_ref(&ready), &[one], NOW), Decision::default());
    }
    let requested = mount(Requested, HOUR);
    for has in [vec![], vec![held(&requested, HeldState::Running)]] {
        assert_eq!(decide(std::slice::from_ref(&requested), &has, NOW), Decision::default());
    }
}

#[test]
fn another_address_than_before_is_noted() {
    let ready = mount(Ready, HOUR);
    let place = json!({"uri": "nbd://192.0.2.7:4712/"});
    let same = Held { place: ready.place.clone(), ..held(&ready, HeldState::Running) };
    assert_eq!(decide(std::slice::from_ref(&ready), &[same], NOW), Decision::default());
    let other = Held { place: place.clone(), ..held(&ready, HeldState::Running) };
    let decision = decide(std::slice::from_ref(&ready), std::slice::from_ref(&other), NOW);
    assert_eq!(decision.moved, [(ready.id, place)]);
    // One that is not ready is told of by its task.
    let requested = mount(Requested, HOUR);
    let other = Held { mount: requested.id.to_string(), ..other };
    assert!(decide(std::slice::from_ref(&requested), &[other], NOW).moved.is_empty());
}

#[test]
fn what_nobody_wants_is_released() {
    let (releasing, over) = (mount(Releasing, HOUR), mount(Ready, 0));
    let stranger = Held { mount: "stranger".into(), ..Held::default() };
    let has = [held(&releasing, HeldState::Running), held(&over, HeldState::Running), stranger];
    let decision = decide(&[releasing.clone(), over.clone()], &has, NOW);
    let names = [releasing.id.to_string(), over.id.to_string(), "stranger".to_owned()];
    assert_eq!(decision.release, names);
    let lease = "its lease is over".to_owned();
    assert_eq!(decision.changes, [(over.id, Ready, Releasing, lease.clone())]);
    // Once the node has them no more they are gone, and none of them comes back.
    let ended = mount(Ready, LAST_MS);
    let decision = decide(&[releasing.clone(), ended.clone()], &[], NOW);
    let gone = |one: &Mount, why: &str| (one.id, one.state, Gone, why.to_owned());
    assert_eq!(decision.changes, [gone(&releasing, ""), gone(&ended, &lease)]);
    assert!(decision.again.is_empty());
}

#[test]
fn what_a_node_has_lost_is_made_again_at_its_place() {
    let lost = mount(Ready, LAST_MS + 1);
    assert_eq!(decide(std::slice::from_ref(&lost), &[], NOW).again, [lost.id]);
    let order = order(&lost, NOW);
    assert_eq!((order.place, order.lease_ms), (Some(lost.place), LAST_MS + 1));
}

#[test]
fn failures_and_recoveries_are_noted_and_secrets_and_leases_supplied() {
    let ready = mount(Ready, HOUR);
    let broken = Held {
        message: "the passphrase is gone".into(),
        needs_secrets: true,
        lease_ms: HOUR / 2,
        ..held(&ready, HeldState::Failed)
    };
    let decision = decide(std::slice::from_ref(&ready), std::slice::from_ref(&broken), NOW);
    assert_eq!(decision.changes, [(ready.id, Ready, Failed, broken.message)]);
    assert_eq!(decision.supply, [ready.id]);
    assert_eq!(decision.renew, [(ready.id.to_string(), HOUR)].into());
    let failed = Mount { message: "x".into(), ..mount(Failed, HOUR) };
    let running = held(&failed, HeldState::Running);
    let decision = decide(std::slice::from_ref(&failed), &[running], NOW);
    assert_eq!(decision.changes, [(failed.id, Failed, Ready, String::new())]);
}

#[test]
fn addresses_are_those_that_the_exports_tell() {
    let nbd = json!({"uri": "nbd://h:1/", "exports": [{"name": "vda", "uri": "nbd://h:1/vda"}]});
    let disks = vec![("vda".to_owned(), "nbd://h:1/vda".to_owned())];
    assert_eq!(addresses(&nbd), (Some("nbd://h:1/".into()), disks));
    let iscsi =
        json!({"uri": "iscsi://h:1/t/0", "luns": [{"name": "a", "uri": "iscsi://h:1/t/0"}]});
    assert_eq!(addresses(&iscsi).1.len(), 1);
    assert_eq!(addresses(&Value::Null), (None, vec![]));
}
