//! What schedules are going to ask for: how much in which slot of time, so that a pile-up is seen
//! before it happens, and new schedules are put where there is room.
//!
//! What a backup takes is the mean of those of the last weeks of the same instance to the same
//! destination. One that was never made is counted, and its size is not guessed. Tasks are taken to
//! begin when they are due, since what limits and queues make of it is not known; their time falls
//! into the slots in which they would run. That is told as the number of tasks that would have to
//! run side by side all the time for the work of a slot to be done within it.
//!
//! Times at which several schedules of one rule are due count once, as they do when they come.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sluice_catalog::{
    DestinationId, Having, Instance, InstanceId, MeanBackup, Policy, PolicyId, Record, Tx, Visible,
    Within,
};
use utoipa::ToSchema;

use crate::api::policies::EVERYTHING;
use crate::complaint::readable;
use crate::problem::Result;
use crate::ticker::Times;

/// Backups of so long count for what one takes, in milliseconds.
const HISTORY_MS: u64 = 30 * 86_400_000;

/// The most slots of one forecast.
pub(crate) const MOST_SLOTS: u64 = 1000;
/// The most occurrences of one schedule that are looked at.
pub(crate) const MOST_TIMES: usize = 10_000;

/// Work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Load {
    /// Backups that become due.
    pub(crate) backups: u64,
    /// Those of them of which nothing is known, because they were never made.
    pub(crate) unknown: u64,
    /// Bytes of sources that they cover.
    pub(crate) logical_bytes: u64,
    /// Bytes that they send to destinations.
    pub(crate) transferred_bytes: u64,
    /// How long they run, added up, in milliseconds: of a slot, those that become due in it.
    pub(crate) ran_ms: u64,
}

impl Load {
    fn add(&mut self, other: Self) {
        self.backups = self.backups.saturating_add(other.backups);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.logical_bytes = self.logical_bytes.saturating_add(other.logical_bytes);
        self.transferred_bytes = self.transferred_bytes.saturating_add(other.transferred_bytes);
        self.ran_ms = self.ran_ms.saturating_add(other.ran_ms);
    }

    fn times(self, many: u64) -> Self {
        Self {
            backups: self.backups.saturating_mul(many),
            unknown: self.unknown.saturating_mul(many),
            logical_bytes: self.logical_bytes.saturating_mul(many),
            transferred_bytes: self.transferred_bytes.saturating_mul(many),
            ran_ms: self.ran_ms.saturating_mul(many),
        }
    }
}

/// What becomes due within a slot of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub(crate) struct SlotLoad {
    /// When it begins, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    #[serde(flatten)]
    pub(crate) load: Load,
    /// How many tasks would have to run side by side all the time for what falls into the slot:
    /// also of those that began before.
    pub(crate) side_by_side: f64,
}

/// What a schedule asks for within the whole time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct ScheduleLoad {
    pub(crate) policy: PolicyId,
    /// `RULE/SCHEDULE`.
    pub(crate) schedule: String,
    /// How often it is due.
    pub(crate) times: u64,
    /// The first time, in milliseconds since 1970.
    pub(crate) next_ms: u64,
    /// What it asks for each time.
    pub(crate) each: Load,
}

/// A schedule, and when it is due.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) policy: PolicyId,
    pub(crate) schedule: String,
    pub(crate) destination: DestinationId,
    pub(crate) instances: &'a [InstanceId],
    pub(crate) due: Vec<u64>,
}

/// What backups take, by instance and destination.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<(InstanceId, DestinationId), Load>);

impl Known {
    pub(crate) fn of(means: &[MeanBackup]) -> Self {
        let known = means.iter().map(|mean| {
            let load = Load {
                backups: 1,
                unknown: 0,
                logical_bytes: mean.logical_bytes,
                transferred_bytes: mean.transferred_bytes,
                ran_ms: mean.ran_ms,
            };
            ((mean.instance, mean.destination), load)
        });
        Self(known.collect())
    }

    /// What one time of a schedule asks for, and how long each of its backups runs.
    fn of_all(&self, instances: &[InstanceId], destination: DestinationId) -> (Load, Running) {
        let mut sum = Load::default();
        let mut each = Vec::with_capacity(instances.len());
        for instance in instances {
            let never = Load { backups: 1, unknown: 1, ..Load::default() };
            let load = self.0.get(&(*instance, destination)).copied().unwrap_or(never);
            sum.add(load);
            each.push(load.ran_ms);
        }
        (sum, Running::of(each))
    }
}

/// How long tasks run that begin together.
#[derive(Debug)]
struct Running {
    /// The shortest first.
    each: Vec<u64>,
    /// What the shortest so many run together; one more than there are tasks.
    sums: Vec<u64>,
}

impl Running {
    fn of(mut each: Vec<u64>) -> Self {
        each.sort_unstable();
        let mut sums = vec![0_u64];
        for ran in &each {
            sums.push(sums.last().copied().unwrap_or(0).saturating_add(*ran));
        }
        Self { each, sums }
    }

    /// Until when the last of them runs, after their beginning.
    fn longest(&self) -> u64 {
        self.each.last().copied().unwrap_or(0)
    }

    /// How much they have run together so long after their beginning.
    fn after(&self, ms: u64) -> u64 {
        let ended = self.each.partition_point(|ran| *ran <= ms);
        let running = (self.each.len() - ended) as u64;
        self.sums[ended].saturating_add(running.saturating_mul(ms))
    }
}

/// Puts what is asked for into slots of time of one length.
pub(crate) fn forecast(
    asked: &[Asked<'_>],
    known: &Known,
    (from_ms, until_ms): (u64, u64),
    slot_ms: u64,
) -> (Vec<SlotLoad>, Vec<ScheduleLoad>) {
    let many = until_ms.saturating_sub(from_ms).div_ceil(slot_ms).min(MOST_SLOTS);
    let mut slots: Vec<SlotLoad> = (0..many)
        .map(|at| SlotLoad {
            at_ms: from_ms + at * slot_ms,
            load: Load::default(),
            side_by_side: 0.0,
        })
        .collect();
    let mut schedules = Vec::new();
    for one in asked {
        let (each, running) = known.of_all(one.instances, one.destination);
        let within = |at: &&u64| (from_ms..until_ms).contains(*at);
        let due: Vec<u64> = one.due.iter().filter(within).copied().collect();
        let Some(next_ms) = due.first().copied() else { continue };
        let mut by_slot: BTreeMap<usize, u64> = BTreeMap::new();
        for at in &due {
            let slot = usize::try_from((at - from_ms) / slot_ms).unwrap_or(usize::MAX);
            *by_slot.entry(slot).or_default() += 1;
        }
        for (slot, times) in by_slot {
            if let Some(slot) = slots.get_mut(slot) {
                slot.load.add(each.times(times));
            }
        }
        for at in &due {
            let first = usize::try_from((at - from_ms) / slot_ms).unwrap_or(usize::MAX);
            for slot in slots.iter_mut().skip(first) {
                let begin = slot.at_ms.saturating_sub(*at);
                if begin > 0 && begin >= running.longest() {
                    break;
                }
                let end = slot.at_ms.saturating_add(slot_ms) - at;
                let busy = running.after(end).saturating_sub(running.after(begin));
                slot.side_by_side += busy as f64 / slot_ms as f64;
            }
        }
        let (policy, schedule) = (one.policy, one.schedule.clone());
        schedules.push(ScheduleLoad { policy, schedule, times: due.len() as u64, next_ms, each });
    }
    schedules.sort_by_key(|one| (one.next_ms, one.policy));
    (slots, schedules)
}

/// What schedules are going to ask for.
#[derive(Serialize, ToSchema)]
pub(crate) struct ForecastReport {
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
    /// How long a slot is, in milliseconds.
    pub(crate) slot_ms: u64,
    pub(crate) total: Load,
    pub(crate) slots: Vec<SlotLoad>,
    /// What is due first comes first.
    pub(crate) schedules: Vec<ScheduleLoad>,
}

/// Looks at what schedules ask for within a time that is to come, of what the caller may know of.
///
/// # Errors
/// Those of the database.
pub(crate) async fn report(
    tx: &mut Tx,
    visible: &Visible,
    within: &Within,
    (slot_ms, now): (u64, u64),
) -> Result<ForecastReport> {
    let history = Within { from_ms: now.saturating_sub(HISTORY_MS), until_ms: now + 1, ..*within };
    let known = Known::of(&tx.mean_backups(visible, &history).await?);
    let by_hand = tx.by_hand().await?;
    let instances = readable::<Instance>(tx, visible).await?;
    let wanted = |instance: &&Record<Instance>| {
        let other = within.project.is_some() && within.project != instance.project;
        !other && instance.body.present && !instance.body.paused
    };
    let instances: Vec<&Record<Instance>> = instances.iter().filter(wanted).collect();
    // What a policy of the system asks for is told to those whose instances it has.
    let policies: Vec<(Record<Policy>, Vec<InstanceId>)> = readable::<Policy>(tx, &EVERYTHING)
        .await?
        .into_iter()
        .filter(|policy| !policy.body.paused)
        .map(|policy| {
            let having = Having::of(&policy, &by_hand);
            let has = instances.iter().filter(|one| having.has(one)).map(|one| one.id).collect();
            (policy, has)
        })
        .collect();
    let window = (within.from_ms, within.until_ms);
    let mut asked = Vec::new();
    for (policy, instances) in policies.iter().filter(|(_, instances)| !instances.is_empty()) {
        for rule in &policy.body.rules {
            let mut known = BTreeSet::new();
            for schedule in rule.schedules.iter().filter(|schedule| !schedule.paused) {
                let Some(times) = Times::of(schedule) else { continue };
                // What became due in the part of the first slot that is over is no forecast.
                let first = times.next(window.0.saturating_sub(1).max(now));
                let due = std::iter::successors(first, |at| times.next(*at))
                    .take_while(|at| *at < window.1)
                    .take(MOST_TIMES)
                    .filter(|at| known.insert(*at));
                asked.push(Asked {
                    policy: policy.id,
                    schedule: format!("{}/{}", rule.name, schedule.name),
                    destination: rule.destination,
                    instances,
                    due: due.collect(),
                });
            }
        }
    }
    let (slots, mut schedules) = forecast(&asked, &known, window, slot_ms);
    // The work is told, and of the system's policies those that the caller may know of.
    let seen: BTreeSet<PolicyId> =
        readable::<Policy>(tx, visible).await?.iter().map(|policy| policy.id).collect();
    schedules.retain(|one| seen.contains(&one.policy));
    let mut total = Load::default();
    slots.iter().for_each(|slot| total.add(slot.load));
    let (from_ms, until_ms) = window;
    Ok(ForecastReport { from_ms, until_ms, slot_ms, total, slots, schedules })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_put_where_it_becomes_due() {
        let (a, b) = (InstanceId::new(1), InstanceId::new(2));
        let destination = DestinationId::new(3);
        let mean = |instance, logical_bytes| MeanBackup {
            instance,
            destination,
            tasks: 5,
            logical_bytes,
            transferred_bytes: logical_bytes / 10,
            ran_ms: 600_000,
        };
        let known = Known::of(&[mean(a, 1000)]);
        let asked = |instances: &'static [InstanceId], due: Vec<u64>| Asked {
            policy: PolicyId::new(4),
            schedule: "main/nightly".into(),
            destination,
            instances,
            due,
        };
        let both: &'static [InstanceId] = Box::leak(Box::new([a, b]));
        let hour = 3_600_000;
        let (slots, schedules) = forecast(
            &[
                asked(both, vec![hour + 1, 2 * hour - 1, 3 * hour]),
                asked(&both[..1], vec![0, 9 * hour]),
                asked(both, vec![9 * hour]),
            ],
            &known,
            (0, 4 * hour),
            hour,
        );
        let told: Vec<_> = slots
            .iter()
            .map(|slot| {
                let Load { backups, unknown, logical_bytes, transferred_bytes, .. } = slot.load;
                (slot.at_ms / hour, backups, unknown, logical_bytes, transferred_bytes)
            })
            .collect();
        let wanted =
            [(0, 1, 0, 1000, 100), (1, 4, 2, 2000, 200), (2, 0, 0, 0, 0), (3, 2, 1, 1000, 100)];
        assert_eq!(told, wanted);
        assert!((slots[1].side_by_side - 1.0 / 6.0).abs() < 1e-6, "{:?}", slots[1]);
        let times: Vec<_> = schedules.iter().map(|one| (one.next_ms, one.times)).collect();
        assert_eq!(times, [(0, 1), (hour + 1, 3)]);
    }

    #[test]
    fn time_falls_into_the_slots_in_which_tasks_run() {
        let (short, long) = (InstanceId::new(1), InstanceId::new(2));
        let destination = DestinationId::new(3);
        let hour = 3_600_000;
        let mean = |instance, ran_ms| MeanBackup {
            instance,
            destination,
            tasks: 1,
            logical_bytes: 1,
            transferred_bytes: 1,
            ran_ms,
        };
        let known = Known::of(&[mean(short, hour / 2), mean(long, 2 * hour)]);
        let asked = Asked {
            policy: PolicyId::new(4),
            schedule: "main/nightly".into(),
            destination,
            instances: &[short, long],
            due: vec![hour / 2],
        };
        let (slots, _) = forecast(&[asked], &known, (0, 4 * hour), hour);
        let side: Vec<f64> = slots.iter().map(|slot| slot.side_by_side).collect();
        assert_eq!(side, [1.0, 1.0, 0.5, 0.0]);
    }

    #[test]
    fn a_time_is_not_cut_into_more_slots_than_anybody_reads() {
        let (slots, _) = forecast(&[], &Known::default(), (0, u64::MAX / 2), 60_000);
        assert_eq!(slots.len() as u64, MOST_SLOTS);
    }
}
