//! Objects as files in a folder of a server that speaks SFTP.
//!
//! The connection is made by the system's `ssh`, with its keys, agents and configuration; SFTP is
//! spoken through it. The layout is that of the [file system](crate::filesystem), and so is the
//! way of an object:
//!
//! ```text
//! create .tmp/<random> -> write -> fsync -> link to the key's name -> fsync its folder -> unlink
//! ```
//!
//! * `link` (`hardlink@openssh.com`) is refused when the name is taken: that makes
//!   [`put_new`](Destination::put_new) atomic. A server without it says so
//!   ([`creates_atomically`](Destination::creates_atomically)): its plain rename is no promise,
//!   and a repository there needs an [arbiter](crate::wrap::Arbiter).
//! * Without `fsync@openssh.com` and `posix-rename@openssh.com` nothing is durable and nothing can
//!   be replaced at once: nothing is written to such servers.
//! * A folder is made durable where the server lets it be opened, as OpenSSH does.
//! * All requests share one connection. One that broke off is made anew by the next request;
//!   repeating is left to [`crate::wrap::Retry`].

mod config;
mod files;
mod session;
mod walk;
mod wire;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::key::may_start_key;
use crate::many::{conclude, gather};
use crate::url::Scheme;
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, ObjectMeta, Result,
    check_length, page_limit,
};
pub use config::SftpConfig;
use files::{Files, TEMPORARY};
use session::Session;
use walk::Walk;

/// This destination in the table of schemes.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "sftp",
    form: "sftp://USER@HOST:PORT/PATH?key-file=FILE&known-hosts=FILE",
    open: |url, options| {
        Box::pin(async move {
            let mut config = SftpConfig::from_url(url)?;
            config.create = options.create;
            config.timeouts = config.timeouts.at_most(options.retry.total);
            Ok(Arc::new(SftpDestination::open(config).await?) as _)
        })
    },
};

/// What opening, asking and closing costs a server, in bytes of a body that take as long.
const WORK: u64 = 256 << 10;

/// Objects as files in a folder of an SFTP server.
pub struct SftpDestination {
    config: SftpConfig,
    /// The folder, absolute.
    root: String,
    /// Whether the server makes hard links.
    links: bool,
    session: tokio::sync::Mutex<Arc<Session>>,
    /// Folders known to exist, and to be durable.
    folders: Mutex<HashSet<String>>,
}

impl fmt::Debug for SftpDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpDestination").field("location", &self.config.location()).finish()
    }
}

impl SftpDestination {
    /// Connects, and opens the folder.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when there is no such folder or the server is not a known one;
    /// [`ErrorKind::AccessDenied`]; [`ErrorKind::Unavailable`] when it does not answer.
    pub async fn open(config: SftpConfig) -> Result<Self> {
        let subject = format!("open {}", config.location());
        let opening = async {
            let session = Session::open(&config).await?;
            let files = Files::new(Arc::clone(&session), config.location());
            let root = files.find_root(&config.root, config.create).await?;
            // Tidying up is a courtesy: in a read-only folder it fails, and nothing depends on it.
            let _ = files.remove_stale(&format!("{root}/{TEMPORARY}")).await;
            Ok((session, root))
        };
        let (session, root) = config.timeouts.within(&subject, WORK, opening).await?;
        let links = session.extensions.link;
        let session = tokio::sync::Mutex::new(session);
        Ok(Self { config, root, links, session, folders: Mutex::default() })
    }

    /// The connection, made anew when it has broken off.
    async fn files(&self) -> Result<Files> {
        let mut session = self.session.lock().await;
        if !session.is_alive() {
            *session = Session::open(&self.config).await?;
        }
        Ok(Files::new(Arc::clone(&session), self.config.location()))
    }

    /// Runs requests that move `length` bytes as long as they may take. A connection over which
    /// they do not end is given up.
    async fn run<'a, T: Send + 'a, Fut>(
        &'a self,
        subject: &'a str,
        length: u64,
        work: impl FnOnce(Files) -> Fut + Send + 'a,
    ) -> Result<T>
    where
        Fut: Future<Output = Result<T>> + Send + 'a,
    {
        let files = self.files().await?;
        let session = Arc::clone(&files.session);
        let time = self.config.timeouts.whole(length.saturating_add(WORK));
        match tokio::time::timeout(time, Box::pin(work(files))).await {
            Ok(outcome) => outcome,
            Err(elapsed) => {
                session.give_up();
                let context = format!("{subject}: not finished within {} s", time.as_secs());
                Err(DestinationError::caused(ErrorKind::Unavailable, context, elapsed))
            }
        }
    }

    fn path(&self, key: &str) -> String {
        format!("{}/{key}", self.root)
    }

    fn subject(&self, action: &str, key: &str) -> String {
        format!("{action} {}/{key}", self.config.location())
    }

    /// Makes every folder of `path` below the root, each durable in the one above it.
    async fn ensure_folder(&self, files: &Files, path: &str) -> Result<String> {
        let mut folder = self.root.clone();
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            let parent = folder.clone();
            folder = format!("{folder}/{segment}");
            if self.folders.lock().contains(&folder) {
                continue;
            }
            files.make_folder(&folder).await?;
            files.sync_folder(&parent).await?;
            self.folders.lock().insert(folder.clone());
        }
        Ok(folder)
    }

    /// Writes an object beside its name, and then gives it that.
    async fn store(&self, key: &Key, body: Bytes, create_only: bool) -> Result<()> {
        let subject = self.subject("put", key.as_str());
        let length = body.len() as u64;
        self.run(&subject, length, |files| async move {
            check_extensions(&self.subject("put", key.as_str()), &files.session)?;
            let folders = key.as_str().rsplit_once('/').map_or("", |(folders, _)| folders);
            let folder = self.ensure_folder(&files, folders).await?;
            let temporary = self.ensure_folder(&files, TEMPORARY).await?;
            let file = files.write_temporary(&temporary, body).await?;
            let target = self.path(key.as_str());
            let won = if create_only {
                files.name(file, &target).await?
            } else {
                files.replace(file, &target).await?;
                true
            };
            // Also for a rival's name: "exists already" must still be true after a power cut.
            files.sync_folder(&folder).await?;
            if won {
                return Ok(());
            }
            let context = format!("{}: the key is taken", self.subject("put", key.as_str()));
            Err(DestinationError::new(ErrorKind::AlreadyExists, context))
        })
        .await
    }

    fn missing(&self, key: &Key) -> DestinationError {
        let context = format!("{}: there is no such object", self.subject("get", key.as_str()));
        DestinationError::new(ErrorKind::NotFound, context)
    }
}

/// Refuses to write to a server that cannot keep what a destination promises.
fn check_extensions(subject: &str, session: &Session) -> Result<()> {
    let found = session.extensions;
    let missing = match (found.sync, found.replace) {
        (true, true) => return Ok(()),
        (false, _) => "fsync@openssh.com",
        (true, false) => "posix-rename@openssh.com",
    };
    let context = format!(
        "{subject}: the server lacks {missing}, so objects would not be durable, or it lets this \
         user only read; use OpenSSH's server, or another that has it"
    );
    Err(DestinationError::new(ErrorKind::Unfit, context))
}

#[async_trait]
impl Destination for SftpDestination {
    fn location(&self) -> String {
        self.config.location()
    }

    fn creates_atomically(&self) -> bool {
        self.links
    }

    fn fills_up(&self) -> bool {
        true
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.store(key, body, true).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.store(key, body, false).await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        let subject = self.subject("get", key.as_str());
        let length = match range {
            ByteRange::Span { length, .. } | ByteRange::Suffix(length) => length.min(64 << 20),
            ByteRange::Full => 64 << 20,
        };
        self.run(&subject, length, |files| async move {
            let path = self.path(key.as_str());
            let found = files.open_file(&path).await?;
            let (handle, size) = found.ok_or_else(|| self.missing(key))?;
            let span = range.within(size).ok_or_else(|| range.invalid(key))?;
            check_length(key, span.end - span.start)?;
            files.read(&handle, &path, span).await
        })
        .await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let subject = self.subject("head", key.as_str());
        self.run(&subject, 0, |files| async move {
            let found = files.look_at(&self.path(key.as_str())).await?;
            let found = found.filter(|found| found.is_file()).ok_or_else(|| self.missing(key))?;
            let size = found.size.ok_or_else(|| files.odd("the server tells no size"))?;
            Ok(ObjectMeta { key: key.clone(), size, modified: found.time() })
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        if !may_start_key(prefix) {
            return Ok(ListPage::default());
        }
        let subject = self.subject("list", prefix);
        // A walk reads many folders: about a hundred bytes for each name.
        self.run(&subject, 64 << 20, |files| async move {
            Walk::new(prefix, after, page_limit(limit)).run(&files, &self.root).await
        })
        .await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.delete_many(std::slice::from_ref(key)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        let subject = self.subject("delete", keys.first().map_or("", Key::as_str));
        let work = WORK * keys.len() as u64;
        self.run(&subject, work, |files| async move {
            let files = &files;
            let removals = keys.iter().map(|key| {
                let path = self.path(key.as_str());
                async move { files.remove(&path).await }
            });
            let mut failures = gather(removals.collect()).await;
            // One folder is made durable once, however many of its names went.
            let folders: BTreeSet<_> = keys
                .iter()
                .map(|key| key.as_str().rsplit_once('/').map_or("", |(folders, _)| folders))
                .collect();
            let folders = folders.into_iter().map(|folders| {
                let path = self.path(folders);
                async move { files.sync_folder(path.trim_end_matches('/')).await }
            });
            failures.extend(gather(folders.collect()).await);
            conclude(failures)
        })
        .await
    }
}
