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
    let (hold, overlay, event) = (false, false, false);
    Candidate { id, created_ms, hold, overlay, retain_until_ms: None, event, keep_until_ms: None }
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
    let points = points(&["2026-10-25T00:10:00Z", "2026-10-25T00:50:00Z", "2026-10-25T01:10:00Z"]);
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
fn a_minimum_age_keeps_what_is_young_and_is_no_rule_by_itself() {
    let points = [point(0, 0), point(DAY, 0), point(2 * DAY, 0), point(3 * DAY, 0)];
    let young = Some(Duration::from_secs(86_400));
    let alone = Policy { min_age: young, ..Policy::default() };
    assert_eq!(apply(&alone, &points, 3 * DAY, &TimeZone::UTC), Err(EmptyPolicy));
    let policy = Policy { keep_last: Some(1), min_age: young, ..Policy::default() };
    assert_eq!(kept(&policy, &points, 3 * DAY, &TimeZone::UTC), [2, 3]);
    let verdicts = apply(&policy, &points, 3 * DAY, &TimeZone::UTC).unwrap();
    assert_eq!(verdicts[2].reasons, BTreeSet::from([Reason::MinAge]));
    assert_eq!(kept(&policy, &points, 5 * DAY, &TimeZone::UTC), [3]);
    assert_eq!(policy.to_string(), "last 1, min-age 86400 s");
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
fn what_waits_for_an_event_is_kept_until_its_time_and_single_points_have_their_own() {
    let mut points = [point(0, 0), point(DAY, 0), point(2 * DAY, 0)];
    let until = |until| Policy { keep_until_ms: Some(until), ..Policy::default() };
    let at = |policy: &Policy, points: &[Candidate], now| kept(policy, points, now, &TimeZone::UTC);
    assert!(!until(0).is_empty(), "it says what is kept: the newest");
    assert_eq!(at(&until(WAITING), &points, 900 * DAY), [0, 1, 2]);
    assert_eq!(at(&until(9 * DAY), &points, 8 * DAY), [0, 1, 2]);
    assert_eq!(at(&until(9 * DAY), &points, 9 * DAY), [2]);
    // What has happened to the first counts for that alone, and so does what has not.
    points[0].keep_until_ms = Some(5 * DAY);
    assert_eq!(at(&until(WAITING), &points, 6 * DAY), [1, 2]);
    points[1].keep_until_ms = Some(WAITING);
    assert_eq!(at(&until(3 * DAY), &points, 6 * DAY), [1, 2]);
    let verdicts = apply(&until(3 * DAY), &points, 6 * DAY, &TimeZone::UTC).unwrap();
    assert_eq!(verdicts[1].reasons, [Reason::Event].into());
    assert_eq!(until(WAITING).to_string(), "until an event");
    assert_eq!(until(0).to_string(), "until 1970-01-01T00:00:00Z");
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

pub(super) fn any_policy() -> impl Strategy<Value = Policy> {
    let rule = || proptest::option::of(0_u32..5);
    let within = proptest::option::of(0_u64..20 * 86_400);
    let young = proptest::option::of(0_u64..20 * 86_400);
    (rule(), rule(), rule(), rule(), rule(), rule(), within, young).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly, within, young)| Policy {
            keep_last: last,
            keep_hourly: hourly,
            keep_daily: daily,
            keep_weekly: weekly,
            keep_monthly: monthly,
            keep_yearly: yearly,
            keep_within: within.map(Duration::from_secs),
            keep_until_ms: None,
            min_age: young.map(Duration::from_secs),
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
                overlay: hold && off == 0,
                event: hold && off == 1,
                keep_until_ms: None,
            }
        };
        all.into_iter().enumerate().map(point).collect()
    })
}

const NOW: u64 = 17_600 * HOUR;

/// The same in the simplest words: each point is compared with each other one.
fn model(policy: &Policy, points: &[Candidate]) -> Vec<bool> {
    let written = |point: &Candidate, format: &str| {
        let time = Timestamp::from_millisecond(point.created_ms as i64).unwrap();
        time.to_zoned(TimeZone::UTC).strftime(format).to_string()
    };
    let young = |point: &Candidate, time: Option<Duration>| {
        time.is_some_and(|time| {
            !time.is_zero() && NOW - point.created_ms <= time.as_millis() as u64
        })
    };
    let one_of = |point: &Candidate, format: &str, count: Option<u32>| {
        let mine = written(point, format);
        let others = || points.iter().map(|other| (other, written(other, format)));
        let newest = others().all(|(other, its)| its != mine || other.id <= point.id);
        let later: BTreeSet<String> =
            others().map(|(_, its)| its).filter(|its| *its > mine).collect();
        newest && later.len() < count.unwrap_or(0) as usize
    };
    let keeps = |point: &Candidate| {
        let newer = points.iter().filter(|other| other.id > point.id).count();
        point.hold
            || point.event
            || point.overlay
            || point.retain_until_ms.is_some_and(|until| until > NOW)
            || newer < policy.keep_last.unwrap_or(0).max(1) as usize
            || young(point, policy.keep_within)
            || young(point, policy.min_age)
            || one_of(point, "%Y-%m-%d %H", policy.keep_hourly)
            || one_of(point, "%Y-%m-%d", policy.keep_daily)
            || one_of(point, "%G-%V", policy.keep_weekly)
            || one_of(point, "%Y-%m", policy.keep_monthly)
            || one_of(point, "%Y", policy.keep_yearly)
    };
    points.iter().map(keeps).collect()
}

proptest! {
    #[test]
    fn verdicts_are_those_of_the_model(policy in any_policy(), points in any_points()) {
        prop_assume!(!policy.is_empty());
        let verdicts = apply(&policy, &points, NOW, &TimeZone::UTC).unwrap();
        let kept: Vec<bool> = verdicts.iter().map(Verdict::keep).collect();
        prop_assert_eq!(kept, model(&policy, &points));
    }

    #[test]
    fn the_newest_and_the_protected_are_never_dropped(
        policy in any_policy(), points in any_points(),
    ) {
        prop_assume!(!policy.is_empty());
        let verdicts = apply(&policy, &points, NOW, &TimeZone::UTC).unwrap();
        let newest = points.iter().map(|point| point.id).max();
        for (point, verdict) in points.iter().zip(&verdicts) {
            prop_assert_eq!(point.id, verdict.id);
            let protected =
                point.hold || point.overlay || point.retain_until_ms.is_some_and(|at| at > NOW);
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
