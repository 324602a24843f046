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
//!
//! Points of one instance are judged together; call once for each instance.
//!
//! # Invariants
//!
//! * The newest point is kept, whatever the policy says; so are points on hold and those whose
//!   retention time has not come.
//! * A policy without a rule is refused: it would mean to drop everything.
//! * Raising a rule, or adding one, never drops a point that was kept before.
//! * Applying a policy again to what it kept drops nothing more, at the same moment.
//!
//! "Newest" goes by id, as everywhere: ids stay in order when a clock was wrong. The period a
//! point falls in goes by its time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::format::id::PointId;
use crate::points::RestorePoint;

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
}

impl Policy {
    /// Whether no rule would keep anything.
    pub fn is_empty(&self) -> bool {
        let counts = self.periods().into_iter().map(|(_, count)| count);
        counts.chain([self.keep_last]).all(|count| count.unwrap_or(0) == 0)
            && self.keep_within.is_none_or(|within| within.is_zero())
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
    /// Its retention time has not come.
    RetainUntil,
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
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Newest => "newest",
            Self::Hold => "hold",
            Self::RetainUntil => "retain-until",
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Within => "within",
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
    /// Not to be dropped before, in ms since 1970.
    pub retain_until_ms: Option<u64>,
}

impl From<&RestorePoint> for Candidate {
    fn from(point: &RestorePoint) -> Self {
        Self {
            id: point.id,
            created_ms: point.created_ms,
            hold: point.hold,
            retain_until_ms: point.retain_until_ms,
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
    for (rule, count) in policy.periods() {
        let count = count.unwrap_or(0) as usize;
        if count == 0 {
            continue;
        }
        let mut periods: BTreeMap<(i64, i64), usize> = BTreeMap::new();
        for at in &newest_first {
            periods.entry(period(rule, points[*at].created_ms, zone)).or_insert(*at);
        }
        for at in periods.values().rev().take(count) {
            verdicts[*at].reasons.insert(rule);
        }
    }
    Ok(verdicts)
}

/// What keeps a point by itself, without looking at the others.
fn protection(policy: &Policy, point: &Candidate, now_ms: u64) -> BTreeSet<Reason> {
    let mut reasons = BTreeSet::new();
    if point.hold {
        reasons.insert(Reason::Hold);
    }
    if point.retain_until_ms.is_some_and(|until| until > now_ms) {
        reasons.insert(Reason::RetainUntil);
    }
    if let Some(within) = policy.keep_within.filter(|within| !within.is_zero()) {
        let age = u128::from(now_ms.saturating_sub(point.created_ms));
        if age <= within.as_millis() {
            reasons.insert(Reason::Within);
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    fn ms(time: &str) -> u64 {
        let time: Timestamp = time.parse().unwrap();
        time.as_millisecond() as u64
    }

    fn point(created_ms: u64, number: u8) -> Candidate {
        let id = PointId::new(created_ms, [number; 10]);
        Candidate { id, created_ms, hold: false, retain_until_ms: None }
    }

    fn points(times: &[&str]) -> Vec<Candidate> {
        times.iter().map(|time| point(ms(time), 0)).collect()
    }

    /// Which of the points are kept, by place.
    fn kept(policy: &Policy, points: &[Candidate], now: u64, zone: &TimeZone) -> Vec<usize> {
        let verdicts = apply(policy, points, now, zone).unwrap();
        (0..points.len()).filter(|at| verdicts[*at].keep()).collect()
    }

    fn utc(policy: &Policy, points: &[Candidate]) -> Vec<usize> {
        kept(policy, points, ms("2026-12-31T00:00:00Z"), &TimeZone::UTC)
    }

    #[test]
    fn a_policy_that_keeps_nothing_is_refused() {
        let zero =
            Policy { keep_daily: Some(0), keep_within: Some(Duration::ZERO), ..Policy::default() };
        for policy in [Policy::default(), zero] {
            assert_eq!(apply(&policy, &[point(1, 0)], 5, &TimeZone::UTC), Err(EmptyPolicy));
        }
    }

    #[test]
    fn the_newest_point_of_each_day_is_kept_and_days_without_one_do_not_count() {
        let points = points(&[
            "2026-11-01T23:00:00Z",
            "2026-11-18T01:00:00Z",
            "2026-11-18T23:00:00Z",
            "2026-11-21T01:00:00Z",
            "2026-11-21T02:00:00Z",
        ]);
        let daily = |count| Policy { keep_daily: Some(count), ..Policy::default() };
        assert_eq!(utc(&daily(2), &points), [2, 4]);
        assert_eq!(utc(&daily(3), &points), [0, 2, 4]);
    }

    #[test]
    fn weeks_are_iso_weeks_across_the_turn_of_the_year() {
        // Monday 2026-12-28 to Sunday 2027-01-03 are one week, the 53rd of 2026.
        let points = points(&[
            "2026-12-27T12:00:00Z",
            "2026-12-28T12:00:00Z",
            "2026-12-31T12:00:00Z",
            "2027-01-03T12:00:00Z",
            "2027-01-04T12:00:00Z",
        ]);
        let weekly = Policy { keep_weekly: Some(9), ..Policy::default() };
        assert_eq!(utc(&weekly, &points), [0, 3, 4]);
        let yearly = Policy { keep_yearly: Some(9), ..Policy::default() };
        assert_eq!(utc(&yearly, &points), [2, 4]);
        let monthly = Policy { keep_monthly: Some(1), ..Policy::default() };
        assert_eq!(utc(&monthly, &points), [4]);
    }

    #[test]
    fn days_are_those_of_the_time_zone() {
        let points = points(&["2026-11-20T22:30:00Z", "2026-11-20T23:30:00Z"]);
        let daily = Policy { keep_daily: Some(9), ..Policy::default() };
        let now = ms("2026-11-21T00:00:00Z");
        assert_eq!(kept(&daily, &points, now, &TimeZone::UTC), [1]);
        let east = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(kept(&daily, &points, now, &east), [0, 1]);
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_hours() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let points =
            points(&["2026-10-25T00:10:00Z", "2026-10-25T00:50:00Z", "2026-10-25T01:10:00Z"]);
        let hourly = Policy { keep_hourly: Some(9), ..Policy::default() };
        assert_eq!(kept(&hourly, &points, ms("2026-10-26T00:00:00Z"), &zone), [1, 2]);
    }

    #[test]
    fn a_duration_keeps_every_point_that_is_not_older() {
        let points = [point(0, 0), point(DAY, 0), point(2 * DAY, 0), point(3 * DAY, 0)];
        let within = Policy { keep_within: Some(Duration::from_secs(86_400)), ..Policy::default() };
        assert_eq!(kept(&within, &points, 3 * DAY, &TimeZone::UTC), [2, 3]);
        assert_eq!(kept(&within, &points, 90 * DAY, &TimeZone::UTC), [3]);
    }

    #[test]
    fn hold_and_retention_time_keep_a_point_and_are_named() {
        let mut points = [point(0, 0), point(DAY, 0), point(2 * DAY, 0), point(3 * DAY, 0)];
        points[0].hold = true;
        points[1].retain_until_ms = Some(10 * DAY);
        points[2].retain_until_ms = Some(4 * DAY);
        let policy = Policy { keep_last: Some(1), ..Policy::default() };
        let verdicts = apply(&policy, &points, 4 * DAY, &TimeZone::UTC).unwrap();
        let reasons: Vec<Vec<String>> = (verdicts.iter())
            .map(|verdict| verdict.reasons.iter().map(ToString::to_string).collect())
            .collect();
        assert_eq!(reasons[0], ["hold"]);
        assert_eq!(reasons[1], ["retain-until"]);
        assert!(reasons[2].is_empty());
        assert_eq!(reasons[3], ["newest", "last"]);
    }

    #[test]
    fn times_beyond_the_calendar_do_no_harm() {
        let points = [point(u64::MAX, 0), point(u64::MAX - 5, 1), point(0, 2)];
        let policy = Policy { keep_daily: Some(1), ..Policy::default() };
        assert!(!utc(&policy, &points).is_empty());
    }

    #[test]
    fn a_policy_is_told_in_words() {
        let policy = Policy { keep_last: Some(3), keep_weekly: Some(8), ..Policy::default() };
        assert_eq!(policy.to_string(), "last 3, weekly 8");
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        let rule = || proptest::option::of(0_u32..5);
        let within = proptest::option::of(0_u64..20 * 86_400);
        (rule(), rule(), rule(), rule(), rule(), rule(), within).prop_map(
            |(last, hourly, daily, weekly, monthly, yearly, within)| Policy {
                keep_last: last,
                keep_hourly: hourly,
                keep_daily: daily,
                keep_weekly: weekly,
                keep_monthly: monthly,
                keep_yearly: yearly,
                keep_within: within.map(Duration::from_secs),
            },
        )
    }

    fn any_points() -> impl Strategy<Value = Vec<Candidate>> {
        // Two years in hours, so that every kind of period has neighbours; ids may disagree with
        // the times, as after a clock that was wrong.
        let any = (0_u64..17_520, -3_i64..3, any::<bool>(), proptest::option::of(0_u64..20_000));
        proptest::collection::vec(any, 0..40).prop_map(|all| {
            let point = |(at, (hour, off, hold, until)): (usize, (u64, i64, bool, Option<u64>))| {
                let id_ms = (hour * HOUR).saturating_add_signed(off * HOUR as i64);
                Candidate {
                    id: PointId::new(id_ms, [at as u8; 10]),
                    created_ms: hour * HOUR,
                    hold: hold && off == 2,
                    retain_until_ms: until.map(|hour| hour * HOUR),
                }
            };
            all.into_iter().enumerate().map(point).collect()
        })
    }

    const NOW: u64 = 17_600 * HOUR;

    proptest! {
        #[test]
        fn the_newest_and_the_protected_are_never_dropped(
            policy in any_policy(), points in any_points(),
        ) {
            prop_assume!(!policy.is_empty());
            let verdicts = apply(&policy, &points, NOW, &TimeZone::UTC).unwrap();
            let newest = points.iter().map(|point| point.id).max();
            for (point, verdict) in points.iter().zip(&verdicts) {
                prop_assert_eq!(point.id, verdict.id);
                let protected = point.hold || point.retain_until_ms.is_some_and(|at| at > NOW);
                prop_assert!(verdict.keep() || !(protected || Some(point.id) == newest));
            }
        }

        #[test]
        fn raising_a_rule_drops_nothing_more(
            policy in any_policy(), points in any_points(), rule in 0_usize..7, by in 1_u32..4,
        ) {
            prop_assume!(!policy.is_empty());
            let mut more = policy.clone();
            let count = match rule {
                0 => &mut more.keep_last,
                1 => &mut more.keep_hourly,
                2 => &mut more.keep_daily,
                3 => &mut more.keep_weekly,
                4 => &mut more.keep_monthly,
                5 => &mut more.keep_yearly,
                _ => {
                    let longer = Duration::from_secs(u64::from(by) * 86_400);
                    more.keep_within = Some(more.keep_within.unwrap_or_default() + longer);
                    &mut None
                }
            };
            *count = Some(count.unwrap_or(0) + by);
            let less = kept(&policy, &points, NOW, &TimeZone::UTC);
            let more = kept(&more, &points, NOW, &TimeZone::UTC);
            prop_assert!(less.iter().all(|at| more.contains(at)), "{less:?} {more:?}");
        }

        #[test]
        fn applying_a_policy_to_what_it_kept_drops_nothing(
            policy in any_policy(), points in any_points(),
        ) {
            prop_assume!(!policy.is_empty());
            let first = kept(&policy, &points, NOW, &TimeZone::UTC);
            let left: Vec<Candidate> = first.iter().map(|at| points[*at]).collect();
            let second = kept(&policy, &left, NOW, &TimeZone::UTC);
            prop_assert_eq!(second.len(), left.len());
        }

        #[test]
        fn a_rule_keeps_at_most_as_many_as_it_says(points in any_points(), count in 1_u32..9) {
            let policy = Policy { keep_weekly: Some(count), ..Policy::default() };
            let verdicts = apply(&policy, &points, NOW, &TimeZone::UTC).unwrap();
            let weekly = verdicts.iter().filter(|v| v.reasons.contains(&Reason::Weekly)).count();
            let weeks: BTreeSet<_> = points
                .iter()
                .map(|point| period(Reason::Weekly, point.created_ms, &TimeZone::UTC))
                .collect();
            prop_assert_eq!(weekly, weeks.len().min(count as usize));
        }

        #[test]
        fn the_order_of_the_points_does_not_matter(
            policy in any_policy(), points in any_points(),
        ) {
            prop_assume!(!policy.is_empty());
            let mut reversed = points.clone();
            reversed.reverse();
            let one = apply(&policy, &points, NOW, &TimeZone::UTC).unwrap();
            let mut other = apply(&policy, &reversed, NOW, &TimeZone::UTC).unwrap();
            other.reverse();
            prop_assert_eq!(one, other);
        }
    }
}
