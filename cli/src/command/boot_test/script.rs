//! Commands of this machine that tell whether a guest answers.
//!
//! ```text
//!   exit code   accepted ──► it answers
//!               rejected ──► it never will: the test has failed
//!               any other, or none in time ──► the command is run again
//! ```
//!
//! A login is tried only once the guest takes connections: it then has all the time that a command
//! has. QEMU takes them before, and lets whoever makes one wait for a guest that is not up.
//!
//! A command gets nothing of this process's secrets. It ends with all that it has started when the
//! test does: when the guest answers, in time or not, when somebody stops the test, by a second
//! signal too, and when its node is gone. Where this process is killed by SIGKILL, the command dies
//! with it, and what that has started in the background does not.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use sluice_node_api::{CheckScript, CheckSsh};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::machine::ssh_port;
use super::monitor::Ports;
use crate::args::BootTestArgs;
use crate::error::advise;
use crate::leash;

/// What logs in.
pub(crate) const SSH: &str = "ssh";
/// How much of what a command writes is kept, in bytes: its end.
const SAID: usize = 4 << 10;
/// How long a command may take when nothing is said.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause before it is run again.
const PAUSE: Duration = Duration::from_secs(1);
/// What a command gets of this process's environment.
const KEPT: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];
/// Where the guest's ports are.
const HOST: &str = "127.0.0.1";

/// A command that is run until it says that the guest answers.
#[derive(Debug, Clone)]
pub(super) struct Script {
    what: What,
    accept: Vec<i32>,
    reject: Vec<i32>,
    limit: Duration,
    ports: Vec<u16>,
    last: Arc<Mutex<Last>>,
}

#[derive(Debug, Clone)]
enum What {
    Command(Vec<String>),
    Login(CheckSsh, PathBuf),
}

/// How it ended last.
#[derive(Debug, Default)]
struct Last {
    begun: u32,
    runs: u32,
    ended: String,
    said: String,
}

impl Script {
    /// All that the arguments say.
    pub(super) fn all(args: &BootTestArgs) -> Vec<Self> {
        let key = args.ssh_key.clone().unwrap_or_default();
        let scripts = args.script.iter().map(Self::of_command);
        scripts.chain(args.ssh.iter().map(|login| Self::of_login(login, key.clone()))).collect()
    }

    /// Refuses commands that can never run: what is missing on this machine says nothing of the
    /// guest.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn check(args: &BootTestArgs) -> Result<()> {
        for script in &args.script {
            let program = script.command.first().map_or("", String::as_str);
            if !is_program(program) {
                let text = format!("{program:?} is no program of this machine");
                return Err(advise("local", text, "see how --script names it"));
            }
        }
        if args.ssh.is_empty() {
            return Ok(());
        }
        if !is_program(SSH) {
            let text = format!("{SSH} is not on this machine");
            return Err(advise("local", text, "install the package openssh-client"));
        }
        let key = args.ssh_key.as_deref().unwrap_or(Path::new(""));
        let opened = std::fs::File::open(key);
        opened.map(drop).with_context(|| format!("cannot read the key {}", key.display()))
    }

    fn of_command(script: &CheckScript) -> Self {
        let limit = match script.limit_seconds {
            0 => LIMIT,
            seconds => Duration::from_secs(seconds),
        };
        let accept = if script.accept.is_empty() { vec![0] } else { script.accept.clone() };
        Self {
            what: What::Command(script.command.clone()),
            accept,
            reject: script.reject.clone(),
            limit,
            ports: script.ports.clone(),
            last: Arc::default(),
        }
    }

    fn of_login(login: &CheckSsh, key: PathBuf) -> Self {
        let ports = vec![ssh_port(login)];
        let what = What::Login(login.clone(), key);
        let (accept, reject, last) = (vec![0], Vec::new(), Arc::default());
        Self { what, accept, reject, limit: LIMIT, ports, last }
    }

    /// The port of the guest that must take connections before it is worth a try.
    pub(super) fn login_port(&self) -> Option<u16> {
        match &self.what {
            What::Command(_) => None,
            What::Login(login, _) => Some(ssh_port(login)),
        }
    }

    /// What is told of it.
    pub(super) fn told(&self, answered_ms: Option<u64>) -> Value {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = match &self.what {
            What::Command(command) => json!({"kind": "script", "command": command}),
            What::Login(login, _) => {
                json!({"kind": "ssh", "user": login.user, "port": ssh_port(login)})
            }
        };
        told["answered_ms"] = json!(answered_ms);
        told["runs"] = last.runs.into();
        told["ended"] = last.ended.as_str().into();
        told["said"] = last.said.as_str().into();
        told
    }

    /// What is missing while it has not said that the guest answers.
    pub(super) fn words(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let what = match &self.what {
            What::Command(command) => command.first().cloned().unwrap_or_default(),
            What::Login(login, _) => format!("the login of {} by SSH", login.user),
        };
        match (last.ended.as_str(), self.login_port()) {
            ("", Some(port)) if last.begun == 0 => format!("{what}: port {port} does not answer"),
            ("", _) => format!("{what} has not ended"),
            (ended, _) => format!("{what}: {ended}"),
        }
    }

    /// Runs it once; whether it says that the guest answers.
    ///
    /// # Errors
    /// Why it never will.
    pub(super) async fn run(&self, ports: &Ports) -> Result<bool, String> {
        // A command with no port yet would only find out that there is none.
        let mut places = Vec::new();
        for port in &self.ports {
            let Some(here) = ports.forward(*port).await else { return Ok(false) };
            places.push((*port, here));
        }
        self.last.lock().unwrap_or_else(PoisonError::into_inner).begun += 1;
        let (ended, said) = self.once(&places).await;
        let code = match &ended {
            Ok(status) => status.code(),
            Err(_) => None,
        };
        let text = ended.map_or_else(|why| why, |status| status.to_string());
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.runs += 1;
            last.ended = text;
            last.said = said;
        }
        match code {
            Some(code) if self.accept.contains(&code) => Ok(true),
            Some(code) if self.reject.contains(&code) => Err(self.words()),
            _ => {
                tokio::time::sleep(PAUSE).await;
                Ok(false)
            }
        }
    }

    async fn once(
        &self,
        places: &[(u16, u16)],
    ) -> (Result<std::process::ExitStatus, String>, String) {
        let command = match &self.what {
            What::Command(command) => command.clone(),
            What::Login(login, key) => {
                let here = places.first().map_or(0, |(_, here)| *here);
                ssh(login, &key.to_string_lossy(), here)
            }
        };
        let mut running = match Running::start(&command, places) {
            Ok(running) => running,
            Err(why) => return (Err(why), String::new()),
        };
        let ended = tokio::time::timeout(self.limit, running.child.wait()).await;
        let ended = match ended {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it took longer than it may".to_owned()),
        };
        let said = running.said();
        (ended, said)
    }
}

/// Whether a word names a program: as a path, or as one of the folders of PATH.
pub(crate) fn is_program(word: &str) -> bool {
    let runs = |path: PathBuf| {
        let found = std::fs::metadata(path);
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if word.contains('/') {
        return runs(word.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    !word.is_empty() && std::env::split_paths(&path).any(|folder| runs(folder.join(word)))
}

/// `ssh` that asks nobody and forwards nothing. The guest's key is not looked at: it runs on this
/// machine, of a restore point, and nobody else can take its place.
fn ssh(login: &CheckSsh, key: &str, here: u16) -> Vec<String> {
    let options = [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null",
        "ForwardAgent=no",
        "ClearAllForwardings=yes",
        "LogLevel=ERROR",
    ];
    let mut words: Vec<String> = [SSH, "-F", "none", "-T", "-i", key].map(Into::into).to_vec();
    words.extend(options.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]));
    words.extend(["-p".to_owned(), here.to_string(), "--".to_owned()]);
    words.push(format!("{}@{HOST}", login.user));
    // The guest's shell reads them.
    let quoted = |word: &String| format!("'{}'", word.replace('\'', "'\\''"));
    match login.command.as_slice() {
        [] => words.push("true".to_owned()),
        command => words.push(command.iter().map(quoted).collect::<Vec<_>>().join(" ")),
    }
    words
}

/// A command that runs; killed with all that it has started when dropped.
struct Running {
    child: tokio::process::Child,
    group: Option<Pid>,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Running {
    fn start(words: &[String], places: &[(u16, u16)]) -> Result<Self, String> {
        let (program, words) = words.split_first().ok_or("there is no command")?;
        let mut command = leash::tether(program.as_ref());
        for (name, _) in std::env::vars_os() {
            if !KEPT.iter().any(|kept| name == *kept) {
                command.env_remove(name);
            }
        }
        command.args(words).env("SLUICE_GUEST_HOST", HOST).process_group(0).kill_on_drop(true);
        for (there, here) in places {
            command.env(format!("SLUICE_GUEST_PORT_{there}"), here.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = group {
            leash::take_along(group);
        }
        let said = Arc::default();
        keep(child.stdout.take(), Arc::clone(&said));
        keep(child.stderr.take(), Arc::clone(&said));
        Ok(Self { child, group, said })
    }

    fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&said).into_owned();
        text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
            leash::let_go(group);
        }
    }
}

/// Keeps the end of what comes out of a pipe.
fn keep(from: Option<impl AsyncRead + Unpin + Send + 'static>, to: Arc<Mutex<Vec<u8>>>) {
    let Some(mut from) = from else { return };
    tokio::spawn(async move {
        let mut piece = [0; 1024];
        while let Ok(many @ 1..) = from.read(&mut piece).await {
            let mut said = to.lock().unwrap_or_else(PoisonError::into_inner);
            said.extend_from_slice(&piece[..many]);
            let rest = said.len().saturating_sub(SAID);
            said.drain(..rest);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_asks_nobody_and_its_words_are_the_guests() {
        let command = vec!["systemctl".to_owned(), "it's".to_owned()];
        let login = CheckSsh { user: "root".into(), port: 22, command };
        let typed = ssh(&login, "/k", 40122);
        assert_eq!(typed.last().unwrap(), r"'systemctl' 'it'\''s'");
        let text = typed.join(" ");
        assert!(text.contains("-i /k") && text.contains("-p 40122 -- root@127.0.0.1"), "{text}");
        assert!(text.contains("BatchMode=yes") && text.contains("IdentitiesOnly=yes"), "{text}");
        let login = CheckSsh { user: "root".into(), ..CheckSsh::default() };
        assert_eq!(ssh(&login, "/k", 1).last().unwrap(), "true");
    }

    #[test]
    fn a_login_waits_for_a_port_and_then_has_the_time_of_a_command() {
        let login = CheckSsh { user: "root".into(), ..CheckSsh::default() };
        let script = Script::of_login(&login, "/k".into());
        assert_eq!((script.login_port(), script.limit), (Some(22), LIMIT));
        assert_eq!(script.words(), "the login of root by SSH: port 22 does not answer");
        assert!(!ssh(&login, "/k", 1).iter().any(|word| word.starts_with("ConnectTimeout")));
        assert_eq!(Script::of_command(&CheckScript::default()).login_port(), None);
    }

    #[test]
    fn what_nothing_is_said_of_is_usual() {
        let script = Script::of_command(&CheckScript::default());
        assert_eq!((script.accept.as_slice(), script.limit), (&[0][..], LIMIT));
    }
}
