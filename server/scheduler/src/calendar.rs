//! Schedules: when something is due, on the clock of a time zone.
//!
//! A [`Schedule`] is what people write; [`Schedule::compile`] checks it and makes a [`Calendar`],
//! which answers [`next`](Calendar::next), [`previous`](Calendar::previous) and
//! [`between`](Calendar::between).
//!
//! # When clocks change
//!
//! Fixed times (`at`, and cron with named hours) happen once a day whatever the clock does:
//!
//! * A time that is skipped (a *gap*) happens at the first moment after the gap.
//! * A time that comes twice (a *fold*) happens the first time only.
//!
//! What repeats goes on: cron whose hour field begins with `*` follows the clock as it shows, so
//! skipped times do not happen and those that come twice happen twice. Intervals (`every`) count
//! time that really passes, and begin anew each day at `from`.
//!
//! # Invariants
//!
//! * Occurrences ascend strictly: two times that fall on the same moment are one occurrence.
//! * `next(a)` is later than `a`; `previous(a)` is not; nothing lies between them but `a`'s own
//!   occurrence.

mod compile;
mod cron;
mod days;
mod describe;
mod occurrences;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::time::{Day, Span, TimeOfDay};
use days::DayRule;

pub use occurrences::Occurrences;

/// When something is due. Exactly one of `at`, `every` and `cron` is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Schedule {
    /// Times of day, such as `02:00`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<TimeOfDay>,
    /// From one start to the next: whole minutes up to 24 hours, or whole days beyond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// With `every`: the first start of a day; 00:00 when it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<TimeOfDay>,
    /// With `every`: no start later than this. Earlier than `from`, it means the next day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<TimeOfDay>,
    /// With `every` of more than a day: the day to count from; 1970-01-01 when it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starting: Option<Day>,
    /// A cron expression: minute, hour, day of month, month, day of week.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// Only on these days of the week; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Weekday>,
    /// Only on these occurrences of `days` in a month: `[last]` with `[sun]` is the last Sunday.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub occurrence: Vec<Nth>,
    /// Only on these days of the month; -1 is the last one. With `days`, both must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub days_of_month: Vec<i8>,
    /// Only in these months; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub months: Vec<Month>,
    /// The time zone by its IANA name; UTC when it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// How late it may still start; [`DEFAULT_START_WINDOW`] when it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_window: Option<Span>,
    /// What becomes of occurrences that could not start in their window.
    #[serde(skip_serializing_if = "is_default")]
    pub misfire: Misfire,
}

/// How late something may still start when its schedule does not say.
pub const DEFAULT_START_WINDOW: Span = Span::hours(1);

fn is_default(misfire: &Misfire) -> bool {
    *misfire == Misfire::default()
}

/// What becomes of occurrences whose start window passed, because the server was off, say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Misfire {
    /// Nothing runs until the next occurrence.
    Skip,
    /// However many were missed, one runs now.
    #[default]
    RunOnce,
    /// Each that was missed runs, one after another.
    RunAll,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Weekday {
    #[serde(alias = "monday")]
    Mon,
    #[serde(alias = "tuesday")]
    Tue,
    #[serde(alias = "wednesday")]
    Wed,
    #[serde(alias = "thursday")]
    Thu,
    #[serde(alias = "friday")]
    Fri,
    #[serde(alias = "saturday")]
    Sat,
    #[serde(alias = "sunday")]
    Sun,
}

/// A month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Month {
    #[serde(alias = "january")]
    Jan,
    #[serde(alias = "february")]
    Feb,
    #[serde(alias = "march")]
    Mar,
    #[serde(alias = "april")]
    Apr,
    May,
    #[serde(alias = "june")]
    Jun,
    #[serde(alias = "july")]
    Jul,
    #[serde(alias = "august")]
    Aug,
    #[serde(alias = "september")]
    Sep,
    #[serde(alias = "october")]
    Oct,
    #[serde(alias = "november")]
    Nov,
    #[serde(alias = "december")]
    Dec,
}

/// Which occurrence of a day of the week in its month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Nth {
    /// On the 1st to 7th.
    First,
    /// On the 8th to 14th.
    Second,
    /// On the 15th to 21st.
    Third,
    /// On the 22nd to 28th.
    Fourth,
    /// On the 29th to 31st: not in every month.
    Fifth,
    /// The last one, whether it is the fourth or the fifth.
    Last,
}

/// A schedule that was checked, ready to be asked.
#[derive(Debug, Clone)]
pub struct Calendar {
    schedule: Schedule,
    days: DayRule,
    times: Times,
    zone: TimeZone,
}

/// When on a day.
#[derive(Debug, Clone)]
enum Times {
    /// At these minutes of the day, ascending, each once.
    Fixed(Vec<u16>),
    /// At these minutes of the day, as often as the clock shows them.
    Shown(Vec<u16>),
    /// Every so many seconds, from one minute of the day to another.
    Every { seconds: u64, from: u16, until: Option<u16> },
}

impl Calendar {
    /// What was compiled.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// How late an occurrence may still start.
    pub fn start_window(&self) -> Span {
        self.schedule.start_window.unwrap_or(DEFAULT_START_WINDOW)
    }

    /// What becomes of missed occurrences.
    pub fn misfire(&self) -> Misfire {
        self.schedule.misfire
    }

    /// Occurrences later than `after`, in order.
    pub fn occurrences(&self, after: Timestamp) -> Occurrences<'_> {
        Occurrences::new(self, after)
    }

    /// The first occurrence later than `after`. `None` only near the end of all dates.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.occurrences(after).next()
    }

    /// Occurrences later than `after` and not later than `until`.
    pub fn between(
        &self,
        after: Timestamp,
        until: Timestamp,
    ) -> impl Iterator<Item = Timestamp> + '_ {
        self.occurrences(after).take_while(move |time| *time <= until)
    }
}

#[cfg(test)]
mod tests;
