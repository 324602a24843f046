//! Commands around backups and snapshots, on the node or on guests.
//!
//! ```text
//!   note on disk ─► before ─► backup or snapshot ─► after ─► note removed
//!        │ killed anywhere: after, when the node is started again
//! ```
//!
//! What runs after it runs whatever became of it; it is noted on disk before anything else
//! is done. A note holds commands and names, and no secret.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_node_api::{
    Finished, HookOrder, HookOrders, LogEntry, Outcome, Report, SnapshotOrder, TaskSpec, Work,
};
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, Stop, beat, cancelled, failed, keep};
use crate::command::Step;
use crate::identity::is_id;
use crate::process::{Event, Process, Said};
use crate::sources::for_images;
use crate::tenure::Tenure;

/// The folder of notes, in that of the node.
const NOTES: &str = "hooks";

/// What is to be done after a backup, as it is noted on disk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    task: String,
    pub(crate) orders: HookOrders,
    /// The snapshot that the backup is made from, and that goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<SnapshotOrder>,
}

impl Note {
    pub(crate) fn new(task: &str, orders: &HookOrders, snapshot: Option<&SnapshotOrder>) -> Self {
        let (task, orders, snapshot) = (task.to_owned(), orders.clone(), snapshot.cloned());
        Self { task, orders, snapshot }
    }

    /// Puts it on disk, in place of one that was there.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(path);
        std::fs::create_dir_all(folder)?;
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(&new, path)?;
        std::fs::File::open(folder)?.sync_all()
    }
}

/// How a command ended.
enum End {
    Fine,
    Warned,
    Failed(String),
}

/// Refuses commands that are not allowed: by the server's configuration of this node, and by the
/// word of this machine's own administrator.
pub(crate) fn check(orders: &HookOrders, own: &Option<Vec<String>>) -> Result<(), String> {
    for hook in orders.before.iter().chain(&orders.after) {
        if !hook.guest.is_empty() {
            if own.is_some() {
                return Err("this machine runs no commands on guests: --allow-command".into());
            }
            continue;
        }
        may_run(&hook.command, &orders.allowed, own)?;
    }
    Ok(())
}

/// Refuses a program that does not lie in both lists, with all links followed.
pub(crate) fn may_run(
    command: &[String],
    allowed: &[String],
    own: &Option<Vec<String>>,
) -> Result<(), String> {
    let program = command.first().map(String::as_str).unwrap_or_default();
    let real = std::fs::canonicalize(program).map_err(|error| format!("{program}: {error}"))?;
    for list in [Some(allowed), own.as_deref()].into_iter().flatten() {
        let inside =
            |path: &String| std::fs::canonicalize(path).is_ok_and(|path| real.starts_with(path));
        if !list.iter().any(inside) {
            let real = real.display();
            return Err(format!("{program} is {real}, which may not be run on this node"));
        }
    }
    Ok(())
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// What is typed for a command: on a guest, `ssh` that asks nobody and knows only what it is told.
fn words(
    hook: &HookOrder,
    orders: &HookOrders,
    variables: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut words = vec!["run-script".to_owned()];
    words.push(format!("--timeout={}s", hook.limit_seconds.max(1)));
    words.extend(hook.accept.iter().map(|code| format!("--accept={code}")));
    words.extend(hook.warn.iter().map(|code| format!("--warn={code}")));
    words.push("--".into());
    if hook.guest.is_empty() {
        words.extend(hook.command.iter().cloned());
        return words;
    }
    let (host, port) = hook.guest.rsplit_once(':').unwrap_or((&hook.guest, "22"));
    let hosts = format!("UserKnownHostsFile={}", orders.known_hosts);
    let options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        &hosts,
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "ClearAllForwardings=yes",
        "ConnectTimeout=15",
        "ServerAliveInterval=15",
    ];
    words.extend(["ssh", "-F", "/dev/null", "-i", &orders.ssh_key, "-p", port].map(str::to_owned));
    words.extend(options.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]));
    words.extend(["--".to_owned(), host.to_owned()]);
    let set = variables.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
    let remote = std::iter::once("env".to_owned()).chain(set);
    let remote = remote.chain(hook.command.iter().map(|word| quoted(word)));
    words.push(remote.collect::<Vec<_>>().join(" "));
    words
}

/// What commands after a backup are told of it.
pub(crate) fn result(finished: Option<&Finished>) -> (&'static str, String) {
    let point = |finished: &Finished| {
        finished.document["point"]["point"].as_str().unwrap_or_default().to_owned()
    };
    match finished {
        Some(finished) => {
            let word = match finished.outcome {
                Outcome::Succeeded => "succeeded",
                Outcome::Warnings => "warnings",
                Outcome::Failed => "failed",
                Outcome::Cancelled => "cancelled",
            };
            (word, point(finished))
        }
        None => ("lost", String::new()),
    }
}

impl Agent {
    /// Does a task with the commands around it.
    pub(crate) async fn perform_around(
        &self,
        lease: &Tenure,
        steps: Vec<Step>,
        lines: &mut Vec<LogEntry>,
        shutdown: &CancellationToken,
    ) -> Option<Finished> {
        let Some(orders) = &lease.work.hooks else {
            return self.perform_steps(lease, steps, lines, shutdown).await;
        };
        if let Err(message) = check(orders, &self.config.commands) {
            return Some(failed(message, false));
        }
        let note = match self.note_of(&lease.task) {
            Ok(note) => note,
            Err(message) => return Some(failed(message, false)),
        };
        if let Err(error) = Note::new(&lease.task, orders, None).write(&note) {
            let text = format!("cannot note what follows the {}: {error}", what(lease));
            return Some(failed(text, true));
        }
        let (ended, mut warned) = self.before(lease, orders, lines, shutdown).await;
        let mut finished = match ended {
            Some(ended) => ended,
            None => self.perform_steps(lease, steps, lines, shutdown).await,
        };
        let (word, point) = result(finished.as_ref());
        let problem = self.after(orders, (word, &point), Some(lease), lines).await;
        warned |= problem.is_some();
        let _ = std::fs::remove_file(&note);
        if let Some(finished) = &mut finished
            && finished.outcome == Outcome::Succeeded
            && warned
        {
            finished.outcome = Outcome::Warnings;
            finished.message = problem.unwrap_or_else(|| "a command before it has warned".into());
        }
        finished
    }

    /// Where something is noted: the name is the server's word, and no path.
    pub(crate) fn note_of(&self, name: &str) -> Result<PathBuf, String> {
        match is_id(name) {
            true => Ok(self.config.folder.join(NOTES).join(format!("{name}.json"))),
            false => Err(format!("{name:?} is no name of a task or snapshot")),
        }
    }

    /// Runs what is to be done before. Returns how the task ends when it goes no further, and
    /// whether anything warned.
    pub(crate) async fn before(
        &self,
        lease: &Tenure,
        orders: &HookOrders,
        lines: &mut Vec<LogEntry>,
        shutdown: &CancellationToken,
    ) -> (Option<Option<Finished>>, bool) {
        let mut warned = false;
        for hook in &orders.before {
            let words = words(hook, orders, &orders.variables);
            let mut process = match self.start(&words, &orders.variables) {
                Ok(process) => process,
                Err(message) => return (Some(Some(failed(message, true))), warned),
            };
            let end = match self.watch(lease, &mut process, lines, shutdown).await {
                Ok(status) => ended(process.finished(status).await),
                Err(stop) => {
                    process.stop(stop.patience(lease)).await;
                    let end = match stop {
                        Stop::Cancelled => Some(cancelled()),
                        Stop::Shutdown => Some(failed("the node was stopped".into(), true)),
                        Stop::Lost => None,
                    };
                    return (Some(end), warned);
                }
            };
            match end {
                End::Fine => {}
                End::Warned => warned = true,
                End::Failed(why) if hook.go_on => {
                    warned = true;
                    let why = format!("before the {}: {why}", what(lease));
                    keep(lines, line("warning", why));
                }
                End::Failed(why) => {
                    let message = format!("before the {}: {why}", what(lease));
                    return (Some(Some(failed(message, false))), warned);
                }
            }
        }
        (None, warned)
    }

    /// Runs what is to be done after, each to its end or limit, whatever the server says meanwhile.
    /// Returns what went wrong first.
    pub(crate) async fn after(
        &self,
        orders: &HookOrders,
        (word, point): (&str, &str),
        lease: Option<&Tenure>,
        lines: &mut Vec<LogEntry>,
    ) -> Option<String> {
        let mut variables = orders.variables.clone();
        variables.insert("SLUICE_RESULT".into(), word.to_owned());
        if !point.is_empty() {
            variables.insert("SLUICE_POINT".into(), point.to_owned());
        }
        let mut problem = None;
        let what = lease.map_or("task", what);
        for hook in &orders.after {
            let end = match self.start(&words(hook, orders, &variables), &variables) {
                Ok(mut process) => {
                    let status = self.watch_to_the_end(lease, &mut process, lines).await;
                    ended(process.finished(status).await)
                }
                Err(message) => End::Failed(message),
            };
            let told = match end {
                End::Fine => continue,
                End::Warned => format!("after the {what}: a command has warned"),
                End::Failed(why) => format!("after the {what}: {why}"),
            };
            keep(lines, line("warning", told.clone()));
            problem.get_or_insert(told);
        }
        problem
    }

    fn start(
        &self,
        words: &[String],
        variables: &BTreeMap<String, String>,
    ) -> Result<Process, String> {
        Process::start(&self.config.executable, &self.config.folder, words, variables)
    }

    /// Listens to a process until it ends by itself.
    pub(crate) async fn watch_to_the_end(
        &self,
        lease: Option<&Tenure>,
        process: &mut Process,
        lines: &mut Vec<LogEntry>,
    ) -> Option<std::process::ExitStatus> {
        let mut ticks = tokio::time::interval(lease.map_or(Duration::from_secs(60), beat));
        loop {
            tokio::select! {
                event = process.next() => match event {
                    Event::Said(Said::Log(entry)) => keep(lines, entry),
                    Event::Said(Said::Progress(_)) => {}
                    Event::Ended(status) => return status,
                },
                _ = ticks.tick() => {
                    let Some(lease) = lease else { continue };
                    // The lease goes on; that it is over, or the task unwanted, changes nothing.
                    let report = Report { attempt: lease.attempt, ..Report::default() };
                    let _ = self.report(lease, &report).await;
                }
            }
        }
    }

    /// Runs what was to be done after backups and snapshots that this node was killed in.
    pub(crate) async fn run_what_is_left(&self) {
        let Ok(entries) = std::fs::read_dir(self.config.folder.join(NOTES)) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let done = match serde_json::from_str::<Note>(&text) {
                Ok(note) => self.run_left(note, &path).await,
                Err(_) => true,
            };
            if done {
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    /// Does what was noted, as far as this machine still allows; whether nothing of it is left.
    async fn run_left(&self, mut note: Note, path: &Path) -> bool {
        let mut lines = Vec::new();
        let mut problem = match check(&note.orders, &self.config.commands) {
            Ok(()) => self.after(&note.orders, ("lost", ""), None, &mut lines).await,
            Err(message) => Some(message),
        };
        // A snapshot that cannot be removed now is tried again, and no command runs again for it.
        note.orders = HookOrders::default();
        let removed = match note.snapshot.clone() {
            None => Ok(()),
            Some(order) => {
                let written = note.write(path);
                written.unwrap_or_else(|error| tracing::warn!("a note cannot be written: {error}"));
                match for_images(&order.folders, &self.config.folders) {
                    Ok(()) => self.remove_snapshot(&order, None, &mut lines).await,
                    Err(message) => Err(message),
                }
            }
        };
        let done = removed.is_ok();
        problem = problem.or(removed.err());
        for line in lines {
            tracing::info!(task = %note.task, "{}", line.line);
        }
        if let Some(problem) = problem {
            tracing::warn!(task = %note.task, "{problem}");
        }
        done
    }
}

/// Whether there are commands around what is to be done: only around backups and snapshots.
pub(crate) fn surrounds(work: &Work) -> bool {
    let around = matches!(work.spec, TaskSpec::Backup { .. } | TaskSpec::Snapshot { .. });
    work.hooks.is_some() && around
}

/// What the commands of a task are around, in a word.
fn what(lease: &Tenure) -> &'static str {
    match lease.work.spec {
        TaskSpec::Snapshot { .. } => "snapshot",
        _ => "backup",
    }
}

fn ended(finished: Finished) -> End {
    match finished.outcome {
        Outcome::Succeeded => End::Fine,
        Outcome::Warnings => End::Warned,
        _ => End::Failed(finished.message),
    }
}

pub(crate) fn line(level: &str, line: String) -> LogEntry {
    LogEntry { level: level.to_owned(), line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(hook: HookOrder, allowed: &[&str]) -> HookOrders {
        HookOrders {
            before: vec![hook],
            allowed: allowed.iter().map(|&path| path.to_owned()).collect(),
            ssh_key: "/k".into(),
            known_hosts: "/h".into(),
            ..HookOrders::default()
        }
    }

    fn command(words: &[&str]) -> HookOrder {
        let command = words.iter().map(|&word| word.to_owned()).collect();
        HookOrder { command, limit_seconds: 5, ..HookOrder::default() }
    }

    #[test]
    fn only_what_is_allowed_is_run_also_by_another_name() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir(at("open")).unwrap();
        for name in ["open/a", "b"] {
            std::fs::write(at(name), "").unwrap();
        }
        std::os::unix::fs::symlink(at("b"), at("open/link")).unwrap();
        let try_it = |program: &str, allowed: &[&str], own: Option<Vec<String>>| {
            check(&orders(command(&[&at(program)]), allowed), &own).is_ok()
        };
        assert!(try_it("open/a", &[&at("open")], None));
        assert!(try_it("b", &[&at("b")], None));
        assert!(!try_it("b", &[], None), "nothing is allowed by itself");
        assert!(!try_it("b", &[&at("open")], None));
        assert!(!try_it("open/link", &[&at("open")], None), "a link leads out of the folder");
        assert!(!try_it("open/a", &[&at("open")], Some(vec![at("b")])), "the machine's own word");
    }

    #[test]
    fn words_for_a_guest_are_quoted_and_ask_nobody() {
        let hook = HookOrder { guest: "root@web:2222".into(), ..command(&["fsfreeze", "a'b; c"]) };
        let variables = BTreeMap::from([("SLUICE_TASK".to_owned(), "7 8".to_owned())]);
        let typed = words(&hook, &orders(hook.clone(), &[]), &variables);
        assert_eq!(typed.last().unwrap(), r"env SLUICE_TASK='7 8' 'fsfreeze' 'a'\''b; c'");
        let text = typed.join(" ");
        assert!(text.contains("-p 2222") && text.contains("BatchMode=yes"), "{text}");
        assert!(text.contains("UserKnownHostsFile=/h") && text.contains("-i /k"), "{text}");
        assert!(text.contains("-- root@web env"), "{text}");
    }
}
