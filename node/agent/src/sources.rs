//! Where sources may lie: what the server says of a task, and what this machine's own
//! administrator says of all. Links are followed before it is judged.

use std::path::{Path, PathBuf};

use sluice_node_api::TaskSpec;

use crate::command::image_files;

/// Refuses a backup of what does not lie in a folder of each list, and in one of `own`.
///
/// # Errors
/// In words, which path, and why.
pub(crate) fn check(
    spec: &TaskSpec,
    lists: &[Vec<String>],
    own: &Option<Vec<String>>,
) -> Result<(), String> {
    let TaskSpec::Backup { images, folder, .. } = spec else { return Ok(()) };
    let lists: Vec<&Vec<String>> = lists.iter().chain(own).collect();
    if lists.is_empty() {
        return Ok(());
    }
    let mut named: Vec<String> = images.clone();
    if let Some(folder) = folder {
        named.push(folder.clone());
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
    use super::*;

    fn backup(image: &Path) -> TaskSpec {
        let images = vec![format!("root={}", image.display())];
        TaskSpec::Backup {
            instance: "a".into(),
            images,
            folder: None,
            project: None,
            task: None,
            again: false,
            allowance: None,
            no_hooks: false,
        }
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
        let own = backup(&at("shop/disk.raw"));
        assert!(check(&own, std::slice::from_ref(&shop), &None).is_ok());
        assert!(check(&own, std::slice::from_ref(&bank), &None).is_err());
        assert!(check(&own, &[], &Some(bank.clone())).is_err());
        assert!(check(&own, &[vec![]], &None).is_err(), "an empty list allows nothing");
        assert!(check(&backup(&at("shop/link.raw")), std::slice::from_ref(&shop), &None).is_err());
        assert!(
            check(&backup(&at("shop/../bank/disk.raw")), std::slice::from_ref(&shop), &None)
                .is_err()
        );
        let folder = Some(at("shop").to_str().unwrap().to_owned());
        let all = TaskSpec::Backup {
            instance: "a".into(),
            images: vec![],
            folder,
            project: None,
            task: None,
            again: false,
            allowance: None,
            no_hooks: false,
        };
        assert!(check(&all, &[shop], &None).is_err(), "the link lies in it");
        assert!(check(&TaskSpec::Collect {}, &[bank], &None).is_ok());
    }
}
