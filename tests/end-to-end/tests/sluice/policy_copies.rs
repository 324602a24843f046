//! Copies of restore points at a second destination, by policy.

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
use crate::policy_rules::largest_pack;
use crate::support::disk;
use crate::support::run::{Cmd, wait_until};
use crate::support::s3;

fn tasks(place: &Place, kind: &str) -> Vec<Value> {
    let all = place.ok(&["task", "list"]).json();
    let items = all["items"].as_array().unwrap().clone();
    items.into_iter().filter(|task| task["kind"] == kind).collect()
}

/// A server with a second destination, an instance, and a policy that copies there.
fn set_up(place: &Place, copy: &Value) -> std::path::PathBuf {
    let image = place.path("disk.raw");
    disk::sample(&image);
    let secret = place.write("vault-passphrase", "another passphrase\n");
    let vault = place.path("vault");
    let words = ["destination", "set", "vault", "--url", text(&vault)];
    place.ok(&[&words[..], &["--passphrase-file", text(&secret)]].concat());
    // Beside that of the first destination, which every new server makes.
    wait_until("the second destination", || place.done("init").len() >= 2);
    place.ok(&["project", "set", "shop"]);
    place.ok(&["instance", "set", "shop/web", "--disk", text(&image), "--tag", "gold"]);
    let policy = json!({
        "assign": {"tags": ["gold"]},
        "rules": [{"name": "main", "destination": "local", "schedules": [], "copies": [copy]}],
    });
    let spec = place.write("policy.json", &policy.to_string());
    place.ok(&["policy", "set", "shop/twice", "--spec", text(&spec)]);
    image
}

#[test]
fn a_backup_is_copied_and_mounted_from_the_copy_when_the_first_place_is_gone() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let copy = json!({"name": "away", "destination": "vault", "keep": {"last": 2}});
    let image = set_up(&place, &copy);

    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("a copy that runs", || {
        tasks(&place, "copy").iter().any(|task| task["state"] != "queued")
    });
    // Server and node end as by a power cut, in the middle or shortly after.
    up.kill();
    let up = Up::start(&place);
    wait_until("the copy", || !place.done("copy").is_empty());
    assert_eq!(tasks(&place, "copy").len(), 1, "one copy, however often it was tried");

    let points = place.ok(&["point", "list", "--instance", "shop/web"]).json();
    let points = points["items"].as_array().unwrap().clone();
    assert_eq!(points.len(), 1, "a copy stands with its original: {points:?}");
    assert_eq!(points[0]["copies"].as_array().unwrap().len(), 1, "{points:?}");
    let shown = place.plain(&["point", "list"]).ok().text();
    assert!(shown.contains("local, vault"), "{shown}");
    let usage = place.ok(&["usage", "--by", "destination"]).json();
    let stored = |name: &str| {
        let rows = usage["items"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        row["usage"]["stored_bytes"].as_u64().unwrap()
    };
    assert!(stored("local") > 0 && stored("vault") > 0, "{usage}");
    let report = place.ok(&["report", "protection"]).json();
    assert_eq!(report["copies_overdue"], 0, "{report}");

    // Its own retention: of three points, two are kept there.
    for _ in 0..2 {
        let before = place.done("copy").len();
        place.ok(&["task", "backup", "shop/web", "--to", "local"]);
        wait_until("the next copy", || place.done("copy").len() > before);
    }
    let points = place.ok(&["point", "list"]).json();
    let copies = |points: &Value| -> usize {
        let items = points["items"].as_array().unwrap();
        items.iter().map(|point| point["copies"].as_array().unwrap().len()).sum()
    };
    assert_eq!((points["items"].as_array().unwrap().len(), copies(&points)), (3, 2), "{points}");

    // The first place is gone: what is mounted there is found at the other one.
    std::fs::rename(place.state.join("repository"), place.path("gone")).unwrap();
    let mount = ["remote-mount", "start", "shop/web", "--client", "127.0.0.1"];
    let mount = place.ok(&mount).json();
    assert_eq!(mount["state"], "ready", "{mount}");
    let uri = mount["disks"][0]["uri"].as_str().unwrap();
    let out = place.path("out.raw");
    Cmd::new("nbdcopy").args([uri, text(&out)]).ok();
    disk::assert_same(&image, &out);
    drop(up);
}

#[test]
fn a_copy_that_cannot_be_made_is_overdue() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let copy = json!({"name": "away", "destination": "vault", "overdue_seconds": 0});
    set_up(&place, &copy);
    std::fs::remove_dir_all(place.path("vault")).unwrap();
    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("a copy that failed and is tried again", || {
        let tried = |task: &Value| task["state"] == "queued" && task["attempt"] == 1;
        tasks(&place, "copy").iter().any(tried)
    });
    let report = place.ok(&["report", "protection", "--late"]).json();
    assert_eq!(report["copies_overdue"], 1, "{report}");
    assert_eq!(report["items"][0]["copies_overdue"][0]["copy"], "away", "{report}");
    drop(up);
}

#[test]
fn copies_between_a_folder_and_a_bucket_use_the_keys_of_each() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let (bucket, image) = (s3::prefix(), place.path("disk.raw"));
    disk::sample(&image);
    // Keys and passphrase belong to the destination: neither server nor node has any.
    let passphrase = place.write("cloud-passphrase", "a third passphrase\n");
    let mut words = ["destination", "set", "cloud", "--url"].map(str::to_owned).to_vec();
    words.extend([bucket.url(), "--passphrase-file".into(), text(&passphrase).to_owned()]);
    for (name, value) in bucket.env() {
        let file = place.write(&name, &format!("{value}\n"));
        words.extend(["--secret".into(), format!("{name}={}", text(&file))]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    place.ok(&words);
    let made = || place.is_idle() && !bucket.objects().is_empty();
    wait_until("the repository in the bucket", made);
    place.ok(&["project", "set", "shop"]);
    place.ok(&["instance", "set", "shop/web", "--disk", text(&image)]);
    let copied = |from: &str, to: &str| {
        let before = place.done("copy").len();
        place.ok(&["task", "copy", "shop/web", "--from", from, "--to", to]);
        wait_until("the copy", || place.done("copy").len() > before);
    };
    let restored = |from: &str| {
        let (before, out) = (place.done("restore").len(), place.path(&format!("{from}.raw")));
        let restore = ["task", "restore", "shop/web", text(&out), "--node", "local"];
        let begun = place.ok(&[&restore[..], &["--from", from]].concat()).json();
        wait_until("the restore", || place.done("restore").len() > before);
        disk::assert_same(&image, &out);
        begun["destination"].clone()
    };

    // From the bucket to the folder.
    place.ok(&["task", "backup", "shop/web", "--to", "cloud"]);
    wait_until("the backup", || !place.done("backup").is_empty());
    place
        .cmd(&["task", "restore", "shop/web", "/nowhere", "--node", "local", "--from", "local"])
        .fails(1);
    copied("cloud", "local");
    assert_ne!(restored("local"), restored("cloud"), "each is read where it was asked for");

    // And back: what is new in the folder goes to the bucket.
    disk::modify(&image, 1);
    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("the next backup", || place.done("backup").len() > 1);
    copied("local", "cloud");
    std::fs::rename(place.state.join("repository"), place.path("gone")).unwrap();
    let (from, out) = (["--from", "cloud"], place.path("last.raw"));
    let restore = ["task", "restore", "shop/web", text(&out), "--node", "local"];
    place.ok(&[&restore[..], &from].concat());
    wait_until("the last restore", || place.done("restore").len() > 2);
    disk::assert_same(&image, &out);
    drop(up);
}

#[test]
fn a_destination_without_encryption_takes_copies() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let (image, open) = (place.path("disk.raw"), place.path("open"));
    disk::sample(&image);
    place.ok(&["init", "--repo", text(&open), "--encryption", "none"]);
    place.ok(&["destination", "set", "open", "--url", text(&open)]);
    place.ok(&["project", "set", "shop"]);
    place.ok(&["instance", "set", "shop/web", "--disk", text(&image)]);
    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("the backup", || !place.done("backup").is_empty());
    place.ok(&["task", "copy", "shop/web", "--from", "local", "--to", "open"]);
    wait_until("the copy", || !place.done("copy").is_empty());
    let points = place.ok(&["point", "list", "--instance", "shop/web"]).json();
    let copies = points["items"][0]["copies"].as_array().unwrap();
    assert_eq!(copies.len(), 1, "{points}");
    drop(up);
}

#[test]
fn copies_are_verified_where_they_are_and_damage_there_is_not_one_of_the_original() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let image = set_up(&place, &json!({"name": "away", "destination": "vault"}));
    let verify = json!([{"name": "each", "depth": "data", "at": ["vault", "local"]}]);
    let rule = json!({"name": "main", "destination": "local", "schedules": [], "verify": verify,
        "copies": [{"name": "away", "destination": "vault"}]});
    let policy = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    let file = json!({"policies": {"shop/twice": policy}});
    let file = place.write("twice.json", &file.to_string());
    place.ok(&["apply", "-f", text(&file)]);
    place.ok(&["apply", "-f", text(&file), "--check"]);
    // What the server says is a file that changes nothing, with names in it.
    let all = place.write("sluice.yaml", &place.plain(&["config", "export"]).ok().text());
    place.ok(&["apply", "-f", text(&all), "--check"]);
    assert!(std::fs::read_to_string(&all).unwrap().contains("- vault"));

    let proofs = || {
        let points = place.ok(&["point", "list", "--instance", "shop/web"]).json();
        let points = points["items"].as_array().unwrap().clone();
        let of = |point: &Value| {
            let state = |one: &Value| one["proof"]["state"].as_str().unwrap_or("").to_owned();
            (state(point), state(&point["copies"][0]))
        };
        points.iter().map(of).collect::<Vec<_>>()
    };
    let both = |own: &str, copy: &str| (own.to_owned(), copy.to_owned());
    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("both are proven", || proofs() == [both("sound", "sound")]);

    // Bytes all over a pack of the vault are changed, as by a bad disk.
    let pack = largest_pack(&place.path("vault"));
    let mut bytes = std::fs::read(&pack).unwrap();
    let end = bytes.len() - 4096;
    bytes[4096..end].iter_mut().step_by(8192).for_each(|byte| *byte ^= 0x5a);
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, &bytes).unwrap();
    disk::modify(&image, 1);
    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("the damage is found", || {
        proofs().get(1).is_some_and(|found| *found == both("sound", "damaged"))
    });
    let shown = place.plain(&["point", "list"]).ok().text();
    assert!(shown.contains("sound, damaged at vault"), "{shown}");
    let shown = place.plain(&["report", "protection"]).ok().text();
    assert!(shown.contains("damaged") && shown.contains("vault"), "{shown}");
    let report = place.ok(&["report", "protection"]).json();
    assert_eq!((&report["damaged"], &report["unproven"]), (&json!(1), &json!(0)), "{report}");
    drop(up);
}
