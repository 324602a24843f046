//! The processes: a server and its nodes, started again and again.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::NODES;
use super::disks::Disks;
use super::wire::Wire;

/// A server that finds no database, or no room, is started again for so long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Size of the server's folder while its disk may become full.
const ROOM: &str = "size=48m,mode=0700";

/// What can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Server,
    Node(usize),
}

impl Part {
    fn name(self) -> String {
        match self {
            Self::Server => "server".to_owned(),
            Self::Node(number) => format!("node-{number}"),
        }
    }
}

/// The processes and what they need.
#[derive(Debug)]
pub(super) struct Plane {
    sluice: PathBuf,
    pub(super) folder: PathBuf,
    database: Option<String>,
    port: u16,
    /// Whether the server's folder is a small disk of its own.
    small: bool,
    server: Mutex<Option<Child>>,
    nodes: Vec<Mutex<Option<Child>>>,
    /// From each node to the server.
    pub(super) wires: Vec<Wire>,
}

impl Plane {
    pub(super) fn new(sluice: PathBuf, folder: PathBuf, database: Option<String>) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        std::fs::create_dir_all(folder.join("server"))?;
        let nodes = (0..NODES).map(|_| Mutex::default()).collect();
        let server = Mutex::default();
        let wires = (0..NODES).map(|_| Wire::to(port)).collect::<Result<_>>()?;
        Ok(Self { sluice, folder, database, port, small: false, server, nodes, wires })
    }

    /// Gives the server a small disk, where this process may mount one.
    pub(super) fn limit_disk(&mut self) {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", ROOM, "sluice-soak"]).arg(self.folder.join("server"));
        let done = mount.stderr(Stdio::null()).status();
        self.small = done.is_ok_and(|status| status.success());
        if !self.small {
            println!("soak: SKIPPED: no disk becomes full, for nothing may be mounted here");
        }
    }

    /// Fills it; whether there is one.
    pub(super) fn fill_disk(&self) -> Result<bool> {
        if !self.small {
            return Ok(false);
        }
        let mut file = File::create(self.folder.join("server/filler"))?;
        let full = std::io::copy(&mut std::io::repeat(1), &mut file);
        if full.is_ok() {
            bail!("a disk has no end");
        }
        Ok(true)
    }

    pub(super) fn empty_disk(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.folder.join("server/filler"))?)
    }

    /// The executable, for a person.
    fn person(&self) -> Command {
        let mut command = Command::new(&self.sluice);
        command
            .env("HOME", &self.folder)
            .env("SLUICE_LOGIN", self.folder.join("login.json"))
            .env("SLUICE_PASSWORD_FILE", self.folder.join("password"))
            .arg("--json")
            .stdin(Stdio::null());
        command
    }

    /// What a command prints, or null when it fails.
    pub(super) fn ask(&self, words: &[&str]) -> Result<Value> {
        let output = self.person().args(words).output().context("cannot start sluice")?;
        if !output.status.success() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What a command prints, which must end well.
    pub(super) fn must(&self, words: &[&str]) -> Result<Value> {
        let Output { status, stdout, stderr } = self.person().args(words).output()?;
        if !status.success() {
            bail!("{words:?} ended with {status}: {}", String::from_utf8_lossy(&stderr));
        }
        Ok(serde_json::from_slice(&stdout)?)
    }

    /// The content of a restore point, or the document of a command on the repository itself.
    pub(super) fn repository(&self, words: &[&str]) -> Result<Vec<u8>> {
        let mut command = self.person();
        command.env("SLUICE_REPO", self.folder.join("repository")).args(words);
        let Output { status, stdout, stderr } = command.output()?;
        if !status.success() {
            bail!("{words:?} ended with {status}: {}", String::from_utf8_lossy(&stderr));
        }
        Ok(stdout)
    }

    /// Everything of a list of the API.
    pub(super) fn list(&self, path: &str) -> Result<Vec<Value>> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let part = self.get(&format!("{path}?limit=1000{after}"))?;
            all.extend(part["items"].as_array().context("no list")?.iter().cloned());
            match part["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(all),
            }
        }
    }

    /// What the API answers.
    pub(super) fn get(&self, path: &str) -> Result<Value> {
        let login: Value = serde_json::from_slice(&std::fs::read(self.folder.join("login.json"))?)?;
        let token = login["token"].as_str().context("the login has no token")?;
        let config = self.folder.join("curl");
        std::fs::write(&config, format!("header = \"Authorization: Bearer {token}\"\n"))?;
        let url = format!("https://127.0.0.1:{}/api/v1/{path}", self.port);
        let mut curl = Command::new("curl");
        let output = curl.args(["-sSfk", "-K"]).arg(&config).arg(&url).output()?;
        if !output.status.success() {
            bail!("{url}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn place(&self, part: Part) -> &Mutex<Option<Child>> {
        match part {
            Part::Server => &self.server,
            Part::Node(number) => &self.nodes[number],
        }
    }

    /// Kills a process as a power cut would.
    pub(super) fn kill(&self, part: Part) -> Result<()> {
        let mut place = self.place(part).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = place.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn command(&self, part: Part) -> Result<Command> {
        let mut command = Command::new(&self.sluice);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{}.log", part.name())))?;
        command.env("HOME", &self.folder).args(["--json", "-v"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let state = self.folder.join(part.name());
        match part {
            Part::Server => {
                command.args(["server", "--lease", "5s", "--state"]).arg(state);
                command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
                command.envs(self.database.iter().map(|url| ("SLUICE_DATABASE", url)));
            }
            Part::Node(_) => {
                command.args(["node", "run", "--slots", "2", "--state"]).arg(state);
            }
        }
        Ok(command)
    }

    /// Starts a process, again if it cannot, and waits until it is ready. Returns what it said.
    pub(super) fn start(&self, part: Part) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let mut child = self.command(part)?.spawn().context("cannot start sluice")?;
            let mut line = String::new();
            if let Some(stdout) = child.stdout.take() {
                BufReader::new(stdout).read_line(&mut line)?;
            }
            if let Ok(ready) = serde_json::from_str::<Value>(&line)
                && ready["type"] == "ready"
            {
                let mut place = self.place(part).lock().unwrap_or_else(PoisonError::into_inner);
                *place = Some(child);
                return Ok(ready);
            }
            let _ = child.kill();
            child.wait()?;
            if begun.elapsed() > PATIENCE {
                bail!("the {} does not start: see its log", part.name());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Starts whatever does not run.
    pub(super) fn all_up(&self) -> Result<()> {
        for part in [Part::Server].into_iter().chain((0..NODES).map(Part::Node)) {
            let mut place = self.place(part).lock().unwrap_or_else(PoisonError::into_inner);
            let runs = match place.as_mut() {
                Some(child) => child.try_wait()?.is_none(),
                None => false,
            };
            drop(place);
            if !runs {
                self.start(part)?;
            }
        }
        Ok(())
    }

    /// Server, administrator, nodes, one destination, instances, one policy.
    pub(super) fn set_up(&self, disks: &Disks) -> Result<()> {
        let ready = self.start(Part::Server)?;
        std::fs::write(self.folder.join("password"), "only for the soak\n")?;
        let word = |name: &str| ready[name].as_str().unwrap_or_default();
        let token = word("setup_token_file");
        let login = ["login", word("url"), "--fingerprint", word("fingerprint")];
        self.must(&[&login[..], &["--user", "admin", "--setup-token-file", token]].concat())?;
        for number in 0..NODES {
            let token = self.must(&["node", "token"])?;
            let file = self.write("join.txt", token["token"].as_str().unwrap_or_default())?;
            let (name, state) = (Part::Node(number).name(), self.text(&Part::Node(number).name())?);
            self.must(&["node", "join", &name, "--token-file", &file, "--state", &state])?;
            self.wired(number)?;
            self.start(Part::Node(number))?;
        }
        let repository = self.text("repository")?;
        self.repository(&["init", "-q", "--encryption", "none"])?;
        self.must(&["destination", "set", "vault", "--url", &repository])?;
        self.must(&["project", "set", "lab"])?;
        for disk in 0..disks.len() {
            let path = disks.path(disk);
            let path = path.to_str().context("the folder is not UTF-8")?;
            let name = format!("lab/{}", Disks::name(disk));
            self.must(&["instance", "set", &name, "--disk", path, "--tag", "soak"])?;
        }
        let when = json!({"kind": "every", "seconds": 12});
        let rule = json!({
            "name": "main", "destination": "vault", "keep": {"last": 30},
            "schedules": [{"name": "often", "when": when}],
        });
        let policy = json!({"assign": {"tags": ["soak"]}, "rules": [rule]});
        let file = self.write("policy.json", &policy.to_string())?;
        self.must(&["policy", "set", "lab/often", "--spec", &file])?;
        Ok(())
    }

    /// Lets a node that has joined speak over its own wire.
    fn wired(&self, number: usize) -> Result<()> {
        let path = self.folder.join(Part::Node(number).name()).join("node.json");
        let mut profile: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        profile["server"] = format!("https://127.0.0.1:{}", self.wires[number].port).into();
        Ok(std::fs::write(&path, serde_json::to_vec(&profile)?)?)
    }

    fn text(&self, name: &str) -> Result<String> {
        let path = self.folder.join(name);
        Ok(path.to_str().context("the folder is not UTF-8")?.to_owned())
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<String> {
        std::fs::write(self.folder.join(name), text)?;
        self.text(name)
    }

    /// Ends everything.
    pub(super) fn end(&self) {
        for part in (0..NODES).map(Part::Node).chain([Part::Server]) {
            let _ = self.kill(part);
        }
        let server = self.folder.join("server");
        if self.small && server.join("secrets.key").exists() {
            // What was in it is to be looked at after a failure.
            let kept = self.folder.join("server-kept");
            let _ = Command::new("cp").arg("-a").arg(&server).arg(kept).status();
            let _ = Command::new("umount").arg(server).status();
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.end();
    }
}
