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

/// Where a process keeps what makes it quick.
const CACHE: &str = "SLUICE_CACHE_DIR";

/// The variables that a process gets beside those of its task; none that may be known as its
/// machine is. `folder` is the node's own.
///
/// # Errors
/// In one line, when its home cannot be made.
pub fn variables(work: &Work, folder: &Path) -> Result<BTreeMap<String, String>, String> {
    if !work.no_identity {
        return Ok(BTreeMap::new());
    }
    // Who fills the cache of one destination is not who reads that of another.
    let named = !work.destination.is_empty();
    let shaped = work.destination.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !shaped {
        return Err(format!("{:?} is no destination's id", work.destination));
    }
    let home = folder.join(HOME).join(&work.destination);
    let failed = |error: std::io::Error| format!("cannot make {}: {error}", home.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&home).map_err(failed)?;
    let home = home.to_str().ok_or("the state folder of this node is not UTF-8")?;
    let cache = match work.environment.get(CACHE) {
        Some(staging) if named => format!("{staging}/{}", work.destination),
        Some(staging) => staging.clone(),
        None => format!("{home}/.cache/sluice"),
    };
    let all = [
        ("HOME", home),
        (CACHE, cache.as_str()),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("SLUICE_GCS_METADATA", "0"),
    ];
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
        // Each destination has its own, also where an administrator has named a folder.
        let mut of = |id: &str| {
            work.destination = id.to_owned();
            variables(&work, folder.path()).unwrap()
        };
        let (one, two) = (of("a-1"), of("b-2"));
        assert!(one["HOME"] != two["HOME"] && one[CACHE] != two[CACHE]);
        assert_eq!(of("a-1"), one);
        work.environment.insert(CACHE.to_owned(), "/var/tmp/sluice".to_owned());
        assert_eq!(variables(&work, folder.path()).unwrap()[CACHE], "/var/tmp/sluice/a-1");
        work.destination = "../x".to_owned();
        assert!(variables(&work, folder.path()).is_err());
    }
}
