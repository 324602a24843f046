//! What works on this machine, as a node tells it to its server and `sluice node check` to people.
//!
//! Everything is tried: a socket is bound, an image of another format is read, a machine is made.
//! What starts a program or opens a device is tried again when the program or its device has
//! changed, and after [`STALE`]; what only asks the kernel, at each look. All of that may take its
//! time where a disk does: none of it runs on the threads that others wait for.

mod exports;
mod guests;
mod installed;
mod sources;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use serde_json::{Value, json};
use sluice_node::Abilities;
use sluice_node_api::{Ability, Hello, Installed, OLDEST, TaskSpec, VERSION};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::show_list;
use crate::args::MountPlaceArgs;
use crate::context::Context;
use crate::error::Exit;
use crate::output;

pub(super) use installed::Executable;

/// After so long, a program is tried again though it is the same: a library may be another one.
const STALE: Duration = Duration::from_secs(120);
/// How long a program that is tried may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Programs that are tried.
const PROGRAMS: [&str; 3] = ["qemu-nbd", "qemu-system-x86_64", "ssh"];
/// Protocols of the mounts that a node makes; `vhost-user` is for exports by hand.
const MOUNTS: [&str; 4] = ["nbd", "iscsi", "http", "fuse"];

/// What is known of a program's file or a device: another one is tried anew.
type Mark = Option<(PathBuf, u64, i64, u64, u32, u32)>;

/// What works on this machine.
pub(super) struct Survey {
    slots: u32,
    mounts: MountPlaceArgs,
    /// What was started, and where its successor would lie.
    executable: Option<Executable>,
    tried: Mutex<Option<Tried>>,
}

/// What came of trying programs and devices.
struct Tried {
    marks: Vec<Mark>,
    at: Instant,
    abilities: Vec<Ability>,
}

impl Survey {
    /// Of a node with so many slots, which shows mounts there.
    pub(super) fn new(slots: u32, mounts: MountPlaceArgs, executable: Option<Executable>) -> Self {
        Self { slots, mounts, executable, tried: Mutex::default() }
    }

    /// All that a node may be able to do, each with how it is.
    async fn abilities(&self) -> Vec<Ability> {
        let mounts = self.mounts.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let mut all = sources::look();
            all.extend(exports::look(&mounts));
            (all, marks())
        });
        // Nothing is told of what could not be looked at.
        let (mut all, marks) = looked.await.unwrap_or_default();
        let mut tried = self.tried.lock().await;
        let known = tried.take().filter(|known| known.marks == marks && known.at.elapsed() < STALE);
        let known = match known {
            Some(known) => known,
            None => Tried { marks, at: Instant::now(), abilities: try_all().await },
        };
        all.extend(known.abilities.iter().cloned());
        *tried = Some(known);
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// What this node tells of itself.
    pub(super) async fn hello(&self) -> Hello {
        let abilities = self.abilities().await;
        let installed = match &self.executable {
            Some(executable) => executable.successor().await,
            None => None,
        };
        told(self.slots, abilities, installed)
    }
}

#[async_trait]
impl Abilities for Survey {
    async fn look(&self) -> Hello {
        self.hello().await
    }
}

async fn try_all() -> Vec<Ability> {
    let opened = tokio::task::spawn_blocking(|| [sources::devices(), exports::vhost_user()]);
    let (formats, guests, opened) = tokio::join!(sources::formats(), guests::look(), opened);
    guests.into_iter().chain([formats]).chain(opened.into_iter().flatten()).collect()
}

/// How the programs that are tried lie there.
fn marks() -> Vec<Mark> {
    let files = PROGRAMS.iter().map(|program| which(program));
    let files = files.chain([Some(PathBuf::from(guests::KVM)), guests::firmware()]);
    files.map(|file| file.and_then(mark)).collect()
}

fn mark(file: PathBuf) -> Mark {
    let found = std::fs::metadata(&file).ok()?;
    Some((file, found.ino(), found.mtime(), found.len(), found.mode(), found.gid()))
}

/// The path of a program.
pub(super) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Runs a program to its end, which must be a good one; what it prints.
async fn run(program: &Path, words: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(words).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever does not read it has ended, and says why.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let ended = ended.map_err(|_| "it does not end".to_owned())?;
    let ended = ended.map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    Err(last.map_or_else(|| format!("it ends with {}", ended.status), str::to_owned))
}

/// What is told of a machine with these abilities.
fn told(slots: u32, abilities: Vec<Ability>, installed: Option<Installed>) -> Hello {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let works = |name: &str| abilities.iter().any(|one| one.works && one.name == name);
    let mounts = MOUNTS.into_iter().filter(|word| works(&format!("export:{word}")));
    let mounts = mounts.map(str::to_owned).collect();
    let boots = guests::NAMES.iter().any(|name| works(name));
    let mut kinds = TaskSpec::KINDS.map(str::to_owned).to_vec();
    kinds.retain(|kind| kind != "restore-test" || boots);
    // Servers of earlier releases know these lines only.
    let mut missing: Vec<String> = Vec::new();
    for lack in abilities.iter().filter(|one| !one.works) {
        if let Some(protocol) = lack.name.strip_prefix("export:") {
            let line = format!("mounts by {protocol}: {} ({})", lack.fix, lack.why);
            missing.push(line);
        }
    }
    if !boots {
        missing.push("restore tests: package qemu-system-x86".to_owned());
    }
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let contract = VERSION;
    Hello { version, host, slots, kinds, missing, mounts, contract, abilities, installed }
}

/// What is told of a machine that has not looked yet: it can do everything that needs no look.
pub(super) fn joining() -> Hello {
    let hello = told(1, Vec::new(), None);
    Hello { missing: Vec::new(), ..hello }
}

/// Tells which version this is: a node asks what was installed in its place.
pub(super) fn version(context: &Context) -> Result<Exit> {
    let version = env!("CARGO_PKG_VERSION");
    match context.global.json {
        true => output::json(&json!({"version": version, "contract": VERSION}))?,
        false => output::print(&format!("{version}, contract {OLDEST} to {VERSION}\n"))?,
    }
    Ok(Exit::Done)
}

/// Tells what works here, without any server.
pub(super) async fn check(context: &Context, mounts: MountPlaceArgs) -> Result<Exit> {
    let hello = Survey::new(1, mounts, None).hello().await;
    let abilities: Vec<Value> = hello.abilities.iter().map(|one| json!(one)).collect();
    if context.global.json {
        output::json(&json!({"version": hello.version, "contract": hello.contract,
            "host": hello.host, "abilities": abilities}))?;
        return Ok(Exit::Done);
    }
    show_abilities(context, &abilities)
}

/// Abilities as people read them.
pub(super) fn show_abilities(context: &Context, abilities: &[Value]) -> Result<Exit> {
    let text = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
    let row = |one: &Value| {
        let works = if one["works"] == true { "works" } else { "does not" };
        vec![text(one, "name"), works.to_owned(), text(one, "why"), text(one, "fix")]
    };
    show_list(context, &["WHAT", "STATE", "WHY", "MISSING"], abilities, row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_work_is_no_kind_of_task_and_no_mount_and_is_told_to_old_servers() {
        let lacks = |name| Ability::lacks(name, "there is none", "package fuse3");
        let some = vec![Ability::works("export:nbd"), lacks("export:fuse"), lacks("test:kvm")];
        let hello = told(3, some, None);
        assert_eq!((hello.slots, &*hello.mounts), (3, &["nbd".to_owned()][..]));
        assert!(hello.kinds.iter().all(|kind| kind != "restore-test"));
        let lines = [
            "mounts by fuse: package fuse3 (there is none)",
            "restore tests: package qemu-system-x86",
        ];
        assert_eq!(hello.missing, lines);
        let boots = told(1, vec![Ability::works("test:tcg")], None);
        assert!(boots.kinds.iter().any(|kind| kind == "restore-test") && boots.missing.is_empty());
    }

    #[tokio::test]
    async fn a_program_that_fails_says_why_in_its_last_line() {
        let shell = Path::new("/bin/sh");
        assert_eq!(run(shell, &["-c", "cat"], "quit\n").await.as_deref(), Ok("quit\n"));
        let failed = run(shell, &["-c", "echo first >&2; echo last >&2; exit 3"], "").await;
        assert_eq!(failed.unwrap_err(), "last");
        let silent = run(shell, &["-c", "exit 3"], "").await.unwrap_err();
        assert!(silent.contains("exit status: 3"), "{silent}");
        assert!(run(Path::new("/none"), &[], "").await.is_err());
    }
}
