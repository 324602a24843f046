//! Objects as files below a folder, on a local disk or a network mount.
//!
//! The key is the path below the root. A file gets its name only when it is complete and durable:
//!
//! ```text
//! write .tmp/<random> -> fsync -> link to the key's name -> fsync its folder -> unlink .tmp/...
//! ```
//!
//! * `link` fails when the name is taken, on every local file system and on NFS; that makes
//!   [`put_new`](Destination::put_new) atomic between processes and machines. Replacing is the
//!   same with `rename`.
//! * Folders are made on first use, made durable, and remembered; they are never removed, so
//!   that no put finds its folder gone.
//! * A folder that does not exist is not created by [`FilesystemDestination::open`]: an
//!   unmounted disk must not turn into a new, empty destination on the root disk.
//! * All system calls run on tokio's blocking pool, but for those that promise not to wait.

mod read;
mod temporary;
mod walk;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::key::may_start_key;
use crate::url::Scheme;
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, ObjectMeta, Result,
    check_length, page_limit,
};
use temporary::Temporary;
use walk::Walk;

/// This destination in the table of schemes.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "file",
    form: "a folder, or file:///FOLDER",
    open: |url, options| {
        Box::pin(async move {
            url.allow_parameters(&[])?;
            if !url.authority().is_empty() {
                let context = format!("{url} names a machine; write file:///FOLDER");
                return Err(DestinationError::new(ErrorKind::InvalidConfig, context));
            }
            let store = if options.create {
                FilesystemDestination::create(url.path()).await?
            } else {
                FilesystemDestination::open(url.path()).await?
            };
            Ok(Arc::new(store) as _)
        })
    },
};

/// Bytes that are read in place when that needs no waiting: for more, going to another thread and
/// back takes little of the time.
const AT_HAND: u64 = 256 << 10;

/// Objects as files below a folder.
#[derive(Debug, Clone)]
pub struct FilesystemDestination {
    store: Arc<Store>,
}

/// The synchronous half, shared with the blocking pool.
#[derive(Debug)]
struct Store {
    root: PathBuf,
    /// Folders known to exist and to be durable.
    folders: Mutex<HashSet<PathBuf>>,
}

impl FilesystemDestination {
    /// Opens the destination in an existing folder, which may be read-only.
    ///
    /// Where it can be written, files that crashed writers left more than a day ago are removed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when there is no such folder; [`ErrorKind::AccessDenied`].
    pub async fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref().to_owned();
        blocking(move || Store::open(&root)).await.map(Self::of)
    }

    /// Opens the destination in a folder that is created when it does not exist.
    ///
    /// # Errors
    /// As [`FilesystemDestination::open`], and what the file system says to the new folder.
    pub async fn create(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref().to_owned();
        let store = blocking(move || Store::create(&root, sync_folder));
        store.await.map(Self::of)
    }

    /// The folder, absolute and without symbolic links.
    pub fn root(&self) -> &Path {
        &self.store.root
    }

    fn of(store: Store) -> Self {
        Self { store: Arc::new(store) }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(&self.store);
        blocking(move || work(&store)).await
    }
}

#[async_trait]
impl Destination for FilesystemDestination {
    fn location(&self) -> String {
        format!("file://{}", self.store.root.display())
    }

    fn fills_up(&self) -> bool {
        true
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        let key = key.clone();
        self.run(move |store| store.put_new(&key, &body)).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        let key = key.clone();
        self.run(move |store| store.put(&key, &body)).await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        if let ByteRange::Span { offset, length: length @ 1..=AT_HAND } = range
            && let Some(body) = read::at_hand(&self.store.path(key), offset, length as usize)
        {
            return Ok(body.into());
        }
        let key = key.clone();
        self.run(move |store| store.get(&key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let key = key.clone();
        self.run(move |store| store.head(&key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        if !may_start_key(prefix) {
            return Ok(ListPage::default());
        }
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        let limit = page_limit(limit);
        self.run(move |store| {
            let walk = Walk::new(&prefix, after.as_ref(), limit);
            walk.run(&store.root).map_err(|error| failed("list", &store.root, error))
        })
        .await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.run(move |store| store.delete(&key)).await
    }
}

impl Store {
    fn open(root: &Path) -> Result<Self> {
        let absolute = fs::canonicalize(root).map_err(|error| no_folder(root, error))?;
        let meta = fs::metadata(&absolute).map_err(|error| failed("open", root, error))?;
        if !meta.is_dir() {
            let context = format!("{} is not a folder", root.display());
            return Err(DestinationError::new(ErrorKind::InvalidConfig, context));
        }
        // Told now rather than at the first listing.
        fs::read_dir(&absolute).map_err(|error| failed("read folder", root, error))?;
        // Tidying up is a courtesy: on a read-only folder it fails, and nothing depends on it.
        let _ = temporary::remove_stale(&absolute.join(temporary::FOLDER));
        Ok(Self { root: absolute, folders: Mutex::default() })
    }

    /// Opens the store in a folder that is created when it does not exist, with those above it.
    /// `durable` is told each folder in which a name is new, or may be: a name that is not durable
    /// takes all below it away.
    fn create(root: &Path, durable: impl Fn(&Path) -> io::Result<()>) -> Result<Self> {
        let made = root.ancestors().filter(|path| !path.as_os_str().is_empty());
        let made = made.take_while(|path| !path.exists()).count();
        fs::create_dir_all(root).map_err(|error| failed("create folder", root, error))?;
        let store = Self::open(root)?;
        // The last one also when it was there: whoever made it may not have come that far.
        for parent in store.root.ancestors().skip(1).take(made.max(1)) {
            durable(parent).map_err(|error| failed("make durable", parent, error))?;
        }
        Ok(store)
    }

    fn put_new(&self, key: &Key, body: &[u8]) -> Result<()> {
        let target = self.path(key);
        let (file, folder) = self.prepare(key, body)?;
        let won = file.link(&target).map_err(|error| link_failed(&target, error))?;
        // Also for a rival's name: "exists already" must still be true after a power cut.
        sync_folder(&folder).map_err(|error| failed("make durable", &folder, error))?;
        if won {
            return Ok(());
        }
        let context = format!("{} exists already", target.display());
        Err(DestinationError::new(ErrorKind::AlreadyExists, context))
    }

    fn put(&self, key: &Key, body: &[u8]) -> Result<()> {
        let target = self.path(key);
        let (file, folder) = self.prepare(key, body)?;
        fs::rename(file.path(), &target).map_err(|error| put_failed(&target, error))?;
        sync_folder(&folder).map_err(|error| failed("make durable", &folder, error))
    }

    /// A durable temporary file with the body, and the durable folder its key belongs in.
    fn prepare(&self, key: &Key, body: &[u8]) -> Result<(Temporary, PathBuf)> {
        let target = self.path(key);
        let segments = key.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        let folder = self.ensure_folder(segments)?;
        let temporary = self.ensure_folder(temporary::FOLDER)?;
        let file =
            Temporary::write(&temporary, body).map_err(|error| put_failed(&target, error))?;
        Ok((file, folder))
    }

    /// Makes every folder of `path` below the root, each durable in the one above it.
    ///
    /// A folder that exists already is made durable too when it is met for the first time:
    /// whoever made it may not have come that far.
    fn ensure_folder(&self, path: &str) -> Result<PathBuf> {
        let mut folder = self.root.clone();
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            let parent = folder.clone();
            folder.push(segment);
            if self.folders.lock().contains(&folder) {
                continue;
            }
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("create folder", &folder, error));
                }
                _ => {}
            }
            sync_folder(&parent).map_err(|error| failed("make durable", &parent, error))?;
            self.folders.lock().insert(folder.clone());
        }
        Ok(folder)
    }

    fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        let path = self.path(key);
        let (file, size) = self.open_file(key)?;
        let span = range.within(size).ok_or_else(|| range.invalid(key))?;
        let length = span.end - span.start;
        check_length(key, length)?;
        // At most MAX_GET, so it fits in usize.
        let body = read::exact_at(&file, span.start, length as usize);
        body.map_err(|error| failed("read", &path, error))
    }

    fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let path = self.path(key);
        let meta = fs::symlink_metadata(&path).map_err(|error| failed("read", &path, error))?;
        if !meta.is_file() {
            return Err(missing(&path));
        }
        Ok(ObjectMeta { key: key.clone(), size: meta.len(), modified: meta.modified().ok() })
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(error) if is_absent(&error) => return Ok(()),
            result => result.map_err(|error| failed("delete", &path, error))?,
        }
        let folder = path.parent().unwrap_or(&self.root);
        sync_folder(folder).map_err(|error| failed("make durable", folder, error))
    }

    /// Opens the file under `key` and tells its size; a folder or a link is no object.
    fn open_file(&self, key: &Key) -> Result<(File, u64)> {
        let path = self.path(key);
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(&path);
        let file = opened.map_err(|error| failed("read", &path, error))?;
        let meta = file.metadata().map_err(|error| failed("read", &path, error))?;
        if meta.is_file() { Ok((file, meta.len())) } else { Err(missing(&path)) }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Runs system calls where they may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(DestinationError::caused(ErrorKind::Other, "file system work was cut off", error))
    })
}

/// Whether the error says that there is no file under this name.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

fn missing(path: &Path) -> DestinationError {
    DestinationError::new(ErrorKind::NotFound, format!("there is no object {}", path.display()))
}

fn no_folder(root: &Path, error: io::Error) -> DestinationError {
    if !is_absent(&error) {
        return failed("open", root, error);
    }
    let context = format!(
        "the folder {} does not exist; create it, or check that its disk is mounted",
        root.display()
    );
    DestinationError::new(ErrorKind::InvalidConfig, context)
}

fn link_failed(target: &Path, error: io::Error) -> DestinationError {
    let unsupported = [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::XDEV];
    if !unsupported.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        return put_failed(target, error);
    }
    let context = format!(
        "the file system refuses to link {}; a destination needs one with hard links",
        target.display()
    );
    DestinationError::caused(ErrorKind::Unfit, context, error)
}

fn put_failed(target: &Path, error: io::Error) -> DestinationError {
    if !is_absent(&error) {
        return failed("write", target, error);
    }
    // Folders are not made again: the disk may have been unmounted under us.
    let context = format!(
        "cannot write {}: its folder is gone, or is itself an object; check the mount",
        target.display()
    );
    DestinationError::caused(ErrorKind::Other, context, error)
}

/// The destination's error for a failed system call.
fn failed(action: &str, path: &Path, error: io::Error) -> DestinationError {
    use io::ErrorKind as Io;
    let path = path.display();
    let (kind, context) = match error.kind() {
        Io::StorageFull | Io::QuotaExceeded => {
            (ErrorKind::NoSpace, format!("no room left to {action} {path}"))
        }
        Io::ReadOnlyFilesystem => {
            (ErrorKind::ReadOnly, format!("cannot {action} {path}: it is mounted read-only"))
        }
        Io::PermissionDenied => {
            let context = format!("not allowed to {action} {path}; check its owner and mode");
            (ErrorKind::AccessDenied, context)
        }
        _ if is_absent(&error) => {
            (ErrorKind::NotFound, format!("cannot {action} {path}: it does not exist"))
        }
        Io::TimedOut | Io::StaleNetworkFileHandle | Io::HostUnreachable | Io::NetworkDown => {
            (ErrorKind::Unavailable, format!("cannot {action} {path} now"))
        }
        _ => (ErrorKind::Other, format!("cannot {action} {path}")),
    };
    DestinationError::caused(kind, context, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_have_the_kind_a_caller_acts_on() {
        for (errno, kind) in [
            (Errno::NOSPC, ErrorKind::NoSpace),
            (Errno::DQUOT, ErrorKind::NoSpace),
            (Errno::ROFS, ErrorKind::ReadOnly),
            (Errno::ACCESS, ErrorKind::AccessDenied),
            (Errno::NOENT, ErrorKind::NotFound),
            (Errno::NOTDIR, ErrorKind::NotFound),
            (Errno::STALE, ErrorKind::Unavailable),
            (Errno::TIMEDOUT, ErrorKind::Unavailable),
            (Errno::IO, ErrorKind::Other),
        ] {
            let error = failed("write", Path::new("/x"), errno.into());
            assert_eq!(error.kind(), kind, "{errno:?}");
            assert!(error.to_string().contains("/x"), "{error}");
        }
    }

    #[test]
    fn a_file_system_without_links_is_unfit() {
        for errno in [Errno::PERM, Errno::OPNOTSUPP] {
            let error = link_failed(Path::new("/x"), errno.into());
            assert_eq!(error.kind(), ErrorKind::Unfit);
        }
        let full = link_failed(Path::new("/x"), Errno::NOSPC.into());
        assert_eq!(full.kind(), ErrorKind::NoSpace);
    }

    #[test]
    fn every_folder_that_is_made_is_durable_in_the_one_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        let told = |path: &Path| {
            let all = Mutex::new(Vec::new());
            let durable = |path: &Path| {
                all.lock().push(path.to_owned());
                Ok(())
            };
            assert_eq!(Store::create(path, durable).unwrap().root, path);
            all.into_inner()
        };
        let deep = top.join("a/b/c");
        assert_eq!(told(&deep), [top.join("a/b"), top.join("a"), top.clone()]);
        assert_eq!(told(&deep), [top.join("a/b")], "whoever made it may not have come that far");
        assert_eq!(told(&top.join("d")), [top]);
    }

    #[test]
    fn a_folder_that_cannot_be_made_durable_is_no_destination() {
        let folder = tempfile::tempdir().unwrap();
        let fails = |_: &Path| Err(io::Error::from(io::ErrorKind::StorageFull));
        let error = Store::create(&folder.path().join("new"), fails).unwrap_err();
        assert!(error.to_string().contains("make durable"), "{error}");
    }
}
