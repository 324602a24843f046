//! Writing behind: the pool decodes into buffers, and threads that do nothing else write them.
//!
//! A thread of the pool never waits for a disk while there is a buffer left, and a file that takes
//! one write at a time is not fought over. Buffers are few, used again and again, and begin at
//! addresses that direct I/O takes. Who needs one while all are full waits: each is either being
//! filled by a thread that holds no other, or on its way to the target, so one comes free.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};
use sluice_block::Buffer;
use sluice_repository::{BlockSink, RepositoryError};
use tokio::sync::oneshot;

use super::Target;
use crate::progress::Progress;

/// Bytes written at a time, where blocks lie side by side.
const PIECE: usize = 1 << 20;
/// Bytes of all buffers, but for images with blocks so large that they would be few.
const BUFFERS: usize = 32 << 20;

/// Why decoding a run ended.
pub(super) enum Failure {
    Repository(RepositoryError),
    /// A write failed, of this run or of another.
    Stopped,
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        Self::Repository(error)
    }
}

/// Blocks side by side, on their way to the target.
struct Piece {
    offset: u64,
    length: usize,
    buffer: Buffer,
    run: Arc<RunState>,
}

/// What became of the pieces of a run. The last one to go tells.
struct RunState {
    error: Mutex<Option<io::Error>>,
    tell: Mutex<Option<oneshot::Sender<io::Result<()>>>>,
}

impl Drop for RunState {
    fn drop(&mut self) {
        let result = self.error.lock().take().map_or(Ok(()), Err);
        if let Some(tell) = self.tell.lock().take() {
            // Nobody listens when the restore has failed elsewhere.
            let _ = tell.send(result);
        }
    }
}

struct State {
    queue: VecDeque<Piece>,
    free: Vec<Buffer>,
    /// Buffers that may still be made.
    unmade: usize,
    /// A write has failed: the target is not whole, and nothing more is written.
    failed: Option<io::Error>,
    /// No more pieces will come.
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// There is a piece to write, or an end of them.
    work: Condvar,
    /// There is a buffer, or a failure.
    room: Condvar,
    /// Bytes of a buffer: whole blocks.
    piece: usize,
    block: usize,
    target: Arc<dyn Target>,
    progress: Arc<Progress>,
}

/// The threads that write. They end when it is dropped.
pub(super) struct WriteBehind(Arc<Shared>);

impl WriteBehind {
    /// Starts as many threads as the target wants, for a pool of `workers`.
    pub(super) fn start(
        target: Arc<dyn Target>,
        block: usize,
        workers: usize,
        progress: Arc<Progress>,
    ) -> io::Result<Self> {
        let piece = (PIECE / block).max(1) * block;
        let writers = target.writers().max(1);
        let state = State {
            queue: VecDeque::new(),
            free: Vec::new(),
            unmade: (BUFFERS / piece).max(writers + workers),
            failed: None,
            closed: false,
        };
        let state = Mutex::new(state);
        let (work, room) = (Condvar::new(), Condvar::new());
        let shared = Shared { state, work, room, piece, block, target, progress };
        let behind = Self(Arc::new(shared));
        for number in 0..writers {
            let shared = behind.0.clone();
            let name = format!("sluice-write-{number}");
            thread::Builder::new().name(name).spawn(move || shared.write_all())?;
        }
        Ok(behind)
    }

    /// Takes in the pieces of a run of an image of `size` bytes. The receiver tells when the last
    /// of them is written, or that one was not.
    pub(super) fn pieces(&self, size: u64) -> (Pieces<'_>, oneshot::Receiver<io::Result<()>>) {
        let (tell, told) = oneshot::channel();
        let run = RunState { error: Mutex::default(), tell: Mutex::new(Some(tell)) };
        (Pieces { behind: &self.0, size, run: Arc::new(run), open: None }, told)
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.work.notify_all();
    }
}

impl Shared {
    /// A buffer, once there is one.
    ///
    /// # Errors
    /// That of a write that failed.
    fn buffer(&self) -> io::Result<Buffer> {
        let mut state = self.state.lock();
        loop {
            if let Some(error) = &state.failed {
                return Err(same(error));
            }
            if let Some(buffer) = state.free.pop() {
                return Ok(buffer);
            }
            if state.unmade > 0 {
                state.unmade -= 1;
                drop(state);
                return Ok(Buffer::new(self.piece));
            }
            self.room.wait(&mut state);
        }
    }

    fn put_back(&self, buffer: Buffer) {
        self.state.lock().free.push(buffer);
        self.room.notify_one();
    }

    fn queue(&self, piece: Piece) {
        self.state.lock().queue.push_back(piece);
        self.work.notify_one();
    }

    /// The work of one thread.
    fn write_all(&self) {
        while let Some((piece, failed)) = self.next() {
            let Piece { offset, length, buffer, run } = piece;
            let written = match failed {
                Some(error) => Err(error),
                // A thread that died of it would leave its piece unwritten, and others waiting.
                None => catch_unwind(AssertUnwindSafe(|| {
                    self.target.write_at(offset, &buffer[..length])
                }))
                .unwrap_or_else(|_| Err(io::Error::other("the target crashed"))),
            };
            match written {
                Ok(()) => self.progress.add_written(length as u64),
                Err(error) => {
                    self.state.lock().failed.get_or_insert(same(&error));
                    self.room.notify_all();
                    *run.error.lock() = Some(error);
                }
            }
            self.put_back(buffer);
        }
    }

    /// The next piece, and the error of a write that failed before.
    fn next(&self) -> Option<(Piece, Option<io::Error>)> {
        let mut state = self.state.lock();
        loop {
            if let Some(piece) = state.queue.pop_front() {
                return Some((piece, state.failed.as_ref().map(same)));
            }
            if state.closed {
                return None;
            }
            self.work.wait(&mut state);
        }
    }
}

/// The same error once more.
fn same(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Gathers the blocks of a run in pieces.
pub(super) struct Pieces<'b> {
    behind: &'b Shared,
    size: u64,
    run: Arc<RunState>,
    open: Option<Open>,
}

struct Open {
    first: u64,
    blocks: usize,
    buffer: Buffer,
}

impl BlockSink for Pieces<'_> {
    type Error = Failure;

    fn block(&mut self, block: u64) -> Result<&mut [u8], Failure> {
        let size = self.behind.block;
        let most = self.behind.piece / size;
        let follows = |open: &Open| open.blocks < most && open.first + open.blocks as u64 == block;
        if !self.open.as_ref().is_some_and(follows) {
            self.send();
            let buffer = self.behind.buffer().map_err(|error| {
                *self.run.error.lock() = Some(error);
                Failure::Stopped
            })?;
            self.open = Some(Open { first: block, blocks: 0, buffer });
        }
        // It was put there if it was not.
        let open = self.open.as_mut().ok_or(Failure::Stopped)?;
        open.blocks += 1;
        Ok(&mut open.buffer[(open.blocks - 1) * size..][..size])
    }
}

impl Pieces<'_> {
    /// No more blocks come.
    pub(super) fn finish(mut self) {
        self.send();
    }

    fn send(&mut self) {
        let Some(Open { first, blocks, buffer }) = self.open.take() else { return };
        let offset = first * self.behind.block as u64;
        let length = blocks * self.behind.block;
        // The last block is padded beyond the image's end.
        let length = length.min(self.size.saturating_sub(offset) as usize);
        self.behind.queue(Piece { offset, length, buffer, run: self.run.clone() });
    }
}

impl Drop for Pieces<'_> {
    fn drop(&mut self) {
        // Of a run that is damaged: its last block is not what it should be.
        if let Some(open) = self.open.take() {
            self.behind.put_back(open.buffer);
        }
    }
}
