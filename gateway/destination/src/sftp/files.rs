//! What is done with files on the server, one step of a put or a get each.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::session::{Handle, Session};
use super::wire::{Ask, Attributes, CHUNK, Reply, Status};
use crate::{DestinationError, ErrorKind, Result};

/// Where files are written before they get their name. A key's segment cannot start with a dot.
pub(super) const TEMPORARY: &str = ".tmp";

/// No put takes this long; what is older was left behind by a crash.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where less than this is free, a request to write that was refused met a full disk: what was
/// written before it may be gone again, and blocks are taken a few at a time.
const LITTLE: u64 = 256 << 10;

/// Chunks of one body under way at a time: two MiB, enough for a long line.
const AT_ONCE: usize = 64;

/// A connection, and how its server is called in messages.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) session: Arc<Session>,
    server: String,
}

/// A complete, durable file without a final name; removed when dropped.
#[derive(Debug)]
pub(super) struct Temporary {
    session: Arc<Session>,
    path: String,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; a file that stays is removed when stale.
        self.session.forget(Ask::Remove(&self.path));
    }
}

impl Files {
    pub(super) fn new(session: Arc<Session>, server: String) -> Self {
        Self { session, server }
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<Reply> {
        self.session.call(ask, Bytes::new()).await.map_err(|error| {
            let context = format!("{}: {error}", self.server);
            DestinationError::new(error.kind(), context)
        })
    }

    /// The error of an answer that makes no sense.
    pub(super) fn odd(&self, what: &str) -> DestinationError {
        DestinationError::new(ErrorKind::Unfit, format!("{}: {what}", self.server))
    }

    /// The error of a request that was refused.
    fn refused(&self, action: &str, path: &str, reply: &Reply) -> DestinationError {
        let Reply::Status(status, words) = reply else {
            return self.odd(&format!("{action} {path}: the answer is none to that"));
        };
        let (kind, advice) = match status {
            Status::NoSuchFile => (ErrorKind::NotFound, "it does not exist"),
            Status::Denied => (ErrorKind::AccessDenied, "check its owner and mode on the server"),
            Status::Unsupported => (ErrorKind::Unfit, "the server does not have this function"),
            _ => (ErrorKind::Other, "check free space, quota and mode on the server"),
        };
        let context = format!("{}: cannot {action} {path}: {words}; {advice}", self.server);
        DestinationError::new(kind, context)
    }

    /// The error of a request to write that was refused. Servers have no number for a full disk, so
    /// they are asked how much room is left for the `length` bytes that were to be written.
    async fn refused_writing(
        &self,
        action: &str,
        path: &str,
        reply: &Reply,
        length: u64,
    ) -> DestinationError {
        let refused = self.refused(action, path, reply);
        let unclear = matches!(reply, Reply::Status(Status::Failure | Status::Other(_), _));
        if !unclear || !self.session.extensions.volume {
            return refused;
        }
        let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
        match self.ask(Ask::Volume(folder)).await {
            Ok(Reply::Volume(left)) if left.no_names || left.free < length.max(LITTLE) => {
                let context = format!("{}: no room left to {action} {path}", self.server);
                DestinationError::caused(ErrorKind::NoSpace, context, refused)
            }
            _ => refused,
        }
    }

    /// A request that is answered with a handle; none when there is no such name.
    async fn take_handle(&self, path: &str, ask: Ask<'_>) -> Result<Option<Handle>> {
        match self.ask(ask).await? {
            Reply::Handle(name) => Ok(Some(self.session.handle(name))),
            Reply::Status(Status::NoSuchFile, _) => Ok(None),
            reply => Err(self.refused("open", path, &reply)),
        }
    }

    /// What a name is, without following a link; none when there is no such name.
    pub(super) async fn look_at(&self, path: &str) -> Result<Option<Attributes>> {
        self.attributes(path, Ask::LStat(path)).await
    }

    async fn attributes(&self, path: &str, ask: Ask<'_>) -> Result<Option<Attributes>> {
        match self.ask(ask).await? {
            Reply::Attributes(found) => Ok(Some(found)),
            Reply::Status(Status::NoSuchFile, _) => Ok(None),
            reply => Err(self.refused("look at", path, &reply)),
        }
    }

    /// The absolute path of the destination's folder.
    pub(super) async fn find_root(&self, root: &str, create: bool) -> Result<String> {
        let path = match root.starts_with('/') {
            true => root.to_owned(),
            false => format!("{}/{root}", self.real_path(".").await?),
        };
        if create {
            self.make_folders(&path).await?;
        }
        match self.attributes(&path, Ask::Stat(&path)).await? {
            Some(found) if found.is_folder() => Ok(path),
            Some(_) => {
                let context = format!("{}: {path} is not a folder", self.server);
                Err(DestinationError::new(ErrorKind::InvalidConfig, context))
            }
            None => {
                let context = format!(
                    "{}: there is no folder {path}; create it, or check that its disk is mounted",
                    self.server
                );
                Err(DestinationError::new(ErrorKind::InvalidConfig, context))
            }
        }
    }

    async fn real_path(&self, path: &str) -> Result<String> {
        let reply = self.ask(Ask::RealPath(path)).await?;
        let Reply::Names(names) = &reply else {
            return Err(self.refused("find", path, &reply));
        };
        let name = names.first().and_then(|(name, _)| String::from_utf8(name.clone()).ok());
        name.ok_or_else(|| self.odd("the user's folder has a name that is no text"))
    }

    /// Makes a folder and those above it, as far as they are missing.
    async fn make_folders(&self, path: &str) -> Result<()> {
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        for end in ends {
            let folder = &path[..end];
            if self.attributes(folder, Ask::Stat(folder)).await?.is_none() {
                self.make_folder(folder).await?;
                let parent = folder.rsplit_once('/').map_or("/", |(parent, _)| parent);
                self.sync_folder(if parent.is_empty() { "/" } else { parent }).await?;
            }
        }
        Ok(())
    }

    /// Makes a folder, unless it is there.
    pub(super) async fn make_folder(&self, path: &str) -> Result<()> {
        let reply = self.ask(Ask::MakeFolder(path)).await?;
        if matches!(reply, Reply::Status(Status::Done, _)) {
            return Ok(());
        }
        match self.attributes(path, Ask::Stat(path)).await? {
            Some(found) if found.is_folder() => Ok(()),
            _ => Err(match self.refused_writing("create the folder", path, &reply, 0).await {
                // It is no object that is missing.
                error if error.kind() == ErrorKind::NotFound => {
                    DestinationError::new(ErrorKind::Other, error.to_string())
                }
                error => error,
            }),
        }
    }

    /// Makes the names in a folder durable, where the server lets a folder be opened.
    pub(super) async fn sync_folder(&self, path: &str) -> Result<()> {
        let reply = self.ask(Ask::OpenRead(path)).await?;
        let Reply::Handle(name) = reply else { return Ok(()) };
        let handle = self.session.handle(name);
        // Some file systems have no such thing for folders; then there is nothing to ask for.
        self.ask(Ask::Sync(&handle.name)).await.map(drop)
    }

    /// Writes `body` to a new file in `folder` and waits until it is on the medium.
    pub(super) async fn write_temporary(&self, folder: &str, body: Bytes) -> Result<Temporary> {
        let path = format!("{folder}/{:032x}", rand::random::<u128>());
        let reply = self.ask(Ask::Create(&path)).await?;
        let Reply::Handle(name) = reply else {
            let length = body.len() as u64;
            return Err(match self.refused_writing("write", &path, &reply, length).await {
                error if error.kind() == ErrorKind::NotFound => {
                    let context = format!("{error}; was its disk unmounted?");
                    DestinationError::new(ErrorKind::Other, context)
                }
                error => error,
            });
        };
        let file = Temporary { session: Arc::clone(&self.session), path };
        let handle = self.session.handle(name);
        let count = body.len().div_ceil(CHUNK);
        let chunks: Vec<_> = (0..count)
            .map(|at| {
                let start = at * CHUNK;
                let end = body.len().min(start + CHUNK);
                self.write_chunk(&handle, &file.path, start, body.slice(start..end))
            })
            .collect();
        stream::iter(chunks).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        match self.ask(Ask::Sync(&handle.name)).await? {
            Reply::Status(Status::Done, _) => Ok(file),
            reply => {
                let length = body.len() as u64;
                Err(self.refused_writing("make durable", &file.path, &reply, length).await)
            }
        }
    }

    async fn write_chunk(
        &self,
        handle: &Handle,
        path: &str,
        offset: usize,
        chunk: Bytes,
    ) -> Result<()> {
        let length = chunk.len() as u32;
        let ask = Ask::Write { handle: &handle.name, offset: offset as u64, length };
        match self.session.call(ask, chunk).await? {
            Reply::Status(Status::Done, _) => Ok(()),
            reply => Err(self.refused_writing("write", path, &reply, length.into()).await),
        }
    }

    /// Gives a file its final name unless that is taken; returns whether it got it.
    pub(super) async fn name(&self, file: Temporary, target: &str) -> Result<bool> {
        let ask = match self.session.extensions.link {
            true => Ask::Link(&file.path, target),
            // Refused when the name is taken, but perhaps not when another takes it just now.
            false => Ask::Rename(&file.path, target),
        };
        let reply = self.ask(ask).await?;
        if matches!(reply, Reply::Status(Status::Done, _)) {
            return Ok(true);
        }
        // "Failure" is all that servers say of a name that is taken.
        if self.look_at(target).await?.is_some() {
            return Ok(false);
        }
        Err(match self.refused_writing("name", target, &reply, 0).await {
            error if error.kind() == ErrorKind::NotFound => {
                DestinationError::new(ErrorKind::Other, error.to_string())
            }
            error => error,
        })
    }

    /// Gives a file its final name, whatever had it.
    pub(super) async fn replace(&self, file: Temporary, target: &str) -> Result<()> {
        match self.ask(Ask::Replace(&file.path, target)).await? {
            Reply::Status(Status::Done, _) => Ok(()),
            reply => Err(self.refused_writing("replace", target, &reply, 0).await),
        }
    }

    /// Opens the file under a name and tells its size; a folder is no file.
    pub(super) async fn open_file(&self, path: &str) -> Result<Option<(Handle, u64)>> {
        let Some(handle) = self.take_handle(path, Ask::OpenRead(path)).await? else {
            return Ok(None);
        };
        let found = self.attributes(path, Ask::FStat(&handle.name)).await?;
        let Some(found) = found.filter(|found| found.is_file()) else { return Ok(None) };
        let size = found.size.ok_or_else(|| self.odd("the server tells no size"))?;
        Ok(Some((handle, size)))
    }

    /// Exactly the bytes of a span.
    pub(super) async fn read(
        &self,
        handle: &Handle,
        path: &str,
        span: Range<u64>,
    ) -> Result<Bytes> {
        let starts = (span.start..span.end).step_by(CHUNK);
        let chunks: Vec<_> = starts
            .map(|start| self.read_chunk(handle, path, start..span.end.min(start + CHUNK as u64)))
            .collect();
        let mut chunks = stream::iter(chunks).buffered(AT_ONCE);
        // At most MAX_GET, and backed by a file of that size.
        let mut body = Vec::with_capacity((span.end - span.start) as usize);
        while let Some(chunk) = chunks.try_next().await? {
            chunk.iter().for_each(|part| body.extend_from_slice(part));
        }
        Ok(body.into())
    }

    /// Servers may send less than is asked for.
    async fn read_chunk(
        &self,
        handle: &Handle,
        path: &str,
        mut span: Range<u64>,
    ) -> Result<Vec<Bytes>> {
        let mut parts = Vec::with_capacity(1);
        while !span.is_empty() {
            let length = span.end - span.start;
            let ask = Ask::Read { handle: &handle.name, offset: span.start, length: length as u32 };
            match self.ask(ask).await? {
                Reply::Data(data) if (1..=length).contains(&(data.len() as u64)) => {
                    span.start += data.len() as u64;
                    parts.push(data);
                }
                Reply::Data(_) | Reply::Status(Status::End, _) => {
                    let context = format!("{}: {path} ended while it was read", self.server);
                    return Err(DestinationError::new(ErrorKind::Unavailable, context));
                }
                reply => return Err(self.refused("read", path, &reply)),
            }
        }
        Ok(parts)
    }

    /// Removes a file; one that is not there, or a folder, is left alone.
    pub(super) async fn remove(&self, path: &str) -> Result<()> {
        let reply = self.ask(Ask::Remove(path)).await?;
        if let Reply::Status(Status::Done | Status::NoSuchFile, _) = reply {
            return Ok(());
        }
        match self.look_at(path).await? {
            Some(found) if !found.is_folder() => Err(self.refused("remove", path, &reply)),
            _ => Ok(()),
        }
    }

    /// The names in a folder; none when there is no such folder.
    pub(super) async fn names(&self, path: &str) -> Result<Vec<(Vec<u8>, Attributes)>> {
        let reply = self.ask(Ask::OpenFolder(path)).await?;
        let handle = match reply {
            Reply::Handle(name) => self.session.handle(name),
            Reply::Status(Status::NoSuchFile, _) => return Ok(Vec::new()),
            // A file that is listed like a folder.
            Reply::Status(Status::Failure, _)
                if self.look_at(path).await?.is_none_or(|found| !found.is_folder()) =>
            {
                return Ok(Vec::new());
            }
            reply => return Err(self.refused("list", path, &reply)),
        };
        let mut all = Vec::new();
        loop {
            match self.ask(Ask::ReadFolder(&handle.name)).await? {
                Reply::Names(names) if !names.is_empty() => all.extend(names),
                Reply::Names(_) | Reply::Status(Status::End, _) => return Ok(all),
                reply => return Err(self.refused("list", path, &reply)),
            }
        }
    }

    /// Removes what crashed writers left in `folder` more than a day ago, by the server's clock:
    /// a file made now tells its time.
    pub(super) async fn remove_stale(&self, folder: &str) -> Result<()> {
        let names = self.names(folder).await?;
        let old = names.iter().filter(|(_, found)| found.is_file());
        let old: Vec<_> = old
            .filter_map(|(name, found)| Some((std::str::from_utf8(name).ok()?, found)))
            .collect();
        if old.is_empty() {
            return Ok(());
        }
        let now = self.write_temporary(folder, Bytes::new()).await?;
        let now = self.look_at(&now.path).await?.and_then(Attributes::time);
        for (name, found) in old {
            let age = now.zip(found.time()).and_then(|(now, then)| now.duration_since(then).ok());
            if age.is_some_and(|age| age > STALE) {
                self.remove(&format!("{folder}/{name}")).await?;
            }
        }
        Ok(())
    }
}
