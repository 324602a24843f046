use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::kind;
use crate::error::{CatalogError, Result};
use crate::id::{DestinationId, InstanceId, PolicyId, ProjectId};
use crate::model::restore_test::TestRule;

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
    /// What is done.
    pub rules: Vec<Rule>,
    /// Which restore points are tried, and when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<TestRule>,
}

fn middle() -> u32 {
    50
}

/// How a policy finds instances. Without tags it finds none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Assign {
    /// Those that have one of these tags.
    #[serde(default)]
    pub tags: BTreeSet<String>,
}

/// A part of a policy: backups to one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name within the policy.
    pub name: String,
    /// Where backups go.
    pub destination: DestinationId,
    /// Which restore points are kept; all when it says nothing.
    #[serde(default)]
    pub keep: Keep,
    /// When backups are made.
    pub schedules: Vec<Schedule>,
}

/// Which restore points of an instance are kept: the newest of so many periods of each length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
}

impl Keep {
    /// Whether it says nothing, so that every restore point is kept.
    pub fn is_everything(self) -> bool {
        self == Self::default()
    }

    /// What is kept when both are to be satisfied. Everything is more than any number.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        if self.is_everything() || other.is_everything() {
            return Self::default();
        }
        Self {
            last: self.last.max(other.last),
            hourly: self.hourly.max(other.hourly),
            daily: self.daily.max(other.daily),
            weekly: self.weekly.max(other.weekly),
            monthly: self.monthly.max(other.monthly),
            yearly: self.yearly.max(other.yearly),
        }
    }
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

impl Policy {
    fn sense(&self) -> Result<()> {
        let bad = CatalogError::invalid;
        if self.priority > 100 {
            return Err(bad("a priority is 0 to 100"));
        }
        let mut names = BTreeSet::new();
        for rule in &self.rules {
            crate::record::check_name("rule", &rule.name)?;
            check_schedules(&rule.schedules)?;
        }
        for test in &self.tests {
            test.sense()?;
        }
        let rules = self.rules.iter().map(|rule| (&rule.name, &rule.schedules));
        let tests = self.tests.iter().map(|test| (&test.name, &test.schedules));
        for (rule, schedules) in rules.chain(tests) {
            for schedule in schedules {
                if !names.insert((rule, &schedule.name)) {
                    return Err(bad("two rules or schedules of a policy have the same name"));
                }
            }
        }
        Ok(())
    }
}

/// Whether schedules make sense by themselves.
pub(crate) fn check_schedules(schedules: &[Schedule]) -> Result<()> {
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

kind!(Policy, PolicyId, "policies", "policy", shared: true);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_keeps_what_either_keeps() {
        let days = Keep { last: 2, daily: 7, ..Keep::default() };
        let years = Keep { last: 1, daily: 31, yearly: 10, ..Keep::default() };
        let both = Keep { last: 2, daily: 31, yearly: 10, ..Keep::default() };
        assert_eq!((days.union(years), years.union(days)), (both, both));
        assert_eq!(days.union(days), days);
    }

    #[test]
    fn nothing_said_keeps_everything_whatever_else_is_said() {
        let all = Keep::default();
        let few = Keep { last: 1, ..Keep::default() };
        assert!(all.is_everything() && !few.is_everything());
        assert!(all.union(few).is_everything() && few.union(all).is_everything());
    }
}
