//! Nodes of a server: their certificates, and what configurations let them do.

use serde_json::{Value, json};

use crate::iscsi::qemu;
use crate::mounted::Lab;
use crate::support::disk;
use crate::support::run::{Cmd, Ran, wait_until};

fn node(lab: &Lab) -> Value {
    lab.ok(&["node", "show", "mover"]).json()
}

/// What the node keeps of its enrolment.
fn kept(lab: &Lab) -> Value {
    serde_json::from_slice(&std::fs::read(lab.path("mover/node.json")).unwrap()).unwrap()
}

fn join(lab: &Lab, token: &Ran) -> Cmd {
    let file = lab.path("again");
    std::fs::write(&file, token.json()["token"].as_str().unwrap()).unwrap();
    let (file, state) = (file.to_str().unwrap().to_owned(), lab.path("mover"));
    let words = ["node", "join", "mover", "--token-file", &file, "--state"];
    lab.network.far(lab.cmd(&[&words[..], &[state.to_str().unwrap()]].concat()))
}

#[test]
fn a_certificate_is_renewed_in_time_and_one_that_ended_lets_the_node_come_back() {
    let lab = Lab::new();
    let server = lab.serve_with(&["--node-certificates", "40s"]);
    lab.set_up(&server);
    assert_eq!(kept(&lab)["token"], "", "a node with a certificate has no token");
    let (id, first) = (node(&lab)["id"].clone(), node(&lab)["certificate_expires_ms"].clone());
    assert_eq!(first, kept(&lab)["identity"]["expires_ms"]);
    let mover = lab.mover();
    wait_until("the certificate is renewed", || {
        let now = node(&lab)["certificate_expires_ms"].as_u64();
        now > first.as_u64().map(|first| first + 10_000)
    });
    drop(mover);

    // Nobody renews it now: it ends, and both sides say so.
    let state = lab.path("mover");
    let run = ["node", "run", "--state", state.to_str().unwrap()];
    let ends = kept(&lab)["identity"]["expires_ms"].as_u64().unwrap();
    wait_until("the certificate ends", || {
        std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() > u128::from(ends) + 1000
    });
    let said = lab.network.far(lab.cmd(&run)).fails(1).text();
    assert!(said.contains("sluice node token --for"), "{said}");
    let again = join(&lab, &lab.ok(&["node", "token", "--for", "mover"])).ok().json();
    assert_eq!((&again["node"], &again["again"]), (&id, &json!(true)));
    let _mover = lab.mover();
    lab.mount(&["--client", &lab.network.here]);
}

#[test]
fn a_node_that_is_drained_or_disabled_gets_nothing_and_a_configuration_binds_it() {
    let lab = Lab::new();
    let server = lab.serve();
    lab.set_up(&server);
    let _mover = lab.mover();
    let here = lab.network.here.clone();
    let start = ["remote-mount", "start", "shop/web", "--node", "mover", "--client", &here];
    for word in ["drain", "disable"] {
        lab.ok(&["node", word, "mover"]);
        let refused = lab.cmd(&start).fails(1);
        assert!(refused.text().contains("gets no new tasks"), "{}", refused.text());
    }
    lab.ok(&["node", "enable", "mover"]);
    lab.mount(&["--client", &here]);

    // Only in one folder is anything backed up, whoever names it; links are followed.
    let open = lab.path("open");
    std::fs::create_dir(&open).unwrap();
    disk::sample(&open.join("a.raw"));
    std::os::unix::fs::symlink(lab.path("disk.raw"), open.join("link.raw")).unwrap();
    let spec = lab.path("config.json");
    let config = json!({"only_paths": [open], "threads_by_kind": {"backup": 1},
        "bandwidth": {"limit": 1 << 30}, "destinations": ["local"]});
    std::fs::write(&spec, config.to_string()).unwrap();
    lab.ok(&["node-config", "set", "narrow", "--spec", spec.to_str().unwrap()]);
    lab.ok(&["node-config", "assign", "local", "narrow"]);
    lab.cmd(&["node-config", "remove", "narrow"]).fails(1);
    let exported = lab.ok(&["config", "export"]).json();
    assert_eq!(exported["node-configs"]["narrow"]["destinations"], json!(["local"]));
    let local = lab.ok(&["node", "show", "local"]).json()["id"].clone();
    for (name, good) in [("a", true), ("link", false)] {
        let path = open.join(format!("{name}.raw"));
        let source = json!({"kind": "disk-files", "images": [{"path": path}]});
        std::fs::write(&spec, json!({"source": source, "node": local}).to_string()).unwrap();
        let called = format!("shop/{name}");
        lab.ok(&["instance", "set", &called, "--spec", spec.to_str().unwrap()]);
        let task = lab.ok(&["task", "backup", &called, "--to", "local"]).json();
        let id = task["id"].as_str().expect("a task").to_owned();
        let mut ended = Value::Null;
        wait_until("the backup ends", || {
            ended = lab.ok(&["task", "show", &id]).json();
            ["succeeded", "failed"].contains(&ended["state"].as_str().unwrap())
        });
        assert_eq!(ended["state"] == "succeeded", good, "{ended}");
        let why = ended["message"].as_str().unwrap();
        assert_eq!(why.contains("in no folder allowed"), !good, "{why}");
    }
}

#[test]
fn what_is_written_to_a_mount_becomes_a_restore_point_or_is_thrown_away() {
    let lab = Lab::new();
    let server = lab.serve();
    lab.set_up(&server);
    let mover = lab.mover();
    let mount = lab.mount(&["--writable", "--client", &lab.network.here]);
    let (id, uri) = (mount["id"].as_str().unwrap(), mount["uri"].as_str().unwrap());
    let disk = mount["disks"][0]["uri"].as_str().unwrap_or(uri).to_owned();
    let write = |pattern: &str| {
        let what = format!("write -P {pattern} 64k 64k");
        qemu("qemu-io").args(["-f", "raw", "-c", &what, "-c", "flush", &disk]).ok();
    };
    write("0xab");
    let overlay = lab.path("mover/overlays").join(id);
    assert!(overlay.is_dir());
    let task = lab.ok(&["remote-mount", "commit", id]).json()["id"].as_str().unwrap().to_owned();
    let mut ended = Value::Null;
    wait_until("the commit ends", || {
        ended = lab.ok(&["task", "show", &task]).json();
        ["succeeded", "failed"].contains(&ended["state"].as_str().unwrap())
    });
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let point = ended["result"]["point"]["point"].as_str().unwrap().to_owned();

    // The mount goes on after its node was killed, with what is written after that.
    write("0xcd");
    drop(mover);
    let _mover = lab.mover();
    let reads = |pattern: &str| {
        let what = format!("read -P {pattern} 64k 64k");
        let ran = qemu("qemu-io").args(["-r", "-f", "raw", "-c", &what, &disk]).run();
        ran.code == Some(0) && !ran.text().contains("erification failed")
    };
    wait_until("the mount is back", || reads("0xcd"));
    lab.ok(&["remote-mount", "stop", id]);
    wait_until("what was written is thrown away", || !overlay.exists());

    // The new point has what was written before, and is one of the catalog.
    let show = ["remote-mount", "start", &point, "--node", "mover", "--client", &lab.network.here];
    let shown = lab.ok(&show).json();
    let read = |pattern: &str| {
        let disk = shown["disks"][0]["uri"].as_str().unwrap();
        let what = format!("read -P {pattern} 64k 64k");
        let ran = qemu("qemu-io").args(["-r", "-f", "raw", "-c", &what, disk]).run();
        ran.code == Some(0) && !ran.text().contains("erification failed")
    };
    assert!(read("0xab") && !read("0xcd"));
    let refused = lab.cmd(&["remote-mount", "commit", shown["id"].as_str().unwrap()]).fails(1);
    assert!(refused.text().contains("nobody can write"), "{}", refused.text());
}
