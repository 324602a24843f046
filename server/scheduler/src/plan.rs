//! Which rules are due for which resources.
//!
//! # Model
//!
//! A *slot* is one schedule of one rule for one resource. Of each slot the caller keeps a *mark*:
//! the moment up to which it was decided. [`Plan::decide`] looks at what lies between the mark and
//! now, says which tasks to make and which occurrences are missed and why, and gives the marks to
//! keep. The caller stores tasks and marks in one transaction; then a crash at any moment neither
//! loses an occurrence nor makes two tasks of it.
//!
//! # Invariants
//!
//! * Every occurrence after a slot's first mark becomes a task or is counted as missed, once.
//! * A slot without a mark is new: it begins now, and owes nothing for the past. To forget what
//!   was before (a schedule was edited), drop its marks.
//! * One task at a time for a rule and a resource, except those made up for by
//!   [`Misfire::RunAll`].
//! * When the clock goes back, what was decided is not decided again. A mark more than one
//!   occurrence ahead was made by a clock that was wrong; it is set back, and at most one
//!   occurrence is passed over.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::calendar::{Calendar, Misfire};
use crate::time::{Span, maybe_moment, moment};
use crate::work::{Priority, TaskKind};
use crate::{DestinationId, PolicyId, ProjectId, ResourceId, RuleId, ScheduleId, SourceId};

/// Most tasks that [`Misfire::RunAll`] makes of one slot at a time: the latest ones. A clock that
/// was wrong for a year must not fill the queue for a year.
pub const MAX_CATCH_UP: usize = 100;

/// Most missed occurrences that are counted one by one.
pub const MAX_COUNTED: usize = 10_000;

/// A policy as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The policy.
    pub id: PolicyId,
    /// While it is paused, its occurrences count as missed.
    pub paused: bool,
    /// What it does.
    pub rules: Vec<Rule>,
}

/// What a policy does at which times.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The rule.
    pub id: RuleId,
    /// What its tasks do.
    pub kind: TaskKind,
    /// Where its tasks read or write, if they do.
    pub destination: Option<DestinationId>,
    /// While it is paused, its occurrences count as missed.
    pub paused: bool,
    /// How urgent its tasks are.
    pub priority: Priority,
    /// How long after its time a task should have ended, for reports and warnings.
    pub time_limit: Option<Span>,
    /// When it is due: at the times of any of these.
    pub schedules: Vec<(ScheduleId, Calendar)>,
}

/// What is protected, as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct Resource {
    /// The resource.
    pub id: ResourceId,
    /// Where it comes from.
    pub source: SourceId,
    /// Whose it is.
    pub project: ProjectId,
    /// The policies assigned to it.
    pub policies: Vec<PolicyId>,
    /// While it is paused, its occurrences count as missed.
    pub paused: bool,
    /// Whether it is still there at its source.
    pub present: bool,
}

/// One schedule of one rule for one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Slot {
    /// The rule.
    pub rule: RuleId,
    /// The schedule.
    pub schedule: ScheduleId,
    /// The resource.
    pub resource: ResourceId,
}

/// What is decided on.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// All policies.
    pub policies: &'a [Policy],
    /// All resources.
    pub resources: &'a [Resource],
    /// Up to when each slot was decided.
    pub marks: &'a HashMap<Slot, Timestamp>,
    /// Rules and resources with a task that has not ended.
    pub active: &'a HashSet<(RuleId, ResourceId)>,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Tasks to make.
    pub tasks: Vec<NewTask>,
    /// Occurrences that do not run.
    pub missed: Vec<Missed>,
    /// Marks to keep, together with the tasks.
    pub marks: Vec<(Slot, Timestamp)>,
    /// Slots whose marks were set back because the clock had been wrong.
    pub set_back: Vec<Slot>,
    /// When to decide again: the next occurrence of any slot.
    pub wake: Option<Timestamp>,
}

/// A task to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTask {
    /// What it comes from.
    pub slot: Slot,
    /// The policy of the rule.
    pub policy: PolicyId,
    /// What it does.
    pub kind: TaskKind,
    /// Where it reads or writes, if it does.
    pub destination: Option<DestinationId>,
    /// Where its resource comes from.
    pub source: SourceId,
    /// Whose its resource is.
    pub project: ProjectId,
    /// How urgent it is.
    pub priority: Priority,
    /// The occurrence it is for.
    #[serde(with = "moment")]
    pub due: Timestamp,
    /// It must have started before, or its window is missed.
    #[serde(with = "moment")]
    pub start_by: Timestamp,
    /// It should have ended by then.
    #[serde(with = "maybe_moment")]
    pub finish_by: Option<Timestamp>,
    /// Whether it makes up for a window that had passed.
    pub late: bool,
}

impl NewTask {
    /// A text that no other task has, for a unique column: rule, schedule, resource and time.
    pub fn key(&self) -> String {
        let Slot { rule, schedule, resource } = &self.slot;
        format!("{rule}/{schedule}/{resource}/{}", self.due)
    }
}

/// Occurrences of a slot that do not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Missed {
    /// Whose occurrences.
    pub slot: Slot,
    /// The policy of the rule.
    pub policy: PolicyId,
    /// Why they do not run.
    pub reason: MissReason,
    /// The first of them.
    #[serde(with = "moment")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "date-time"))]
    pub first: Timestamp,
    /// The last of them.
    #[serde(with = "moment")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "date-time"))]
    pub last: Timestamp,
    /// How many they are; at [`MAX_COUNTED`] there may be more.
    pub count: usize,
}

/// Why an occurrence does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MissReason {
    /// Nobody decided on it within its start window.
    TooLate,
    /// A later occurrence of the same slot runs in its place.
    Superseded,
    /// Another schedule of the rule makes a task for the resource at the same time.
    Merged,
    /// The task before has not ended.
    StillActive,
    /// The policy, the rule or the resource is paused.
    Paused,
    /// The resource is no longer at its source.
    Absent,
    /// No task could be made of it, for something that it needs cannot be read.
    Broken,
}

impl MissReason {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLate => "too-late",
            Self::Superseded => "superseded",
            Self::Merged => "merged",
            Self::StillActive => "still-active",
            Self::Paused => "paused",
            Self::Absent => "absent",
            Self::Broken => "broken",
        }
    }
}

/// What lies between a mark and now, the same for all resources with that mark.
#[derive(Debug, Clone)]
enum Look {
    Nothing,
    SetBack(Timestamp),
    /// Occurrences that run, and before them, those that do not.
    Due {
        run: Vec<Timestamp>,
        late: bool,
        missed: Option<(Timestamp, Timestamp, usize)>,
        first: Timestamp,
        last: Timestamp,
        count: usize,
    },
}

impl Plan<'_> {
    /// Decides at `now`.
    pub fn decide(&self, now: Timestamp) -> Decisions {
        let mut out = Decisions::default();
        let policies: HashMap<&PolicyId, &Policy> =
            self.policies.iter().map(|policy| (&policy.id, policy)).collect();
        let mut looks: HashMap<(&RuleId, &ScheduleId, Timestamp), Look> = HashMap::new();
        let mut used: HashSet<(&RuleId, &ScheduleId)> = HashSet::new();
        let mut chosen: HashSet<&RuleId> = HashSet::new();
        for resource in self.resources {
            chosen.clear();
            let assigned = resource.policies.iter().filter_map(|id| policies.get(id).copied());
            for (policy, rule) in assigned.flat_map(|p| p.rules.iter().map(move |rule| (p, rule))) {
                for (schedule, calendar) in &rule.schedules {
                    if used.insert((&rule.id, schedule)) {
                        let next = calendar.next(now);
                        out.wake = [out.wake, next].into_iter().flatten().min();
                    }
                    let slot = Slot {
                        rule: rule.id.clone(),
                        schedule: schedule.clone(),
                        resource: resource.id.clone(),
                    };
                    let Some(mark) = self.marks.get(&slot).copied() else {
                        out.marks.push((slot, now));
                        continue;
                    };
                    let look = looks
                        .entry((&rule.id, schedule, mark))
                        .or_insert_with(|| look(calendar, mark, now));
                    let case = Case { policy, rule, calendar, resource, slot, now };
                    let held = case.held(self.active, &chosen);
                    if case.apply(look, held, &mut out) {
                        chosen.insert(&rule.id);
                    }
                }
            }
        }
        out
    }
}

/// What a calendar asks for between `mark` and `now`.
fn look(calendar: &Calendar, mark: Timestamp, now: Timestamp) -> Look {
    if mark > now {
        return match calendar.next(now) {
            Some(next) if mark > next => Look::SetBack(next),
            _ => Look::Nothing,
        };
    }
    let Some(last) = calendar.previous(now).filter(|last| *last > mark) else {
        return Look::Nothing;
    };
    let mut found: Vec<Timestamp> = calendar.between(mark, now).take(MAX_COUNTED).collect();
    let first = found.first().copied().unwrap_or(last);
    let count = found.len().max(1);
    // When there are too many to count, the latest is still the one that runs.
    if let Some(end) = found.last_mut() {
        *end = last;
    }
    let in_window = now < calendar.start_window().after(last);
    let run = match calendar.misfire() {
        Misfire::Skip if !in_window => 0,
        Misfire::Skip | Misfire::RunOnce => 1,
        Misfire::RunAll => MAX_CATCH_UP,
    };
    let run = found.split_off(found.len().saturating_sub(run));
    let missed = found.first().zip(found.last()).map(|(first, last)| (*first, *last, found.len()));
    Look::Due { run, late: !in_window, missed, first, last, count }
}

/// One slot that is being decided.
struct Case<'a> {
    policy: &'a Policy,
    rule: &'a Rule,
    calendar: &'a Calendar,
    resource: &'a Resource,
    slot: Slot,
    now: Timestamp,
}

impl Case<'_> {
    /// Why nothing of this slot runs, whatever is due.
    fn held(
        &self,
        active: &HashSet<(RuleId, ResourceId)>,
        chosen: &HashSet<&RuleId>,
    ) -> Option<MissReason> {
        if self.policy.paused || self.rule.paused || self.resource.paused {
            Some(MissReason::Paused)
        } else if !self.resource.present {
            Some(MissReason::Absent)
        } else if chosen.contains(&self.rule.id) {
            Some(MissReason::Merged)
        } else if active.contains(&(self.rule.id.clone(), self.resource.id.clone())) {
            Some(MissReason::StillActive)
        } else {
            None
        }
    }

    /// Writes down what follows, and says whether a task was made.
    fn apply(self, look: &Look, held: Option<MissReason>, out: &mut Decisions) -> bool {
        let (run, late, missed, first, last, count) = match look {
            Look::Nothing => return false,
            Look::SetBack(to) => {
                out.set_back.push(self.slot.clone());
                out.marks.push((self.slot, *to));
                return false;
            }
            Look::Due { run, late, missed, first, last, count } => {
                (run, *late, missed, *first, *last, *count)
            }
        };
        out.marks.push((self.slot.clone(), last));
        if let Some(reason) = held {
            out.missed.push(self.missed(reason, first, last, count));
            return false;
        }
        if let Some((first, last, count)) = *missed {
            let reason = if run.is_empty() { MissReason::TooLate } else { MissReason::Superseded };
            out.missed.push(self.missed(reason, first, last, count));
        }
        out.tasks.extend(run.iter().map(|due| self.task(*due, late || *due != last)));
        !run.is_empty()
    }

    fn missed(
        &self,
        reason: MissReason,
        first: Timestamp,
        last: Timestamp,
        count: usize,
    ) -> Missed {
        let (slot, policy) = (self.slot.clone(), self.policy.id.clone());
        Missed { slot, policy, reason, first, last, count }
    }

    fn task(&self, due: Timestamp, late: bool) -> NewTask {
        let window = self.calendar.start_window();
        let from = if late { self.now } else { due };
        NewTask {
            slot: self.slot.clone(),
            policy: self.policy.id.clone(),
            kind: self.rule.kind,
            destination: self.rule.destination.clone(),
            source: self.resource.source.clone(),
            project: self.resource.project.clone(),
            priority: self.rule.priority,
            due,
            start_by: window.after(from),
            finish_by: self.rule.time_limit.map(|limit| limit.after(from)),
            late,
        }
    }
}

#[cfg(test)]
mod tests;
