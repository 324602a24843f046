//! How much work is to come, slot by slot: for choosing hours that are still free, and for prices
//! that depend on the hour.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::plan::{Policy, Resource};
use crate::time::{Span, moment};
use crate::{PolicyId, ResourceId, RuleId};

/// Most slots of one forecast: a year of hours.
pub const MAX_SLOTS: u64 = 366 * 24;

/// What one task is expected to come to, from those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes to process.
    pub bytes: u64,
    /// How long it takes.
    pub lasts: Span,
}

/// The work of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SlotLoad {
    /// When the slot begins.
    #[serde(with = "moment")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "date-time"))]
    pub from: Timestamp,
    /// Tasks that begin in it, and their bytes.
    pub begins: Work,
    /// The same for each policy that has any.
    pub by_policy: BTreeMap<PolicyId, Work>,
    /// Seconds of work that fall into it, those of tasks that began before counted in. Divided by
    /// the length of the slot, how many tasks run at a time in the mean.
    pub busy_seconds: u64,
}

/// Tasks and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Work {
    /// How many.
    pub tasks: u64,
    /// How much.
    pub bytes: u64,
}

impl Work {
    fn add(&mut self, tasks: u64, bytes: u64) {
        self.tasks = self.tasks.saturating_add(tasks);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Adds up what begins after `from`, for `slots` slots (at most [`MAX_SLOTS`]) of a length.
///
/// Tasks are taken to begin when they are due: what limits and queues make of it is not known.
/// Times at which several schedules of one rule are due count once, as they do in plans.
pub fn forecast(
    policies: &[Policy],
    resources: &[Resource],
    estimate: &dyn Fn(&RuleId, &ResourceId) -> Estimate,
    from: Timestamp,
    length: Span,
    slots: u64,
) -> Vec<SlotLoad> {
    let seconds = length.as_seconds().max(60);
    let slots = slots.min(MAX_SLOTS);
    let end = Span::seconds(seconds.saturating_mul(slots)).after(from);
    let empty = |number: u64| SlotLoad {
        from: Span::seconds(seconds * number).after(from),
        begins: Work::default(),
        by_policy: BTreeMap::new(),
        busy_seconds: 0,
    };
    let mut loads: Vec<SlotLoad> = (0..slots).map(empty).collect();
    let mut members: HashMap<&PolicyId, Vec<&Resource>> = HashMap::new();
    for resource in resources.iter().filter(|resource| !resource.paused && resource.present) {
        for policy in &resource.policies {
            members.entry(policy).or_default().push(resource);
        }
    }
    // What begins at `from` itself belongs to the first slot.
    let before = Span::seconds(1).before(from);
    for policy in policies.iter().filter(|policy| !policy.paused) {
        let Some(members) = members.get(&policy.id) else { continue };
        for rule in policy.rules.iter().filter(|rule| !rule.paused) {
            let estimates: Vec<Estimate> =
                members.iter().map(|resource| estimate(&rule.id, &resource.id)).collect();
            let bytes = estimates.iter().fold(0, |sum: u64, each| sum.saturating_add(each.bytes));
            let tasks = estimates.len() as u64;
            let mut times: Vec<Timestamp> = rule
                .schedules
                .iter()
                .flat_map(|(_, calendar)| {
                    calendar.occurrences(before).take_while(|time| *time < end)
                })
                .collect();
            times.sort_unstable();
            times.dedup();
            for time in times {
                let offset = Span::between(from, time).as_seconds();
                let Some(load) = slot(&mut loads, offset / seconds) else { continue };
                load.begins.add(tasks, bytes);
                load.by_policy.entry(policy.id.clone()).or_default().add(tasks, bytes);
                for each in &estimates {
                    spread(&mut loads, offset, each.lasts.as_seconds(), seconds);
                }
            }
        }
    }
    loads
}

fn slot(loads: &mut [SlotLoad], number: u64) -> Option<&mut SlotLoad> {
    loads.get_mut(usize::try_from(number).ok()?)
}

/// Puts the seconds of one task into the slots it runs through.
fn spread(loads: &mut [SlotLoad], mut offset: u64, mut left: u64, seconds: u64) {
    while left > 0 {
        let Some(load) = slot(loads, offset / seconds) else { return };
        let part = left.min(seconds - offset % seconds);
        load.busy_seconds = load.busy_seconds.saturating_add(part);
        offset += part;
        left -= part;
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Estimate, SlotLoad, Work, forecast};
    use crate::calendar::Schedule;
    use crate::plan::{Policy, Resource, Rule};
    use crate::time::Span;
    use crate::work::{Priority, TaskKind};

    fn policy(id: &str, times: &[&str]) -> Policy {
        let schedules = times.iter().map(|time| {
            let at = vec![time.parse().unwrap()];
            let schedule = Schedule { at, ..Schedule::default() };
            ((*time).into(), schedule.compile().unwrap())
        });
        let rule = Rule {
            id: format!("{id}-rule").as_str().into(),
            kind: TaskKind::Backup,
            destination: None,
            paused: false,
            priority: Priority::default(),
            time_limit: None,
            schedules: schedules.collect(),
        };
        Policy { id: id.into(), paused: false, rules: vec![rule] }
    }

    fn resource(id: &str, policy: &str) -> Resource {
        Resource {
            id: id.into(),
            source: "host".into(),
            project: "shop".into(),
            policies: vec![policy.into()],
            paused: false,
            present: true,
        }
    }

    fn day(policies: &[Policy], resources: &[Resource]) -> Vec<SlotLoad> {
        let from: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let estimate = Estimate { bytes: 7, lasts: Span::minutes(90) };
        forecast(policies, resources, &|_, _| estimate, from, Span::hours(1), 24)
    }

    #[test]
    fn work_falls_into_the_slots_it_runs_through() {
        let policies = [policy("gold", &["00:00", "02:30"]), policy("silver", &["02:00"])];
        let resources = [resource("a", "gold"), resource("b", "gold"), resource("c", "silver")];
        let day = day(&policies, &resources);
        let begins: Vec<u64> = day.iter().map(|slot| slot.begins.tasks).collect();
        assert_eq!(begins[..4], [2, 0, 3, 0]);
        assert_eq!(begins.iter().sum::<u64>(), 5);
        let busy: Vec<u64> = day[..5].iter().map(|slot| slot.busy_seconds / 60).collect();
        assert_eq!(busy, [120, 60, 120, 150, 0]);
        assert_eq!(day[2].begins.bytes, 21);
        assert_eq!(day[2].by_policy[&"silver".into()], Work { tasks: 1, bytes: 7 });
    }

    #[test]
    fn what_does_not_run_is_not_expected() {
        let mut policies = [policy("gold", &["00:00"]), policy("silver", &["00:00"])];
        policies[1].paused = true;
        let mut resources = [resource("a", "gold"), resource("b", "gold"), resource("c", "silver")];
        resources[1].present = false;
        assert_eq!(day(&policies, &resources)[0].begins.tasks, 1);
    }

    #[test]
    fn a_moment_that_two_schedules_name_counts_once() {
        let mut gold = policy("gold", &["00:00"]);
        gold.rules[0].schedules.push(policy("x", &["00:00"]).rules[0].schedules[0].clone());
        assert_eq!(day(&[gold], &[resource("a", "gold")])[0].begins.tasks, 1);
    }
}
