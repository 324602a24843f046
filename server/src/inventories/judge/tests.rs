use serde_json::{Value, json};
use sluice_catalog::{InventoryId, NodeId, ProjectId};
use sluice_node_api::InventoryTrouble;

use super::*;

/// A project with an inventory, and what it knows.
struct World {
    inventory: Record<Inventory>,
    known: Vec<Finding>,
    instances: Vec<Record<Instance>>,
    strangers: Vec<Record<Instance>>,
    snapshot_folders: BTreeSet<String>,
    last: Looked,
    accept_gone: bool,
}

fn disk(path: &str) -> FoundDisk {
    let (path, format) = (path.to_owned(), "raw".to_owned());
    let (identity, file) = (format!("id {path}"), format!("file {path}"));
    FoundDisk { path, format, size_bytes: 5, identity, file }
}

fn report(paths: &[&str]) -> InventoryReport {
    let disks = paths.iter().map(|path| disk(path)).collect();
    InventoryReport { disks, mounted_on: "/srv".into(), ..InventoryReport::default() }
}

impl World {
    fn new(more: Value) -> Self {
        let mut look = json!({"kind": "files", "folder": "/srv/images", "depth": 1});
        look.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = serde_json::from_value(json!({"look": look})).unwrap();
        let inventory: Record<Inventory> = Record::draft(Some(ProjectId::new(1)), body);
        let (known, instances, last) = (Vec::new(), Vec::new(), Looked::default());
        let (strangers, snapshot_folders) = (Vec::new(), BTreeSet::new());
        Self { inventory, known, instances, strangers, snapshot_folders, last, accept_gone: false }
    }

    fn judge(&self, report: &InventoryReport) -> Verdict {
        judge(&Case {
            inventory: &self.inventory,
            report,
            known: &self.known,
            instances: &self.instances,
            strangers: &self.strangers,
            snapshot_folders: &self.snapshot_folders,
            last: &self.last,
            accept_gone: self.accept_gone,
        })
    }

    fn instance(&mut self, name: &str, source: Source, node: Option<NodeId>) -> InstanceId {
        let body = serde_json::from_value(json!({"source": source, "node": node})).unwrap();
        let mut one = Record::draft(self.inventory.project, body);
        (one.id, one.name) = (InstanceId::new(self.instances.len() as u64), name.to_owned());
        self.instances.push(one);
        self.instances[self.instances.len() - 1].id
    }

    /// Looks, and takes over what follows, as a server does.
    fn look(&mut self, report: &InventoryReport) -> Verdict {
        let verdict = self.judge(report);
        for (name, unit) in verdict.add.clone() {
            let instance = self.instance(&name, unit.source.clone(), None);
            let Unit { place, source, identity, format, size_bytes } = unit;
            let inventory = InventoryId::new(1);
            let gone_ms = None;
            self.known.push(Finding {
                instance,
                inventory,
                place,
                source,
                identity,
                format,
                size_bytes,
                gone_ms,
            });
        }
        for id in &verdict.left {
            self.known.retain(|found| found.instance != *id);
        }
        for now in &verdict.noted {
            let found = self.known.iter_mut().find(|one| one.instance == now.instance).unwrap();
            found.clone_from(now);
            self.of(now.instance).body.source.clone_from(&now.source);
        }
        for id in verdict.back.clone() {
            self.of(id).body.present = true;
        }
        for found in &verdict.gone {
            self.of(found.instance).body.present = false;
        }
        self.last.mounts.clone_from(&verdict.mounts);
        self.last.mounted_on.clone_from(&verdict.mounted_on);
        verdict
    }

    fn of(&mut self, id: InstanceId) -> &mut Record<Instance> {
        self.instances.iter_mut().find(|one| one.id == id).unwrap()
    }
}

fn names(verdict: &Verdict) -> Vec<&str> {
    verdict.add.iter().map(|(name, _)| name.as_str()).collect()
}

/// New, gone, back, held.
fn counts(verdict: &Verdict) -> [usize; 4] {
    [verdict.add.len(), verdict.gone.len(), verdict.back.len(), verdict.held.len()]
}

const THREE: [&str; 3] = ["/srv/images/a.raw", "/srv/images/b.raw", "/srv/images/c.raw"];

#[test]
fn what_is_new_is_added_once_and_what_comes_and_goes_is_noted() {
    let mut world = World::new(json!({}));
    let first = world.look(&report(&THREE));
    assert_eq!((names(&first), counts(&first)), (vec!["a", "b", "c"], [3, 0, 0, 0]));
    let again = world.look(&report(&THREE));
    assert_eq!((counts(&again), again.noted.len(), again.warns()), ([0; 4], 0, false));
    assert_eq!(counts(&world.look(&report(&THREE[..2]))), [0, 1, 0, 0]);
    assert_eq!(counts(&world.look(&report(&THREE[..2]))), [0; 4], "it is gone already");
    assert_eq!(counts(&world.look(&report(&THREE))), [0, 0, 1, 0]);
    let mut larger = report(&THREE);
    larger.disks[0].size_bytes = 9;
    let noted = world.look(&larger).noted;
    assert_eq!((noted.len(), noted[0].size_bytes), (1, 9));
}

#[test]
fn what_nothing_is_known_of_is_not_gone() {
    let mut world = World::new(json!({}));
    world.inventory.body.most_gone_percent = 100;
    world.look(&report(&["/srv/images/a.raw", "/srv/images/x/b.raw", "/srv/images/xy/c.raw"]));
    let mut shut = report(&[]);
    shut.unread.push(InventoryTrouble { path: "/srv/images/x".into(), why: "closed".into() });
    let verdict = world.judge(&shut);
    assert_eq!((counts(&verdict), verdict.warns()), ([0, 2, 0, 0], true), "xy is not in x");
    shut.unread[0].path = "/srv/images".into();
    assert_eq!(counts(&world.judge(&shut)), [0; 4]);
    // Nobody can agree to what was not looked at.
    world.accept_gone = true;
    assert_eq!(counts(&world.judge(&shut)), [0; 4]);
}

#[test]
fn what_is_not_mounted_is_held_until_it_is_back_or_somebody_agrees() {
    let mut world = World::new(json!({}));
    world.inventory.body.most_gone_percent = 100;
    let mut full = report(&["/srv/images/a.raw", "/srv/images/nfs/b.raw"]);
    full.mounts.insert("/srv/images/nfs".into());
    world.look(&full);
    let off = report(&["/srv/images/a.raw"]);
    for _ in 0..2 {
        // The second look remembers what was mounted before the first.
        let verdict = world.look(&off);
        assert_eq!((counts(&verdict), verdict.warns()), ([0, 0, 0, 1], true));
    }
    assert_eq!(counts(&world.look(&full)), [0; 4]);
    let mut moved = report(&[]);
    moved.mounted_on = "/".into();
    assert_eq!(counts(&world.look(&moved)), [0, 0, 0, 2]);
    world.accept_gone = true;
    assert_eq!(counts(&world.look(&moved)), [0, 2, 0, 0]);
    assert_eq!((world.last.mounts.len(), &*world.last.mounted_on), (0, "/"));
}

#[test]
fn too_much_at_once_is_held_until_somebody_agrees() {
    for (most, left, gone, held) in [
        (50, 0, 0, 4),
        (50, 1, 0, 3),
        (50, 2, 2, 0),
        (0, 3, 0, 1),
        (75, 1, 3, 0),
        (99, 0, 0, 4),
        (100, 0, 4, 0),
    ] {
        let all = [&THREE[..], &["/srv/images/d.raw"]].concat();
        let mut world = World::new(json!({}));
        world.inventory.body.most_gone_percent = most;
        world.look(&report(&all));
        let few = report(&all[..left]);
        let verdict = world.judge(&few);
        let wanted = [0, gone, 0, held];
        assert_eq!((counts(&verdict), verdict.warns()), (wanted, held > 0), "{most} {left}");
        world.accept_gone = true;
        assert_eq!(counts(&world.judge(&few)), [0, gone + held, 0, 0], "{most} {left}");
    }
}

#[test]
fn what_was_made_by_hand_is_left_alone() {
    let mut world = World::new(json!({}));
    let device = |path: &str| Source::Device { path: path.into() };
    world.instance("mine", device("/srv/images/a.raw"), None);
    world.instance("b", device("/dev/vdb"), None);
    world.instance("far", device("/srv/images/c.raw"), Some(NodeId::new(9)));
    world.instance("all", Source::Folder { path: "/srv/images/x/".into() }, None);
    let paths = [&THREE[..], &["/srv/images/x/y.raw"]].concat();
    let verdict = world.judge(&report(&paths));
    assert!(names(&verdict).is_empty(), "on any node, another node's c may be this one");
    let told = |text: &str| verdict.lines.iter().any(|(_, line)| line.contains(text));
    assert!(told("a source of mine already") && told("would be called b"));
    assert!(told("a source of all already") && told("a source of far already"));
    assert!(!told("counts as absent"));
    let mine = world.instances[0].id;
    world.of(mine).body.present = false;
    let lines = world.judge(&report(&paths)).lines;
    assert!(
        lines.iter().any(|(warns, line)| *warns && line.contains("mine already, which counts"))
    );
    world.inventory.body.node = Some(NodeId::new(8));
    assert_eq!(names(&world.judge(&report(&paths))), ["c"], "that is another node's");
    // It is all gone, and they are no concern of the inventory.
    world.inventory.body.most_gone_percent = 100;
    assert_eq!(counts(&world.judge(&report(&[]))), [0; 4]);
}

#[test]
fn what_another_project_reads_is_not_found_and_its_name_is_not_told() {
    let mut world = World::new(json!({}));
    let mut stranger = |name: &str, source: Value, node: Option<NodeId>| {
        let body = serde_json::from_value(json!({"source": source, "node": node})).unwrap();
        let mut one = Record::draft(Some(ProjectId::new(2)), body);
        (one.id, one.name) = (InstanceId::new(90 + world.strangers.len() as u64), name.to_owned());
        world.strangers.push(one);
    };
    let image = json!({"kind": "disk-files", "images": [{"path": "/srv/images/a.raw"}]});
    stranger("secret-a", image, None);
    // As imports are: a folder with the images in it.
    stranger("secret-x", json!({"kind": "folder", "path": "/srv/images/x"}), Some(NodeId::new(9)));
    let paths = [&THREE[..2], &["/srv/images/x/y.raw"]].concat();
    let verdict = world.judge(&report(&paths));
    assert_eq!(names(&verdict), ["b"]);
    let told = |text: &str| verdict.lines.iter().filter(|(_, line)| line.contains(text)).count();
    assert_eq!((told("is a source of another project"), told("secret")), (2, 0));
    // A name is another project's own matter, and so is what lies on another node.
    world.strangers[0].name = "b".into();
    world.inventory.body.node = Some(NodeId::new(8));
    assert_eq!(names(&world.judge(&report(&paths))), ["b", "y"]);
    // What both read is told by the name that the project knows.
    world.instance("mine", Source::Device { path: "/srv/images/a.raw".into() }, None);
    let lines = world.judge(&report(&paths)).lines;
    assert!(lines.iter().any(|(_, line)| line.contains("a source of mine already")));
    // What was found before somebody else named it stays what it is.
    let mut found = World::new(json!({}));
    found.look(&report(&THREE));
    found.strangers = world.strangers;
    let verdict = found.look(&report(&THREE));
    assert_eq!((counts(&verdict), verdict.warns()), ([0; 4], false));
}

#[test]
fn what_a_node_keeps_as_snapshots_is_no_source() {
    let kept = "/srv/images/kept/s1/vda/d.raw";
    for more in [json!({}), json!({"per": "folder"})] {
        let mut world = World::new(more);
        let seen = report(&["/srv/images/a/x.raw", kept, "/srv/images/kepts/y.raw"]);
        assert_eq!(names(&world.judge(&seen)).len(), 3);
        world.snapshot_folders.insert("/srv/images/kept/".into());
        let verdict = world.judge(&seen);
        assert_eq!((names(&verdict).len(), verdict.there, verdict.warns()), (2, 2, false));
        assert!(verdict.add.iter().all(|(_, unit)| !kept.starts_with(&unit.place)));
        assert!(verdict.lines.iter().any(|(_, line)| line.contains("1 lie in folders for snap")));
    }
    // A link to the same file that lies elsewhere is the one that counts.
    let mut world = World::new(json!({}));
    world.snapshot_folders.insert("/srv/images/kept".into());
    let mut twice = report(&[kept, "/srv/images/d.raw"]);
    twice.disks.iter_mut().for_each(|disk| disk.identity = "one".into());
    assert_eq!(names(&world.judge(&twice)), ["d"]);
}

#[test]
fn a_source_that_was_changed_by_hand_is_that_persons() {
    let mut world = World::new(json!({}));
    world.look(&report(&THREE));
    let id = world.known[0].instance;
    world.of(id).body.source = Source::Device { path: "/dev/vdb".into() };
    let verdict = world.look(&report(&THREE));
    assert_eq!((verdict.left.clone(), verdict.add.len()), (vec![id], 0));
    assert!(verdict.warns(), "its file would be called as that is");
    world.of(id).body.source = Source::Device { path: THREE[0].into() };
    let verdict = world.look(&report(&[]));
    assert!(verdict.held.iter().all(|one| *one != id));
}

/// The first two disks of a report are one file.
fn one_file(mut report: InventoryReport) -> InventoryReport {
    for disk in &mut report.disks[..2] {
        (disk.identity, disk.file) = ("7".into(), "8:7".into());
    }
    report
}

#[test]
fn a_disk_is_not_dropped_for_its_copy_in_a_snapshot_that_is_mounted_beside_it() {
    let mut world = World::new(json!({}));
    world.inventory.body.naming = "{path}".into();
    let both = ["/srv/images/a-snap/disk.raw", "/srv/images/live/disk.raw"];
    let mut beside = report(&both);
    for (disk, file) in beside.disks.iter_mut().zip(["9:7", "8:7"]) {
        (disk.identity, disk.file) = ("7:1".into(), file.into());
    }
    // When both are new, and when the disk was there before: none is dropped, nor told as renamed.
    let first = world.judge(&beside);
    let places: Vec<&str> = first.add.iter().map(|(_, unit)| unit.place.as_str()).collect();
    assert_eq!((places, first.lines.len()), (both.to_vec(), 0), "{:?}", first.lines);
    let mut alone = beside.clone();
    alone.disks.remove(0);
    assert_eq!(counts(&world.look(&alone)), [1, 0, 0, 0]);
    let verdict = world.look(&beside);
    assert_eq!((counts(&verdict), verdict.lines.len()), ([1, 0, 0, 0], 0), "{:?}", verdict.lines);
}

#[test]
fn a_file_by_two_names_is_one_and_one_by_another_name_is_told() {
    let mut world = World::new(json!({}));
    let twice = one_file(report(&THREE[..2]));
    assert_eq!(names(&world.look(&twice)), ["a"]);
    // The name that is known stays, whatever comes before it.
    let mut more = one_file(report(&["/srv/images/0.raw", THREE[0]]));
    assert_eq!(counts(&world.look(&more)), [0; 4]);
    // Older nodes do not tell which file it is.
    more.disks.iter_mut().for_each(|disk| disk.file.clear());
    assert_eq!(counts(&world.look(&more)), [0; 4]);
    world.inventory.body.most_gone_percent = 100;
    let mut other = report(&THREE[2..]);
    other.disks[0].identity = "7".into();
    let verdict = world.look(&other);
    assert_eq!(counts(&verdict), [1, 1, 0, 0]);
    let told = format!("{} was {} before", THREE[2], THREE[0]);
    assert!(verdict.lines.iter().any(|(_, line)| line.starts_with(&told)), "{:?}", verdict.lines);
}

#[test]
fn a_folder_is_an_instance_with_its_files_as_disks() {
    let mut world = World::new(json!({"per": "folder"}));
    let paths = ["/srv/images/own.raw", "/srv/images/web/data@1.raw", "/srv/images/web/root.raw"];
    let first = world.look(&report(&paths));
    assert_eq!(names(&first), ["web"]);
    let Source::DiskFiles { images } = &first.add[0].1.source else { panic!() };
    assert_eq!(images[0].name.as_deref(), Some("data-1"), "a name that repositories take");
    assert_eq!((images[1].name.as_deref(), &*images[1].path), (None, paths[2]));
    assert_eq!(first.add[0].1.size_bytes, 10);
    let more = [&paths[..], &["/srv/images/web/root.qcow2"]].concat();
    let mut sorted = report(&more);
    sorted.disks.sort_by(|a, b| a.path.cmp(&b.path));
    let changed = world.look(&sorted);
    assert_eq!((changed.changed.len(), counts(&changed)), (1, [0; 4]));
    let Source::DiskFiles { images } = &changed.noted[0].source else { panic!() };
    let named: Vec<_> = images.iter().map(|image| image.name.as_deref()).collect();
    assert_eq!(named, [Some("data-1"), None, Some("root.raw")], "no two have one name");
    assert_eq!(counts(&world.look(&sorted)), [0; 4]);
    // A disk that could not be looked at is not taken away, and no folder is taken without it.
    let mut part = report(&["/srv/images/db/a.raw", paths[1]]);
    for path in [paths[2], "/srv/images/db/b.raw"] {
        part.unread.push(InventoryTrouble { path: path.into(), why: "failing".into() });
    }
    let verdict = world.look(&part);
    assert_eq!((verdict.noted.len(), counts(&verdict)), (0, [0; 4]));
}

#[test]
fn two_files_of_one_name_are_told_and_only_so_much_is_told() {
    let world = World::new(json!({}));
    let paths: Vec<String> = (0..300).map(|n| format!("/srv/images/{n}/disk.raw")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let verdict = world.judge(&report(&paths));
    assert_eq!((names(&verdict), verdict.lines.len()), (vec!["disk"], MOST_LINES + 1));
    assert!(verdict.warns() && verdict.lines[MOST_LINES].1.contains("99 more"));
}
