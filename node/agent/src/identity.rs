//! What a machine is known by: keys and profiles in a home folder, and the account that the
//! metadata service of a cloud tells of. A task that goes where its machine does not want to be
//! known gets neither.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use sluice_node_api::Work;

/// The home of processes without an identity, in the folder of a node: nothing is there but what
/// they keep to be quick.
const HOME: &str = "home-of-projects";

/// The file in a home that was written when it was used last.
const USED: &str = ".sluice-used";

/// A home that was not used for so long is removed.
pub(crate) const UNUSED: Duration = Duration::from_secs(28 * 86_400);

/// Where a process keeps what makes it quick.
const CACHE: &str = "SLUICE_CACHE_DIR";

/// Removes the homes, and so the caches, that no task has used for longer than that: their
/// destinations are gone, or others work with them. Only at the start of a node, when no task of
/// its own uses one. Which time it is, the file system says: it has marked the homes.
pub(crate) fn remove_unused(folder: &Path, longer: Duration) {
    let homes = folder.join(HOME);
    let written = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified());
    let now = homes.join(USED);
    let Ok(now) = std::fs::write(&now, "").and_then(|()| written(&now)) else { return };
    let all = std::fs::read_dir(&homes).into_iter().flatten().flatten();
    for home in all.filter(|home| home.file_type().is_ok_and(|kind| kind.is_dir())) {
        let home = home.path();
        // One without a mark was made and never used.
        let used = written(&home.join(USED)).or_else(|_| written(&home));
        let is_old = used.is_ok_and(|used| now.duration_since(used).is_ok_and(|ago| ago > longer));
        if is_old && let Err(error) = std::fs::remove_dir_all(&home) {
            tracing::warn!("{} cannot be removed: {error}", home.display());
        }
    }
}

/// Whether a word of the server may become the name of a file.
pub(crate) fn is_id(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

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
    if named && !is_id(&work.destination) {
        return Err(format!("{:?} is no destination's id", work.destination));
    }
    let home = folder.join(HOME).join(&work.destination);
    let failed = |error: std::io::Error| format!("cannot make {}: {error}", home.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&home).map_err(failed)?;
    // Written anew each time: how old it is says when the home was used last.
    std::fs::write(home.join(USED), "").map_err(failed)?;
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
        let names = home.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        assert!(home.starts_with(folder.path()) && names.eq([USED]), "there are no keys");
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

    #[test]
    fn homes_that_nobody_uses_any_more_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut work = Work { no_identity: true, ..Work::without_repository() };
        let mut home = |id: &str| {
            work.destination = id.to_owned();
            std::path::PathBuf::from(&variables(&work, folder.path()).unwrap()["HOME"])
        };
        let (old, used) = (home("a-1"), home("b-2"));
        std::fs::create_dir(old.join(".cache")).unwrap();
        let mark = |home: &Path| {
            let file = std::fs::File::options().write(true).open(home.join(USED)).unwrap();
            let now = file.metadata().unwrap().modified().unwrap();
            file.set_modified(now - UNUSED - Duration::from_secs(60)).unwrap();
        };
        mark(&old);
        mark(&used);
        assert_eq!(home("b-2"), used, "a task uses it");
        remove_unused(folder.path(), UNUSED);
        assert!(!old.exists() && used.exists());
    }
}
