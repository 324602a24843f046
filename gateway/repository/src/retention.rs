//! Which restore points a retention policy keeps: a pure function of points, policy and time.
//!
//! # Model
//!
//! Each rule picks points on its own, and a point that any rule picks is kept:
//!
//! * *last N*: the N newest points.
//! * *hourly, daily, weekly, monthly, yearly N*: of the N latest periods that have a point, the
//!   newest point each. Periods are those of the calendar in the given time zone; weeks are ISO
//!   weeks, Monday to Sunday, and belong to the year of their Thursday. A period without a point
//!   does not count, so a machine that was off for a month keeps its older points.
//! * *within a duration*: every point not older than that.
//! * *until a time*: every point, or those that are named with a time of their own, before that
//!   time; while an event is waited for there is no such time ([`WAITING`]).
//!
//! A *minimum age* is no rule of its own: it keeps what is younger from being dropped by the
//! others.
//!
//! Points of one instance are judged together; call once for each instance.
//!
//! # Invariants
//!
//! * The newest point is kept, whatever the policy says; so are points on hold, those whose
//!   retention time has not come, and those that wait for an event.
//! * A policy without a rule is refused: it would mean to drop everything.
//! * Raising a rule, or adding one, never drops a point that was kept before.
//! * Applying a policy again to what it kept drops nothing more, at the same moment.
//!
//! "Newest" goes by id, as everywhere: ids stay in order when a clock was wrong. The period a
//! point falls in goes by its time.

mod protection;
mod simulate;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::format::id::PointId;
use crate::points::RestorePoint;

pub use protection::{Keeper, Refused};
pub use simulate::{CannotSimulate, MAX_BACKUPS, Schedule, Simulation, simulate};

/// The time of [`Policy::keep_until_ms`] while nobody knows when it is.
pub const WAITING: u64 = u64::MAX;

/// What to keep. A rule that is `None` or zero keeps nothing by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// This many of the newest points.
    pub keep_last: Option<u32>,
    /// The newest point of each of this many hours.
    pub keep_hourly: Option<u32>,
    /// The newest point of each of this many days.
    pub keep_daily: Option<u32>,
    /// The newest point of each of this many ISO weeks.
    pub keep_weekly: Option<u32>,
    /// The newest point of each of this many months.
    pub keep_monthly: Option<u32>,
    /// The newest point of each of this many years.
    pub keep_yearly: Option<u32>,
    /// Every point not older than this.
    pub keep_within: Option<Duration>,
    /// Every point before this time, in ms since 1970, or without end: [`WAITING`].
    pub keep_until_ms: Option<u64>,
    /// Nothing younger than this is dropped.
    pub min_age: Option<Duration>,
}

impl Policy {
    /// Whether no rule would keep anything.
    pub fn is_empty(&self) -> bool {
        let counts = self.periods().into_iter().map(|(_, count)| count);
        counts.chain([self.keep_last]).all(|count| count.unwrap_or(0) == 0)
            && self.keep_within.is_none_or(|within| within.is_zero())
            && self.keep_until_ms.is_none()
    }

    fn periods(&self) -> [(Reason, Option<u32>); 5] {
        [
            (Reason::Hourly, self.keep_hourly),
            (Reason::Daily, self.keep_daily),
            (Reason::Weekly, self.keep_weekly),
            (Reason::Monthly, self.keep_monthly),
            (Reason::Yearly, self.keep_yearly),
        ]
    }

    fn periods_of(&self, ms: u64, zone: &TimeZone) -> Periods {
        self.periods().map(|(rule, count)| match count.unwrap_or(0) {
            0 => (0, 0),
            _ => period(rule, ms, zone),
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [(Reason::Last, self.keep_last)].into_iter().chain(self.periods());
        let mut parts: Vec<String> = counts
            .filter_map(|(rule, count)| Some((rule, count.filter(|count| *count > 0)?)))
            .map(|(rule, count)| format!("{rule} {count}"))
            .collect();
        if let Some(within) = self.keep_within.filter(|within| !within.is_zero()) {
            parts.push(format!("within {} s", within.as_secs()));
        }
        match self.keep_until_ms {
            Some(WAITING) => parts.push("until an event".into()),
            Some(until) => parts.push(format!("until {}", crate::rfc3339(until))),
            None => {}
        }
        if let Some(age) = self.min_age.filter(|age| !age.is_zero()) {
            parts.push(format!("min-age {} s", age.as_secs()));
        }
        f.write_str(&parts.join(", "))
    }
}

/// Why a point is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It is the newest of its instance.
    Newest,
    /// It is on hold.
    Hold,
    /// An overlay lies over it.
    Overlay,
    /// Its retention time has not come.
    RetainUntil,
    /// It waits for an event, or the time after one is not over.
    Event,
    /// It is among the newest so many.
    Last,
    /// It is the newest of an hour.
    Hourly,
    /// It is the newest of a day.
    Daily,
    /// It is the newest of a week.
    Weekly,
    /// It is the newest of a month.
    Monthly,
    /// It is the newest of a year.
    Yearly,
    /// It is not older than the given duration.
    Within,
    /// It is younger than what may be dropped.
    MinAge,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Newest => "newest",
            Self::Hold => "hold",
            Self::Overlay => "overlay",
            Self::RetainUntil => "retain-until",
            Self::Event => "event",
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Within => "within",
            Self::MinAge => "min-age",
        })
    }
}

/// What retention must know of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The point.
    pub id: PointId,
    /// Its time, in ms since 1970.
    pub created_ms: u64,
    /// Whether it is on hold.
    pub hold: bool,
    /// Whether an overlay lies over it.
    pub overlay: bool,
    /// Not to be dropped before, in ms since 1970.
    pub retain_until_ms: Option<u64>,
    /// Whether it waits for an event.
    pub event: bool,
    /// Its own time instead of [`Policy::keep_until_ms`].
    pub keep_until_ms: Option<u64>,
}

impl From<&RestorePoint> for Candidate {
    fn from(point: &RestorePoint) -> Self {
        Self {
            id: point.id,
            created_ms: point.created_ms,
            hold: point.hold,
            overlay: point.protection.has_overlays(),
            retain_until_ms: point.retain_until_ms,
            event: point.protection.waits_for().is_some(),
            keep_until_ms: None,
        }
    }
}

/// What becomes of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The point.
    pub id: PointId,
    /// Why it is kept, in order of [`Reason`]; empty when it is dropped.
    pub reasons: BTreeSet<Reason>,
}

impl Verdict {
    /// Whether the point is kept.
    pub fn keep(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// The policy has no rule and would drop everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmptyPolicy;

impl fmt::Display for EmptyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the policy keeps nothing; give at least one rule, such as --keep-daily 7")
    }
}

impl std::error::Error for EmptyPolicy {}

/// Judges the points of one instance at `now_ms`; verdicts come in the order of `points`.
///
/// # Errors
/// [`EmptyPolicy`].
pub fn apply(
    policy: &Policy,
    points: &[Candidate],
    now_ms: u64,
    zone: &TimeZone,
) -> Result<Vec<Verdict>, EmptyPolicy> {
    if policy.is_empty() {
        return Err(EmptyPolicy);
    }
    let periods: Vec<Periods> =
        points.iter().map(|point| policy.periods_of(point.created_ms, zone)).collect();
    Ok(judge(policy, points, &periods, now_ms))
}

/// The periods a point falls in, one for each rule of [`Policy::periods`]; of rules that keep
/// nothing they are not looked for.
type Periods = [(i64, i64); 5];

/// Judges points whose periods are known.
fn judge(policy: &Policy, points: &[Candidate], periods: &[Periods], now_ms: u64) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = points
        .iter()
        .map(|point| Verdict { id: point.id, reasons: protection(policy, point, now_ms) })
        .collect();
    let mut newest_first: Vec<usize> = (0..points.len()).collect();
    newest_first.sort_by_key(|at| std::cmp::Reverse(points[*at].id));
    if let Some(newest) = newest_first.first() {
        verdicts[*newest].reasons.insert(Reason::Newest);
    }
    for at in newest_first.iter().take(policy.keep_last.unwrap_or(0) as usize) {
        verdicts[*at].reasons.insert(Reason::Last);
    }
    for (number, (rule, count)) in policy.periods().into_iter().enumerate() {
        let count = count.unwrap_or(0) as usize;
        if count == 0 {
            continue;
        }
        let mut newest: BTreeMap<(i64, i64), usize> = BTreeMap::new();
        for at in &newest_first {
            newest.entry(periods[*at][number]).or_insert(*at);
        }
        for at in newest.values().rev().take(count) {
            verdicts[*at].reasons.insert(rule);
        }
    }
    verdicts
}

/// What keeps a point by itself, without looking at the others.
fn protection(policy: &Policy, point: &Candidate, now_ms: u64) -> BTreeSet<Reason> {
    let mut reasons = BTreeSet::new();
    if point.hold {
        reasons.insert(Reason::Hold);
    }
    if point.overlay {
        reasons.insert(Reason::Overlay);
    }
    if point.retain_until_ms.is_some_and(|until| until > now_ms) {
        reasons.insert(Reason::RetainUntil);
    }
    let until = point.keep_until_ms.or(policy.keep_until_ms);
    if point.event || until.is_some_and(|until| until > now_ms) {
        reasons.insert(Reason::Event);
    }
    let age = u128::from(now_ms.saturating_sub(point.created_ms));
    let times = [(Reason::Within, policy.keep_within), (Reason::MinAge, policy.min_age)];
    for (reason, time) in times {
        if time.is_some_and(|time| !time.is_zero() && age <= time.as_millis()) {
            reasons.insert(reason);
        }
    }
    reasons
}

/// A key that is equal within a period and ascends from one to the next.
fn period(rule: Reason, ms: u64, zone: &TimeZone) -> (i64, i64) {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    let local = Zoned::new(time, zone.clone());
    let week = local.date().iso_week_date();
    let year = i64::from(local.year());
    match rule {
        // The hour's start as an instant: when clocks are set back, its second turn is an hour
        // of its own.
        Reason::Hourly => {
            let into = i64::from(local.minute()) * 60 + i64::from(local.second());
            (time.as_second() - into, 0)
        }
        Reason::Daily => (year, i64::from(local.day_of_year())),
        Reason::Weekly => (i64::from(week.year()), i64::from(week.week())),
        Reason::Monthly => (year, i64::from(local.month())),
        _ => (year, 0),
    }
}

#[cfg(test)]
mod tests;
