//! Mounts as processes.
//!
//! The standard error of a process is its log, `ID.log` in the state folder. mountd opens and
//! locks that file, and the lock is held for as long as the process or anything it started has
//! the file open. So whoever gets the lock knows that nothing of an earlier start runs any more,
//! also when that was started by a daemon that was killed since.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use rustix::fs::FlockOperation;
use serde_json::Value;
use sluice_mountd::metrics::Statistics;
use sluice_mountd::{Ended, Failure, Job, Runner, Running, Started};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::command::detach::Spec;
use crate::managed::{Answer, Greeting, MANAGED};

/// A line of a mount is not longer than this, in bytes.
const LONGEST: u64 = 1 << 20;
/// How long an earlier process of the same mount is waited for.
const FORMER: Duration = Duration::from_secs(30);
const FORMER_STEP: Duration = Duration::from_millis(100);
/// How long a process may take to end in good order.
const GRACE: Duration = Duration::from_secs(25);
/// How long a process may take to tell what it has done.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of the end of a log is looked at for a reason, in bytes.
const TAIL: u64 = 4 << 10;
/// A log that has grown beyond this is emptied, in bytes.
const LONGEST_LOG: u64 = 1 << 20;

/// Starts mounts as processes of this executable.
#[derive(Debug)]
pub(crate) struct Processes {
    executable: PathBuf,
    state: PathBuf,
    /// Whether secrets that nobody gave may be this process's own.
    own_secrets: bool,
}

impl Processes {
    pub(crate) fn new(state: &Path) -> Result<Self> {
        let executable = std::env::current_exe().context("cannot find this executable")?;
        Ok(Self { executable, state: state.to_owned(), own_secrets: true })
    }

    /// The same for mounts of others, whose secrets are never this process's own.
    pub(crate) fn of_others(state: &Path) -> Result<Self> {
        Ok(Self { own_secrets: false, ..Self::new(state)? })
    }

    /// A variable of this process, where it may be given to mounts.
    fn own(&self, name: &str) -> Option<std::ffi::OsString> {
        self.own_secrets.then(|| std::env::var_os(name)).flatten()
    }

    fn log(&self, id: &str) -> PathBuf {
        self.state.join(format!("{id}.log"))
    }

    /// The log, locked: nothing of an earlier start runs any more.
    async fn lock(&self, id: &str) -> Result<File, Failure> {
        let path = self.log(id);
        let failed = |error: std::io::Error| {
            Failure::new("state", format!("cannot use {}: {error}", path.display()))
        };
        let mut options = OpenOptions::new();
        let options = options.create(true).append(true).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        let begun = tokio::time::Instant::now();
        while let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            if begun.elapsed() > FORMER {
                let text = "the former process of this mount has not ended yet";
                return Err(Failure::new("busy", text));
            }
            tokio::time::sleep(FORMER_STEP).await;
        }
        Ok(file)
    }

    fn command(&self, spec: &Spec, job: &Job, log: File) -> Command {
        let mut command = Command::new(&self.executable);
        let mut words = spec.argv.iter();
        command.arg0(words.next().map_or("sluice", String::as_str)).args(words);
        command
            .current_dir(&spec.folder)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(&spec.environment).env(MANAGED, "1");
        for name in &job.secret_names {
            let given = job.secrets.get(name).map(Into::into);
            if let Some(value) = given.or_else(|| self.own(name)) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        // Ctrl-C is for mountd, which then ends mounts in good order.
        command.process_group(0).kill_on_drop(true);
        command
    }
}

#[async_trait]
impl Runner for Processes {
    async fn start(&self, job: &Job) -> Result<Started, Failure> {
        let spec: Spec = serde_json::from_value(job.spec.clone()).map_err(|error| {
            hopeless(Failure::new("protocol", format!("this is no mount: {error}")))
        })?;
        let known = |name: &&String| job.secrets.contains_key(*name) || self.own(name).is_some();
        if let Some(name) = job.secret_names.iter().find(|name| !known(name)) {
            let text = format!("{name} was kept in memory only, and is gone since the restart");
            let help = "unmount it and mount it again";
            return Err(hopeless(Failure::new("wrong-key", text).with_help(help)));
        }
        let log = self.lock(&job.id).await?;
        let cut = log.set_len(0);
        cut.map_err(|error| Failure::new("state", format!("cannot empty the log: {error}")))?;
        if let Some(dir) = &spec.dir {
            remove_stale(dir).await;
            // It went when the mount failed; whatever else is there now is found by who mounts.
            if spec.made {
                let _ = std::fs::create_dir(dir);
            }
        }
        let mut command = self.command(&spec, job, log);
        let failed = |error: std::io::Error| {
            Failure::new("local", format!("cannot start {}: {error}", self.executable.display()))
        };
        let mut child = command.spawn().map_err(failed)?;
        // It holds the descriptor of the log.
        drop(command);
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new("local", "the process has no pipes"));
        };
        let greeting = Greeting { identity: job.identity.clone() };
        let mut line = serde_json::to_vec(&greeting).unwrap_or_default();
        line.push(b'\n');
        let mut process = Process {
            log: self.log(&job.id),
            child,
            stdout: BufReader::new(stdout),
            stdin: None,
            half: Vec::new(),
            asked: 0,
        };
        // A process that has ended already says why.
        let greeted = stdin.write_all(&line).await.is_ok();
        process.stdin = greeted.then_some(stdin);
        let identity = process.ready().await?;
        Ok(Started { identity, running: Box::new(process) })
    }

    fn kind(&self, spec: &Value) -> String {
        spec["kind"].as_str().unwrap_or_default().to_owned()
    }

    async fn clean(&self, id: &str, spec: &Value) {
        // What could not be locked is still there: it removes its mount itself.
        let Ok(_lock) = self.lock(id).await else { return };
        if let Some(dir) = spec["dir"].as_str() {
            remove_stale(Path::new(dir)).await;
            // Only while it is empty: what somebody has put there stays.
            if spec["made"] == true {
                let _ = std::fs::remove_dir(dir);
            }
        }
        let _ = std::fs::remove_file(self.log(id));
    }
}

fn hopeless(failure: Failure) -> Failure {
    Failure { hopeless: true, ..failure }
}

/// Removes the mount of a process that is gone.
async fn remove_stale(dir: &Path) {
    let dir = dir.to_owned();
    let removed = tokio::task::spawn_blocking(move || {
        let dead = |error: std::io::Error| {
            let code = error.raw_os_error();
            [rustix::io::Errno::NOTCONN, rustix::io::Errno::CONNABORTED]
                .iter()
                .any(|dead| code == Some(dead.raw_os_error()))
        };
        if std::fs::metadata(&dir).is_err_and(dead)
            && let Err(error) = sluice_fuse::unmount(&dir)
        {
            tracing::warn!(dir = %dir.display(), "a dead mount cannot be removed: {error}");
        }
    });
    let _ = removed.await;
}

/// A process that serves a mount.
struct Process {
    child: Child,
    /// Open for as long as the process is wanted.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
    /// What has come of a line that is not complete.
    half: Vec<u8>,
    /// The number of the last question.
    asked: u64,
}

impl Process {
    /// The next line, as JSON; nothing at the end, or when it is something else. Who stops
    /// waiting in the middle of a line loses nothing of it.
    async fn line(&mut self) -> Option<Value> {
        let left = LONGEST.saturating_sub(self.half.len() as u64);
        let mut limited = (&mut self.stdout).take(left);
        limited.read_until(b'\n', &mut self.half).await.ok()?;
        serde_json::from_slice(&std::mem::take(&mut self.half)).ok()
    }

    /// What it says when it is ready.
    async fn ready(&mut self) -> Result<Value, Failure> {
        while let Some(said) = self.line().await {
            if said["type"] == "ready" {
                return Ok(said);
            }
            if let Some(failure) = failure(&said["error"]) {
                return Err(failure);
            }
            // Anything else is progress.
        }
        let status = self.end().await;
        Err(Failure::new("failed", self.reason(status)))
    }

    /// Waits for its end; it is killed when that takes too long.
    async fn end(&mut self) -> Option<ExitStatus> {
        self.stdin = None;
        match tokio::time::timeout(GRACE, self.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                tracing::warn!("a mount does not end by itself, and is killed");
                let _ = self.child.kill().await;
                None
            }
        }
    }

    /// Why it ended, when it did not say so: its last words.
    fn reason(&self, status: Option<ExitStatus>) -> String {
        let ended = match status {
            Some(status) => format!("the process of the mount ended with {status}"),
            None => "the process of the mount had to be killed".to_owned(),
        };
        let words = last_line(&self.log).unwrap_or_default();
        if words.is_empty() { ended } else { format!("{ended}: {words}") }
    }
}

/// An error as a command tells it.
fn failure(error: &Value) -> Option<Failure> {
    let mut message = error["message"].as_str()?.to_owned();
    for cause in error["causes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        message = format!("{message}: {cause}");
    }
    let kind = error["kind"].as_str().unwrap_or("failed");
    let failure = Failure::new(kind, message);
    Some(match error["help"].as_str() {
        Some(help) => failure.with_help(help),
        None => failure,
    })
}

fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
}

#[async_trait]
impl Running for Process {
    async fn wait(&mut self) -> Ended {
        let status = self.child.wait().await;
        if status.as_ref().is_ok_and(ExitStatus::success) {
            return Ended::Finished;
        }
        while let Some(said) = self.line().await {
            if let Some(failure) = failure(&said["error"]) {
                return Ended::Broken(failure.message);
            }
        }
        Ended::Broken(self.reason(status.ok()))
    }

    async fn stop(&mut self) {
        self.end().await;
    }

    async fn statistics(&mut self) -> Option<Statistics> {
        self.cut_log();
        self.asked += 1;
        let number = self.asked;
        let answered = async {
            let question = format!("statistics {number}\n");
            self.stdin.as_mut()?.write_all(question.as_bytes()).await.ok()?;
            // A late answer to an earlier question may come first.
            loop {
                let answer: Answer = serde_json::from_value(self.line().await?).ok()?;
                if answer.number == number {
                    return Some(answer.statistics);
                }
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.ok().flatten()
    }
}

impl Process {
    /// A log that has grown too long begins anew; its writer appends.
    fn cut_log(&self) {
        let file = OpenOptions::new().write(true).open(&self.log);
        if let Ok(file) = file
            && file.metadata().is_ok_and(|metadata| metadata.len() > LONGEST_LOG)
        {
            let _ = file.set_len(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_is_told_with_its_causes_and_its_hint() {
        let told = json!({"kind": "damaged", "message": "a", "causes": ["b", "c"], "help": "d"});
        let expected = Failure::new("damaged", "a: b: c").with_help("d");
        assert_eq!(failure(&told), Some(expected));
        assert_eq!(failure(&Value::Null), None);
    }

    #[tokio::test]
    async fn a_line_that_was_not_waited_for_to_its_end_is_not_lost() {
        let said = "printf '{\"a\":'; read go; echo 1}; echo 2";
        let mut command = Command::new("sh");
        command.args(["-c", said]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut process = Process {
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
            log: PathBuf::new(),
            half: Vec::new(),
            asked: 0,
        };
        while process.half != b"{\"a\":" {
            let short = Duration::from_millis(5);
            assert!(tokio::time::timeout(short, process.line()).await.is_err());
        }
        process.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
        assert_eq!(process.line().await, Some(json!({"a": 1})));
        assert_eq!(process.line().await, Some(json!(2)));
        assert_eq!(process.line().await, None);
    }

    #[test]
    fn the_last_words_of_a_log_are_its_last_line_that_says_something() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, format!("{}\n x \n\n", "y".repeat(10_000))).unwrap();
        assert_eq!(last_line(&log).as_deref(), Some("x"));
        std::fs::write(&log, "").unwrap();
        assert_eq!(last_line(&log), None);
    }
}
