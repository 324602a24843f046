//! A node that starts again with what was installed in the place of its executable.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::iscsi::qemu;
use crate::mounted::{Lab, text};
use crate::support::binary;
use crate::support::run::{Cmd, Running, wait_until};

/// Puts another file in the place of an executable, as a package does.
fn install(at: &Path, write: impl FnOnce(&Path)) {
    let beside = at.with_extension("new");
    write(&beside);
    fs::set_permissions(&beside, PermissionsExt::from_mode(0o755)).unwrap();
    fs::rename(&beside, at).unwrap();
}

fn release(to: &Path) {
    fs::copy(binary::path(), to).unwrap();
}

/// The file that a process runs.
fn runs(process: &Running) -> u64 {
    fs::metadata(format!("/proc/{}/exe", process.pid())).map_or(0, |found| found.ino())
}

#[test]
fn a_node_finishes_what_it_has_becomes_the_next_release_and_keeps_its_mounts() {
    let lab = Lab::new();
    let server = lab.serve();
    lab.set_up(&server);
    let executable = lab.path("sluice");
    install(&executable, release);
    let state = lab.path("mover");
    let run = ["--json", "node", "run", "--state", text(&state)];
    let node = Cmd::new(&executable).env("HOME", lab.path("home")).args(run);
    let mut node = node.spawn();
    let mount = {
        let start = ["remote-mount", "start", "shop/web", "--node", "mover"];
        let start = [&start[..], &["--client", "127.0.0.1"]].concat();
        let mut ran = lab.cmd(&start).run();
        wait_until("a mount", || {
            if ran.code != Some(0) {
                ran = lab.cmd(&start).run();
            }
            ran.code == Some(0)
        });
        ran.json()
    };
    let serves = || {
        let uri = mount["disks"][0]["uri"].as_str().or(mount["uri"].as_str()).unwrap();
        let compare = ["compare", "-f", "raw", uri];
        qemu("qemu-img").args(compare).arg(lab.path("disk.raw")).run().code == Some(0)
    };
    wait_until("the mount serves", serves);
    let mover = || lab.ok(&["node", "show", "mover"]).json();
    let upgrade = ["node", "upgrade", "mover"];
    let said = lab.cmd(&upgrade).fails(1).text();
    assert!(said.contains("install another package first"), "{said}");

    // What does not fit is not begun.
    install(&executable, |path| {
        let text = r#"echo '{"version": "9.0.0", "contract": 99}'"#;
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    });
    wait_until("it is noticed", || mover()["capabilities"]["installed"]["contract"] == 99);
    let said = lab.cmd(&upgrade).fails(1).text();
    assert!(said.contains("upgrade the server"), "{said}");

    install(&executable, release);
    let next = fs::metadata(&executable).unwrap().ino();
    let fits = |node: &Value| node["capabilities"]["installed"]["contract"].as_u64() < Some(99);
    wait_until("it is noticed", || {
        let now = mover();
        now["capabilities"]["installed"].is_object() && fits(&now)
    });
    // A task runs until it is let go.
    let go = lab.path("go");
    lab.configure("programs", &json!({"commands": ["/bin", "/usr/bin"]}));
    let script = format!("while [ ! -e {} ]; do sleep 0.1; done; echo done", text(&go));
    let source = json!({"kind": "command", "command": ["/bin/sh", "-c", script], "name": "out"});
    lab.instance("shop/long", &json!({"source": source, "node": lab.id_of("mover")}));
    let task = lab.begin("shop/long");
    wait_until("the task runs", || lab.task(&task)["state"] == "running");
    lab.ok(&upgrade);
    wait_until("it finishes what it has", || mover()["upgrade"]["state"] == "draining");
    let later = lab.begin("shop/web");
    assert_ne!(runs(&node), next);
    let start = ["remote-mount", "start", "shop/web", "--node", "mover", "--client", "127.0.0.1"];
    let said = lab.cmd(&start).fails(1).text();
    assert!(said.contains("gets no new tasks"), "{said}");
    assert_eq!(lab.task(&task)["state"], "running");
    fs::write(&go, "").unwrap();
    lab.wait_for(&task, "succeeded");
    wait_until("it runs the next release", || runs(&node) == next);
    wait_until("it is back", || mover()["upgrade"].is_null());
    assert!(!node.is_over(), "it is the same process to whoever watches over it");
    assert_eq!(mover()["capabilities"]["installed"], Value::Null);
    wait_until("the mount serves again, where it was", serves);
    lab.wait_for(&later, "succeeded");
    let again = lab.begin("shop/long");
    assert_eq!(lab.wait_for(&again, "succeeded")["node"], lab.id_of("mover"));
}
