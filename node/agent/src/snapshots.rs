//! Backups that are made from a snapshot: it is made first, and removed afterwards.
//!
//! ```text
//!   note on disk ─► before ─► snapshot ─► after ─► backup of it ─► snapshot and note removed
//!        │ killed anywhere: what is left of that, when the node is started again
//! ```
//!
//! The source is needed until there is the snapshot: so what policies have after a backup runs
//! then, and a guest is quiesced for seconds. Each attempt has a snapshot of its own name.

use std::path::Path;

use serde_json::Value;
use sluice_node_api::{Finished, HookOrders, LogEntry, Outcome, SnapshotOrder, TaskSpec};
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, failed, keep};
use crate::command::{Step, snapshot_files, steps};
use crate::hooks::{self, Note, line, result};
use crate::process::Process;
use crate::sources::lists;
use crate::tenure::Tenure;

/// The snapshot that is to be made for a task alone.
pub(crate) fn fresh(spec: &TaskSpec) -> Option<&SnapshotOrder> {
    let TaskSpec::Backup { snapshot: Some(from), .. } = spec else { return None };
    from.kept.is_none().then_some(&from.order)
}

/// A backup of what a snapshot holds, in place of its source.
fn of_snapshot(spec: &TaskSpec, made: &Value) -> Option<TaskSpec> {
    let mut spec = spec.clone();
    let TaskSpec::Backup { images, folder, snapshot, .. } = &mut spec else { return None };
    let image =
        |image: &Value| Some(format!("{}={}", image["name"].as_str()?, image["path"].as_str()?));
    *images = made["images"].as_array()?.iter().map(image).collect::<Option<_>>()?;
    (*folder, *snapshot) = (None, None);
    (!images.is_empty()).then_some(spec)
}

/// The folder for snapshots in which one lies: FOLDER/SNAPSHOT/IMAGE/FILE.
fn folder_of(made: &Value) -> Option<String> {
    let path = Path::new(made["images"][0]["path"].as_str()?);
    path.ancestors().nth(3).and_then(Path::to_str).map(str::to_owned)
}

fn is_done(finished: &Finished) -> bool {
    matches!(finished.outcome, Outcome::Succeeded | Outcome::Warnings)
}

impl Agent {
    /// Makes a snapshot, with commands around that, backs it up and removes it.
    pub(crate) async fn perform_on_snapshot(
        &self,
        lease: &Tenure,
        (order, encrypted): (&SnapshotOrder, bool),
        lines: &mut Vec<LogEntry>,
        shutdown: &CancellationToken,
    ) -> Option<Finished> {
        let orders = lease.work.hooks.clone().unwrap_or_default();
        if let Err(message) = hooks::check(&orders, &self.config.commands) {
            return Some(failed(message, false));
        }
        let note = match self.note_of(&order.name) {
            Ok(note) => note,
            Err(message) => return Some(failed(message, false)),
        };
        let mut order = order.clone();
        order.seen = order.folders.iter().filter(|one| Path::new(one).is_dir()).cloned().collect();
        let mut left = Note::new(&lease.task, &orders, Some(&order));
        if let Err(error) = left.write(&note) {
            return Some(failed(format!("cannot note what follows the backup: {error}"), true));
        }
        let (ended, mut warned) = self.before(lease, &orders, lines, shutdown).await;
        let made = match ended {
            Some(ended) => ended,
            None => match self.making(lease, &order) {
                Ok(make) => self.perform_steps(lease, make, lines, shutdown).await,
                Err(message) => Some(failed(message, false)),
            },
        };
        let (word, _) = result(made.as_ref());
        let mut problem = self.after(&orders, (word, ""), Some(lease), lines).await;
        if let Some(folder) = made.as_ref().and_then(|made| folder_of(&made.document)) {
            order.seen = vec![folder];
        }
        left.snapshot = Some(order.clone());
        left.orders = HookOrders::default();
        // If that cannot be noted, commands run once more after a death: they must bear it anyway.
        let _ = left.write(&note);
        let mut finished = match made {
            Some(made) if is_done(&made) => {
                let spec = of_snapshot(&lease.work.spec, &made.document);
                let spec = spec.ok_or_else(|| "the snapshot does not tell its images".to_owned());
                let folder = &self.config.folder;
                let within = lists(std::slice::from_ref(&order.folders), &self.config.folders);
                match spec.and_then(|spec| steps(&spec, &within, encrypted, folder)) {
                    Ok(steps) => self.perform_steps(lease, steps, lines, shutdown).await,
                    Err(message) => Some(failed(message, false)),
                }
            }
            other => other,
        };
        match self.remove_snapshot(&order, Some(lease), lines).await {
            Ok(()) => {
                let _ = std::fs::remove_file(&note);
            }
            // The note stays: it is tried again when this node is started.
            Err(why) => problem = problem.or(Some(why)),
        }
        warned |= problem.is_some();
        if let Some(finished) = &mut finished
            && finished.outcome == Outcome::Succeeded
            && warned
        {
            finished.outcome = Outcome::Warnings;
            finished.message = problem.unwrap_or_else(|| "a command before it has warned".into());
        }
        finished
    }

    /// What is typed to make the snapshot of a backup.
    fn making(&self, lease: &Tenure, order: &SnapshotOrder) -> Result<Vec<Step>, String> {
        let TaskSpec::Backup { images, folder, .. } = &lease.work.spec else {
            return Err("only backups are made from snapshots".to_owned());
        };
        let (images, folder) = (images.clone(), folder.clone());
        let (snapshot, no_hooks) = (order.clone(), true);
        let make = TaskSpec::Snapshot { snapshot, images, folder, no_hooks };
        let within = lists(&lease.work.folders, &self.config.folders);
        steps(&make, &within, false, &self.config.folder)
    }

    /// Removes a snapshot, whatever the server says meanwhile.
    pub(crate) async fn remove_snapshot(
        &self,
        order: &SnapshotOrder,
        lease: Option<&Tenure>,
        lines: &mut Vec<LogEntry>,
    ) -> Result<(), String> {
        let words = snapshot_files("remove", order).words;
        let (executable, folder) = (&self.config.executable, &self.config.folder);
        let mut process = Process::start(executable, folder, &words, &Default::default())?;
        let status = self.watch_to_the_end(lease, &mut process, lines).await;
        let finished = process.finished(status).await;
        if is_done(&finished) {
            return Ok(());
        }
        let why = format!("the snapshot of the backup is not removed: {}", finished.message);
        keep(lines, line("warning", why.clone()));
        Err(why)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluice_node_api::SnapshotUse;

    use super::*;

    fn backup(from: Option<SnapshotUse>) -> TaskSpec {
        let spec = json!({"kind": "backup", "instance": "a", "images": ["x=/x.raw"],
            "folder": "/y", "task": "t", "snapshot": from});
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_backup_of_a_snapshot_reads_nothing_of_its_source() {
        let folders = vec!["/kept".to_owned()];
        let order = SnapshotOrder { name: "t-1".into(), folders, ..Default::default() };
        let spec = backup(Some(SnapshotUse { kept: None, order: order.clone() }));
        assert_eq!(fresh(&spec), Some(&order));
        let made = json!({"images": [{"name": "x", "path": "/kept/t-1/x/x.raw"}]});
        assert_eq!(folder_of(&made).as_deref(), Some("/kept"));
        let TaskSpec::Backup { images, folder, snapshot, task, .. } =
            of_snapshot(&spec, &made).unwrap()
        else {
            panic!("it is a backup")
        };
        assert_eq!(images, ["x=/kept/t-1/x/x.raw"]);
        assert_eq!((folder, snapshot, task.as_deref()), (None, None, Some("t")));
        for bad in [json!(null), json!({"images": []}), json!({"images": [{"name": "x"}]})] {
            assert_eq!(of_snapshot(&spec, &bad), None, "{bad}");
        }
    }

    #[test]
    fn only_a_snapshot_that_is_not_there_yet_is_made() {
        let kept = SnapshotUse { kept: Some("id".into()), order: SnapshotOrder::default() };
        assert_eq!(fresh(&backup(Some(kept))), None);
        assert_eq!(fresh(&backup(None)), None);
        assert_eq!(fresh(&TaskSpec::Collect {}), None);
    }
}
