//! A folder that is looked through: what is put there is protected, and what is taken away can
//! still be restored.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
use crate::support::disk::{self, MIB};
use crate::support::run::{Ran, wait_until};

/// A server with its node, a folder, and an inventory of it.
struct Lab {
    place: Place,
    images: PathBuf,
    _up: Up,
}

impl Lab {
    fn new(more: Value) -> Self {
        let place = Place::new();
        let up = Up::start(&place);
        place.log_in(&up);
        let images = place.path("images");
        fs::create_dir(&images).unwrap();
        place.ok(&["project", "set", "shop"]);
        let lab = Self { place, images, _up: up };
        lab.set(more);
        lab
    }

    /// Says what the inventory is.
    fn set(&self, more: Value) {
        let look = json!({"kind": "files", "folder": self.images, "depth": 1});
        let mut spec =
            json!({"look": look, "node": "local", "tags": ["gold"], "cluster": "rack-1"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec = self.place.write("inventory.json", &spec.to_string());
        self.place.ok(&["inventory", "set", "shop/images", "--spec", text(&spec)]);
    }

    fn policy(&self) {
        let schedules = json!([{"name": "often", "when": {"kind": "every", "seconds": 2}}]);
        let rule = json!({"name": "main", "destination": "local", "keep": {"last": 3},
            "schedules": schedules});
        let spec = json!({"assign": {"tags": ["gold"], "clusters": ["rack-*"]}, "rules": [rule]});
        let spec = self.place.write("policy.json", &spec.to_string());
        self.place.ok(&["policy", "set", "shop/often", "--spec", text(&spec)]);
    }

    fn image(&self, name: &str, seed: u64) -> PathBuf {
        let path = self.images.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        disk::create(&path, 3 * MIB);
        disk::fill(&path, MIB, 100_000, seed);
        path
    }

    /// Looks, which ends with this status.
    fn look(&self, more: &[&str], code: i32) -> Value {
        let words = [&["inventory", "run", "shop/images"], more].concat();
        let ran: Ran = self.place.cmd(&words).run();
        assert_eq!(ran.code, Some(code), "{}", ran.text());
        ran.json()
    }

    fn names(&self, words: &[&str]) -> Vec<String> {
        let listed = self.place.ok(&[&["instance", "list"], words].concat()).json();
        let items = listed["items"].as_array().unwrap().iter();
        let mut names: Vec<_> = items.map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    /// How many restore points an instance has.
    fn points(&self, name: &str) -> usize {
        let listed = self.place.ok(&["point", "list", "--instance", name]).json();
        listed["items"].as_array().unwrap().len()
    }

    /// Whether schedules have told that an instance is not there.
    fn is_missed(&self) -> bool {
        let missed = self.place.ok(&["report", "missed"]).json();
        missed["items"].as_array().unwrap().iter().any(|one| one["reason"] == "absent")
    }
}

#[test]
fn what_is_put_into_a_folder_is_backed_up_and_what_is_taken_away_can_be_restored() {
    let lab = Lab::new(json!({}));
    let web = lab.image("web.raw", 1);
    lab.image("db.raw", 2);
    lab.image("old/mail.img", 3);
    fs::write(lab.images.join("notes.txt"), "no disk").unwrap();
    lab.policy();

    // To try changes nothing, and tells which policies would take what is there.
    let tried = lab.look(&["--dry-run"], 0);
    assert_eq!(tried["result"]["counts"]["added"], 3, "{tried}");
    assert_eq!(tried["result"]["added"][0]["policies"], json!(["often"]));
    assert!(lab.names(&[]).is_empty());

    lab.look(&[], 0);
    assert_eq!(lab.names(&["--present"]), ["db", "mail", "web"]);
    assert_eq!(lab.names(&["--inventory", "shop/images", "--tag", "gold"]).len(), 3);
    let has = lab.place.ok(&["policy", "instances", "shop/often"]).json();
    assert_eq!(has["items"].as_array().unwrap().len(), 3);
    wait_until("all are backed up", || {
        ["shop/web", "shop/db", "shop/mail"].iter().all(|name| lab.points(name) > 0)
    });
    let found = lab.place.ok(&["inventory", "found", "shop/images"]).json();
    let sizes: Vec<_> =
        found["items"].as_array().unwrap().iter().map(|f| &f["size_bytes"]).collect();
    assert_eq!(sizes, [3 * MIB; 3]);

    // One is taken away: it is absent, schedules say so, and its points stay.
    let kept = lab.place.path("kept.raw");
    fs::rename(&web, &kept).unwrap();
    let gone = lab.look(&[], 0);
    assert_eq!(gone["result"]["gone"], json!(["web"]));
    assert_eq!(lab.names(&["--absent"]), ["web"]);
    wait_until("a schedule tells that it is not there", || lab.is_missed());
    let out = lab.place.path("out.raw");
    lab.place.repository(&["restore", "shop.web@latest", text(&out)]);
    disk::assert_same(&kept, &out);

    // It is put back: it is the same instance, and is backed up again.
    fs::rename(&kept, &web).unwrap();
    assert_eq!(lab.look(&[], 0)["result"]["back"], json!(["web"]));
    assert!(lab.names(&["--absent"]).is_empty() && lab.names(&[]).len() == 3);
    let newest = |place: &Place| place.ok(&["point", "show", "shop/web"]).json()["id"].clone();
    let before = newest(&lab.place);
    wait_until("it is backed up again", || newest(&lab.place) != before);
}

#[test]
fn a_folder_that_is_suddenly_empty_takes_nothing_away() {
    let lab = Lab::new(json!({}));
    for (name, seed) in [("a.raw", 1), ("b.raw", 2), ("c.raw", 3)] {
        lab.image(name, seed);
    }
    lab.look(&[], 0);
    let away = lab.place.path("away");
    fs::rename(&lab.images, &away).unwrap();
    let none = lab.place.cmd(&["inventory", "run", "shop/images", "--no-wait"]).ok().json();
    let id = none["id"].as_str().unwrap();
    wait_until("there is no folder to look at", || {
        let task = lab.place.ok(&["task", "show", id]).json();
        task["message"].as_str().unwrap().contains("cannot read")
    });
    lab.place.ok(&["task", "cancel", id]);
    fs::create_dir(&lab.images).unwrap();
    let empty = lab.look(&[], 3);
    assert_eq!(
        (lab.names(&["--present"]).len(), &empty["result"]["counts"]["held"]),
        (3, &3.into())
    );
    let said = lab.place.plain(&["inventory", "run", "shop/images"]).fails(3).err;
    assert!(said.contains("--accept-gone"), "{said}");
    lab.look(&["--accept-gone"], 0);
    assert_eq!(lab.names(&["--absent"]).len(), 3);
    fs::remove_dir(&lab.images).unwrap();
    fs::rename(&away, &lab.images).unwrap();
    lab.look(&[], 0);
    assert_eq!(lab.names(&["--present"]).len(), 3);
}

#[test]
fn folders_become_machines_by_schedule_and_come_back_from_an_exported_file() {
    let lab = Lab::new(json!({}));
    let look = json!({"kind": "files", "folder": lab.images, "per": "folder", "depth": 1});
    let schedules = json!([{"name": "often", "when": {"kind": "every", "seconds": 1}}]);
    lab.set(json!({"look": look, "naming": "vm {name}", "schedules": schedules}));
    lab.image("web/root.raw", 1);
    wait_until("it is found by itself", || lab.names(&[]) == ["vm web"]);
    lab.image("web/data.raw", 2);
    let disks = || {
        let shown = lab.place.ok(&["instance", "show", "shop/vm web"]).json();
        shown["spec"]["source"]["images"].as_array().unwrap().len()
    };
    wait_until("it has another disk", || disks() == 2);
    let task = lab.place.ok(&["task", "backup", "shop/vm web", "--to", "local"]).json();
    wait_until("both are backed up", || {
        let task = lab.place.ok(&["task", "show", task["id"].as_str().unwrap()]).json();
        task["result"]["point"]["images"].as_array().is_some_and(|images| images.len() == 2)
    });

    // What somebody makes by hand is not touched, whatever is found there.
    let hand = lab.image("db/root.raw", 3);
    lab.place.ok(&["instance", "set", "shop/vm db", "--disk", text(&hand)]);
    let exported = lab.place.ok(&["config", "export"]).json();
    assert_eq!(exported["inventories"]["shop/images"]["node"], "local", "{exported}");
    assert_eq!(exported["inventories"]["shop/images"]["naming"], "vm {name}");
    let instances: Vec<&String> = exported["instances"].as_object().unwrap().keys().collect();
    assert_eq!(instances, ["shop/vm db"], "what was found is found again");
    let file = lab.place.write("all.json", &exported.to_string());
    lab.place.ok(&["apply", "-f", text(&file), "--check"]);
    lab.place.ok(&["inventory", "remove", "shop/images"]);
    assert_eq!(lab.names(&["--present"]).len(), 2, "what was found stays");
    wait_until("nothing looks any more", || lab.place.is_idle());
    lab.place.ok(&["instance", "remove", "shop/vm db"]);
    lab.place.ok(&["apply", "-f", text(&file)]);
    wait_until("it looks again", || {
        let listed = lab.place.ok(&["inventory", "list"]).json();
        let looks = lab.place.done("inventory").len();
        listed["items"].as_array().unwrap().len() == 1 && looks > 0
    });
    assert_eq!(lab.names(&[]), ["vm db", "vm web"], "it is there by hand now, and stays alone");
}
