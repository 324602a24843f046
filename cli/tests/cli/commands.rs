use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::support::{Ended, Place, content};

#[test]
fn what_is_backed_up_comes_back_by_restore_and_cat() {
    let place = Place::new();
    place.write("disk.raw", &content(1));
    let first = place.backup("disk.raw", &[]);
    place.write("disk.raw", &content(2));
    let second = place.backup("disk.raw", &[]);
    for (point, seed) in [(&first, 1), (&second, 2)] {
        place.ok(&["restore", point, "out.raw", "--overwrite"]);
        assert!(place.read("out.raw") == content(seed), "{point}");
    }
    let cat = place.sluice(&["cat", &first]).output().unwrap();
    assert!(cat.stdout == content(1));
    let piece = place.sluice(&["cat", &first, "--offset", "1000", "--length", "5"]).output();
    assert_eq!(piece.unwrap().stdout, &content(1)[1000..1005]);
    place.ok(&["verify", "--data"]);
}

#[test]
fn a_list_of_changes_is_all_that_is_read() {
    let place = Place::new();
    let mut bytes = content(1);
    place.write("disk.raw", &bytes);
    let first = place.backup("disk.raw", &[]);
    bytes[200_000] ^= 1;
    // A change that the list leaves out shows that nothing else is read.
    bytes[400_000] ^= 1;
    place.write("disk.raw", &bytes);
    let list = place.write("list.json", br#"[{"offset": 199999, "length": 2}]"#);
    let second = place.backup("disk.raw", &["--changed", &list]);
    bytes[400_000] ^= 1;
    place.ok(&["restore", &second, "out.raw"]);
    assert!(place.read("out.raw") == bytes);
    let changed = place.json(&["diff", &first, &second]);
    assert_eq!(changed, serde_json::json!([{"offset": 131_072, "length": 131_072}]));
    let shown = place.json(&["show", &second]);
    assert_eq!(
        (&shown["method"], &shown["stats"]["read_bytes"]),
        (&"changed".into(), &131_072.into())
    );
}

#[test]
fn several_images_and_metadata_stay_together() {
    let place = Place::new();
    let (a, b) = (place.write("a.raw", &content(1)), place.write("b.raw", &content(2)));
    let meta = place.write("vm.json", br#"{"cpus": 4}"#);
    place.ok(&["backup", "vm", &a, &format!("data={b}"), "--meta", &meta]);
    let shown = place.json(&["show", "vm"]);
    assert_eq!(shown["metadata"]["cpus"], 4);
    place.ends(1, &["restore", "vm", "one.raw"]).says(":a :data");
    place.ok(&["restore", "vm", "all/"]);
    assert!(place.read("all/a.raw") == content(1) && place.read("all/data.raw") == content(2));
    place.ok(&["restore", "vm:data", "--to", "one.raw"]);
    assert!(place.read("one.raw") == content(2));
    place.ends(1, &["restore", "vm:nope", "x.raw"]).says("a, data");
}

#[test]
fn a_policy_removes_what_a_dry_run_named() {
    let place = Place::new();
    let points: Vec<String> = (0..3)
        .map(|seed| {
            place.write("disk.raw", &content(seed));
            place.backup("disk.raw", &[])
        })
        .collect();
    let plan = place.json(&["prune", "--keep-last", "2", "--dry-run"]);
    assert_eq!((&plan["removed"], &plan["points"][0]["keep"]), (&1.into(), &false.into()));
    assert_eq!(plan["points"][2]["reasons"], serde_json::json!(["newest", "last"]));
    let listed = || place.json(&["list", "vm"])["points"].as_array().unwrap().len();
    assert_eq!(listed(), 3, "a dry run changes nothing");
    place.ends(0, &["prune", "--keep-last", "2"]).says("removed 1 restore point");
    assert_eq!(listed(), 2);
    place.ends(1, &["show", &points[0]]).says("help:");
    place.ok(&["forget", &points[1]]);
    assert_eq!(listed(), 1);
    place.ok(&["restore", &points[2], "out.raw"]);
    assert!(place.read("out.raw") == content(2));
}

#[test]
fn a_point_under_retention_is_not_removed() {
    let place = Place::new();
    place.write("disk.raw", &content(1));
    let kept = place.backup("disk.raw", &["--retain", "1d"]);
    place.backup("disk.raw", &[]);
    place.ends(1, &["forget", &kept]).says("retention");
    let plan = place.json(&["prune", "--keep-last", "1"]);
    assert_eq!(
        (&plan["removed"], &plan["points"][0]["reasons"][0]),
        (&0.into(), &"retain-until".into())
    );
}

#[test]
fn keys_are_added_listed_used_and_removed() {
    let place = Place::empty();
    place.ok(&["init", "--recovery-key-out", "recovery"]);
    let mode = place.path("recovery").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut by_recovery = place.sluice(&["list", "--recovery-key-file", "recovery"]);
    by_recovery.env_remove("SLUICE_PASSPHRASE_FILE");
    Ended::of(by_recovery).with(0);
    place.write("new", b"another\n");
    place.ok(&["key", "add", "--new-passphrase-file", "new", "--label", "second"]);
    let keys = place.json(&["key", "list"]);
    let id = |label: &str| {
        let all = keys["keys"].as_array().unwrap();
        let one = all.iter().find(|key| key["label"] == label).unwrap();
        one["id"].as_str().unwrap().to_owned()
    };
    place.ok(&["key", "remove", &id("main")]);
    place.ends(1, &["list"]).says("help:");
    let mut with_new = place.sluice(&["list"]);
    with_new.env("SLUICE_PASSPHRASE_FILE", place.path("new"));
    Ended::of(with_new).with(0);
}

#[test]
fn an_export_says_when_and_where_it_can_be_reached_and_ends_on_a_signal() {
    let place = Place::new();
    place.write("disk.raw", &content(1));
    place.backup("disk.raw", &[]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", r#"exec "$@" --ready-fd 3 3>&1 >/dev/null"#, "sh"]);
    let sluice = place.sluice(&["export", "nbd", "vm", "--socket", "s.sock"]);
    command.arg(sluice.get_program()).args(sluice.get_args());
    command.current_dir(place.path(""));
    for (name, value) in sluice.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "READY=1");
    let uri = lines.next().unwrap().unwrap();
    assert!(uri.starts_with("nbd+unix:///?socket=/") && uri.ends_with("/s.sock"), "{uri}");
    assert!(lines.next().is_none(), "the descriptor is closed");
    std::os::unix::net::UnixStream::connect(place.path("s.sock")).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!place.path("s.sock").exists());
}

#[test]
fn a_log_for_programs_is_one_json_object_a_line() {
    let place = Place::new();
    place.write("disk.raw", &content(1));
    place.backup("disk.raw", &[]);
    let mut export = place.sluice(&["export", "nbd", "vm", "--socket", "s.sock"]);
    export.args(["--log-format", "json"]).env("SLUICE_LOG", "info");
    let mut child = export.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    // What it says to people is among them, as text.
    let mut logged = lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok());
    let line = logged.next().unwrap();
    assert_eq!((&line["message"], &line["level"]), (&"serving NBD".into(), &"INFO".into()));
    assert!(line["timestamp"].is_string() && line["target"] == "sluice_nbd::server", "{line}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
