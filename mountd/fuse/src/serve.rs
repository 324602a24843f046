//! Answering the kernel.

mod write;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};
use parking_lot::{Mutex, RwLock};
use sluice_block::{BlockError, BlockRead, BlockWrite, ErrorKind};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::tree::{Inode, Node, Numbers, ROOT, Tree};
use crate::{Catalogue, MountOptions, PointEntry};

/// Requests that read from the destination at the same time; more wait their turn.
const IN_FLIGHT: usize = 64;
/// How long the kernel may believe what it was told of an image: images never change.
const LONG: Duration = Duration::from_secs(3600);
/// The same for folders and links, which change as points come and go.
const SHORT: Duration = Duration::from_secs(1);
/// How long listing the points may hold up a look into a folder; then the old list is shown.
const PATIENCE: Duration = Duration::from_secs(5);

/// The file system.
pub(crate) struct Served {
    shared: Arc<Shared>,
}

struct Shared {
    catalogue: Arc<dyn Catalogue>,
    options: MountOptions,
    runtime: Handle,
    tree: RwLock<Arc<Tree>>,
    numbers: Mutex<Numbers>,
    listed: Mutex<Instant>,
    listing: Arc<tokio::sync::Mutex<()>>,
    open: Mutex<HashMap<u64, Arc<Open>>>,
    next_handle: AtomicU64,
    in_flight: Semaphore,
    owner: (u32, u32),
}

/// An open file.
enum Open {
    Image(Arc<dyn BlockRead>),
    Writable(Arc<dyn BlockWrite>),
    Text(Vec<u8>),
}

impl Open {
    /// The image's bytes.
    fn reader(&self) -> Option<&dyn BlockRead> {
        match self {
            Self::Image(device) => Some(&**device),
            Self::Writable(device) => Some(&**device),
            Self::Text(_) => None,
        }
    }
}

impl Served {
    pub(crate) fn new(
        catalogue: Arc<dyn Catalogue>,
        points: &[PointEntry],
        options: MountOptions,
        runtime: Handle,
    ) -> Self {
        let mut numbers = Numbers::default();
        let tree = Arc::new(Tree::build(points, &mut numbers));
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let shared = Shared {
            catalogue,
            options,
            runtime,
            tree: RwLock::new(tree),
            numbers: Mutex::new(numbers),
            listed: Mutex::new(Instant::now()),
            listing: Arc::default(),
            open: Mutex::default(),
            next_handle: AtomicU64::new(1),
            in_flight: Semaphore::new(IN_FLIGHT),
            owner,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Answers from a task.
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<Shared>) -> F) {
        self.shared.runtime.spawn(work(self.shared.clone()));
    }
}

impl Shared {
    fn tree(&self) -> Arc<Tree> {
        self.tree.read().clone()
    }

    /// The tree, asked for again when it is old. A listing that fails or takes too long leaves
    /// the old one.
    async fn fresh_tree(self: &Arc<Self>) -> Arc<Tree> {
        let old = self.listed.lock().elapsed() >= self.options.refresh;
        // One look lists for all: while a source hangs, looks must not pile up behind it.
        if old && let Ok(alone) = self.listing.clone().try_lock_owned() {
            let this = self.clone();
            let listing = tokio::spawn(async move {
                let _alone = alone;
                this.list().await;
            });
            let _ = tokio::time::timeout(PATIENCE, listing).await;
        }
        self.tree()
    }

    async fn list(&self) {
        let points = self.catalogue.points();
        match tokio::time::timeout(self.options.read_timeout, points).await {
            Ok(Ok(points)) => {
                let tree = Arc::new(Tree::build(&points, &mut self.numbers.lock()));
                *self.tree.write() = tree;
            }
            Ok(Err(error)) => tracing::warn!(%error, "showing the restore points known before"),
            Err(_) => tracing::warn!("no answer in time; showing the points known before"),
        }
        *self.listed.lock() = Instant::now();
    }

    fn attr(&self, inode: &Inode) -> FileAttr {
        let time = time(inode.created_ms);
        let kind = inode.kind();
        let folder = kind == FileType::Directory;
        FileAttr {
            ino: INodeNo(inode.number),
            size: inode.size,
            blocks: inode.used.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: match kind {
                FileType::Directory => 0o555,
                FileType::Symlink => 0o777,
                _ if self.takes_writes(&inode.node) => 0o644,
                _ => 0o444,
            },
            nlink: if folder { 2 } else { 1 },
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 128 << 10,
            flags: 0,
        }
    }

    fn ttl(inode: &Inode) -> Duration {
        if matches!(inode.node, Node::Image { .. }) { LONG } else { SHORT }
    }

    async fn open_node(&self, node: &Node) -> Result<Open, Errno> {
        match node {
            Node::Text(text) => Ok(Open::Text(text.clone())),
            Node::Image { instance, point, image } => {
                let open = self.catalogue.open(instance, point, image);
                match tokio::time::timeout(self.options.read_timeout, open).await {
                    Ok(Ok(device)) => Ok(Open::Image(device)),
                    Ok(Err(error)) => {
                        tracing::error!(%error, image, "cannot open an image");
                        Err(Errno::EIO)
                    }
                    Err(_) => Err(Errno::EIO),
                }
            }
            Node::Folder => Err(Errno::EISDIR),
            Node::Link(_) => Err(Errno::EINVAL),
        }
    }

    fn handle(&self, handle: FileHandle) -> Option<Arc<Open>> {
        self.open.lock().get(&handle.0).cloned()
    }

    async fn read(&self, open: &Open, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        if let Open::Text(text) = open {
            let from = (offset as usize).min(text.len());
            let to = (from + size as usize).min(text.len());
            return Ok(text[from..to].to_vec());
        }
        let device = open.reader().ok_or(Errno::EIO)?;
        let end = (offset + u64::from(size)).min(device.size());
        let length = end.saturating_sub(offset) as usize;
        let read = async {
            // Memory is taken in turn only, so that reads that wait hold none.
            let _turn = self.in_flight.acquire().await;
            let mut buf = vec![0; length];
            if length > 0 {
                device.read_at(offset, &mut buf).await?;
            }
            Ok::<_, BlockError>(buf)
        };
        match tokio::time::timeout(self.options.read_timeout, read).await {
            Ok(Ok(buf)) => Ok(buf),
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, offset, size, "a read failed");
                Err(Errno::EIO)
            }
            Err(_) => {
                tracing::error!(offset, size, "a read got no answer in time");
                Err(Errno::EIO)
            }
        }
    }

    /// The next data or hole at or after `offset`.
    async fn seek(&self, open: &Open, offset: i64, whence: i32) -> Result<i64, Errno> {
        let size = match open {
            Open::Text(text) => text.len() as u64,
            image => image.reader().map_or(0, BlockRead::size),
        };
        let start = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        if start >= size {
            return Err(Errno::ENXIO);
        }
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(Errno::EINVAL),
        };
        let found = match open.reader() {
            None => data.then_some(start),
            Some(device) => find(device, start, data).await.map_err(|error| {
                tracing::error!(%error, "a map cannot be read");
                if error.kind() == ErrorKind::OutOfRange { Errno::ENXIO } else { Errno::EIO }
            })?,
        };
        match found {
            Some(at) => Ok(at as i64),
            // The end of a file is a hole; there is no data behind the last.
            None if data => Err(Errno::ENXIO),
            None => Ok(size as i64),
        }
    }
}

async fn find(device: &dyn BlockRead, start: u64, data: bool) -> sluice_block::Result<Option<u64>> {
    let mut at = start;
    while at < device.size() {
        let before = at;
        for extent in device.extents(at, device.size() - at).await? {
            if extent.kind.reads_zero() != data {
                return Ok(Some(extent.offset.max(start)));
            }
            at = extent.end();
        }
        if at <= before {
            // Asking again could go on for ever, and a loop that never waits outlives its deadline.
            return Err(BlockError::new(ErrorKind::Io, "the map of an image makes no progress"));
        }
    }
    Ok(None)
}

fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each is an offer: what the kernel does not know is left out, and costs speed only.
        for wanted in
            [InitFlags::FUSE_ASYNC_READ, InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_MAX_PAGES]
        {
            let _ = config.add_capabilities(wanted);
        }
        if let Err(most) = config.set_max_readahead(16 << 20) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(IN_FLIGHT as u16);
        let _ = config.set_congestion_threshold(IN_FLIGHT as u16 * 3 / 4);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(name) = name.to_str().map(str::to_owned) else {
            return reply.error(Errno::ENOENT);
        };
        self.spawn(|shared| async move {
            let tree = shared.fresh_tree().await;
            match tree.child(parent.0, &name) {
                Some(inode) => {
                    reply.entry(&Shared::ttl(inode), &shared.attr(inode), Generation(0));
                }
                None => reply.error(Errno::ENOENT),
            }
        });
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.shared.tree().get(ino.0) {
            Some(inode) => reply.attr(&Shared::ttl(inode), &self.shared.attr(inode)),
            // The kernel looks the name up again, and so learns of a pruned point.
            None => reply.error(Errno::ESTALE),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.shared.tree().get(ino.0).map(|inode| &inode.node) {
            Some(Node::Link(target)) => reply.data(target.as_bytes()),
            Some(_) => reply.error(Errno::EINVAL),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some(node) = self.shared.tree().get(ino.0).map(|inode| inode.node.clone()) else {
            return reply.error(Errno::ENOENT);
        };
        let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        if writes && !self.shared.takes_writes(&node) {
            return reply.error(Errno::EROFS);
        }
        self.spawn(|shared| async move {
            let opened = match writes {
                true => shared.open_for_writing(&node).await,
                false => shared.open_node(&node).await,
            };
            match opened {
                Ok(open) => {
                    let handle = shared.next_handle.fetch_add(1, Ordering::Relaxed);
                    shared.open.lock().insert(handle, Arc::new(open));
                    // Images never change but by writes through the kernel, so what it has cached
                    // stays true.
                    reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
                }
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(open) = self.shared.handle(handle) else { return reply.error(Errno::EBADF) };
        self.spawn(|shared| async move {
            match shared.read(&open, offset, size).await {
                Ok(bytes) => reply.data(&bytes),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(open) = self.shared.handle(handle) else { return reply.error(Errno::EBADF) };
        let data = data.to_vec();
        self.spawn(|shared| async move {
            match shared.write(&open, offset, &data).await {
                Ok(written) => reply.written(written),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let Some(open) = self.shared.handle(handle) else { return reply.error(Errno::EBADF) };
        self.spawn(|shared| async move {
            match shared.sync(&open).await {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(open) = self.shared.handle(handle) else { return reply.error(Errno::EBADF) };
        self.spawn(|shared| async move {
            match shared.allocate(&open, offset, length, mode).await {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let tree = self.shared.tree();
        let Some(inode) = tree.get(ino.0) else { return reply.error(Errno::ESTALE) };
        // A disk keeps its size and its owner; times are those of the point, whatever is asked.
        let changes = mode.is_some() || uid.is_some() || gid.is_some();
        match self.shared.takes_writes(&inode.node) {
            false => reply.error(Errno::EROFS),
            true if changes || size.is_some_and(|size| size != inode.size) => {
                reply.error(Errno::EPERM);
            }
            true => reply.attr(&Shared::ttl(inode), &self.shared.attr(inode)),
        }
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        // There are no other files than those of restore points, also where these can be written.
        reply.error(Errno::EROFS);
    }

    fn mkdir(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Some(open) = self.shared.handle(handle) else { return reply.error(Errno::EBADF) };
        self.spawn(|shared| async move {
            let seek = shared.seek(&open, offset, whence);
            match tokio::time::timeout(shared.options.read_timeout, seek).await {
                Ok(Ok(at)) => reply.offset(at),
                Ok(Err(errno)) => reply.error(errno),
                Err(_) => reply.error(Errno::EIO),
            }
        });
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.open.lock().remove(&handle.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.spawn(|shared| async move {
            // Only the first part of a listing asks anew, so that an offset does not jump.
            let tree = if offset == 0 { shared.fresh_tree().await } else { shared.tree() };
            let Some(folder) = tree.get(ino.0).filter(|i| i.kind() == FileType::Directory) else {
                return reply.error(Errno::ENOENT);
            };
            let dots = [(".", ino.0), ("..", ROOT)].into_iter();
            let children = folder.children.iter().map(|(name, number)| (name.as_str(), *number));
            for (at, (name, number)) in dots.chain(children).enumerate().skip(offset as usize) {
                let kind = tree.get(number).map_or(FileType::Directory, Inode::kind);
                if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // Read-only and of no size of its own: nothing is free, and nothing can fill up.
        reply.statfs(0, 0, 0, self.shared.tree().len() as u64, 0, 128 << 10, 255, 4096);
    }
}
