//! What a machine is known by: keys and profiles in a home folder, and the account that the
//! metadata service of a cloud tells of. A task that goes where its machine does not want to be
//! known gets neither.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use sluice_node_api::Work;

/// The home of processes without an identity, in the folder of a node: nothing is there but what
/// they keep to be quick.
const HOME: &str = "home-of-projects";

/// The variables that a process gets beside those of its task; none that may be known as its
/// machine is. `folder` is the node's own.
///
/// # Errors
/// In one line, when its home cannot be made.
pub fn variables(work: &Work, folder: &Path) -> Result<BTreeMap<String, String>, String> {
    if !work.no_identity {
        return Ok(BTreeMap::new());
    }
    let home = folder.join(HOME);
    let failed = |error: std::io::Error| format!("cannot make {}: {error}", home.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&home).map_err(failed)?;
    let home = home.to_str().ok_or("the state folder of this node is not UTF-8")?;
    let all = [("HOME", home), ("AWS_EC2_METADATA_DISABLED", "true"), ("SLUICE_GCS_METADATA", "0")];
    Ok(all.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_to_be_known_has_an_empty_home_and_no_metadata() {
        let folder = tempfile::tempdir().unwrap();
        let mut work = Work::without_repository();
        assert!(variables(&work, folder.path()).unwrap().is_empty());
        work.no_identity = true;
        let told = variables(&work, folder.path()).unwrap();
        assert_eq!(told["AWS_EC2_METADATA_DISABLED"], "true");
        assert_eq!(told["SLUICE_GCS_METADATA"], "0");
        let home = Path::new(&told["HOME"]);
        assert!(home.starts_with(folder.path()) && home.read_dir().unwrap().next().is_none());
        assert_eq!(variables(&work, folder.path()).unwrap(), told, "it may be there already");
    }
}
