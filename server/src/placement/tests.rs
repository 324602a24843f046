use serde_json::{Value, json};
use sluice_catalog::{Ability, Capabilities, NodeConfig, Upgrade, UpgradeState};

use super::*;

const NOW: u64 = 1_000_000;

fn configs(all: &[(&str, Value)]) -> Configs {
    let read = |(at, (name, serves)): (usize, &(&str, Value))| {
        let config: NodeConfig = serde_json::from_value(json!({ "serves": serves })).unwrap();
        (NodeConfigId::new(at as u64), (*name).to_owned(), config)
    };
    Configs::of_these(all.iter().enumerate().map(read))
}

fn id(configs: &Configs, name: &str) -> NodeConfigId {
    configs.all().map(|(id, _)| id).find(|id| configs.name(*id) == name).unwrap()
}

fn node(name: &str, config: Option<NodeConfigId>) -> Record<Node> {
    let kinds = ["backup", "mount", "snapshot"].map(str::to_owned).to_vec();
    let capabilities = Capabilities { kinds, ..Capabilities::default() };
    Record {
        id: NodeId::new(name.len() as u64),
        project: None,
        project_name: None,
        name: name.into(),
        revision: 1,
        created_ms: 0,
        updated_ms: 0,
        body: Node { config, capabilities, ..Node::default() },
    }
}

fn web() -> Placed {
    Placed {
        name: "shop/web".into(),
        tags: ["gold".to_owned()].into(),
        manager: Some("cloud-a".into()),
        cluster: Some("rack-1".into()),
        host: Some("hyper-7".into()),
    }
}

fn judged(asked: &Asked, nodes: &[Record<Node>], configs: &Configs) -> Vec<(bool, String)> {
    let liveness = NodeLiveness { last_seen_ms: NOW, running: 0 };
    let seen = nodes.iter().map(|node| (node.id, liveness)).collect();
    let told = judge(asked, nodes, configs, &seen, NOW);
    // The queue decides the same.
    let pools = pools_of_task(configs, &asked.kind, asked.wanted, asked.instance.as_ref());
    for (one, node) in told.iter().zip(nodes) {
        let of = pools_of_node(configs, node.id, &node.body);
        let fits = pools.as_ref().is_none_or(|pools| !pools.is_disjoint(&of));
        let able = asked.needs.iter().all(|need| abilities(configs, &node.body).contains(need));
        let there = node.body.state == NodeState::Enabled;
        assert_eq!(one.may, fits && able && there, "{one:?}");
    }
    told.into_iter().map(|one| (one.may, one.because)).collect()
}

fn backup() -> Asked {
    Asked { kind: "backup".into(), instance: Some(web()), ..Asked::default() }
}

#[test]
fn the_most_specific_configuration_has_an_instance() {
    let all = configs(&[
        ("manager", json!({"managers": ["cloud-a"]})),
        ("cluster", json!({"clusters": ["rack-*"]})),
        ("host", json!({"hosts": ["hyper-7"]})),
        ("host-too", json!({"hosts": ["hyper-*"]})),
        ("nobody", json!({})),
    ]);
    let by = |names: &[&str]| names.iter().map(|name| id(&all, name)).collect::<BTreeSet<_>>();
    assert_eq!(claim(&all, &web()), Claim::By(ServesBy::Host, by(&["host", "host-too"])));
    let moved = Placed { host: None, ..web() };
    assert_eq!(claim(&all, &moved), Claim::By(ServesBy::Cluster, by(&["cluster"])));
    let elsewhere = Placed { cluster: Some("shelf".into()), ..moved };
    assert_eq!(claim(&all, &elsewhere), Claim::By(ServesBy::Manager, by(&["manager"])));
    assert_eq!(claim(&all, &Placed::default()), Claim::Open);
    assert_eq!(claim(&configs(&[("nobody", json!({}))]), &web()), Claim::Anyone);
}

#[test]
fn each_node_is_told_why_it_may_or_may_not() {
    let all = configs(&[("racks", json!({"clusters": ["rack-1"]})), ("plain", json!({}))]);
    let (racks, plain) = (Some(id(&all, "racks")), Some(id(&all, "plain")));
    let mut nodes = [node("a", racks), node("ab", plain), node("abc", None)];
    let told = judged(&backup(), &nodes, &all);
    assert_eq!(
        told[0],
        (true, "its configuration racks serves the instance by its cluster".into())
    );
    assert_eq!(told[1], (false, "the instance is served by racks, by its cluster".into()));
    assert!(!told[2].0);
    let other = Asked { instance: Some(Placed::default()), ..backup() };
    let may: Vec<bool> = judged(&other, &nodes, &all).iter().map(|one| one.0).collect();
    assert_eq!(may, [false, true, true]);
    // A snapshot is made of what is there, too.
    let snapshot = Asked { kind: "snapshot".into(), ..backup() };
    let may: Vec<bool> = judged(&snapshot, &nodes, &all).iter().map(|one| one.0).collect();
    assert_eq!(may, [true, false, false]);
    // Who names a node means that one, whatever configurations say.
    let wanted = Asked { wanted: Some(nodes[2].id), ..backup() };
    let told = judged(&wanted, &nodes, &all);
    assert_eq!((told[0].0, told[2].0), (false, true));
    assert_eq!(told[0].1, "abc is named for this");
    // What does not reach the instance's host goes anywhere.
    let mount = Asked { kind: "mount".into(), ..backup() };
    assert!(judged(&mount, &nodes, &all).iter().all(|one| one.0));
    nodes[0].body.state = NodeState::Draining;
    assert_eq!(judged(&backup(), &nodes, &all)[0], (false, "it is drained".into()));
    // Also one whose upgrade waits or has failed; only while it is under way it is the reason.
    for (state, why) in [
        (UpgradeState::Waiting, "it is drained"),
        (UpgradeState::Failed, "it is drained"),
        (UpgradeState::Draining, "it is being upgraded"),
        (UpgradeState::Restarting, "it is being upgraded"),
    ] {
        let (from, to, message) = (String::new(), String::new(), String::new());
        let (requested_ms, since_ms) = (0, 0);
        let upgrade = Upgrade { state, requested_ms, since_ms, from, to, message };
        nodes[0].body.upgrade = Some(upgrade);
        assert_eq!(judged(&backup(), &nodes, &all)[0], (false, why.into()));
    }
}

#[test]
fn an_inventory_is_for_the_nodes_that_serve_what_it_finds() {
    let all = configs(&[("racks", json!({"clusters": ["rack-1"]})), ("plain", json!({}))]);
    let (racks, plain) = (Some(id(&all, "racks")), Some(id(&all, "plain")));
    let mut nodes = [node("a", racks), node("ab", plain)];
    for one in &mut nodes {
        one.body.capabilities.kinds.push("inventory".into());
    }
    let asked = |place: Placed| Asked {
        kind: "inventory".into(),
        instance: Some(place),
        ..Asked::default()
    };
    let told = judged(&asked(web()), &nodes, &all);
    assert!(told[0].0);
    assert_eq!(told[1], (false, "the place is served by racks, by its cluster".into()));
    let may: Vec<bool> =
        judged(&asked(Placed::default()), &nodes, &all).iter().map(|one| one.0).collect();
    assert_eq!(may, [false, true]);
}

#[test]
fn a_node_without_a_folder_for_snapshots_makes_none() {
    let config = |name: &str, folders: Value, at: u64| {
        let spec = json!({ "snapshot_folders": folders });
        (NodeConfigId::new(at), name.to_owned(), serde_json::from_value(spec).unwrap())
    };
    let all = [config("kept", json!(["/srv/kept"]), 1), config("bare", json!([]), 2)];
    let all = Configs::of_these(all);
    let (kept, bare) = (Some(id(&all, "kept")), Some(id(&all, "bare")));
    let mut nodes = [node("a", kept), node("ab", bare), node("abc", None), node("abcd", kept)];
    nodes[3].body.capabilities.kinds.retain(|kind| kind != "snapshot");
    let spec = json!({"images": ["/srv/a.raw"], "snapshot": {"order": {"name": ""}}});
    for asked in [
        Asked { kind: "snapshot".into(), needs: task_needs("snapshot", &json!({})), ..backup() },
        Asked { needs: task_needs("backup", &spec), ..backup() },
    ] {
        let told = judged(&asked, &nodes, &all);
        let may: Vec<bool> = told.iter().map(|one| one.0).collect();
        assert_eq!(may, [true, false, false, false], "{told:?}");
        let why = "source:snapshots does not work: its configuration bare names no folder for \
                   them; missing: snapshot_folders";
        assert!(told[1].1.starts_with(why), "{}", told[1].1);
        assert!(told[2].1.contains("it has no configuration"), "{}", told[2].1);
        assert!(told[3].1.contains("no tasks of kind snapshot"), "{}", told[3].1);
    }
}

#[test]
fn what_does_not_work_is_named_with_what_is_missing() {
    let all = configs(&[]);
    let mut nodes = [node("a", None), node("ab", None)];
    let lack = Ability {
        name: "export:fuse".into(),
        works: false,
        why: "there is no fusermount3".into(),
        fix: "package fuse3".into(),
    };
    nodes[0].body.capabilities.abilities = vec![lack];
    let asked = Asked {
        kind: "mount".into(),
        needs: ["export:fuse".to_owned()].into(),
        ..Asked::default()
    };
    let told = judged(&asked, &nodes, &all);
    let text = "export:fuse does not work: there is no fusermount3; missing: package fuse3";
    assert_eq!(told[0], (false, text.into()));
    assert!(told[1].0, "nodes of earlier releases do not say, and are believed");
}
