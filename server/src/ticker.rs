//! What happens by itself: schedules become due, start windows and leases run out.
//!
//! Policies are read when one was changed, or the clock went back; otherwise a tick looks at the
//! next time of each schedule, and at nothing else.

mod slot;
mod snapshots;
mod timetable;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sluice_catalog::{BackupType, LeaseMark, Missed, NewTask, Policy, Record, Rule, Timed, Tx};
use sluice_node_api::TaskSpec;
use sluice_scheduler::plan::MissReason;
use tokio_util::sync::CancellationToken;

use crate::api::policies::EVERYTHING;
use crate::complaint::{all_readable, complain, go_on};
use crate::copies;
use crate::dispatch::backup_spec;
use crate::imports;
use crate::inventories;
use crate::leases::Leases;
use crate::maintenance;
use crate::mounts;
use crate::plans;
use crate::problem::Result;
use crate::quota;
use crate::restore_tests;
use crate::snapshots::{self as kept, Keeper};
use crate::state::Shared;
use crate::upgrades;
use crate::verifications;
pub(crate) use slot::compiled;
pub(crate) use slot::{Due, Times};
pub(crate) use timetable::{Clockwork, Slot as Scheduled, Timetable};

/// How often is looked.
const TICK: Duration = Duration::from_secs(1);
/// What is due and cannot be made is tried again after so many milliseconds.
const AGAIN_MS: u64 = 60_000;
/// Attempts of a task that became due.
const ATTEMPTS: u32 = 3;
/// What a task says that found no place in time.
const LATE: &str = "window-missed: no place was free until its start window was over";

/// Looks until `shutdown` is cancelled.
pub(crate) async fn run(shared: Shared, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut planner = Planner::default();
    let mut leases = Leases::new(Duration::from_millis(shared.lease_ms));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let begun = Instant::now();
        if shared.catalog.ping().await.is_ok() {
            shared.metrics.database.observe(begun.elapsed());
        }
        let begun = Instant::now();
        let ticked = tick(&shared, &mut planner, &mut leases).await;
        shared.metrics.ticks.observe(begun.elapsed());
        if let Err(problem) = ticked {
            tracing::error!("the scheduler cannot work: {}", problem.detail);
            // What was decided and not stored is decided again.
            planner = Planner::default();
        }
    }
}

/// What policies say, as of the last change.
#[derive(Debug, Default)]
struct Planner {
    /// The change that it has seen.
    changes: Option<String>,
    policies: Vec<Planned>,
    plans: plans::Planner,
    maintenance: maintenance::Planner,
    inventories: inventories::schedule::Planner,
    snapshots: Keeper,
    upgrades: upgrades::Watch,
    /// When it was looked last.
    now: u64,
}

#[derive(Debug)]
struct Planned {
    policy: Record<Policy>,
    slots: Vec<Slot>,
}

/// A schedule of a rule.
#[derive(Debug)]
struct Slot {
    /// What of the policy it is for.
    of: Timed,
    /// `RULE/SCHEDULE`.
    key: String,
    paused: bool,
    times: Times,
    mark: u64,
    next: Option<u64>,
    /// What its backups take for granted, where it says so.
    backup_type: Option<BackupType>,
}

impl Planned {
    /// What is due now is looked at again later; nothing of it is lost.
    fn put_off(&mut self, now: u64) {
        for slot in self.slots.iter_mut().filter(|slot| slot.next.is_some_and(|next| next <= now)) {
            slot.next = Some(now + AGAIN_MS);
        }
    }
}

impl Planner {
    /// Reads all policies that can be read, and gives new schedules their first mark: they owe
    /// nothing for the past. A mark more than one occurrence ahead was made by a clock that was
    /// wrong.
    async fn load(shared: &Shared, changes: String, now: u64) -> Result<Self> {
        let mut tx = shared.catalog.read().await?;
        let marks = tx.marks::<Policy>().await?;
        let policies: Vec<Record<Policy>> = all_readable(&mut tx).await?;
        drop(tx);
        let mut set = Vec::new();
        let policies = policies.into_iter().map(|policy| {
            let slots = slots(&policy, &marks, now, &mut set);
            Planned { policy, slots }
        });
        let policies = policies.collect();
        if !set.is_empty() {
            let mut tx = shared.catalog.begin().await?;
            for (policy, key, from, to) in set {
                // Another server may have been faster: that is seen when it is due.
                tx.move_mark::<Policy>(policy, &key, from, to).await?;
            }
            tx.commit().await?;
        }
        Ok(Self { changes: Some(changes), policies, now, ..Self::default() })
    }
}

/// Whose mark goes from where to where.
type Mark = (sluice_catalog::PolicyId, String, Option<u64>, u64);

fn slots(
    policy: &Record<Policy>,
    marks: &BTreeMap<(sluice_catalog::PolicyId, String), u64>,
    now: u64,
    set: &mut Vec<Mark>,
) -> Vec<Slot> {
    let mut slots = Vec::new();
    for (of, name, schedules) in policy.body.timed() {
        for schedule in schedules {
            let Some(times) = Times::of(schedule) else { continue };
            let key = format!("{name}/{}", schedule.name);
            let known = marks.get(&(policy.id, key.clone())).copied();
            let next = times.next(now);
            let mark = match (known, next) {
                (None, _) => policy.updated_ms.min(now),
                (Some(mark), Some(next)) if mark > next => next,
                (Some(mark), _) => mark,
            };
            if known != Some(mark) {
                set.push((policy.id, key.clone(), known, mark));
            }
            let next = times.next(mark);
            let paused = policy.body.paused || schedule.paused;
            let backup_type = schedule.backup_type;
            slots.push(Slot { of, key, paused, times, mark, next, backup_type });
        }
    }
    slots
}

/// When the schedules of a policy are due next, by `RULE/SCHEDULE`.
pub(crate) fn next_times(policy: &Policy, now: u64) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for rule in policy.rules.iter().filter(|_| !policy.paused) {
        for schedule in rule.schedules.iter().filter(|schedule| !schedule.paused) {
            let next = Times::of(schedule).and_then(|times| times.next(now));
            all.extend(next.map(|next| (format!("{}/{}", rule.name, schedule.name), next)));
        }
    }
    all
}

/// One look.
async fn tick(shared: &Shared, planner: &mut Planner, leases: &mut Leases) -> Result<()> {
    let now = shared.now();
    let mut tx = shared.catalog.read().await?;
    let marks = tx.leases().await?;
    let late = tx.any_window_over(now).await?;
    let changes = tx.policy_changes().await?;
    drop(tx);
    let over = leases.over(marks, Instant::now());
    if late || !over.is_empty() {
        go_on("the end of leases and windows", expire(shared, &over, now).await)?;
    }
    go_on("the state of mounts", mounts::settle(shared, now).await)?;
    go_on("the end of restore tests", restore_tests::settle(shared, now).await)?;
    go_on("the runs of plans", plans::settle(shared, now).await)?;
    go_on("the schedules of plans", planner.plans.tick(shared, now).await)?;
    go_on("the end of imports", imports::settle(shared, now).await)?;
    go_on("the snapshots at sources", planner.snapshots.tick(shared, now).await)?;
    go_on("the upgrades of nodes", planner.upgrades.tick(shared, now).await)?;
    go_on("the maintenance of destinations", planner.maintenance.tick(shared, now).await)?;
    go_on("the schedules of inventories", planner.inventories.tick(shared, now).await)?;
    if planner.changes.as_ref() != Some(&changes) || now < planner.now {
        let plans = std::mem::take(&mut planner.plans);
        let maintenance = std::mem::take(&mut planner.maintenance);
        let inventories = std::mem::take(&mut planner.inventories);
        let snapshots = std::mem::take(&mut planner.snapshots);
        let upgrades = std::mem::take(&mut planner.upgrades);
        let loaded = Planner::load(shared, changes, now).await?;
        *planner = Planner { plans, maintenance, inventories, snapshots, upgrades, ..loaded };
    }
    planner.now = now;
    for planned in &mut planner.policies {
        if planned.slots.iter().any(|slot| slot.next.is_some_and(|next| next <= now)) {
            if let Err(problem) = fire(shared, planned, now).await {
                // A database that is away fails all of them alike.
                if problem.is_outage() && shared.catalog.ping().await.is_err() {
                    return Err(problem);
                }
                complain(&format!("the policy {}", planned.policy.name), &problem.detail);
                planned.put_off(now);
            }
            shared.work.notify_one();
        }
    }
    Ok(())
}

/// Ends what found no place in time, and takes back the leases that are over.
async fn expire(shared: &Shared, over: &[LeaseMark], now: u64) -> Result<()> {
    let mut tx = shared.catalog.begin().await?;
    for task in tx.end_late(LATE, now).await? {
        let Some(policy) = task.new.policy else { continue };
        // POLICY/RULE/SCHEDULE/INSTANCE/TIME
        let key = task.new.due_key.unwrap_or_default();
        let mut ends = key.rsplitn(3, '/');
        let due = ends.next().and_then(|at| at.parse().ok()).unwrap_or(now);
        let schedule = ends.nth(1).and_then(|rest| rest.split_once('/')).unwrap_or_default().1;
        let missed = Missed {
            policy,
            schedule: schedule.to_owned(),
            instance: task.new.instance,
            project: task.new.project,
            reason: MissReason::TooLate.name().to_owned(),
            first_ms: due,
            last_ms: due,
            times: 1,
        };
        tx.add_missed(&missed).await?;
    }
    for task in tx.reclaim(over, now).await? {
        tracing::warn!(task = %task.id, state = task.state.word(), "{}", task.message);
    }
    // Those that ran on a node which was removed meanwhile, and are bound to it.
    tx.end_of_no_node(now).await?;
    tx.commit().await?;
    shared.work.notify_one();
    Ok(())
}

/// Makes tasks of what became due of a policy, and notes what does not run.
async fn fire(shared: &Shared, planned: &mut Planned, now: u64) -> Result<()> {
    let policy = &planned.policy;
    let mut tx = shared.catalog.begin().await?;
    let mut chosen = BTreeSet::new();
    let full = full_now(planned, now);
    // What was decided counts once it is stored.
    let mut moved = Vec::new();
    for slot in &planned.slots {
        let Some(due) = slot.times.due(slot.mark, now, slot.paused) else {
            moved.push((slot.mark, slot.times.next(now)));
            continue;
        };
        let (of, key) = (policy.id, slot.key.as_str());
        if !tx.move_mark::<Policy>(of, key, Some(slot.mark), due.last).await? {
            // Another server was faster, or the policy is gone. What is left is due at the next
            // look.
            let mark = tx.mark::<Policy>(of, key).await?.unwrap_or(due.last);
            moved.push((mark, slot.times.next(mark)));
            continue;
        }
        let mut batch = Batch { tx: &mut tx, policy, key, now };
        if let Some((reason, first, last, times)) = due.missed {
            batch.missed(None, reason, (first, last), times).await?;
        }
        if !due.run.is_empty() {
            match chosen.insert(slot.of) {
                true => batch.make(slot, &due, full.contains(&slot.of)).await?,
                false => batch.none_runs(MissReason::Merged, &due).await?,
            }
        }
        moved.push((due.last, slot.times.next(due.last)));
    }
    tx.commit().await?;
    for (slot, (mark, next)) in planned.slots.iter_mut().zip(moved) {
        (slot.mark, slot.next) = (mark, next);
    }
    Ok(())
}

/// The rules of which a full backup is due: it takes the place of others that are due with it.
fn full_now(planned: &Planned, now: u64) -> BTreeSet<Timed> {
    let rules = &planned.policy.body.rules;
    let full = planned.slots.iter().filter(|slot| {
        let Timed::Rule(at) = slot.of else { return false };
        slot.backup_type.unwrap_or(rules[at].backup_type) == BackupType::Full
            && slot.times.due(slot.mark, now, slot.paused).is_some_and(|due| !due.run.is_empty())
    });
    full.map(|slot| slot.of).collect()
}

/// What a schedule of a policy asks for now.
pub(crate) struct Batch<'a> {
    pub(crate) tx: &'a mut Tx,
    pub(crate) policy: &'a Record<Policy>,
    /// `RULE/SCHEDULE`.
    pub(crate) key: &'a str,
    pub(crate) now: u64,
}

impl Batch<'_> {
    /// Makes what runs of what is due; `full` when a full backup of its rule is.
    async fn make(&mut self, slot: &Slot, due: &Due, full: bool) -> Result<()> {
        let Policy { rules, tests, snapshots, .. } = &self.policy.body;
        match slot.of {
            Timed::Rule(at) => {
                let usual = slot.backup_type.unwrap_or(rules[at].backup_type);
                let backup_type = if full { BackupType::Full } else { usual };
                self.add(&rules[at], due, backup_type).await
            }
            Timed::Test(at) => restore_tests::due(self, &tests[at], due).await,
            Timed::Copy(rule, at) => {
                let copy = (rules[rule].destination, &rules[rule].copies[at]);
                copies::due(self, copy, due).await
            }
            Timed::Verify(rule, at) => {
                verifications::due(self, (&rules[rule], &rules[rule].verify[at]), due).await
            }
            Timed::Snapshot(at) => self.add_snapshots(&snapshots[at], due).await,
        }
    }

    /// Notes that nothing of what is due runs, of no instance.
    pub(crate) async fn none_runs(&mut self, reason: MissReason, due: &Due) -> Result<()> {
        self.missed(None, reason, (due.run[0].0, due.last), due.run.len() as u64).await
    }

    /// Notes what came of one instance: nothing was made of it, or that failed for a reason of its
    /// own. The others go on.
    pub(crate) async fn came(
        &mut self,
        instance: &Record<sluice_catalog::Instance>,
        what: &str,
        made: Result<Option<MissReason>>,
        due: &Due,
    ) -> Result<()> {
        let what = format!("the {what} of instance {} ({})", instance.name, instance.id);
        let reason = match go_on(&what, made)? {
            Some(None) => return Ok(()),
            Some(Some(reason)) => reason,
            None => MissReason::Broken,
        };
        let times = due.run.len() as u64;
        self.missed(Some(instance), reason, (due.run[0].0, due.last), times).await
    }

    /// What belongs to one occurrence of the schedule for one instance: whoever else finds it due
    /// at the same time adds nothing.
    pub(crate) fn due_key(&self, instance: sluice_catalog::InstanceId, at: u64) -> String {
        format!("{}/{}/{instance}/{at}", self.policy.id, self.key)
    }

    async fn missed(
        &mut self,
        instance: Option<&Record<sluice_catalog::Instance>>,
        reason: MissReason,
        (first_ms, last_ms): (u64, u64),
        times: u64,
    ) -> Result<()> {
        let missed = Missed {
            policy: self.policy.id,
            schedule: self.key.to_owned(),
            instance: instance.map(|instance| instance.id),
            project: instance.map_or(self.policy.project, |instance| instance.project),
            reason: reason.name().to_owned(),
            first_ms,
            last_ms,
            times,
        };
        Ok(self.tx.add_missed(&missed).await?)
    }

    async fn add(&mut self, rule: &Rule, due: &Due, backup_type: BackupType) -> Result<()> {
        let mut quotas = quota::Quotas::default();
        for instance in self.tx.instances_of(self.policy, &EVERYTHING).await? {
            let made = self.add_one((rule, backup_type), due, &instance, &mut quotas).await;
            self.came(&instance, "backup", made, due).await?;
        }
        Ok(())
    }

    /// Makes the tasks of one instance; or tells why there are none.
    async fn add_one(
        &mut self,
        (rule, backup_type): (&Rule, BackupType),
        due: &Due,
        instance: &Record<sluice_catalog::Instance>,
        quotas: &mut quota::Quotas,
    ) -> Result<Option<MissReason>> {
        let policy = self.policy.id;
        match &instance.body {
            body if body.paused => return Ok(Some(MissReason::Paused)),
            body if !body.present => return Ok(Some(MissReason::Absent)),
            _ => {}
        }
        if self.tx.still_active(instance.id, policy, rule.destination).await? {
            return Ok(Some(MissReason::StillActive));
        }
        let mut spec = backup_spec(self.tx, instance, backup_type).await?;
        if let TaskSpec::Backup { snapshot, .. } = &mut spec {
            *snapshot = kept::wanted(rule.from_snapshot, &instance.body.source);
        }
        for (at, start_by) in &due.run {
            let task = NewTask {
                project: instance.project,
                instance: Some(instance.id),
                policy: Some(policy),
                destination: Some(rule.destination),
                wanted_node: instance.body.node,
                kind: spec.kind().to_owned(),
                priority: self.policy.body.priority,
                due_key: Some(self.due_key(instance.id, *at)),
                max_attempts: ATTEMPTS,
                // At once, also when the clock is set back meanwhile.
                not_before_ms: 0,
                spec: serde_json::to_value(&spec).unwrap_or_default(),
            };
            let verdict = quotas.judge(self.tx, &task, self.now).await?;
            let Some(id) = self.tx.add_task(&task, self.now).await? else { continue };
            if let Some(start_by) = start_by {
                self.tx.set_start_by(id, *start_by).await?;
            }
            quota::tell(self.tx, id, &verdict, self.now).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluice_catalog::PolicyId;

    use super::*;

    fn policy() -> Record<Policy> {
        let destination = "00000000-0000-7000-8000-000000000001";
        let when = json!({"kind": "every", "seconds": 60});
        let schedules = json!([{"name": "often", "when": when}]);
        let rule = json!({"name": "main", "destination": destination, "schedules": schedules});
        let body = serde_json::from_value(json!({"rules": [rule]})).unwrap();
        Record {
            id: PolicyId::new(1),
            project: None,
            project_name: None,
            name: "p".into(),
            revision: 1,
            created_ms: 0,
            updated_ms: 90_000,
            body,
        }
    }

    #[test]
    fn what_is_new_owes_nothing_and_a_mark_of_a_wrong_clock_is_set_back() {
        let policy = policy();
        let look = |mark: Option<u64>, now| {
            let key = (policy.id, "main/often".to_owned());
            let marks = mark.map(|mark| (key, mark)).into_iter().collect();
            let mut set = Vec::new();
            let slots = slots(&policy, &marks, now, &mut set);
            (slots[0].mark, slots[0].next, set.len())
        };
        assert_eq!(look(None, 600_000), (90_000, Some(120_000), 1));
        assert_eq!(look(Some(300_000), 600_000), (300_000, Some(360_000), 0));
        // One occurrence ahead may be right: the clock went back a little.
        assert_eq!(look(Some(660_000), 600_000), (660_000, Some(720_000), 0));
        assert_eq!(look(Some(9_000_000), 600_000), (660_000, Some(720_000), 1));
    }
}
