//! Where sources may lie: what the server says of a task, and what this machine's own
//! administrator says of all. Links are followed before it is judged. What an image names beside
//! itself is judged by the same lists where it is opened: [`lists`] go along.

use std::path::{Path, PathBuf};

use sluice_node_api::{TaskSpec, TestOrder, Work};

use crate::command::image_files;
use crate::hooks::may_run;

/// The lists in a folder of each of which all files of a source must lie.
pub(crate) fn lists(folders: &[Vec<String>], own: &Option<Vec<String>>) -> Vec<Vec<String>> {
    folders.iter().chain(own).cloned().collect()
}

/// Refuses a backup or an inventory of what does not lie in a folder of each list, and in one of
/// `own`, a backup of what a program prints that is not allowed, and making or removing images
/// elsewhere than in `own`.
///
/// # Errors
/// In words, which path, and why.
pub(crate) fn check(
    work: &Work,
    own: &Option<Vec<String>>,
    own_programs: &Option<Vec<String>>,
) -> Result<(), String> {
    if let TaskSpec::Inventory { look } = &work.spec {
        return places(std::slice::from_ref(&look.folder), None, &work.folders, own);
    }
    if let TaskSpec::RestoreTest { test } = &work.spec {
        return check_test(test, &work.programs, own_programs);
    }
    let (images, folder, kept) = match &work.spec {
        TaskSpec::Backup { images, folder, outputs, snapshot, .. } => {
            for output in outputs {
                may_run(&output.command, &work.programs, own_programs)?;
            }
            (images, folder, snapshot.as_ref().map(|snapshot| &snapshot.order))
        }
        TaskSpec::Snapshot { snapshot, images, folder, .. } => (images, folder, Some(snapshot)),
        TaskSpec::Import { import, .. } | TaskSpec::Unimport { import } => {
            return for_images(std::slice::from_ref(&import.folder), own);
        }
        TaskSpec::Unsnapshot { snapshot } => return for_images(&snapshot.folders, own),
        _ => return Ok(()),
    };
    places(images, folder.as_deref(), &work.folders, own)?;
    kept.map_or(Ok(()), |order| for_images(&order.folders, own))
}

/// Refuses folders for images that this machine's own administrator has not named.
pub(crate) fn for_images(folders: &[String], own: &Option<Vec<String>>) -> Result<(), String> {
    let Some(own) = own else { return Ok(()) };
    for folder in folders {
        // It may be made by the first snapshot: then where it is to lie counts.
        let path = Path::new(folder);
        let real = std::fs::canonicalize(path).or_else(|_| {
            let parent = std::fs::canonicalize(path.parent().unwrap_or(path))?;
            Ok(parent.join(path.file_name().unwrap_or_default()))
        });
        let real = real.map_err(|error: std::io::Error| format!("{folder}: {error}"))?;
        if !own.iter().any(|allowed| is_in(&real, allowed)) {
            return Err(format!("no images may be made in {folder} on this machine: --allow-path"));
        }
    }
    Ok(())
}

/// Refuses commands of a restore test that are not allowed.
fn check_test(
    test: &TestOrder,
    programs: &[String],
    own: &Option<Vec<String>>,
) -> Result<(), String> {
    if !test.ssh.is_empty() && own.is_some() {
        return Err("this machine runs no commands on guests: --allow-command".into());
    }
    test.scripts.iter().try_for_each(|script| may_run(&script.command, programs, own))?;
    test.guests.iter().try_for_each(|guest| check_test(guest, programs, own))
}

fn places(
    images: &[String],
    folder: Option<&str>,
    lists: &[Vec<String>],
    own: &Option<Vec<String>>,
) -> Result<(), String> {
    let lists = self::lists(lists, own);
    if lists.is_empty() {
        return Ok(());
    }
    let mut named: Vec<String> = images.to_vec();
    if let Some(folder) = folder {
        named.push(folder.to_owned());
        named.extend(image_files(Path::new(folder))?);
    }
    for image in &named {
        let real = real(image)?;
        for list in &lists {
            if !list.iter().any(|folder| is_in(&real, folder)) {
                let real = real.display();
                return Err(format!(
                    "{image} is {real}, which is in no folder allowed on this node"
                ));
            }
        }
    }
    Ok(())
}

/// The file behind `[NAME=]PATH`.
fn real(image: &str) -> Result<PathBuf, String> {
    let path = match image.split_once('=') {
        Some((name, path)) if !name.contains('/') => path,
        _ => image,
    };
    std::fs::canonicalize(path).map_err(|error| format!("{path}: {error}"))
}

fn is_in(real: &Path, folder: &str) -> bool {
    std::fs::canonicalize(folder).is_ok_and(|folder| real.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use sluice_node_api::{InventoryOrder, OutputOrder, SnapshotOrder};

    use super::*;

    fn backup(images: Vec<String>, folder: Option<String>, outputs: Vec<OutputOrder>) -> TaskSpec {
        TaskSpec::Backup {
            instance: "a".into(),
            images,
            folder,
            outputs,
            project: None,
            task: None,
            again: false,
            allowance: None,
            full: false,
            no_hooks: false,
            snapshot: None,
            block_size: None,
        }
    }

    fn of(image: &Path) -> TaskSpec {
        backup(vec![format!("root={}", image.display())], None, vec![])
    }

    fn check(
        spec: &TaskSpec,
        lists: &[Vec<String>],
        own: &Option<Vec<String>>,
    ) -> Result<(), String> {
        let folders = lists.to_vec();
        super::check(
            &Work { spec: spec.clone(), folders, ..Work::without_repository() },
            own,
            &None,
        )
    }

    #[test]
    fn only_programs_that_are_allowed_are_sources() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name).to_str().unwrap().to_owned();
        for name in ["dump", "shell"] {
            std::fs::write(at(name), "").unwrap();
        }
        std::os::unix::fs::symlink(at("shell"), at("link")).unwrap();
        let allows = |program: &str, programs: &[&str], own: Option<&str>| {
            let command = vec![at(program)];
            let spec = backup(vec![], None, vec![OutputOrder { name: None, command }]);
            let programs = programs.iter().map(|name| at(name)).collect();
            let work = Work { spec, programs, ..Work::without_repository() };
            super::check(&work, &None, &own.map(|name| vec![at(name)])).is_ok()
        };
        assert!(allows("dump", &["dump"], None) && allows("dump", &["dump"], Some("")));
        assert!(!allows("dump", &[], None), "nothing is allowed by itself");
        assert!(!allows("shell", &["dump"], None) && !allows("link", &["dump"], None));
        assert!(!allows("dump", &["dump"], Some("shell")), "the machine's own word counts, too");
        assert!(!allows("none", &[""], None), "it is not there");
    }

    #[test]
    fn snapshots_lie_where_the_machine_lets_them() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir(at("open")).unwrap();
        std::fs::write(at("open/disk.raw"), "x").unwrap();
        let allows = |kept: &str, own: Option<&str>| {
            let folders = vec![at(kept)];
            let snapshot = SnapshotOrder { name: "s".into(), folders, ..Default::default() };
            let images = vec![at("open/disk.raw")];
            let remove = TaskSpec::Unsnapshot { snapshot: snapshot.clone() };
            let (folder, no_hooks) = (None, false);
            let make = TaskSpec::Snapshot { snapshot, images, folder, no_hooks };
            let own = own.map(|own| vec![at(own)]);
            let allowed = check(&make, &[], &own).is_ok();
            assert_eq!(
                check(&remove, &[], &own).is_ok(),
                allowed,
                "{kept}: what is made is removed"
            );
            allowed
        };
        assert!(allows("kept", None) && allows("open/kept", Some("open")));
        assert!(!allows("kept", Some("open")) && !allows("open/none/kept", Some("open")));
    }

    #[test]
    fn checks_of_restore_tests_run_what_is_allowed() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("check"), "").unwrap();
        let command = vec![at("check")];
        let script = sluice_node_api::CheckScript { command, ..Default::default() };
        let scripts = TestOrder { scripts: vec![script], ..TestOrder::default() };
        let logins = TestOrder { ssh: vec![Default::default()], ..TestOrder::default() };
        let allows = |test: &TestOrder, programs: &[&str], own: Option<&str>| {
            let spec = TaskSpec::RestoreTest { test: test.clone() };
            let programs = programs.iter().map(|name| at(name)).collect();
            let work = Work { spec, programs, ..Work::without_repository() };
            super::check(&work, &None, &own.map(|name| vec![at(name)])).is_ok()
        };
        assert!(allows(&scripts, &["check"], None) && allows(&scripts, &["check"], Some("")));
        assert!(!allows(&scripts, &[], None), "nothing is allowed by itself");
        assert!(!allows(&scripts, &["check"], Some("other")), "the machine's own word counts");
        assert!(allows(&logins, &[], None) && !allows(&logins, &[], Some("")));
    }

    #[test]
    fn links_out_of_a_folder_are_no_way_out_of_it() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for folder in ["shop", "bank"] {
            std::fs::create_dir(at(folder)).unwrap();
            std::fs::write(at(folder).join("disk.raw"), "x").unwrap();
        }
        std::os::unix::fs::symlink(at("bank/disk.raw"), at("shop/link.raw")).unwrap();
        let list = |name: &str| vec![at(name).to_str().unwrap().to_owned()];
        let (shop, bank) = (list("shop"), list("bank"));
        let own = of(&at("shop/disk.raw"));
        assert!(check(&own, std::slice::from_ref(&shop), &None).is_ok());
        assert!(check(&own, std::slice::from_ref(&bank), &None).is_err());
        assert!(check(&own, &[], &Some(bank.clone())).is_err());
        assert!(check(&own, &[vec![]], &None).is_err(), "an empty list allows nothing");
        assert!(check(&of(&at("shop/link.raw")), std::slice::from_ref(&shop), &None).is_err());
        assert!(
            check(&of(&at("shop/../bank/disk.raw")), std::slice::from_ref(&shop), &None).is_err()
        );
        let folder = Some(at("shop").to_str().unwrap().to_owned());
        let all = backup(vec![], folder, vec![]);
        let look = |name: &str| {
            let folder = at(name).to_str().unwrap().to_owned();
            TaskSpec::Inventory { look: InventoryOrder { folder, ..InventoryOrder::default() } }
        };
        assert!(check(&look("shop"), std::slice::from_ref(&shop), &None).is_ok());
        assert!(check(&look("shop/../bank"), std::slice::from_ref(&shop), &None).is_err());
        assert!(check(&look("shop"), &[], &Some(bank.clone())).is_err());
        assert!(check(&all, &[shop], &None).is_err(), "the link lies in it");
        assert!(check(&TaskSpec::Collect {}, &[bank], &None).is_ok());
    }
}
