//! Running programs: with a time limit, all output captured, and nothing left behind.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Far more than anything here takes on a busy machine; the runner of the tests waits longer.
pub const PATIENCE: Duration = Duration::from_secs(400);

/// A program to run.
pub struct Cmd {
    command: Command,
    stdin: Option<Stdio>,
    input: Option<Vec<u8>>,
}

impl Cmd {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), stdin: None, input: None }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// What it reads on its standard input; else that is empty.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// A file or pipe it reads as its standard input.
    pub fn stdin(mut self, from: impl Into<Stdio>) -> Self {
        self.stdin = Some(from.into());
        self
    }

    /// The same program, environment and arguments behind `before` (such as `nsenter -m ...`).
    pub fn behind(self, before: &[OsString]) -> Self {
        let mut command = Command::new(&before[0]);
        command.args(&before[1..]).arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self { command, ..self }
    }

    /// Starts it and leaves it running.
    pub fn spawn(mut self) -> Running {
        let what = show(&self.command);
        let stdin = match (&self.input, self.stdin) {
            (Some(_), _) => Stdio::piped(),
            (None, Some(stdin)) => stdin,
            // Never the terminal of whoever runs the tests.
            (None, None) => Stdio::null(),
        };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => missing(&self.command),
            Err(error) => panic!("cannot run {what}: {error}"),
        };
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), self.input) {
            // A program that does not read its input to the end is no failure of this thread.
            thread::spawn(move || drop(pipe.write_all(&input)));
        }
        let out = collect(child.stdout.take().unwrap());
        let err = collect(child.stderr.take().unwrap());
        let deadline = Instant::now() + PATIENCE;
        Running { child, what, out, err, deadline, peak: 0 }
    }

    /// Runs it to its end, whatever that is.
    pub fn run(self) -> Ran {
        self.spawn().wait()
    }

    /// Runs it; it must succeed.
    #[track_caller]
    pub fn ok(self) -> Ran {
        self.run().ended(0)
    }

    /// Runs it; it must end with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> Ran {
        self.run().ended(code)
    }
}

/// A program that runs; killed when dropped.
pub struct Running {
    child: Child,
    what: String,
    out: Receiver<Vec<u8>>,
    err: Receiver<Vec<u8>>,
    deadline: Instant,
    peak: u64,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself; it is not waited for yet, so the number is still its own.
        let _ = kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal);
    }

    pub fn is_over(&mut self) -> bool {
        self.peak = self.peak.max(peak_memory(self.child.id()));
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end, which must come in time.
    pub fn wait(mut self) -> Ran {
        while !self.is_over() {
            if Instant::now() > self.deadline {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                let (out, err) = (text(&self.out), text(&self.err));
                panic!("{} did not end in time\n{out}\n{err}", self.what);
            }
            thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait().unwrap();
        let late = "ended, and left a process behind that holds its output";
        let limit = Duration::from_secs(20);
        let out = self.out.recv_timeout(limit).unwrap_or_else(|_| panic!("{} {late}", self.what));
        let err = self.err.recv_timeout(limit).unwrap_or_else(|_| panic!("{} {late}", self.what));
        Ran {
            what: self.what.clone(),
            code: status.code(),
            signal: status.signal(),
            out,
            err: String::from_utf8(err).expect("messages are UTF-8"),
            peak: self.peak,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that has ended.
pub struct Ran {
    /// The command line.
    pub what: String,
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
    /// Most memory it held at a time, in bytes.
    pub peak: u64,
}

impl Ran {
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert!(
            self.code == Some(code),
            "{} ended with {:?} (signal {:?}) instead of {code}\n{}\n{}",
            self.what,
            self.code,
            self.signal,
            self.text(),
            self.err
        );
        assert!(!self.err.contains("panicked"), "{}: {}", self.what, self.err);
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Its output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|error| panic!("{}: {error} in {}", self.what, self.text()))
    }

    /// Checks that the messages contain each of `words`, whatever their case.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let err = self.err.to_lowercase();
        for word in words {
            assert!(err.contains(&word.to_lowercase()), "{}: no {word:?} in: {err}", self.what);
        }
        self
    }
}

/// Polls until `done`, and gives up after a while.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: this did not come");
        thread::sleep(Duration::from_millis(5));
    }
}

/// `VmHWM` of a process in bytes; 0 when it is over.
pub fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn collect(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth showing.
        let _ = from.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

fn text(from: &Receiver<Vec<u8>>) -> String {
    let bytes = from.recv_timeout(Duration::from_secs(2)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Which Debian package has a program.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdkit", "nbdkit"),
    ("iscsi-inq", "libiscsi-bin"),
    ("iscsi-ls", "libiscsi-bin"),
    ("iscsi-readcapacity16", "libiscsi-bin"),
    ("iscsi-test-cu", "libiscsi-bin"),
    ("fusermount3", "fuse3"),
    ("losetup", "mount"),
    ("mkfs.xfs", "xfsprogs"),
    ("mke2fs", "e2fsprogs"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("curl", "curl"),
    ("wget", "wget"),
    ("aria2c", "aria2"),
    ("openssl", "openssl"),
    ("cmp", "diffutils"),
    ("bash", "bash"),
];

fn missing(command: &Command) -> ! {
    let program = command.get_program().to_string_lossy().into_owned();
    match PACKAGES.iter().find(|(name, _)| *name == program) {
        Some((_, package)) => panic!("{program} is missing: install the Debian package {package}"),
        None => panic!("{program} is missing"),
    }
}
