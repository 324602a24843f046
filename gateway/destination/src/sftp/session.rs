//! A running `ssh` and the requests under way through it.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::config::SftpConfig;
use super::wire::{
    self, Ask, Extensions, MAX_PACKET, Malformed, Reply, hello, parse_hello, parse_reply,
};
use crate::{DestinationError, ErrorKind, Result};

/// Requests that wait for being written, at most; each holds at most one chunk of a body.
const WAITING: usize = 64;

/// Handles to close and names to remove that wait for being written, at most. There are two for
/// each put, and far fewer than five hundred of these at a time.
const PARTING: usize = 1024;

/// How much of what `ssh` complains is kept, in bytes.
const MAX_WORDS: usize = 4096;

/// A request's bytes and what follows them.
type Frame = (Vec<u8>, Bytes);

/// Who waits for which reply; none when the connection has ended.
type Pending = Arc<Mutex<Option<HashMap<u32, oneshot::Sender<Reply>>>>>;

/// A connection to a server. Dropping it ends its `ssh`.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) extensions: Extensions,
    requests: mpsc::Sender<Frame>,
    /// Requests whose replies nobody waits for.
    farewells: mpsc::Sender<Frame>,
    pending: Pending,
    next: AtomicU32,
    words: Arc<Mutex<Vec<u8>>>,
    tasks: [JoinHandle<()>; 3],
    _ssh: Child,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A handle of the server, closed when dropped.
#[derive(Debug)]
pub(super) struct Handle {
    session: Arc<Session>,
    pub(super) name: Bytes,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.session.forget(Ask::Close(&self.name));
    }
}

impl Session {
    /// Starts `ssh` and waits until the server has said what it can do.
    pub(super) async fn open(config: &SftpConfig) -> Result<Arc<Self>> {
        let mut command = Command::new("ssh");
        command.args(config.arguments()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for us: requests under way are finished first.
        command.process_group(0);
        let mut ssh = command.spawn().map_err(|error| {
            let context = "cannot start ssh; install the package openssh-client";
            DestinationError::caused(ErrorKind::InvalidConfig, context, error)
        })?;
        let (Some(input), Some(mut output), Some(errors)) =
            (ssh.stdin.take(), ssh.stdout.take(), ssh.stderr.take())
        else {
            return Err(DestinationError::new(ErrorKind::Other, "ssh has no pipes"));
        };
        let words = Arc::default();
        let listening = tokio::spawn(listen(errors, Arc::clone(&words)));
        let mut input = BufWriter::new(input);
        let greeting = async {
            input.write_all(&hello()).await.ok()?;
            input.flush().await.ok()?;
            parse_hello(read_packet(&mut output).await.ok()?).ok()
        };
        let time = config.timeouts.connect + config.timeouts.answer;
        let extensions = match tokio::time::timeout(time, greeting).await {
            Ok(Some(extensions)) => extensions,
            Ok(None) => {
                // What it says last comes after its output has ended.
                let last = std::time::Duration::from_secs(5);
                let _ = tokio::time::timeout(last, listening).await;
                let words = String::from_utf8_lossy(&words.lock()).into_owned();
                return Err(unconnected(config, &words));
            }
            Err(elapsed) => {
                let context = format!("connect to {}: no answer in time", config.location());
                return Err(DestinationError::caused(ErrorKind::Unavailable, context, elapsed));
            }
        };
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let (requests, to_send) = mpsc::channel(WAITING);
        let (farewells, last) = mpsc::channel(PARTING);
        let tasks = [
            tokio::spawn(write(input, to_send, last, Arc::clone(&pending))),
            tokio::spawn(read(output, Arc::clone(&pending))),
            listening,
        ];
        let next = AtomicU32::new(0);
        let session =
            Self { extensions, requests, farewells, pending, next, words, tasks, _ssh: ssh };
        Ok(Arc::new(session))
    }

    /// Whether requests may still be answered.
    pub(super) fn is_alive(&self) -> bool {
        self.pending.lock().is_some()
    }

    /// Lets nobody use the connection any more.
    pub(super) fn give_up(&self) {
        *self.pending.lock() = None;
    }

    /// Sends a request and waits for its reply.
    pub(super) async fn call(&self, ask: Ask<'_>, body: Bytes) -> Result<Reply> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        match &mut *self.pending.lock() {
            Some(pending) => drop(pending.insert(id, sender)),
            None => return Err(self.lost()),
        }
        let frame = (wire::request(id, ask), body);
        self.requests.send(frame).await.map_err(|_| self.lost())?;
        reply.await.map_err(|_| self.lost())
    }

    /// Sends a request whose reply nobody waits for.
    pub(super) fn forget(&self, ask: Ask<'_>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        // When the connection has ended, the server has closed everything. One that takes no
        // requests any more is ended for the same reason.
        if self.farewells.try_send((wire::request(id, ask), Bytes::new())).is_err() {
            self.give_up();
        }
    }

    /// A handle that closes itself.
    pub(super) fn handle(self: &Arc<Self>, name: Bytes) -> Handle {
        Handle { session: Arc::clone(self), name }
    }

    fn lost(&self) -> DestinationError {
        let words = String::from_utf8_lossy(&self.words.lock()).into_owned();
        let context = format!("the connection broke off; ssh says: {}", last_words(&words));
        DestinationError::new(ErrorKind::Unavailable, context)
    }
}

/// The error of an `ssh` that ended before a server answered.
fn unconnected(config: &SftpConfig, words: &str) -> DestinationError {
    let said = |text: &str| words.contains(text);
    let (kind, advice) = if said("Host key verification failed") {
        (
            ErrorKind::InvalidConfig,
            "the server's key is not the known one; compare it, then add it to known_hosts, or \
             name a file with known-hosts=FILE",
        )
    } else if said("Permission denied") || said("Too many authentication failures") {
        (
            ErrorKind::AccessDenied,
            "check the user, and that its key is in key-file=FILE without a passphrase, or in an \
             agent",
        )
    } else if said("bad permissions") || said("invalid format") || said("Load key") {
        (ErrorKind::AccessDenied, "the key cannot be used")
    } else if said("subsystem request failed") {
        (ErrorKind::InvalidConfig, "the server does not offer SFTP to this user")
    } else if said("Bad configuration option") {
        (ErrorKind::InvalidConfig, "correct the configuration of ssh")
    } else {
        (ErrorKind::Unavailable, "check the server's name, its port and the network")
    };
    let said = last_words(words);
    let context = format!("connect to {}: {advice}; ssh says: {said}", config.location());
    DestinationError::new(kind, context)
}

/// The last line of what `ssh` says: its reason, after any warnings.
fn last_words(words: &str) -> String {
    let line = words.lines().rfind(|line| !line.trim().is_empty());
    line.map_or("nothing".to_owned(), |line| wire::plain(line.as_bytes()))
}

async fn read_packet(output: &mut ChildStdout) -> std::io::Result<Bytes> {
    let length = output.read_u32().await?;
    if length > MAX_PACKET {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut packet = vec![0; length as usize];
    output.read_exact(&mut packet).await?;
    Ok(packet.into())
}

/// Hands replies to those who wait for them, until the connection ends.
async fn read(mut output: ChildStdout, pending: Pending) {
    while let Ok(packet) = read_packet(&mut output).await {
        let (id, reply) = match parse_reply(packet) {
            Ok(reply) => reply,
            Err(Malformed) => break,
        };
        let waiting = match &mut *pending.lock() {
            Some(pending) => pending.remove(&id),
            None => break,
        };
        // Who does not wait any more has been told something else.
        let _ = waiting.map(|sender| sender.send(reply));
    }
    *pending.lock() = None;
}

async fn write(
    mut input: BufWriter<ChildStdin>,
    mut requests: mpsc::Receiver<Frame>,
    mut farewells: mpsc::Receiver<Frame>,
    pending: Pending,
) {
    loop {
        let next = tokio::select! {
            biased;
            frame = farewells.recv() => frame,
            frame = requests.recv() => frame,
        };
        let Some((head, body)) = next else { break };
        let sent = async {
            input.write_all(&head).await?;
            input.write_all(&body).await?;
            let idle = requests.is_empty() && farewells.is_empty();
            if idle { input.flush().await } else { Ok(()) }
        };
        if sent.await.is_err() {
            break;
        }
    }
    *pending.lock() = None;
}

/// Keeps the first words of what `ssh` says.
async fn listen(mut errors: ChildStderr, words: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = errors.read(&mut buffer).await {
        let mut words = words.lock();
        let room = MAX_WORDS.saturating_sub(words.len());
        words.extend_from_slice(&buffer[..length.min(room)]);
    }
}
