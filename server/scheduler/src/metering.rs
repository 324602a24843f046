//! From ledger lines to usage: who used how much in which period.
//!
//! Two kinds of lines are in the ledger. A [`Transfer`] happened at a moment and is added up. A
//! [`Level`] holds from its moment until the next one with the same labels: what is stored does
//! not begin anew each month. Storage is therefore also counted in byte-seconds, which add up over
//! periods; divided by the length of a period, they are the mean.
//!
//! # Invariants
//!
//! * Groups add up to the whole, whatever they are grouped by.
//! * Consecutive periods add up to the period they make together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::time::moment;
use crate::work::TaskKind;
use crate::{ClusterId, DestinationId, PolicyId, ProjectId, ResourceId};

/// To what a ledger line belongs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Labels {
    /// Whose it is.
    pub project: ProjectId,
    /// The instance.
    pub instance: ResourceId,
    /// Where the instance ran.
    pub cluster: Option<ClusterId>,
    /// Under which policy.
    pub policy: Option<PolicyId>,
    /// Where it rests.
    pub destination: Option<DestinationId>,
}

/// What one task moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// When it ended.
    #[serde(with = "moment")]
    pub at: Timestamp,
    /// To what it belongs.
    pub labels: Labels,
    /// What it did.
    pub kind: TaskKind,
    /// Bytes of the source that it covered.
    pub logical_bytes: u64,
    /// Bytes that were new to the repository.
    pub unique_bytes: u64,
    /// Bytes that the repository had already.
    pub shared_bytes: u64,
    /// Bytes that went over the wire to or from the destination.
    pub transferred_bytes: u64,
}

/// What several tasks of a kind moved, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// What they did.
    pub kind: TaskKind,
    /// How many.
    pub tasks: u64,
    /// Of the sources that they covered.
    pub logical_bytes: u64,
    /// That were new to the repository.
    pub unique_bytes: u64,
    /// That the repository had already.
    pub shared_bytes: u64,
    /// That went over the wire to or from the destination.
    pub transferred_bytes: u64,
}

/// How much there is from a moment on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// From when.
    #[serde(with = "moment")]
    pub at: Timestamp,
    /// To what it belongs.
    pub labels: Labels,
    /// Bytes at the destination.
    pub stored_bytes: u64,
    /// Bytes of what is protected: the size at the last full backup.
    pub front_end_bytes: u64,
}

/// What usage is grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum By {
    /// By project.
    Project,
    /// By instance.
    Instance,
    /// By cluster.
    Cluster,
    /// By policy.
    Policy,
    /// By destination.
    Destination,
}

/// What is counted. An empty set of `only_...` means all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Filter {
    /// Only of these projects.
    pub only_projects: BTreeSet<ProjectId>,
    /// Only of these instances.
    pub only_instances: BTreeSet<ResourceId>,
    /// Only of these policies; nothing that has none.
    pub only_policies: BTreeSet<PolicyId>,
    /// Not of these instances.
    pub except_instances: BTreeSet<ResourceId>,
    /// Not at these destinations: a free tier, say.
    pub except_destinations: BTreeSet<DestinationId>,
}

impl Filter {
    fn takes(&self, labels: &Labels) -> bool {
        let only = |set: &BTreeSet<PolicyId>, id: &Option<PolicyId>| {
            set.is_empty() || id.as_ref().is_some_and(|id| set.contains(id))
        };
        (self.only_projects.is_empty() || self.only_projects.contains(&labels.project))
            && (self.only_instances.is_empty() || self.only_instances.contains(&labels.instance))
            && only(&self.only_policies, &labels.policy)
            && !self.except_instances.contains(&labels.instance)
            && !labels.destination.as_ref().is_some_and(|id| self.except_destinations.contains(id))
    }
}

/// From a moment to another, which no longer belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Period {
    /// Its first moment.
    #[serde(with = "moment")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "date-time"))]
    pub from: Timestamp,
    /// The first moment after it.
    #[serde(with = "moment")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "date-time"))]
    pub until: Timestamp,
}

/// A period of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Unit {
    /// A day.
    Day,
    /// From Monday to Sunday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Unit {
    /// The periods of the calendar in `zone` that have a part in `whole`, in order, whole ones.
    pub fn periods(self, whole: Period, zone: &TimeZone) -> Vec<Period> {
        let date = zone.to_datetime(whole.from).date();
        let mut date = match self {
            Self::Day => date,
            Self::Week => {
                date.saturating_sub(i32::from(date.weekday().to_monday_zero_offset()).days())
            }
            Self::Month => date.first_of_month(),
            Self::Year => date.first_of_year(),
        };
        let mut periods = Vec::new();
        loop {
            let next = match self {
                Self::Day => date.saturating_add(1.day()),
                Self::Week => date.saturating_add(1.week()),
                Self::Month => date.saturating_add(1.month()),
                Self::Year => date.saturating_add(1.year()),
            };
            let period = Period { from: midnight(date, zone), until: midnight(next, zone) };
            if period.from >= whole.until || next == date {
                return periods;
            }
            // A day that a zone left out has no length.
            if period.from < period.until {
                periods.push(period);
            }
            date = next;
        }
    }
}

/// The first moment of a day.
fn midnight(date: Date, zone: &TimeZone) -> Timestamp {
    date.to_zoned(zone.clone())
        .and_then(|day| day.start_of_day())
        .map_or(Timestamp::MAX, |start| start.timestamp())
}

/// What was used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// How many tasks of each kind.
    pub tasks: BTreeMap<TaskKind, u64>,
    /// Bytes of sources that were covered.
    pub logical_bytes: u64,
    /// Bytes that were new.
    pub unique_bytes: u64,
    /// Bytes that were there already.
    pub shared_bytes: u64,
    /// Bytes over the wire.
    pub transferred_bytes: u64,
    /// Bytes stored at the end of the period.
    pub stored_bytes: u64,
    /// Bytes protected at the end of the period.
    pub front_end_bytes: u64,
    /// Bytes stored, times the seconds for which they were.
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub stored_byte_seconds: u128,
}

impl Usage {
    /// Bytes that were stored in the mean over a period.
    pub fn mean_stored(&self, period: Period) -> u64 {
        let seconds = period.until.as_second().saturating_sub(period.from.as_second());
        let seconds = u128::try_from(seconds).unwrap_or(0).max(1);
        u64::try_from(self.stored_byte_seconds / seconds).unwrap_or(u64::MAX)
    }

    /// Adds what several tasks of a kind have moved.
    pub fn add(&mut self, total: &Total) {
        *self.tasks.entry(total.kind).or_default() += total.tasks;
        for (sum, part) in [
            (&mut self.logical_bytes, total.logical_bytes),
            (&mut self.unique_bytes, total.unique_bytes),
            (&mut self.shared_bytes, total.shared_bytes),
            (&mut self.transferred_bytes, total.transferred_bytes),
        ] {
            *sum = sum.saturating_add(part);
        }
    }

    fn transfer(&mut self, line: &Transfer) {
        self.add(&Total {
            kind: line.kind,
            tasks: 1,
            logical_bytes: line.logical_bytes,
            unique_bytes: line.unique_bytes,
            shared_bytes: line.shared_bytes,
            transferred_bytes: line.transferred_bytes,
        });
    }
}

/// The ledger, in any order.
#[derive(Debug, Clone, Copy)]
pub struct Ledger<'a> {
    /// What was moved.
    pub transfers: &'a [Transfer],
    /// How much there was, from before the period on.
    pub levels: &'a [Level],
}

impl Ledger<'_> {
    /// Usage in `period` of each group that has any. What has no cluster, policy or destination is
    /// in the group with the empty name.
    pub fn usage(&self, period: Period, by: By, filter: &Filter) -> BTreeMap<String, Usage> {
        let mut groups: BTreeMap<String, Usage> = BTreeMap::new();
        let inside = |at: Timestamp| at >= period.from && at < period.until;
        for line in self.transfers.iter().filter(|line| inside(line.at)) {
            if filter.takes(&line.labels) {
                groups.entry(by.name(&line.labels)).or_default().transfer(line);
            }
        }
        let mut series: HashMap<&Labels, Vec<&Level>> = HashMap::new();
        for level in self.levels.iter().filter(|level| level.at < period.until) {
            if filter.takes(&level.labels) {
                series.entry(&level.labels).or_default().push(level);
            }
        }
        for (labels, mut levels) in series {
            // Of two at one moment, the one that comes later in the ledger counts.
            levels.sort_by_key(|level| level.at);
            let Some(last) = levels.last() else { continue };
            let ends = levels.iter().skip(1).map(|level| level.at).chain([period.until]);
            let held: u128 = levels
                .iter()
                .zip(ends)
                .map(|(level, end)| {
                    let seconds = end.as_second() - level.at.max(period.from).as_second();
                    u128::from(level.stored_bytes) * u128::try_from(seconds).unwrap_or(0)
                })
                .sum();
            if held == 0 && last.stored_bytes == 0 && last.front_end_bytes == 0 {
                continue;
            }
            let usage = groups.entry(by.name(labels)).or_default();
            usage.stored_byte_seconds += held;
            usage.stored_bytes = usage.stored_bytes.saturating_add(last.stored_bytes);
            usage.front_end_bytes = usage.front_end_bytes.saturating_add(last.front_end_bytes);
        }
        groups
    }
}

impl By {
    fn name(self, labels: &Labels) -> String {
        let text = match self {
            Self::Project => Some(labels.project.as_str()),
            Self::Instance => Some(labels.instance.as_str()),
            Self::Cluster => labels.cluster.as_ref().map(ClusterId::as_str),
            Self::Policy => labels.policy.as_ref().map(PolicyId::as_str),
            Self::Destination => labels.destination.as_ref().map(DestinationId::as_str),
        };
        text.unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests;
