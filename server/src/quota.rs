//! Whether a task may be made, by the quota of its project.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use axum::http::StatusCode;
use jiff::Timestamp;
use sluice_catalog::{InUse, Instance, InstanceId, NewTask, ProjectId, TaskId, Tx};
use sluice_scheduler::quota::{Caps, CountLimit, Quota, Request, SizeLimit, Used, Verdict};
use sluice_scheduler::work::TaskKind;

use crate::api::policies::EVERYTHING;
use crate::problem::{Problem, Result};
use crate::queue::moment;

/// Quotas that were looked at, with what their projects have used, for several tasks that are
/// made in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    projects: BTreeMap<ProjectId, Option<Known>>,
}

#[derive(Debug)]
struct Known {
    quota: Quota,
    used: Counted,
}

impl Known {
    async fn load(tx: &mut Tx, project: ProjectId, now: u64) -> Result<Option<Self>> {
        let Some(quota) = of(tx, project).await? else { return Ok(None) };
        // Two servers that judge at the same time do so one after the other.
        tx.decide_alone().await?;
        let used = Counted::load(tx, &quota.project, project, None, now).await?;
        Ok(Some(Self { quota, used }))
    }
}

/// A limit, and how much of it is used.
pub(crate) struct Capped {
    /// As in the quota.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) words: &'static str,
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
    pub(crate) used: u64,
}

/// What was used.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// When backups began.
    pub(crate) backups: Vec<Timestamp>,
    /// When restores began.
    pub(crate) restores: Vec<Timestamp>,
    /// Bytes.
    pub(crate) bytes: InUse,
}

impl Counted {
    /// What a project or an instance has used, as far as its limits ask for it.
    pub(crate) async fn load(
        tx: &mut Tx,
        caps: &Caps,
        project: ProjectId,
        instance: Option<InstanceId>,
        now: u64,
    ) -> Result<Self> {
        let mut all = Self::default();
        // An import writes what a restore does.
        let kinds: [(&[&str], _, _); 2] = [
            (&["backup"], caps.backups, &mut all.backups),
            (&["restore", "import"], caps.restores, &mut all.restores),
        ];
        for (kinds, limit, began) in kinds {
            let Some(CountLimit { window, .. }) = limit else { continue };
            let after = now.saturating_sub(window.as_seconds().saturating_mul(1000));
            for kind in kinds {
                let times = tx.began(project, instance, kind, after).await?;
                began.extend(times.into_iter().map(moment));
            }
            began.sort_unstable();
        }
        if caps.front_end_bytes.is_some() || caps.stored_bytes.is_some() {
            all.bytes = tx.in_use(project, instance).await?;
        }
        Ok(all)
    }

    /// Each of these limits, and how much of it is used.
    pub(crate) fn against(&self, caps: &Caps) -> [Capped; 4] {
        let bytes = |name, words, limit: Option<SizeLimit>, used| {
            let (soft, hard) = limit.map_or((None, None), |limit| (limit.soft, limit.hard));
            Capped { name, words, soft, hard, used }
        };
        let count = |name, limit: Option<CountLimit>, began: &[Timestamp]| {
            let (soft, hard) = limit.map_or((None, None), |limit| (limit.soft, limit.hard));
            let (soft, hard) = (soft.map(u64::from), hard.map(u64::from));
            Capped { name, words: name, soft, hard, used: began.len() as u64 }
        };
        let InUse { stored_bytes, front_end_bytes, .. } = self.bytes;
        [
            bytes("stored_bytes", "stored bytes", caps.stored_bytes, stored_bytes),
            bytes("front_end_bytes", "protected bytes", caps.front_end_bytes, front_end_bytes),
            count("backups", caps.backups, &self.backups),
            count("restores", caps.restores, &self.restores),
        ]
    }

    fn used(&self) -> Used<'_> {
        Used {
            backups: &self.backups,
            restores: &self.restores,
            front_end_bytes: self.bytes.front_end_bytes,
            stored_bytes: self.bytes.stored_bytes,
        }
    }
}

/// The quota of a project.
pub(crate) async fn of(tx: &mut Tx, project: ProjectId) -> Result<Option<Quota>> {
    let document = tx.quota(project).await?;
    // What was stored was read from a document.
    Ok(document.and_then(|document| serde_json::from_value(document).ok()))
}

impl Quotas {
    /// Judges a task that is to be made now, and counts it when it may be.
    pub(crate) async fn judge(&mut self, tx: &mut Tx, task: &NewTask, now: u64) -> Result<Verdict> {
        let kind = match TaskKind::from_name(&task.kind) {
            Some(TaskKind::Import) => Some(TaskKind::Restore),
            kind => kind.filter(|kind| matches!(kind, TaskKind::Backup | TaskKind::Restore)),
        };
        let (Some(kind), Some(project)) = (kind, task.project) else {
            return Ok(Verdict::default());
        };
        let known = match self.projects.entry(project) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Known::load(tx, project, now).await?),
        };
        let Some(known) = known else { return Ok(Verdict::default()) };
        let name = match task.instance {
            Some(id) if !known.quota.instances.is_empty() => {
                tx.get::<Instance>(id, &EVERYTHING).await?.name
            }
            _ => String::new(),
        };
        let caps = known.quota.of_instance(&name).clone();
        let own = match task.instance {
            Some(id) => Counted::load(tx, &caps, project, Some(id), now).await?,
            None => Counted::default(),
        };
        // How much a backup will store is not known before.
        let request = Request { kind, front_end_bytes: 0, stored_bytes: 0 };
        let at = moment(now);
        let verdict = known.quota.judge_as(&caps, request, known.used.used(), own.used(), at);
        if verdict.allowed() {
            match kind {
                TaskKind::Backup => known.used.backups.push(at),
                _ => known.used.restores.push(at),
            }
        }
        Ok(verdict)
    }
}

/// Why a task may not be made.
fn refusal(verdict: &Verdict) -> String {
    let notices: Vec<String> = verdict.refused.iter().map(ToString::to_string).collect();
    notices.join("; ")
}

/// The problem that whoever asks for a task is told of.
pub(crate) fn allowed(verdict: &Verdict) -> Result<()> {
    match verdict.allowed() {
        true => Ok(()),
        false => Err(Problem::new(StatusCode::CONFLICT, "quota", refusal(verdict))),
    }
}

/// Tells a task that was made by itself what its quota says: a hard limit ends it, a soft one
/// stands in its log.
pub(crate) async fn tell(tx: &mut Tx, id: TaskId, verdict: &Verdict, now: u64) -> Result<()> {
    let warnings = verdict.warnings.iter();
    let warnings: Vec<_> =
        warnings.map(|notice| ("warning".to_owned(), format!("quota: {notice}"))).collect();
    tx.log(id, 0, &warnings, now).await?;
    if !verdict.allowed() {
        tx.refuse(id, &format!("quota: {}", refusal(verdict)), now).await?;
    }
    Ok(())
}
