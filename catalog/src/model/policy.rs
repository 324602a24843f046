use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::kind;
use crate::error::{CatalogError, Result};
use crate::found::Span;
use crate::id::{DestinationId, InstanceId, PolicyId, ProjectId};
use crate::model::assign::Assign;
use crate::model::hook::Hooks;
use crate::model::proof::{BackupType, VerifyRule};
use crate::model::restore_test::TestRule;
use crate::model::snapshot::SnapshotRule;

const DAY_SECONDS: u64 = 86_400;
/// The longest objective, in seconds.
const LONGEST: u64 = 3660 * DAY_SECONDS;
/// The longest time that restore points are kept after an event, in days.
const MOST_DAYS: u32 = 36_600;
/// The longest delay of a copy, in seconds.
const LONGEST_DELAY: u64 = 90 * DAY_SECONDS;

/// What is done with instances, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Nothing of it becomes due while it is paused.
    #[serde(default)]
    pub paused: bool,
    /// Its tasks go before those of lower priority: 0 to 100.
    #[serde(default = "middle")]
    pub priority: u32,
    /// Instances it takes by itself, beside those assigned by hand.
    #[serde(default)]
    pub assign: Assign,
    /// What is promised; reports tell whether it is kept.
    #[serde(default, skip_serializing_if = "Objectives::is_nothing")]
    pub objectives: Objectives,
    /// What is done.
    pub rules: Vec<Rule>,
    /// Which restore points are tried, and when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<TestRule>,
    /// Snapshots that stay at the source, each rule with its own schedules and retention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotRule>,
    /// The projects that may see it and assign instances to it, when it belongs to the system; all
    /// of them when it is not said. Instances that it finds by itself it has all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub visible_to: Option<BTreeSet<ProjectId>>,
}

fn middle() -> u32 {
    50
}

/// What a policy promises for its instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Objectives {
    /// Recovery point objective: how old the newest restore point may get, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_seconds: Option<u64>,
    /// Recovery time objective: how long it may take until a restore test's guest answers, in
    /// seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_seconds: Option<u64>,
}

impl Objectives {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// What both promise: the stricter of each.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Self {
            rpo_seconds: least(self.rpo_seconds, other.rpo_seconds),
            rto_seconds: least(self.rto_seconds, other.rto_seconds),
        }
    }
}

/// A part of a policy: backups to one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name within the policy.
    pub name: String,
    /// Where backups go.
    pub destination: DestinationId,
    /// What its backups take for granted, where a schedule does not say.
    #[serde(rename = "type", default, skip_serializing_if = "BackupType::is_usual")]
    pub backup_type: BackupType,
    /// Which restore points are kept; all when it says nothing.
    #[serde(default)]
    pub keep: Keep,
    /// When backups are made.
    pub schedules: Vec<Schedule>,
    /// Whether each backup is made from a snapshot, which is made first and removed afterwards:
    /// its images are then as they were at one moment. Commands after a backup run as soon as
    /// there is the snapshot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_snapshot: bool,
    /// Copies of its restore points at other destinations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<CopyRule>,
    /// Which of its restore points are read back, and when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<VerifyRule>,
    /// Commands around its backups.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

/// Copies of a rule's restore points at another destination, each with its own retention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyRule {
    /// Its name within the policy.
    pub name: String,
    /// Where copies go.
    pub destination: DestinationId,
    /// No copies are made while it is paused.
    #[serde(default)]
    pub paused: bool,
    /// Which restore points are kept there; all when it says nothing.
    #[serde(default)]
    pub keep: Keep,
    /// How long after a backup it is copied, in seconds, when there are no schedules.
    #[serde(default)]
    pub delay_seconds: u64,
    /// When restore points are copied; after each backup when there is none.
    #[serde(default)]
    pub schedules: Vec<Schedule>,
    /// A restore point that has no copy after so many seconds is overdue. Without it: a day, and
    /// with schedules eight days, after the delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue_seconds: Option<u64>,
}

impl CopyRule {
    /// A restore point that has no copy after so long is overdue, in milliseconds.
    pub fn overdue_ms(&self) -> u64 {
        let days = if self.schedules.is_empty() { 1 } else { 8 };
        let usual = (days * DAY_SECONDS).saturating_add(self.delay_seconds);
        self.overdue_seconds.unwrap_or(usual).saturating_mul(1000)
    }

    fn sense(&self, rule: &Rule) -> Result<()> {
        let bad = CatalogError::invalid;
        crate::record::check_name("copy", &self.name)?;
        check_schedules(&self.schedules)?;
        self.keep.sense()?;
        if self.destination == rule.destination {
            return Err(bad("a copy goes to another destination than the backups of its rule"));
        }
        if self.delay_seconds > LONGEST_DELAY {
            return Err(bad("a copy is made 90 days after the backup at most"));
        }
        if self.delay_seconds > 0 && !self.schedules.is_empty() {
            return Err(bad("a copy has a delay or schedules, not both"));
        }
        Ok(())
    }
}

/// Which restore points of an instance are kept: the newest of so many periods of each length.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// The newest.
    pub last: u32,
    /// Hours.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// Weeks.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
    /// All that are not older than so many hours.
    #[serde(skip_serializing_if = "is_zero")]
    pub within_hours: u32,
    /// All, until so many days after an event has happened, by the event's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub after_event: BTreeMap<String, u32>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Keep {
    /// Whether it says nothing, so that every restore point is kept.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// What is kept when both are to be satisfied. Everything is more than any number.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        if self.is_everything() || other.is_everything() {
            return Self::default();
        }
        let mut after_event = self.after_event;
        for (event, days) in other.after_event {
            let longest = after_event.entry(event).or_default();
            *longest = days.max(*longest);
        }
        Self {
            last: self.last.max(other.last),
            hourly: self.hourly.max(other.hourly),
            daily: self.daily.max(other.daily),
            weekly: self.weekly.max(other.weekly),
            monthly: self.monthly.max(other.monthly),
            yearly: self.yearly.max(other.yearly),
            within_hours: self.within_hours.max(other.within_hours),
            after_event,
        }
    }

    fn sense(&self) -> Result<()> {
        for (event, days) in &self.after_event {
            check_event(event)?;
            if !(1..=MOST_DAYS).contains(days) {
                let text = "restore points are kept 1 to 36600 days after an event";
                return Err(CatalogError::invalid(text));
            }
        }
        Ok(())
    }
}

/// Whether an event can be called so.
pub(crate) fn check_event(name: &str) -> Result<()> {
    crate::record::check_name("event", name)
}

/// When a rule becomes due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Its name within the rule.
    pub name: String,
    /// Nothing becomes due while it is paused.
    #[serde(default)]
    pub paused: bool,
    /// The times.
    pub when: When,
    /// What these backups take for granted; as their rule says when it is not said. Nothing else
    /// has a type.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub backup_type: Option<BackupType>,
}

/// Times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum When {
    /// Every so many seconds, counted from 1970.
    Every {
        /// 1 to a year's worth.
        seconds: u64,
    },
    /// By times of day, days, cron, in a time zone: see the documentation of schedules.
    Calendar {
        /// Exactly one of `at`, `every` and `cron`, and more.
        #[schema(value_type = Object)]
        calendar: serde_json::Value,
    },
    /// Never by itself.
    Manual {},
}

/// Occurrences of a schedule that do not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// The policy.
    pub policy: PolicyId,
    /// `RULE/SCHEDULE`.
    pub schedule: String,
    /// The instance; none when it is all instances of the policy.
    pub instance: Option<InstanceId>,
    /// The project of the instance or the policy.
    pub project: Option<ProjectId>,
    /// Why, in a word.
    pub reason: String,
    /// The first of them, in milliseconds since 1970.
    pub first_ms: u64,
    /// The last of them, in milliseconds since 1970.
    pub last_ms: u64,
    /// How many they are.
    pub times: u64,
}

/// Which of it to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MissedFilter {
    /// What this policy wanted.
    pub policy: Option<PolicyId>,
    /// What concerned this instance alone.
    pub instance: Option<InstanceId>,
    /// What concerned this project.
    pub project: Option<ProjectId>,
    /// What did not run for this reason.
    pub reason: Option<String>,
    /// What was missed within this time, all of it or a part.
    pub at: Span,
}

/// Something of a policy that becomes due, by its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timed {
    /// Backups by a rule.
    Rule(usize),
    /// Restore tests.
    Test(usize),
    /// Copies of what a rule has backed up: the rule, and which of its copies.
    Copy(usize, usize),
    /// Verifications of it: the rule, and which of its verifications.
    Verify(usize, usize),
    /// Snapshots that stay at the source.
    Snapshot(usize),
}

impl Policy {
    /// All that becomes due, with its name and its schedules: rules, tests, copies, verifications,
    /// then snapshots.
    pub fn timed(&self) -> impl Iterator<Item = (Timed, &String, &Vec<Schedule>)> {
        let rules = self.rules.iter().enumerate();
        let backups = rules.clone().map(|(at, one)| (Timed::Rule(at), &one.name, &one.schedules));
        let tests = self.tests.iter().enumerate();
        let tests = tests.map(|(at, one)| (Timed::Test(at), &one.name, &one.schedules));
        let copies = rules.clone().flat_map(|(rule, of)| {
            let copies = of.copies.iter().enumerate();
            copies.map(move |(at, one)| (Timed::Copy(rule, at), &one.name, &one.schedules))
        });
        let verify = rules.flat_map(|(rule, of)| {
            let verify = of.verify.iter().enumerate();
            verify.map(move |(at, one)| (Timed::Verify(rule, at), &one.name, &one.schedules))
        });
        let snapshots = self.snapshots.iter().enumerate();
        let snapshots = snapshots.map(|(at, one)| (Timed::Snapshot(at), &one.name, &one.schedules));
        backups.chain(tests).chain(copies).chain(verify).chain(snapshots)
    }

    /// What is kept where, of backups and of copies.
    pub fn keeps(&self) -> impl Iterator<Item = (DestinationId, Keep)> {
        self.rules.iter().flat_map(|rule| {
            let copies = rule.copies.iter().map(|copy| (copy.destination, copy.keep.clone()));
            std::iter::once((rule.destination, rule.keep.clone())).chain(copies)
        })
    }

    fn sense(&self) -> Result<()> {
        let bad = CatalogError::invalid;
        if self.priority > 100 {
            return Err(bad("a priority is 0 to 100"));
        }
        self.assign.sense()?;
        let objectives = [self.objectives.rpo_seconds, self.objectives.rto_seconds];
        if objectives.into_iter().flatten().any(|seconds| !(1..=LONGEST).contains(&seconds)) {
            return Err(bad("an objective is 1 second to 10 years"));
        }
        let mut names = BTreeSet::new();
        for rule in &self.rules {
            crate::record::check_name("rule", &rule.name)?;
            check_backups(&rule.schedules)?;
            rule.keep.sense()?;
            rule.hooks.sense()?;
            for verify in &rule.verify {
                verify.sense(rule)?;
            }
            for copy in &rule.copies {
                copy.sense(rule)?;
            }
        }
        for test in &self.tests {
            test.sense()?;
        }
        let mut snapshots = BTreeSet::new();
        for rule in &self.snapshots {
            rule.sense()?;
            if !snapshots.insert(&rule.name) {
                return Err(bad("two rules for snapshots of a policy have the same name"));
            }
        }
        let mut copies = BTreeSet::new();
        for copy in self.rules.iter().flat_map(|rule| &rule.copies) {
            if !copies.insert(&copy.name) {
                return Err(bad("two copies of a policy have the same name"));
            }
        }
        let mut verify = BTreeSet::new();
        for one in self.rules.iter().flat_map(|rule| &rule.verify) {
            if !verify.insert(&one.name) {
                return Err(bad("two verifications of a policy have the same name"));
            }
        }
        for (_, name, schedules) in self.timed() {
            for schedule in schedules {
                if !names.insert((name, &schedule.name)) {
                    return Err(bad("two rules or schedules of a policy have the same name"));
                }
            }
        }
        Ok(())
    }
}

/// Whether schedules of anything but backups make sense by themselves.
pub(crate) fn check_schedules(schedules: &[Schedule]) -> Result<()> {
    if schedules.iter().any(|schedule| schedule.backup_type.is_some()) {
        return Err(CatalogError::invalid("only schedules of backups have a type"));
    }
    check_backups(schedules)
}

/// Whether schedules of backups make sense by themselves.
fn check_backups(schedules: &[Schedule]) -> Result<()> {
    for schedule in schedules {
        crate::record::check_name("schedule", &schedule.name)?;
        if let When::Every { seconds } = schedule.when
            && !(1..=366 * 86_400).contains(&seconds)
        {
            return Err(CatalogError::invalid("an interval is 1 second to 366 days"));
        }
    }
    Ok(())
}

kind!(Policy, PolicyId, "policies", "policy", shared by visible_to);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_keeps_what_either_keeps() {
        let days = Keep { last: 2, daily: 7, ..Keep::default() };
        let years = Keep { last: 1, daily: 31, yearly: 10, ..Keep::default() };
        let both = Keep { last: 2, daily: 31, yearly: 10, ..Keep::default() };
        let union = |a: &Keep, b: &Keep| a.clone().union(b.clone());
        assert_eq!((union(&days, &years), union(&years, &days)), (both.clone(), both));
        assert_eq!(union(&days, &days), days);
    }

    #[test]
    fn nothing_said_keeps_everything_whatever_else_is_said() {
        let all = Keep::default();
        let few = Keep { last: 1, ..Keep::default() };
        assert!(all.is_everything() && !few.is_everything());
        let union = |a: &Keep, b: &Keep| a.clone().union(b.clone());
        assert!(union(&all, &few).is_everything() && union(&few, &all).is_everything());
    }

    #[test]
    fn of_an_event_the_longest_time_counts_and_different_events_count_all() {
        let keep = |events: &[(&str, u32)]| Keep {
            after_event: events.iter().map(|(name, days)| ((*name).to_owned(), *days)).collect(),
            ..Keep::default()
        };
        let both = keep(&[("sold", 10), ("over", 3)]).union(keep(&[("sold", 7), ("left", 1)]));
        assert_eq!(both, keep(&[("sold", 10), ("over", 3), ("left", 1)]));
        assert!(!both.is_everything() && both.sense().is_ok());
        assert!(keep(&[("sold", 0)]).sense().is_err() && keep(&[("", 1)]).sense().is_err());
    }

    fn policy(rule: serde_json::Value) -> Policy {
        let mut full = serde_json::json!({"name": "main", "schedules": [],
            "destination": "00000000-0000-7000-8000-000000000001"});
        for (name, value) in rule.as_object().unwrap() {
            full[name] = value.clone();
        }
        serde_json::from_value(serde_json::json!({ "rules": [full] })).unwrap()
    }

    #[test]
    fn what_becomes_due_is_named_by_its_place() {
        let destination = "00000000-0000-7000-8000-000000000001";
        let rule = |name: &str| {
            serde_json::json!({"name": name, "destination": destination, "schedules": [],
                "copies": [{"name": format!("{name}-copy"), "destination": destination}],
                "verify": [{"name": format!("{name}-v")}, {"name": format!("{name}-w")}]})
        };
        let snapshots = ["s", "t"]
            .map(|name| serde_json::json!({"name": name, "keep": {"last": 1}, "schedules": []}));
        let test =
            serde_json::json!({"name": "boots", "destination": destination, "schedules": []});
        let policy: Policy = serde_json::from_value(serde_json::json!({
            "rules": [rule("a"), rule("b")], "tests": [test], "snapshots": snapshots}))
        .unwrap();
        let all: Vec<(Timed, &str)> =
            policy.timed().map(|(place, name, _)| (place, name.as_str())).collect();
        assert_eq!(
            all,
            [
                (Timed::Rule(0), "a"),
                (Timed::Rule(1), "b"),
                (Timed::Test(0), "boots"),
                (Timed::Copy(0, 0), "a-copy"),
                (Timed::Copy(1, 0), "b-copy"),
                (Timed::Verify(0, 0), "a-v"),
                (Timed::Verify(0, 1), "a-w"),
                (Timed::Verify(1, 0), "b-v"),
                (Timed::Verify(1, 1), "b-w"),
                (Timed::Snapshot(0), "s"),
                (Timed::Snapshot(1), "t"),
            ]
        );
    }

    #[test]
    fn only_backups_have_a_type_and_only_samples_a_share() {
        let full = serde_json::json!([{"name": "a", "type": "full", "when": {"kind": "manual"}}]);
        let sense = |rule| policy(rule).sense().is_ok();
        assert!(sense(serde_json::json!({"type": "full", "schedules": full})));
        let verify = |verify| sense(serde_json::json!({"verify": [verify]}));
        assert!(verify(serde_json::json!({"name": "v"})));
        assert!(verify(serde_json::json!({"name": "v", "depth": "sample", "percent": 5})));
        for bad in [
            serde_json::json!({"name": "v", "schedules": full}),
            serde_json::json!({"name": "v", "depth": "sample"}),
            serde_json::json!({"name": "v", "depth": "sample", "percent": 101}),
            serde_json::json!({"name": "v", "depth": "data", "percent": 5}),
        ] {
            assert!(!verify(bad.clone()), "{bad}");
        }
        let id = |n: u32| format!("00000000-0000-7000-8000-00000000000{n}");
        let (here, away) = (id(1), id(2));
        let copies = serde_json::json!([{"name": "c", "destination": away}]);
        let looks = |at: serde_json::Value, copies: &serde_json::Value| {
            let verify = serde_json::json!([{"name": "v", "at": at}]);
            let rule = serde_json::json!({"verify": verify, "copies": copies});
            let policy = policy(rule);
            let rule = &policy.rules[0];
            let places = rule.verify[0].places(rule);
            policy.sense().ok().map(|()| places.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let word = |word: &str| looks(word.into(), &copies);
        assert_eq!(word("primary"), Some(vec![here.clone()]));
        assert_eq!(word("copies"), Some(vec![away.clone()]));
        assert_eq!(word("all"), Some(vec![here.clone(), away.clone()]));
        let none = serde_json::json!([]);
        assert_eq!(looks("all".into(), &none), Some(vec![here.clone()]));
        let named = serde_json::json!([away]);
        assert_eq!(looks(named.clone(), &copies), Some(vec![away]));
        for (at, copies) in [(named, &none), ("copies".into(), &none), (none.clone(), &copies)] {
            assert_eq!(looks(at.clone(), copies), None, "{at}");
        }
        let twice = serde_json::json!([{"name": "v"}, {"name": "v"}]);
        assert!(!sense(serde_json::json!({ "verify": twice })), "they are told apart by name");
    }
}
