//! What is typed for a task.

use std::collections::BTreeMap;
use std::path::Path;

use sluice_node_api::{OutputOrder, TaskSpec, TestOrder, overlay_of};

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
/// destination.
///
/// # Errors
/// Why it cannot be done at all, in one line.
pub(crate) fn steps(spec: &TaskSpec, encrypted: bool, state: &Path) -> Result<Vec<Step>, String> {
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
            backup.words.extend(outputs.iter().map(output));
            backup.words.extend(["--".into(), instance.clone()]);
            backup.words.extend(images);
            backup
        }
        TaskSpec::Restore { point, target, format, overwrite } => {
            let mut restore = step(["restore"]);
            restore.words.extend(format.iter().map(|format| format!("--format={format}")));
            restore.words.extend(overwrite.then(|| "--overwrite".to_owned()));
            restore.words.extend(["--", point, target].map(str::to_owned));
            restore
        }
        TaskSpec::Verify { point, data } => {
            let mut verify = step(["verify"]);
            if *data {
                verify.words.push("--data".into());
            }
            if let Some(point) = point {
                verify.words.extend(["--".into(), point.clone()]);
            }
            verify
        }
        TaskSpec::Prune { instance, keep } => {
            // What is printed is heard up to a size, and a repository may have millions of points.
            let mut prune = step(["prune", "--brief"]);
            let kept: Vec<String> = kept(keep).collect();
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

/// The option for what a program prints. Its words are an array of JSON, so that none is split.
fn output(order: &OutputOrder) -> String {
    let name = order.name.iter().map(|name| format!("{name}=")).collect::<String>();
    format!("--output-of={name}{}", serde_json::json!(order.command))
}

/// Options that say what is kept.
fn kept(keep: &BTreeMap<String, u32>) -> impl Iterator<Item = String> {
    keep.iter().filter(|(_, many)| **many > 0).flat_map(|(period, many)| match period.as_str() {
        "within_hours" => ["--keep-within".to_owned(), format!("{many}h")],
        _ => [format!("--keep-{period}"), many.to_string()],
    })
}

/// What is typed for a restore test. Expressions may begin with a dash.
fn boot_test(test: &TestOrder) -> Step {
    let mut boot = step(["boot-test"]);
    let words = &mut boot.words;
    words.push(format!("--memory={}MiB", test.memory_mib));
    words.push(format!("--cpus={}", test.cpus));
    words.push(format!("--firmware={}", test.firmware));
    words.push(format!("--disk={}", test.disk));
    words.push(format!("--nic={}", test.nic));
    words.push(format!("--timeout={}s", test.timeout_seconds.max(1)));
    words.extend(test.console.iter().map(|pattern| format!("--console={pattern}")));
    words.extend(test.tcp.iter().map(|port| format!("--tcp={port}")));
    words.extend(test.guest_agent.then(|| "--guest-agent".to_owned()));
    words.extend(["--".to_owned(), test.point.clone()]);
    boot
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
    use sluice_node_api::ScriptOrder;

    use super::*;

    fn words(spec: &TaskSpec) -> Vec<String> {
        steps(spec, true, Path::new("/state"))
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
            no_hooks: false,
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
            no_hooks: false,
        };
        let typed = "backup --task 7 --again --allowance=500 -- web /a.raw";
        assert_eq!(words(&spec), [typed]);
        let command = ["/bin/dump", "a b", "\"c"].map(str::to_owned).to_vec();
        let text = r#"["/bin/dump","a b","\"c"]"#;
        let unnamed = OutputOrder { name: None, command: command.clone() };
        assert_eq!(output(&unnamed), format!("--output-of={text}"));
        let named = OutputOrder { name: Some("db".into()), command };
        assert_eq!(output(&named), format!("--output-of=db={text}"));
    }

    #[test]
    fn a_prune_keeps_something() {
        let prune = |daily| TaskSpec::Prune {
            instance: None,
            keep: [("daily".to_owned(), daily), ("last".to_owned(), 0)].into(),
        };
        assert_eq!(words(&prune(7)), ["prune --brief --keep-daily 7"]);
        assert!(steps(&prune(0), true, Path::new("/state")).is_err());
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
            let steps = steps(&copy, encrypted, Path::new("/state")).unwrap();
            steps[0].words.contains(&"--dest-unencrypted".to_owned())
        };
        assert_eq!((allowed(true), allowed(false)), (false, true));
        // A replica is the same bytes as the original: nothing is written anew.
        let replica = steps(&TaskSpec::Replicate { to: "/r".into() }, false, Path::new("/state"));
        assert_eq!(replica.unwrap()[0].words.join(" "), "replicate --to /r");
    }

    #[test]
    fn a_repository_that_is_there_is_left_alone() {
        let steps = steps(&TaskSpec::Init {}, false, Path::new("/state")).unwrap();
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
