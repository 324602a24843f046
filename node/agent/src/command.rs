//! What is typed for a task.

use std::collections::BTreeMap;
use std::path::Path;

use sluice_node_api::{
    EVENTS, ImportOrder, InventoryOrder, OutputOrder, SnapshotOrder, TaskSpec, TestOrder,
    UntilOrder, overlay_of,
};

/// Files that are taken for images when a folder is backed up.
const IMAGES: [&str; 7] = ["raw", "img", "qcow2", "vmdk", "vhd", "vhdx", "iso"];

/// The commands of a task, one after the other. A command that begins with `?` in its place tells
/// by its success that the rest is not needed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The words behind `sluice`.
    pub(crate) words: Vec<String>,
    /// Whether its success ends the task, and its failure does not.
    pub(crate) probe: bool,
}

fn step<const N: usize>(words: [&str; N]) -> Step {
    Step { words: words.iter().map(|&word| word.to_owned()).collect(), probe: false }
}

/// What is typed for a task. `encrypted` says whether the server gave a passphrase for the
/// destination; all files of sources must lie in a folder of each list of `within`.
///
/// # Errors
/// Why it cannot be done at all, in one line.
pub(crate) fn steps(
    spec: &TaskSpec,
    within: &[Vec<String>],
    encrypted: bool,
    state: &Path,
) -> Result<Vec<Step>, String> {
    let one = match spec {
        TaskSpec::Init {} => {
            let probe = Step { probe: true, ..step(["list"]) };
            let mut init = step(["init"]);
            if encrypted {
                init.words.push("--no-recovery-key".into());
            } else {
                init.words.extend(["--encryption".into(), "none".into()]);
            }
            return Ok(vec![probe, init]);
        }
        TaskSpec::Backup {
            instance,
            images,
            folder,
            outputs,
            project,
            task,
            again,
            allowance,
            full,
            block_size,
            ..
        } => {
            let mut images = images.clone();
            if let Some(folder) = folder {
                images.extend(image_files(Path::new(folder))?);
            }
            let mut backup = step(["backup"]);
            if let Some(project) = project {
                backup.words.extend(["--project".into(), project.clone()]);
            }
            if let Some(task) = task {
                backup.words.extend(["--task".into(), task.clone()]);
                backup.words.extend(again.then(|| "--again".into()));
            }
            backup.words.extend(allowance.map(|bytes| format!("--allowance={bytes}")));
            backup.words.extend(full.then(|| "--rescan".to_owned()));
            // Another size than before stores everything anew: only what reads all anyway does.
            let size = if *full { "--block-size" } else { "--first-block-size" };
            backup.words.extend(block_size.map(|bytes| format!("{size}={bytes}")));
            backup.words.extend(outputs.iter().map(output));
            backup.words.extend(only_within(within));
            backup.words.extend(["--".into(), instance.clone()]);
            backup.words.extend(images);
            backup
        }
        TaskSpec::Snapshot { snapshot, images, folder, .. } => {
            let mut images = images.clone();
            if let Some(folder) = folder {
                images.extend(image_files(Path::new(folder))?);
            }
            let mut make = snapshot_files("make", snapshot);
            make.words.extend(only_within(within));
            make.words.push("--".into());
            make.words.extend(images);
            make
        }
        TaskSpec::Unsnapshot { snapshot } => snapshot_files("remove", snapshot),
        TaskSpec::Restore { point, target, format, overwrite } => {
            let mut restore = step(["restore"]);
            restore.words.extend(format.iter().map(|format| format!("--format={format}")));
            restore.words.extend(overwrite.then(|| "--overwrite".to_owned()));
            restore.words.extend(["--", point, target].map(str::to_owned));
            restore
        }
        TaskSpec::Import { point, import, format } => {
            let mut make = import_files("make", import);
            make.words.extend(format.iter().map(|format| format!("--format={format}")));
            make.words.extend(["--".to_owned(), point.clone()]);
            make
        }
        TaskSpec::Unimport { import } => import_files("remove", import),
        TaskSpec::Verify { point, instance, sample, data } => {
            let mut verify = step(["verify"]);
            if *data {
                verify.words.push("--data".into());
            } else {
                verify.words.extend(sample.map(|percent| format!("--sample={percent}%")));
            }
            verify.words.extend(instance.iter().map(|name| format!("--instance={name}")));
            if let Some(point) = point {
                verify.words.extend(["--".into(), point.clone()]);
            }
            verify
        }
        TaskSpec::Prune { instance, keep, until } => {
            // What is printed is heard up to a size, and a repository may have millions of points.
            let mut prune = step(["prune", "--brief", "--even-of-server"]);
            let mut kept: Vec<String> = kept(keep).collect();
            kept.extend(until.iter().flat_map(kept_until));
            if kept.is_empty() {
                return Err("a prune that keeps nothing is not done".into());
            }
            prune.words.extend(kept);
            if let Some(instance) = instance {
                prune.words.extend(["--".into(), instance.clone()]);
            }
            prune
        }
        TaskSpec::Collect {} => step(["collect"]),
        TaskSpec::Stat {} => step(["stat"]),
        TaskSpec::Replicate { to } => step(["replicate", "--to", to]),
        TaskSpec::Copy { instance, from, keep } => {
            let mut copy = step(["replicate", "--from", from, "--tell-copies"]);
            // Only where nothing is to be secret: any other place could be made to say so.
            copy.words.extend((!encrypted).then(|| "--dest-unencrypted".to_owned()));
            copy.words.extend(kept(keep));
            copy.words.push(format!("--instance={instance}"));
            copy
        }
        TaskSpec::Commit { mount } => on_overlay("commit", state, mount)?,
        TaskSpec::Discard { mount } => {
            let discard = on_overlay("discard", state, mount)?;
            // Nothing was written, or it is done already.
            let there = overlay_of(state, mount).is_ok_and(|folder| folder.exists());
            return Ok(if there { vec![discard] } else { Vec::new() });
        }
        TaskSpec::Mount { .. } | TaskSpec::Unmount { .. } => {
            return Err("this node keeps no mounts".into());
        }
        TaskSpec::RestoreTest { test } => boot_test(test),
        TaskSpec::Inventory { look } => looked_for(look),
        TaskSpec::Script { script } => {
            let mut run = step(["run-script"]);
            run.words.push(format!("--timeout={}s", script.timeout_seconds.max(1)));
            run.words.extend(script.accept.iter().map(|code| format!("--accept={code}")));
            run.words.push("--".into());
            run.words.extend(script.command.iter().cloned());
            run
        }
    };
    Ok(vec![one])
}

/// What is typed for a snapshot at the source: `make` or `remove`.
pub(crate) fn snapshot_files(verb: &str, order: &SnapshotOrder) -> Step {
    let mut words = step(["snapshot-files", verb]);
    words.words.push(format!("--name={}", order.name));
    words.words.extend(order.folders.iter().map(|folder| format!("--folder={folder}")));
    if verb == "remove" {
        words.words.extend(order.seen.iter().map(|folder| format!("--seen={folder}")));
    }
    words
}

/// The option for where all files of images must lie: what an image names is seen only when it is
/// opened.
fn only_within(lists: &[Vec<String>]) -> Option<String> {
    (!lists.is_empty()).then(|| format!("--within={}", serde_json::json!(lists)))
}

/// What is typed for images of a new instance: `make` or `remove`.
fn import_files(verb: &str, order: &ImportOrder) -> Step {
    let mut words = step(["import-files", verb]);
    words.words.push(format!("--folder={}", order.folder));
    words.words.push(format!("--name={}", order.name));
    words.words.push(format!("--id={}", order.id));
    words
}

/// The option for what a program prints. Its words are an array of JSON, so that none is split.
fn output(order: &OutputOrder) -> String {
    let name = order.name.iter().map(|name| format!("{name}=")).collect::<String>();
    format!("--output-of={name}{}", serde_json::json!(order.command))
}

/// Options that say what is kept because of events.
fn kept_until(until: &UntilOrder) -> Vec<String> {
    let time = |until: &Option<u64>| match until {
        Some(ms) => format!("@{}", ms.div_ceil(1000)),
        None => "event".to_owned(),
    };
    let all = format!("--keep-until={}", time(&until.all_ms));
    let named = until.instances_ms.iter().chain(&until.points_ms);
    let named = named.map(|(point, until)| format!("--keep-until={point}={}", time(until)));
    std::iter::once(all).chain(named).collect()
}

/// Options that say what is kept of periods.
fn kept(keep: &BTreeMap<String, u32>) -> impl Iterator<Item = String> {
    let set = keep.iter().filter(|(period, many)| **many > 0 && period.as_str() != EVENTS);
    set.flat_map(|(period, many)| match period.as_str() {
        "within_hours" => ["--keep-within".to_owned(), format!("{many}h")],
        _ => [format!("--keep-{period}"), many.to_string()],
    })
}

/// What is typed for a restore test.
fn boot_test(test: &TestOrder) -> Step {
    let words = match test.guests.is_empty() {
        true => boot_words(test),
        false => {
            let spec = serde_json::to_string(test).unwrap_or_default();
            vec!["boot-together".to_owned(), "--".to_owned(), spec]
        }
    };
    Step { words, probe: false }
}

/// What is typed for one guest: the words behind `sluice`. Expressions may begin with a dash, and
/// what is not said is usual.
pub fn boot_words(test: &TestOrder) -> Vec<String> {
    let mut words = vec!["boot-test".to_owned()];
    let mut say = |option: &str, what: String| {
        if !["", "0", "0s", "0MiB"].contains(&what.as_str()) {
            words.push(format!("--{option}={what}"));
        }
    };
    say("memory", format!("{}MiB", test.memory_mib));
    say("cpus", test.cpus.to_string());
    say("firmware", test.firmware.clone());
    say("disk", test.disk.clone());
    say("nic", test.nic.clone());
    say("timeout", format!("{}s", test.timeout_seconds));
    words.extend(test.console.iter().map(|pattern| format!("--console={pattern}")));
    words.extend(test.tcp.iter().map(|port| format!("--tcp={port}")));
    words.extend(test.guest_agent.then(|| "--guest-agent".to_owned()));
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    words.extend(
        test.scripts.iter().map(|one| format!("--script={}", json(serde_json::to_string(one)))),
    );
    words.extend(test.ssh.iter().map(|one| format!("--ssh={}", json(serde_json::to_string(one)))));
    if !test.ssh_key.is_empty() {
        words.push(format!("--ssh-key={}", test.ssh_key));
    }
    words.extend(["--".to_owned(), test.point.clone()]);
    words
}

/// What is typed for a look at which disks there are. Patterns may begin with a dash.
fn looked_for(order: &InventoryOrder) -> Step {
    let mut look = step(["look"]);
    let words = &mut look.words;
    words.push(format!("--order={}", order.name()));
    words.extend(order.devices.then(|| "--devices".to_owned()));
    words.extend(order.names.iter().map(|pattern| format!("--name={pattern}")));
    words.extend(order.except.iter().map(|pattern| format!("--except={pattern}")));
    words.push(format!("--depth={}", order.depth));
    words.push(format!("--most={}", order.most));
    words.extend(["--".to_owned(), order.folder.clone()]);
    look
}

/// `sluice overlay VERB` for what clients have written to a mount.
fn on_overlay(verb: &str, state: &Path, mount: &str) -> Result<Step, String> {
    let folder = overlay_of(state, mount)?;
    let folder = folder.to_str().ok_or("the state folder of this node is not UTF-8")?;
    Ok(step(["overlay", verb, folder]))
}

/// The image files in a folder, in the order of their names.
pub(crate) fn image_files(folder: &Path) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let known = extension.is_some_and(|extension| IMAGES.contains(&extension));
        if known && path.is_file() {
            files.push(path.to_str().map(str::to_owned).ok_or("a file name is not UTF-8")?);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(format!("there are no image files in {}", folder.display()));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use sluice_node_api::{CheckScript, ScriptOrder};

    use super::*;

    fn words(spec: &TaskSpec) -> Vec<String> {
        words_within(spec, &[])
    }

    fn words_within(spec: &TaskSpec, within: &[Vec<String>]) -> Vec<String> {
        steps(spec, within, true, Path::new("/state"))
            .unwrap()
            .into_iter()
            .map(|step| step.words.join(" "))
            .collect()
    }

    #[test]
    fn names_are_never_taken_for_options() {
        let spec = TaskSpec::Backup {
            instance: "--repo".into(),
            images: vec!["/a.raw".into()],
            folder: None,
            outputs: vec![],
            project: None,
            task: None,
            again: false,
            allowance: None,
            full: false,
            no_hooks: false,
            snapshot: None,
            block_size: None,
        };
        assert_eq!(words(&spec), ["backup -- --repo /a.raw"]);
        let restore = |format: Option<&str>, overwrite| TaskSpec::Restore {
            point: "web@k3".into(),
            target: "/out.raw".into(),
            format: format.map(str::to_owned),
            overwrite,
        };
        assert_eq!(words(&restore(None, false)), ["restore -- web@k3 /out.raw"]);
        let typed = "restore --format=qcow2 --overwrite -- web@k3 /out.raw";
        assert_eq!(words(&restore(Some("qcow2"), true)), [typed]);
        let test = TestOrder {
            point: "--repo".into(),
            console: vec!["-> ready".into()],
            tcp: vec!["22=^SSH".into()],
            ..TestOrder::default()
        };
        let typed = &words(&TaskSpec::RestoreTest { test })[0];
        assert!(typed.ends_with("--console=-> ready --tcp=22=^SSH -- --repo"), "{typed}");
        let command = vec!["/t".to_owned(), "a b".to_owned()];
        let scripts = vec![CheckScript { command, ports: vec![80], ..CheckScript::default() }];
        let test = TestOrder { scripts, point: "web".into(), ..TestOrder::default() };
        let typed = &words(&TaskSpec::RestoreTest { test })[0];
        assert!(typed.contains(r#"--script={"command":["/t","a b"],"ports":[80],"#), "{typed}");
        let script = ScriptOrder {
            command: vec!["--json".into()],
            accept: vec![0, 7],
            timeout_seconds: 60,
            ..ScriptOrder::default()
        };
        let typed = words(&TaskSpec::Script { script });
        assert_eq!(typed, ["run-script --timeout=60s --accept=0 --accept=7 -- --json"]);
        let spec = TaskSpec::Backup {
            instance: "web".into(),
            images: vec!["/a.raw".into()],
            folder: None,
            outputs: vec![],
            project: None,
            task: Some("7".into()),
            again: true,
            allowance: Some(500),
            full: true,
            no_hooks: false,
            snapshot: None,
            block_size: None,
        };
        let typed = "backup --task 7 --again --allowance=500 --rescan -- web /a.raw";
        assert_eq!(words(&spec), [typed]);
        let lists = [vec!["/srv/a b".to_owned()], vec![]];
        let typed = typed.replace(" -- ", " --within=[[\"/srv/a b\"],[]] -- ");
        assert_eq!(words_within(&spec, &lists), [typed]);
        let sized = |full_backup| {
            let mut spec = spec.clone();
            let TaskSpec::Backup { full, block_size, .. } = &mut spec else { panic!("a backup") };
            (*full, *block_size) = (full_backup, Some(16_384));
            words(&spec).remove(0)
        };
        assert!(sized(true).contains(" --rescan --block-size=16384 -- web"), "{}", sized(true));
        assert!(sized(false).contains(" --first-block-size=16384 -- web"), "{}", sized(false));
        let command = ["/bin/dump", "a b", "\"c"].map(str::to_owned).to_vec();
        let text = r#"["/bin/dump","a b","\"c"]"#;
        let unnamed = OutputOrder { name: None, command: command.clone() };
        assert_eq!(output(&unnamed), format!("--output-of={text}"));
        let named = OutputOrder { name: Some("db".into()), command };
        assert_eq!(output(&named), format!("--output-of=db={text}"));
    }

    #[test]
    fn patterns_of_an_inventory_are_never_taken_for_options() {
        let look = InventoryOrder {
            inventory: "i".into(),
            revision: 3,
            folder: "/srv".into(),
            names: vec!["--repo".into()],
            except: vec!["*.tmp".into()],
            depth: 2,
            most: 9,
            ..InventoryOrder::default()
        };
        let typed = "look --order=i:3 --name=--repo --except=*.tmp --depth=2 --most=9 -- /srv";
        assert_eq!(words(&TaskSpec::Inventory { look: look.clone() }), [typed]);
        let devices = InventoryOrder { devices: true, ..look };
        assert!(words(&TaskSpec::Inventory { look: devices })[0].contains(" --devices "));
    }

    #[test]
    fn a_snapshot_is_made_of_all_images_and_removed_by_its_name() {
        let folders = ["/a/kept", "/b/kept"].map(str::to_owned).to_vec();
        let order = SnapshotOrder { name: "s1".into(), folders, seen: vec!["/a".into()] };
        let images = vec!["vda=/a/x.raw".to_owned(), "/a/-y.raw".to_owned()];
        let (folder, no_hooks) = (None, false);
        let make = TaskSpec::Snapshot { snapshot: order.clone(), images, folder, no_hooks };
        let named = "--name=s1 --folder=/a/kept --folder=/b/kept";
        let typed = format!("snapshot-files make {named} -- vda=/a/x.raw /a/-y.raw");
        assert_eq!(words(&make), std::slice::from_ref(&typed));
        let typed = typed.replace(" -- ", " --within=[[\"/a\"]] -- ");
        assert_eq!(words_within(&make, &[vec!["/a".to_owned()]]), [typed]);
        let remove = TaskSpec::Unsnapshot { snapshot: order };
        assert_eq!(words(&remove), [format!("snapshot-files remove {named} --seen=/a")]);
    }

    #[test]
    fn an_import_is_made_and_removed_by_the_same_name() {
        let import = ImportOrder { folder: "/in".into(), name: "-w".into(), id: "i".into() };
        let format = Some("qcow2".to_owned());
        let make = TaskSpec::Import { point: "-p".into(), import: import.clone(), format };
        let named = "--folder=/in --name=-w --id=i";
        assert_eq!(words(&make), [format!("import-files make {named} --format=qcow2 -- -p")]);
        let remove = TaskSpec::Unimport { import };
        assert_eq!(words(&remove), [format!("import-files remove {named}")]);
    }

    #[test]
    fn a_prune_keeps_something() {
        let prune = |daily| TaskSpec::Prune {
            instance: None,
            keep: [("daily".to_owned(), daily), ("last".to_owned(), 0)].into(),
            until: None,
        };
        assert_eq!(words(&prune(7)), ["prune --brief --even-of-server --keep-daily 7"]);
        assert!(steps(&prune(0), &[], true, Path::new("/state")).is_err());
    }

    #[test]
    fn what_events_keep_is_told_with_its_time() {
        let points_ms = [("a.b@k1".to_owned(), Some(1_001)), ("a.b@k2".to_owned(), None)].into();
        let mut prune = TaskSpec::Prune {
            instance: Some("a.b".into()),
            keep: [("daily".to_owned(), 7), (EVENTS.to_owned(), 1)].into(),
            until: Some(UntilOrder { points_ms, ..UntilOrder::default() }),
        };
        let begin = "prune --brief --even-of-server";
        let typed = format!(
            "{begin} --keep-daily 7 --keep-until=event --keep-until=a.b@k1=@2 \
             --keep-until=a.b@k2=event -- a.b"
        );
        assert_eq!(words(&prune), [typed]);
        // Of rules that keep nothing else, the newest is left when the time is over.
        let TaskSpec::Prune { keep, until, .. } = &mut prune else { panic!("a prune") };
        keep.remove("daily");
        *until = Some(UntilOrder { all_ms: Some(5_000), ..UntilOrder::default() });
        assert_eq!(words(&prune), [format!("{begin} --keep-until=@5 -- a.b")]);
        // Of several instances each has its own.
        let TaskSpec::Prune { instance, keep, until } = &mut prune else { panic!("a prune") };
        *instance = None;
        keep.insert("last".into(), 1);
        let instances_ms = [("a.b".into(), None), ("a.c".into(), Some(7_000))].into();
        *until = Some(UntilOrder { all_ms: Some(0), instances_ms, ..UntilOrder::default() });
        let typed = "--keep-last 1 --keep-until=@0 --keep-until=a.b=event --keep-until=a.c=@7";
        assert_eq!(words(&prune), [format!("{begin} {typed}")]);
    }

    #[test]
    fn a_verification_says_what_and_how_deep() {
        let verify = |point: Option<&str>, instance: Option<&str>, sample, data| {
            let (point, instance) = (point.map(str::to_owned), instance.map(str::to_owned));
            words(&TaskSpec::Verify { point, instance, sample, data }).remove(0)
        };
        assert_eq!(verify(None, None, None, false), "verify");
        assert_eq!(verify(Some("a@k"), None, Some(5), false), "verify --sample=5% -- a@k");
        assert_eq!(verify(None, Some("-a"), None, true), "verify --data --instance=-a");
    }

    #[test]
    fn a_copy_names_where_it_comes_from_and_what_is_kept_of_it() {
        let keep = [("daily".to_owned(), 7), ("within_hours".to_owned(), 48)].into();
        let copy = TaskSpec::Copy { instance: "-a".into(), from: "/r".into(), keep };
        let typed = "replicate --from /r --tell-copies --keep-daily 7 --keep-within 48h \
                     --instance=-a";
        assert_eq!(words(&copy), [typed]);
    }

    #[test]
    fn a_copy_may_be_readable_only_where_the_destination_has_no_passphrase() {
        let keep = BTreeMap::new();
        let copy = TaskSpec::Copy { instance: "web".into(), from: "/r".into(), keep };
        let allowed = |encrypted| {
            let steps = steps(&copy, &[], encrypted, Path::new("/state")).unwrap();
            steps[0].words.contains(&"--dest-unencrypted".to_owned())
        };
        assert_eq!((allowed(true), allowed(false)), (false, true));
        // A replica is the same bytes as the original: nothing is written anew.
        let replica =
            steps(&TaskSpec::Replicate { to: "/r".into() }, &[], false, Path::new("/state"));
        assert_eq!(replica.unwrap()[0].words.join(" "), "replicate --to /r");
    }

    #[test]
    fn a_repository_that_is_there_is_left_alone() {
        let steps = steps(&TaskSpec::Init {}, &[], false, Path::new("/state")).unwrap();
        assert_eq!((steps[0].probe, steps[1].probe), (true, false));
        assert_eq!(steps[1].words.join(" "), "init --encryption none");
    }

    #[test]
    fn a_folder_gives_its_images_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.raw", "a.qcow2", "notes.txt"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let files = image_files(folder.path()).unwrap();
        let ends: Vec<_> = files.iter().map(|file| file.rsplit('/').next().unwrap()).collect();
        assert_eq!(ends, ["a.qcow2", "b.raw"]);
        assert!(image_files(&folder.path().join("none")).is_err());
    }
}
