//! What works on a node, whom it works for, and how much it may take.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::iscsi::qemu;
use crate::mounted::{Lab, text};
use crate::support::run::wait_until;

/// Threads of a process that hash, compress and seal.
const WORKER: &str = "sluice-cpu";

impl Lab {
    /// Makes a configuration, and gives it to the node `mover`.
    pub fn configure(&self, name: &str, config: &Value) {
        let file = self.path("config.json");
        fs::write(&file, config.to_string()).unwrap();
        self.ok(&["node-config", "set", name, "--spec", text(&file)]);
        self.ok(&["node-config", "assign", "mover", name]);
    }

    /// Makes an instance.
    pub fn instance(&self, name: &str, spec: &Value) {
        let file = self.path("instance.json");
        fs::write(&file, spec.to_string()).unwrap();
        self.ok(&["instance", "set", name, "--spec", text(&file)]);
    }

    pub fn id_of(&self, node: &str) -> Value {
        self.ok(&["node", "show", node]).json()["id"].clone()
    }

    /// Begins a backup.
    pub fn begin(&self, instance: &str) -> String {
        let task = self.ok(&["task", "backup", instance, "--to", "local"]).json();
        task["id"].as_str().unwrap().to_owned()
    }

    pub fn task(&self, id: &str) -> Value {
        self.ok(&["task", "show", id]).json()
    }

    pub fn wait_for(&self, task: &str, state: &str) -> Value {
        let mut told = Value::Null;
        wait_until(&format!("the task is {state}"), || {
            told = self.task(task);
            let now = told["state"].as_str().unwrap();
            assert!(now == state || ["queued", "running"].contains(&now), "{told}");
            now == state
        });
        told
    }
}

fn ability(node: &Value, name: &str) -> Value {
    // Nobody has looked before it runs for the first time.
    let all = node["capabilities"]["abilities"].as_array();
    all.into_iter().flatten().find(|one| one["name"] == name).cloned().unwrap_or_default()
}

#[test]
fn a_node_tells_what_lacks_and_a_task_that_needs_it_waits_until_it_is_installed() {
    let lab = Lab::new();
    let server = lab.serve();
    lab.set_up(&server);
    // Nothing is installed there.
    let programs = lab.path("programs");
    fs::create_dir(&programs).unwrap();
    let run = ["node", "run", "--state"];
    let state = lab.path("mover");
    let near = lab.cmd(&[&run[..], &[text(&state)]].concat()).env("PATH", &programs);
    let _mover = near.spawn();
    let mover = || lab.ok(&["node", "show", "mover"]).json();
    wait_until("it tells how it stands", || ability(&mover(), "source:formats").is_object());
    let lack = ability(&mover(), "source:formats");
    assert_eq!((&lack["works"], &lack["fix"]), (&json!(false), &json!("package qemu-utils")));
    for (name, works) in
        [("export:nbd", true), ("export:fuse", false), ("source:folder", true), ("test:tcg", false)]
    {
        assert_eq!(ability(&mover(), name)["works"], works, "{name}");
    }
    let refused = lab.cmd(&[
        "remote-mount",
        "start",
        "shop/web",
        "--node",
        "mover",
        "--protocol",
        "fuse",
        "--folder",
        "x",
    ]);
    let said = refused.fails(1).text();
    assert!(said.contains("--mount-folder"), "{said}");

    let image = lab.path("small.qcow2");
    qemu("qemu-img").args(["create", "-q", "-f", "qcow2", text(&image), "4M"]).ok();
    let source = json!({"kind": "disk-files", "images": [{"path": image}]});
    lab.instance("shop/small", &json!({"source": source, "node": lab.id_of("mover")}));
    let task = lab.begin("shop/small");
    let told = lab.task(&task);
    assert_eq!(told["waits_for"], "no-node", "{told}");
    let why = told["waits_because"].as_str().unwrap();
    assert!(why.contains("mover: source:formats does not work"), "{why}");
    assert!(why.contains("package qemu-utils") && why.contains("local: mover is named"), "{why}");
    std::os::unix::fs::symlink(which("qemu-nbd"), programs.join("qemu-nbd")).unwrap();
    let done = lab.wait_for(&task, "succeeded");
    assert_eq!(done["node"], mover()["id"]);
    assert_eq!(ability(&mover(), "source:formats")["works"], true);

    // The same without a server, for people.
    let here = lab.cmd(&["node", "check"]).env("PATH", &programs).ok().json();
    let found = json!({ "capabilities": here });
    assert_eq!(ability(&found, "source:formats")["works"], true);
    assert_eq!(ability(&found, "test:tcg")["fix"], "package qemu-system-x86");
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file()).unwrap()
}

#[test]
fn instances_are_backed_up_by_the_nodes_that_serve_them() {
    let lab = Lab::new();
    let server = lab.serve();
    lab.set_up(&server);
    let _mover = lab.near_mover(&[]);
    lab.configure("rack-1", &json!({"serves": {"hosts": ["hyper-*"], "tags": ["far"]}}));
    let source = json!({"kind": "disk-files", "images": [{"path": lab.path("disk.raw")}]});
    lab.instance("shop/near", &json!({"source": source, "host": "hyper-7"}));
    lab.instance("shop/other", &json!({"source": source, "host": "blade-1"}));
    let (near, other) = (lab.begin("shop/near"), lab.begin("shop/other"));
    assert_eq!(lab.wait_for(&near, "succeeded")["node"], lab.id_of("mover"));
    assert_eq!(lab.wait_for(&other, "succeeded")["node"], lab.id_of("local"));
    let judged = |instance: &str| -> Vec<(String, bool, String)> {
        let told = lab.ok(&["node", "for", instance]).json();
        let word = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
        let row = |one: &Value| (word(one, "name"), one["may"] == true, word(one, "because"));
        told["items"].as_array().unwrap().iter().map(row).collect()
    };
    for (name, may, because) in judged("shop/near") {
        assert_eq!(may, name == "mover", "{name}: {because}");
        assert!(because.contains("rack-1") && because.contains("its host"), "{because}");
    }
    let exported = lab.ok(&["config", "export"]).json();
    let serves = &exported["node-configs"]["rack-1"]["serves"];
    assert_eq!(*serves, json!({"hosts": ["hyper-*"], "tags": ["far"]}));
    // What nobody may do says so.
    lab.ok(&["node", "drain", "mover"]);
    let waits = lab.begin("shop/near");
    let told = lab.task(&waits);
    let why = told["waits_because"].as_str().unwrap();
    assert_eq!(told["waits_for"], "nodes-away", "{told}");
    assert!(why.contains("mover: it is drained") && why.contains("served by rack-1"), "{why}");
    lab.ok(&["node", "enable", "mover"]);
    lab.wait_for(&waits, "succeeded");
}

/// The process that backs up this file.
fn process_of(path: &Path) -> Option<u32> {
    let word = path.to_str().unwrap().as_bytes();
    let all = fs::read_dir("/proc").unwrap().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let works = |number: &u32| {
        let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        let has = |word: &[u8]| line.windows(word.len()).any(|part| part == word);
        has(word) && has(b"backup")
    };
    numbers.into_iter().find(works)
}

/// How many threads of a process compute.
fn workers(process: u32) -> usize {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let names = threads.filter_map(|one| fs::read_to_string(one.path().join("comm")).ok());
    names.filter(|name| name.starts_with(WORKER)).count()
}

#[test]
fn the_threads_and_the_rate_of_a_configuration_hold_in_the_process_of_a_task() {
    let lab = Lab::new();
    let server = lab.serve();
    lab.set_up(&server);
    let _mover = lab.near_mover(&[]);
    lab.configure(
        "slow",
        &json!({"threads_by_kind": {"backup": 3}, "bandwidth": {"windows": {"00:00-24:00": 1024}}}),
    );
    for name in ["slow", "fast"] {
        let mut bytes = vec![0; 8 << 20];
        fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
        let path = lab.path(&format!("{name}.raw"));
        fs::write(&path, &bytes).unwrap();
        let node = lab.id_of(if name == "slow" { "mover" } else { "local" });
        let source = json!({"kind": "disk-files", "images": [{"path": path}]});
        lab.instance(&format!("shop/{name}"), &json!({"source": source, "node": node}));
    }
    let slow = lab.begin("shop/slow");
    let image = lab.path("slow.raw");
    wait_until("three threads compute", || process_of(&image).map(workers) == Some(3));
    // Begun later, and on a node without limits, as much is through.
    lab.wait_for(&lab.begin("shop/fast"), "succeeded");
    assert_eq!(lab.task(&slow)["state"], "running");
    lab.ok(&["task", "cancel", &slow]);
    wait_until("it ends", || lab.task(&slow)["state"] == "cancelled");
}
