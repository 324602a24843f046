//! What a node must be able to do for a task, told from what the task is to do.
//!
//! Needs are words, such as `export:fuse`, by which nodes tell their abilities. They are a matter
//! of what was asked for, and stay with the task: what a node can do changes meanwhile.

use std::collections::BTreeSet;

use serde_json::Value;

/// Extensions of images that only another program reads.
const FORMATS: [&str; 6] = ["qcow2", "qcow", "vmdk", "vhd", "vpc", "vhdx"];

/// To keep snapshots of image files: a folder for them beside the kind of task.
pub const SNAPSHOTS: &str = "source:snapshots";

/// What the node of a task of that kind must be able to do, beside the kind itself.
pub fn needs(kind: &str, spec: &Value) -> BTreeSet<String> {
    let mut needs = BTreeSet::new();
    match kind {
        "backup" => {
            let images = spec["images"].as_array();
            let mut images = images.into_iter().flatten().filter_map(Value::as_str);
            needs.extend(images.any(is_format).then(|| "source:formats".to_owned()));
            // One that is there is where it is; a new one is made first.
            let from = &spec["snapshot"];
            let fresh = from.is_object() && from["kept"].is_null();
            needs.extend(fresh.then(|| SNAPSHOTS.to_owned()));
        }
        "snapshot" => drop(needs.insert(SNAPSHOTS.to_owned())),
        "mount" => {
            let protocol = spec["mount"]["protocol"].as_str();
            needs.extend(protocol.map(|word| format!("export:{word}")));
        }
        "restore-test" => return of_guests(&spec["test"]),
        _ => {}
    }
    needs
}

/// What a guest needs, and those that are booted with it.
fn of_guests(test: &Value) -> BTreeSet<String> {
    let together = test["guests"].as_array().into_iter().flatten();
    let mut needs: BTreeSet<String> = together.flat_map(of_guests).collect();
    needs.extend((test["firmware"] == "uefi").then(|| "test:uefi".to_owned()));
    let logins = test["ssh"].as_array().is_some_and(|logins| !logins.is_empty());
    needs.extend(logins.then(|| "test:ssh".to_owned()));
    needs
}

/// Whether a path says that it is of another format than raw.
fn is_format(path: &str) -> bool {
    let extension = path.rsplit('/').next().and_then(|name| name.rsplit_once('.'));
    extension.is_some_and(|(_, word)| FORMATS.contains(&word.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_task_needs_what_its_work_asks_for() {
        for (kind, spec, need) in [
            ("backup", json!({"images": ["vda=/srv/a.raw", "/srv/b.QCOW2"]}), "source:formats"),
            ("backup", json!({"images": ["vda=/srv/a.raw", "/srv/x.vmdk/b"]}), ""),
            ("backup", json!({"folder": "/srv"}), ""),
            ("backup", json!({"folder": "/srv", "snapshot": {"order": {}}}), "source:snapshots"),
            ("backup", json!({"folder": "/srv", "snapshot": {"kept": "id"}}), ""),
            ("snapshot", json!({"folder": "/srv"}), "source:snapshots"),
            ("unsnapshot", json!({}), ""),
            ("mount", json!({"mount": {"protocol": "fuse"}}), "export:fuse"),
            ("restore-test", json!({"test": {"firmware": "uefi"}}), "test:uefi"),
            ("restore-test", json!({"test": {"firmware": "bios", "ssh": []}}), ""),
            ("restore-test", json!({"test": {"ssh": [{"user": "root"}]}}), "test:ssh"),
            (
                "restore-test",
                json!({"test": {"guests": [{"firmware": "uefi"}, {"ssh": [{"user": "root"}]}]}}),
                "test:ssh,test:uefi",
            ),
            ("collect", json!({}), ""),
        ] {
            let told: Vec<String> = needs(kind, &spec).into_iter().collect();
            assert_eq!(told.join(","), need, "{spec}");
        }
    }
}
