//! Which executable this node was started from, and whether another one lies there now.
//!
//! The way is kept as it was given: a link to the release that is in use leads to the next one
//! after an upgrade. Another executable is asked for its versions before anything ends for it.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_node_api::Installed;
use tokio::sync::Mutex;

use super::run;

/// What a file is known by.
type Mark = (u64, u64, i64, i64, u64);

/// The executable of this process.
pub(in super::super) struct Executable {
    path: PathBuf,
    mark: Mark,
    /// Why this node cannot be started again by itself, if that is so.
    alone: Option<&'static str>,
    /// What was found last, and of which file.
    found: Mutex<Option<(Mark, Installed)>>,
}

fn mark(found: &Metadata) -> Mark {
    (found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.len())
}

/// Where this process was started from, by the word it was called with.
fn started_from(called: Option<OsString>, runs: &Metadata) -> Option<PathBuf> {
    let called = called.map(PathBuf::from).filter(|path| path.components().count() > 1)?;
    let path = std::path::absolute(called).ok()?;
    let same = std::fs::metadata(&path).is_ok_and(|found| mark(&found) == mark(runs));
    same.then_some(path)
}

impl Executable {
    /// That of this process, which must have been started just now. `alone` says why it is not
    /// started again by itself.
    pub(in super::super) fn own(alone: Option<&'static str>) -> Option<Self> {
        let runs = std::fs::metadata("/proc/self/exe").ok()?;
        let path = started_from(std::env::args_os().next(), &runs);
        let path = path.or_else(|| std::env::current_exe().ok())?;
        Some(Self { path, mark: mark(&runs), alone, found: Mutex::default() })
    }

    /// Where it lies.
    pub(in super::super) fn path(&self) -> &Path {
        &self.path
    }

    /// What lies there now, if it is another one.
    pub(super) async fn successor(&self) -> Option<Installed> {
        let found = match std::fs::metadata(&self.path) {
            Ok(found) => mark(&found),
            // It is being replaced, or gone.
            Err(error) => {
                let problem = format!("{}: {error}", self.path.display());
                return Some(Installed { problem, ..Installed::default() });
            }
        };
        if found == self.mark {
            return None;
        }
        if let Some(problem) = self.alone {
            return Some(Installed { problem: problem.to_owned(), ..Installed::default() });
        }
        let mut known = self.found.lock().await;
        if let Some((_, installed)) = known.as_ref().filter(|(mark, _)| *mark == found) {
            return Some(installed.clone());
        }
        let installed = asked(&self.path).await;
        *known = Some((found, installed.clone()));
        Some(installed)
    }
}

/// What an executable says of itself.
async fn asked(path: &Path) -> Installed {
    let told = run(path, &["--json", "node", "version"], "").await;
    let read = told.and_then(|text| {
        serde_json::from_str::<Value>(&text).map_err(|_| "it does not say its versions".to_owned())
    });
    let contract = |value: &Value| u32::try_from(value["contract"].as_u64()?).ok();
    match read {
        Ok(value) => Installed {
            version: value["version"].as_str().unwrap_or_default().to_owned(),
            contract: contract(&value).unwrap_or_default(),
            problem: String::new(),
        },
        Err(why) => {
            let problem = format!("{} is no release that can follow: {why}", path.display());
            Installed { problem, ..Installed::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(path: &Path, text: &str) {
        // Another file, as a package's is.
        let beside = path.with_extension("new");
        std::fs::write(&beside, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&beside, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    #[tokio::test]
    async fn what_is_installed_is_asked_and_what_runs_is_no_news() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sluice");
        script(&path, "exit 1");
        let found = Mutex::default();
        let now = mark(&std::fs::metadata(&path).unwrap());
        let mut own = Executable { path: path.clone(), mark: now, alone: None, found };
        assert_eq!(own.successor().await, None);
        script(&path, r#"echo '{"version": "7.1", "contract": 9}'"#);
        let next = own.successor().await.unwrap();
        assert_eq!((&*next.version, next.contract, &*next.problem), ("7.1", 9, ""));
        script(&path, "echo what >&2; exit 2");
        assert!(own.successor().await.unwrap().problem.contains("what"));
        own.alone = Some("it is not alone");
        assert_eq!(own.successor().await.unwrap().problem, "it is not alone");
        std::fs::remove_file(&path).unwrap();
        assert!(own.successor().await.unwrap().problem.contains("sluice: "));
    }

    #[test]
    fn the_way_that_was_typed_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("1"), folder.path().join("link"));
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let runs = std::fs::metadata(&file).unwrap();
        assert_eq!(started_from(Some(link.clone().into()), &runs), Some(link));
        assert_eq!(started_from(Some("sluice".into()), &runs), None);
        assert_eq!(started_from(Some("/bin/sh".into()), &runs), None);
    }
}
