//! Snapshots that stay at the source, and backups that are made from one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
use crate::support::disk::{self, assert_same};
use crate::support::loop_fs::LoopFs;
use crate::support::run::wait_until;

/// An image on a file system that shares blocks, `shop/web` of it, and a folder for snapshots.
fn set_up(place: &Place, xfs: &LoopFs) -> PathBuf {
    let image = xfs.path("disk.raw");
    disk::sample(&image);
    let hooks = place.path("hooks");
    std::fs::create_dir(&hooks).unwrap();
    let spec = json!({"snapshot_folders": [xfs.path("kept")], "commands": [hooks]});
    let spec = place.write("node.json", &spec.to_string());
    place.ok(&["node-config", "set", "default", "--spec", text(&spec)]);
    place.ok(&["project", "set", "shop"]);
    place.ok(&["instance", "set", "shop/web", "--disk", text(&image), "--tag", "gold"]);
    image
}

/// A server with `shop/web`, where such a file system can be made.
fn begin(make: fn(&Path) -> Option<LoopFs>) -> Option<(Place, LoopFs, Up, PathBuf)> {
    let place = Place::new();
    let files = make(place.folder())?;
    let up = Up::start(&place);
    place.log_in(&up);
    let image = set_up(&place, &files);
    Some((place, files, up, image))
}

fn script(place: &Place, name: &str, lines: &str) -> PathBuf {
    let path = place.path("hooks").join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// What lies in the folder for snapshots.
fn kept(xfs: &LoopFs) -> Vec<String> {
    let entries = xfs.path("kept").read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The newest restore point, as a file.
fn restored(place: &Place, name: &str) -> PathBuf {
    let target = place.path(name);
    place.repository(&["restore", "shop.web@latest", text(&target)]);
    target
}

fn copy(from: &Path, to: PathBuf) -> PathBuf {
    std::fs::copy(from, &to).unwrap();
    to
}

#[test]
fn a_snapshot_stays_what_it_was_until_it_is_removed_and_can_be_backed_up() {
    let Some((place, xfs, up, image)) = begin(LoopFs::xfs) else { return };
    let before = copy(&image, place.path("before.raw"));
    let made = place.ok(&["snapshot", "make", "shop/web"]).json();
    assert_eq!(made["state"], "ready", "{made}");
    let (id, path) = (made["id"].as_str().unwrap(), made["images"][0]["path"].as_str().unwrap());
    assert_eq!(kept(&xfs), [id]);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(Path::new(path)), mode(&xfs.path("kept").join(id))), (0o600, 0o700));
    disk::modify(&image, 1);
    assert_same(Path::new(path), &before);

    place.ok(&["task", "backup", "shop/web", "--to", "local", "--snapshot", id]);
    wait_until("the backup", || place.done("backup").len() == 1);
    assert_same(&restored(&place, "restored.raw"), &before);
    let point = &place.ok(&["point", "list"]).json()["items"][0];
    assert_eq!(point["taken_ms"], made["made_ms"], "it holds the moment of the snapshot");

    let listed = place.ok(&["snapshot", "list", "--instance", "shop/web"]).json();
    assert_eq!(listed["items"][0]["id"], id);
    let gone = place.ok(&["snapshot", "remove", id]).json();
    assert_eq!((&gone["state"], kept(&xfs)), (&json!("gone"), vec![]));

    // What was asked for is made, whatever was killed meanwhile.
    place.ok(&["snapshot", "make", "shop/web", "--no-wait"]);
    up.kill();
    let _up = Up::start(&place);
    let ready = || place.ok(&["snapshot", "list", "--state", "ready"]).json()["items"].clone();
    wait_until("the snapshot", || ready().as_array().is_some_and(|list| list.len() == 1));
    assert_eq!(kept(&xfs), [ready()[0]["id"].as_str().unwrap()]);
    assert_same(Path::new(ready()[0]["images"][0]["path"].as_str().unwrap()), &image);

    // While its disk is not mounted, it is not gone.
    let left = ready()[0]["id"].as_str().unwrap().to_owned();
    std::fs::rename(xfs.path("kept"), xfs.path("away")).unwrap();
    place.ok(&["snapshot", "remove", &left, "--no-wait"]);
    let task = || {
        let words = ["task", "list", "--kind", "unsnapshot", "--order", "newest"];
        place.ok(&words).json()["items"][0].clone()
    };
    let says = || task()["message"].as_str().is_some_and(|text| text.contains("mounted"));
    wait_until("it cannot be removed", says);
    assert_eq!(task()["state"], "queued", "it is tried again");
    assert_eq!(place.ok(&["snapshot", "show", &left]).json()["state"], "removing");
    // Nothing that bears no mark of it is taken for it.
    std::fs::create_dir_all(xfs.path("kept").join(&left)).unwrap();
    let remove = ["snapshot-files", "remove", "--name", &left, "--folder"];
    place.cmd(&[&remove[..], &[text(&xfs.path("kept"))]].concat()).fails(2);
    assert!(xfs.path("kept").join(&left).exists());
}

#[test]
fn where_blocks_cannot_be_shared_there_is_no_snapshot_and_no_copy() {
    let Some((place, ext4, _up, image)) = begin(LoopFs::ext4) else { return };
    let ran = place.cmd(&["snapshot", "make", "shop/web"]).fails(1);
    let told = ran.json();
    assert!(told["message"].as_str().unwrap().contains("cannot share blocks"), "{told}");
    wait_until("nothing is left", || place.is_idle());
    assert_eq!(kept(&ext4), Vec::<String>::new());
    // No backup in place of it, either.
    let words = ["task", "backup", "shop/web", "--to", "local", "--from-snapshot"];
    let task = place.ok(&words).json();
    let show = || place.ok(&["task", "show", task["id"].as_str().unwrap()]).json();
    wait_until("the backup has failed", || show()["state"] == "failed");
    assert!(show()["message"].as_str().unwrap().contains("cannot share blocks"), "{}", show());
    assert!(image.exists() && kept(&ext4).is_empty());

    let spec = json!({"source": {"kind": "device", "path": "/dev/loop0"}});
    let spec = place.write("db.json", &spec.to_string());
    place.ok(&["instance", "set", "shop/db", "--spec", text(&spec)]);
    place.plain(&["snapshot", "make", "shop/db"]).fails(1).says(&["block device"]);
}

#[test]
fn rules_make_snapshots_and_keep_as_many_as_they_say() {
    let Some((place, xfs, _up, _image)) = begin(LoopFs::xfs) else { return };
    let schedule = json!({"name": "often", "when": {"kind": "every", "seconds": 1}});
    let rule = json!({"name": "keep-two", "keep": {"last": 2}, "schedules": [schedule]});
    let policy = json!({"assign": {"tags": ["gold"]}, "rules": [], "snapshots": [rule]});
    let file = json!({"policies": {"shop/kept": policy}});
    let file = place.write("sluice.json", &file.to_string());
    place.ok(&["apply", "-f", text(&file)]);
    place.ok(&["apply", "-f", text(&file), "--check"]);
    wait_until("snapshots went", || place.done("unsnapshot").len() >= 2);
    // Nothing new, and the policy still says how many there are.
    let rule = json!({"name": "keep-two", "keep": {"last": 2}, "schedules": []});
    let policy = json!({"assign": {"tags": ["gold"]}, "rules": [], "snapshots": [rule]});
    let file = place.write("sluice.json", &json!({"policies": {"shop/kept": policy}}).to_string());
    place.ok(&["apply", "-f", text(&file)]);
    wait_until("nothing runs", || place.is_idle());
    let listed = place.ok(&["snapshot", "list"]).json();
    let ids: Vec<&Value> = listed["items"].as_array().unwrap().iter().map(|i| &i["id"]).collect();
    let mut there = kept(&xfs);
    there.sort_by(|a, b| b.cmp(a));
    assert_eq!((json!(there), ids.len()), (json!(ids), 2));
}

#[test]
fn a_backup_from_a_snapshot_holds_its_moment_and_leaves_none_also_when_killed() {
    let Some((place, xfs, up, image)) = begin(LoopFs::xfs) else { return };
    let before = copy(&image, place.path("before.raw"));
    // What comes after runs when there is the snapshot: the source may change from then on.
    let after = script(
        &place,
        "after",
        &format!(
            "printf changed | dd conv=notrunc of={} seek=3000000 \
        oflag=seek_bytes",
            text(&image)
        ),
    );
    let rule = json!({"name": "main", "destination": "local", "schedules": [],
        "from_snapshot": true, "hooks": {"after": [{"command": [after]}]}});
    let policy = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    let spec = place.write("policy.json", &policy.to_string());
    place.ok(&["policy", "set", "shop/by-hand", "--spec", text(&spec)]);
    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("the backup", || place.done("backup").len() == 1);
    assert_same(&restored(&place, "first.raw"), &before);
    let changed = std::fs::read(&image).unwrap();
    assert_eq!(&changed[3_000_000..3_000_007], b"changed");
    assert!(kept(&xfs).is_empty(), "it is gone with its backup");

    // Killed while there is the snapshot, before the backup has read anything.
    script(&place, "after", &format!("touch {}; sleep 60", text(&place.path("slow"))));
    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("the snapshot is there", || place.path("slow").exists());
    let left = kept(&xfs);
    assert_eq!(left.len(), 1);
    up.kill();
    let lost = place.path("lost");
    script(&place, "after", &format!("echo $SLUICE_RESULT >>{}", text(&lost)));
    let _up = Up::start(&place);
    wait_until("the backup goes on", || place.done("backup").len() == 2);
    wait_until("nothing runs", || place.is_idle());
    assert!(kept(&xfs).is_empty(), "neither the lost one is left nor the new one: {left:?}");
    let results = std::fs::read_to_string(&lost).unwrap();
    assert_eq!(results, "lost\nsucceeded\n");
    assert_same(&restored(&place, "second.raw"), &image);
}

#[test]
fn commands_run_around_snapshots_also_when_one_fails_and_when_the_node_was_killed() {
    let place = Place::new();
    let Some(xfs) = LoopFs::xfs(place.folder()) else { return };
    let up = Up::start(&place);
    place.log_in(&up);
    set_up(&place, &xfs);
    let log = place.path("log");
    let told = "echo \"$1 $SLUICE_INSTANCE $SLUICE_RULE ${SLUICE_SNAPSHOT:+id} $SLUICE_RESULT\"";
    let note = script(&place, "note", &format!("{told} >>{}", text(&log)));
    let fail = script(&place, "fail", "echo no such database >&2; exit 7");
    let slow = script(&place, "slow", &format!("echo slow >>{}; sleep 60", text(&log)));
    let before = |command: Value| {
        let after = json!([{"command": [note, "after"]}]);
        let hooks = json!({"before": [{"command": command}], "after": after});
        let rule = json!({"name": "quiet", "keep": {"last": 9}, "schedules": [], "hooks": hooks});
        let policy = json!({"assign": {"tags": ["gold"]}, "rules": [], "snapshots": [rule]});
        let file = json!({"policies": {"shop/kept": policy}});
        let file = place.write("sluice.json", &file.to_string());
        place.ok(&["apply", "-f", text(&file)]);
        place.ok(&["apply", "-f", text(&file), "--check"]);
    };
    let noted = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let _ = std::fs::remove_file(&log);
        text
    };
    before(json!([note, "before"]));
    place.ok(&["snapshot", "make", "shop/web"]);
    assert_eq!(noted(), "before web quiet id \nafter web quiet id succeeded\n");
    place.ok(&["snapshot", "make", "shop/web", "--no-hooks"]);
    assert_eq!(noted(), "", "they were left out");

    // What fails before stops it, and what comes after runs all the same.
    before(json!([fail]));
    let made = place.cmd(&["snapshot", "make", "shop/web"]).fails(1).json();
    let message = made["message"].as_str().unwrap();
    assert!(message.contains("before the snapshot") && message.contains("7"), "{message}");
    assert_eq!(noted(), "after web quiet id failed\n");
    // What no configuration allows is not run, and nothing beside it.
    before(json!(["/bin/true"]));
    let made = place.cmd(&["snapshot", "make", "shop/web"]).fails(1).json();
    assert!(made["message"].as_str().unwrap().contains("/bin/true is not allowed"), "{made}");
    assert_eq!(noted(), "");
    wait_until("nothing is left of them", || place.is_idle() && kept(&xfs).len() == 2);

    before(json!([slow]));
    place.ok(&["snapshot", "make", "shop/web", "--no-wait"]);
    let file = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until("the command before", || file().contains("slow"));
    up.kill();
    // It does not hang a second time.
    script(&place, "slow", "true");
    let _up = Up::start(&place);
    wait_until("what comes after", || file().contains("after web quiet id lost"));
    wait_until("the snapshot", || file().contains("after web quiet id succeeded"));
    wait_until("it is there", || place.is_idle() && kept(&xfs).len() == 3);
}
