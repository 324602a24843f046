//! The state folder: one file for each mount, each written whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::table::Record;

/// A record is not longer than this.
const LONGEST: u64 = 1 << 20;
const LOCK: &str = "lock";
const ENDING: &str = "json";

/// A failure of the state folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another daemon uses the folder.
    #[error("another mountd uses {}", .0.display())]
    InUse(PathBuf),
    /// The folder cannot be used.
    #[error("cannot use the state folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system reports.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system reports.
        source: io::Error,
    },
}

/// A state folder, held by this process alone.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    lock: File,
}

impl Store {
    /// Takes a folder, which is created when it is not there, for this user alone.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Folder`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Folder { path: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(folder.join(LOCK)).map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { folder: folder.to_owned(), lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse(folder.to_owned())),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the folder is still the one that was opened.
    pub fn is_there(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let named = fs::metadata(self.folder.join(LOCK)).map(identity);
        let held = self.lock.metadata().map(identity);
        matches!((named, held), (Ok(named), Ok(held)) if named == held)
    }

    /// All records. A file that is no record is put aside, and what was half-written is removed.
    ///
    /// # Errors
    /// [`StoreError::Folder`].
    pub fn load(&self) -> Result<Vec<Record>, StoreError> {
        let failed = |source| StoreError::Folder { path: self.folder.clone(), source };
        let mut records = Vec::new();
        for item in fs::read_dir(&self.folder).map_err(failed)? {
            let path = item.map_err(failed)?.path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            if ending == Some("new") {
                fs::remove_file(&path).map_err(failed)?;
            } else if ending == Some(ENDING) {
                match read(&path) {
                    Some(record) => records.push(record),
                    None => put_aside(&path),
                }
            }
        }
        records.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }

    /// Writes a record. When this returns it is durable; until then the former one is.
    ///
    /// # Errors
    /// [`StoreError::Write`].
    pub fn save(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.path(&record.id);
        let new = path.with_extension("new");
        let write = || {
            let bytes = serde_json::to_vec_pretty(record)?;
            let mut options = OpenOptions::new();
            let options = options.create(true).truncate(true).write(true).mode(0o600);
            let mut file = options.open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            self.sync()
        };
        write().map_err(|source| StoreError::Write { path: path.clone(), source })
    }

    /// Removes a record, durably. One that is not there is no error.
    ///
    /// # Errors
    /// [`StoreError::Write`].
    pub fn remove(&self, id: &str) -> Result<(), StoreError> {
        let path = self.path(id);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.and_then(|()| self.sync()),
        };
        removed.map_err(|source| StoreError::Write { path, source })
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.{ENDING}"))
    }
}

/// The record in a file, if it is one and named so.
fn read(path: &Path) -> Option<Record> {
    if fs::metadata(path).ok()?.len() > LONGEST {
        return None;
    }
    let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (path.file_stem()?.to_str()? == record.id).then_some(record)
}

fn put_aside(path: &Path) {
    let aside = path.with_extension("damaged");
    tracing::warn!(path = %aside.display(), "a file of the state folder is no mount; put aside");
    if let Err(error) = fs::rename(path, &aside) {
        tracing::warn!(path = %path.display(), "cannot put the file aside: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn record(id: &str, lease_end_ms: Option<u64>) -> Record {
        Record {
            id: id.into(),
            spec: json!({"text": "x".repeat(100)}),
            identity: json!(7),
            created_ms: 5,
            lease_end_ms,
            secret_names: ["A".to_owned()].into(),
        }
    }

    #[test]
    fn one_process_holds_a_folder_and_notices_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/state");
        let store = Store::open(&state).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(Store::open(&state), Err(StoreError::InUse(_))));
        assert!(store.is_there());
        fs::remove_dir_all(&state).unwrap();
        assert!(!store.is_there());
        Store::open(&state).unwrap();
        assert!(!store.is_there(), "another folder of the same name is another");
    }

    #[test]
    fn what_is_no_record_is_put_aside_and_the_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.save(&record("a", None)).unwrap();
        fs::write(folder.path().join("b.json"), "{").unwrap();
        fs::copy(folder.path().join("a.json"), folder.path().join("c.json")).unwrap();
        File::create(folder.path().join("d.json")).unwrap().set_len(LONGEST + 1).unwrap();
        assert_eq!(store.load().unwrap(), [record("a", None)]);
        for name in ["b.damaged", "c.damaged", "d.damaged"] {
            assert!(folder.path().join(name).exists(), "{name}");
        }
    }

    /// What a test does to a store.
    #[derive(Debug, Clone)]
    enum Step {
        Save(usize, Option<u64>),
        Remove(usize),
        /// The process dies while it writes this record: so much of the new file is there.
        Torn(usize, usize),
        /// The folder is read again.
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4usize, proptest::option::of(any::<u64>()))
                .prop_map(|(id, end)| Step::Save(id, end)),
            (0..4usize).prop_map(Step::Remove),
            (0..4usize, 0..300usize).prop_map(|(id, length)| Step::Torn(id, length)),
            Just(Step::Reopen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_holds_what_a_map_would_whenever_the_process_dies(
            steps in proptest::collection::vec(step(), 1..30)
        ) {
            const IDS: [&str; 4] = ["a", "b", "c", "d"];
            let folder = tempfile::tempdir().unwrap();
            let mut model = BTreeMap::new();
            let mut store = Some(Store::open(folder.path()).unwrap());
            for step in steps {
                match step {
                    Step::Save(id, end) => {
                        let record = record(IDS[id], end);
                        store.as_ref().unwrap().save(&record).unwrap();
                        model.insert(IDS[id], record);
                    }
                    Step::Remove(id) => {
                        store.as_ref().unwrap().remove(IDS[id]).unwrap();
                        model.remove(IDS[id]);
                    }
                    Step::Torn(id, length) => {
                        let bytes = serde_json::to_vec_pretty(&record(IDS[id], Some(1))).unwrap();
                        let part = &bytes[..length.min(bytes.len())];
                        fs::write(folder.path().join(format!("{}.new", IDS[id])), part).unwrap();
                    }
                    Step::Reopen => {
                        drop(store.take());
                        store = Some(Store::open(folder.path()).unwrap());
                        let loaded = store.as_ref().unwrap().load().unwrap();
                        let expected: Vec<Record> = model.values().cloned().collect();
                        prop_assert_eq!(loaded, expected);
                    }
                }
            }
        }
    }
}
