//! Whether instances were protected as was promised.
//!
//! ```text
//!   points        p1         p2                        p3
//!   time     ─────┼──────────┼─────────────────────────┼───────────►
//!   within RPO    ├──────────┼───────────┤ outside     ├──────
//!                             rpo after p2
//! ```
//!
//! At each moment the newest restore point until then must not be older than the recovery point
//! objective (RPO). What counts is what restore points hold, not when backups ran, and at whichever
//! destination they lie; points that were removed since count, because they were there. An
//! instance that is new has as long as the objective says until its first.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sluice_catalog::{
    Having, Instance, InstanceId, LastTest, Objectives, Policy, PolicyId, ProjectId, Record,
    TestState, Tx, Visible, Within,
};
use utoipa::ToSchema;

use crate::api::policies::EVERYTHING;
use crate::complaint::readable;
use crate::problem::Result;
use crate::verifications::{self, Doubt, DoubtState};

/// Whether an instance was protected as promised.
#[derive(Serialize, ToSchema)]
pub(crate) struct SlaRow {
    pub(crate) instance: InstanceId,
    pub(crate) name: String,
    pub(crate) project: Option<ProjectId>,
    /// The policies that apply to it.
    pub(crate) policies: Vec<PolicyId>,
    /// How old its newest restore point may get: the strictest that its policies say, in seconds.
    pub(crate) rpo_seconds: u64,
    /// How well that was met.
    pub(crate) coverage: Coverage,
    /// How long it may take until it runs again: the strictest that its policies say, in seconds.
    pub(crate) rto_seconds: Option<u64>,
    /// What its newest restore test within the time found.
    pub(crate) test: Option<TestFound>,
    /// Backups that ended, by state.
    pub(crate) backups: BTreeMap<String, u64>,
    /// Runs that were due and did not happen.
    pub(crate) missed: u64,
    /// Its restore points that are damaged now. They count as not there.
    pub(crate) damaged: u64,
    /// Whether its newest restore point is to be verified, by a rule, and was not yet.
    pub(crate) unproven: bool,
    /// What is wrong with its newest restore point now, of which one copy is enough.
    pub(crate) newest: Option<DoubtState>,
    /// Whether everything was as promised.
    pub(crate) met: bool,
}

/// What a restore test found.
#[derive(Serialize, ToSchema)]
pub(crate) struct TestFound {
    pub(crate) state: TestState,
    /// How long it took until the guest answered, in milliseconds.
    pub(crate) answer_ms: Option<u64>,
    /// When, in milliseconds since 1970.
    pub(crate) at_ms: u64,
}

/// How many instances of a policy were protected as promised.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct SlaOfPolicy {
    pub(crate) instances: u64,
    pub(crate) met: u64,
}

/// Whether instances were protected as promised.
#[derive(Serialize, ToSchema)]
pub(crate) struct SlaReport {
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
    /// Instances with a policy, whose sources are still there.
    pub(crate) total: u64,
    /// Those of them that were protected as promised.
    pub(crate) met: u64,
    /// The same by policy.
    pub(crate) by_policy: BTreeMap<PolicyId, SlaOfPolicy>,
    /// The worst first.
    pub(crate) items: Vec<SlaRow>,
}

/// What is told of instances within a time.
struct Told {
    taken: BTreeMap<InstanceId, Vec<u64>>,
    backups: BTreeMap<InstanceId, BTreeMap<String, u64>>,
    tests: BTreeMap<InstanceId, LastTest>,
    missed: BTreeMap<InstanceId, u64>,
    doubts: BTreeMap<InstanceId, Vec<Doubt>>,
    newest: BTreeMap<InstanceId, DoubtState>,
}

impl Told {
    async fn load(tx: &mut Tx, visible: &Visible, within: &Within) -> Result<Self> {
        let mut taken: BTreeMap<InstanceId, Vec<u64>> = BTreeMap::new();
        for (instance, at) in tx.taken(visible, within).await? {
            taken.entry(instance).or_default().push(at);
        }
        let mut backups: BTreeMap<InstanceId, BTreeMap<String, u64>> = BTreeMap::new();
        for ended in tx.backups_ended(visible, within).await? {
            backups.entry(ended.instance).or_default().insert(ended.state, ended.tasks);
        }
        let tests = tx.last_tests(visible, within).await?;
        let tests = tests.into_iter().map(|test| (test.instance, test)).collect();
        let missed = tx.missed_runs(visible, within).await?.into_iter().collect();
        let doubts = verifications::doubts(tx, visible, within.project).await?;
        let newest = verifications::newest(tx, &doubts).await?;
        Ok(Self { taken, backups, tests, missed, doubts, newest })
    }

    fn row(
        &mut self,
        instance: Record<Instance>,
        policies: Vec<PolicyId>,
        promised: Objectives,
        (within, usual_rpo): (&Within, u64),
    ) -> SlaRow {
        let id = instance.id;
        let rpo_seconds = promised.rpo_seconds.unwrap_or(usual_rpo);
        let taken = self.taken.remove(&id).unwrap_or_default();
        let window = (within.from_ms, within.until_ms);
        let rpo_ms = rpo_seconds.saturating_mul(1000);
        let coverage = coverage(&taken, window, instance.created_ms, rpo_ms);
        let test = self.tests.remove(&id).map(|test| TestFound {
            state: test.state,
            answer_ms: test.answer_ms,
            at_ms: test.created_ms,
        });
        let rto_met = promised.rto_seconds.is_none_or(|rto| {
            let found = test.as_ref().filter(|test| test.state == TestState::Ok);
            found.and_then(|test| test.answer_ms).is_some_and(|ms| ms <= rto.saturating_mul(1000))
        });
        let doubts = self.doubts.remove(&id).unwrap_or_default();
        let damaged = doubts.iter().filter(|doubt| doubt.state == DoubtState::Damaged).count();
        SlaRow {
            instance: id,
            name: instance.name,
            project: instance.project,
            policies,
            rpo_seconds,
            met: coverage.outside_ms == 0 && rto_met,
            coverage,
            rto_seconds: promised.rto_seconds,
            test,
            backups: self.backups.remove(&id).unwrap_or_default(),
            missed: self.missed.remove(&id).unwrap_or_default(),
            damaged: damaged as u64,
            unproven: doubts.iter().any(|doubt| doubt.state == DoubtState::Unproven),
            newest: self.newest.remove(&id),
        }
    }
}

/// Looks whether instances were protected as promised. Where no policy promises a recovery point
/// objective, it is `usual_rpo` seconds. A recovery time objective is met by a restore test within
/// the time whose guest answered soon enough, and by nothing else.
///
/// # Errors
/// Those of the database.
pub(crate) async fn report(
    tx: &mut Tx,
    visible: &Visible,
    within: &Within,
    usual_rpo: u64,
) -> Result<SlaReport> {
    // Who has a role on an instance alone sees no policies, and is told whether they were kept.
    let policies = readable::<Policy>(tx, &EVERYTHING).await?;
    let seen: BTreeSet<PolicyId> =
        readable::<Policy>(tx, visible).await?.iter().map(|policy| policy.id).collect();
    let by_hand = tx.by_hand().await?;
    let mut told = Told::load(tx, visible, within).await?;
    let mut by_policy: BTreeMap<PolicyId, SlaOfPolicy> = BTreeMap::new();
    let mut items = Vec::new();
    let having: Vec<Having<'_>> =
        policies.iter().map(|policy| Having::of(policy, &by_hand)).collect();
    for instance in readable::<Instance>(tx, visible).await? {
        let other = within.project.is_some() && within.project != instance.project;
        if other || !instance.body.present {
            continue;
        }
        let own = having.iter().filter(|one| one.has(&instance)).map(Having::policy);
        let own: Vec<&Record<Policy>> = own.collect();
        if own.is_empty() {
            continue;
        }
        let promised = own.iter().map(|policy| policy.body.objectives);
        let promised = promised.fold(Objectives::default(), Objectives::strictest);
        let ids: Vec<PolicyId> =
            own.iter().map(|policy| policy.id).filter(|id| seen.contains(id)).collect();
        let row = told.row(instance, ids, promised, (within, usual_rpo));
        for policy in &row.policies {
            let sum = by_policy.entry(*policy).or_default();
            sum.instances += 1;
            sum.met += u64::from(row.met);
        }
        items.push(row);
    }
    let met = items.iter().filter(|row| row.met).count() as u64;
    items.sort_by(|a, b| {
        let key = |row: &SlaRow| (row.met, std::cmp::Reverse(row.coverage.outside_ms));
        key(a).cmp(&key(b))
    });
    let (from_ms, until_ms) = (within.from_ms, within.until_ms);
    Ok(SlaReport { from_ms, until_ms, total: items.len() as u64, met, by_policy, items })
}

/// How well the recovery point objective was met within a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub(crate) struct Coverage {
    /// The part of the time in which the newest restore point was recent enough, in percent.
    pub(crate) percent: f64,
    /// For how long it was not, in milliseconds.
    pub(crate) outside_ms: u64,
    /// The oldest that the newest restore point ever was, in milliseconds.
    pub(crate) worst_ms: u64,
}

/// Looks at the moments that restore points hold, earliest first, with the last one before the
/// time. `since_ms` is when the instance was registered.
pub(crate) fn coverage(
    taken: &[u64],
    (from_ms, until_ms): (u64, u64),
    since_ms: u64,
    rpo_ms: u64,
) -> Coverage {
    let from_ms = from_ms.max(since_ms).min(until_ms);
    let mut last = since_ms.min(from_ms);
    let (mut outside_ms, mut worst_ms) = (0, 0);
    for at in taken.iter().copied().filter(|at| *at < until_ms).chain([until_ms]) {
        let at = at.max(last);
        // From `last` to `at` the newest one was `last`; what of it lies within the time counts.
        if at > from_ms {
            let late_from = last.saturating_add(rpo_ms).max(from_ms);
            outside_ms += at.saturating_sub(late_from);
            worst_ms = worst_ms.max(at - last);
        }
        last = at;
    }
    let whole = until_ms - from_ms;
    let percent = match whole {
        0 => 100.0,
        whole => 100.0 * (whole - outside_ms) as f64 / whole as f64,
    };
    Coverage { percent, outside_ms, worst_ms }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;

    fn hours(taken: &[u64], window: (u64, u64), since: u64, rpo: u64) -> (f64, u64, u64) {
        let taken: Vec<u64> = taken.iter().map(|hour| hour * HOUR).collect();
        let window = (window.0 * HOUR, window.1 * HOUR);
        let found = coverage(&taken, window, since * HOUR, rpo * HOUR);
        (found.percent, found.outside_ms / HOUR, found.worst_ms / HOUR)
    }

    #[test]
    fn what_is_older_than_promised_counts_from_then_on() {
        // Each 10 hours, as promised.
        assert_eq!(hours(&[90, 100, 110, 120], (100, 125), 0, 10), (100.0, 0, 10));
        // The one at 110 is missing: from 110 to 120 it was outside.
        assert_eq!(hours(&[90, 100, 120], (100, 125), 0, 10), (60.0, 10, 20));
        // The last one before the time is already too old when it begins.
        assert_eq!(hours(&[80, 105], (100, 110), 0, 10), (50.0, 5, 25));
        // Nothing at all.
        assert_eq!(hours(&[], (100, 110), 0, 10), (0.0, 10, 110));
        // An instance that is new has time for its first.
        assert_eq!(hours(&[], (100, 120), 105, 10), (100.0 / 3.0 * 2.0, 5, 15));
        assert_eq!(hours(&[112], (100, 120), 105, 10), (100.0, 0, 8));
        // One that was registered after the time has nothing to show.
        assert_eq!(hours(&[], (100, 120), 130, 10), (100.0, 0, 0));
    }

    proptest! {
        /// Minute by minute it is the same.
        #[test]
        fn time_outside_is_what_looking_at_each_moment_finds(
            mut taken in prop::collection::vec(0_u64..400, 0..12),
            (from, length) in (0_u64..300, 1_u64..200),
            since in 0_u64..300,
            rpo in 1_u64..100,
        ) {
            taken.sort_unstable();
            // Points from before an instance was registered are those of an earlier life.
            let taken: Vec<u64> = taken.into_iter().filter(|at| *at >= since).collect();
            let until = from + length;
            let found = coverage(&taken, (from, until), since, rpo);
            let looked = (from.max(since)..until.max(since)).take_while(|now| *now < until);
            let late = looked.filter(|now| {
                let newest = taken.iter().copied().filter(|at| at <= now).max();
                now - newest.unwrap_or(since) >= rpo
            });
            prop_assert_eq!(found.outside_ms, late.count() as u64);
        }
    }
}
