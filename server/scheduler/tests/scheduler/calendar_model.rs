//! Calendars against a model that looks at the clock once a minute.
//!
//! The model knows nothing of offsets, gaps and folds. It walks through real minutes, notes which
//! time the clock shows, and sees for itself which times never came and which came twice.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use proptest::collection::{btree_set, vec};
use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert_eq, prop_assume, prop_oneof, proptest,
};
use proptest::sample::{select, subsequence};
use sluice_scheduler::calendar::{Month, Nth, Schedule, Weekday};
use sluice_scheduler::time::{Day, Span, TimeOfDay};

/// Clocks that change at midnight, by half an hour, in the south, over the date line, around
/// Ramadan, or never.
const ZONES: [&str; 12] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Pacific/Apia",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Beirut",
    "America/Havana",
    "Asia/Kathmandu",
    "UTC",
];

const WEEKDAYS: [Weekday; 7] = [
    Weekday::Mon,
    Weekday::Tue,
    Weekday::Wed,
    Weekday::Thu,
    Weekday::Fri,
    Weekday::Sat,
    Weekday::Sun,
];
const NTHS: [Nth; 6] = [Nth::First, Nth::Second, Nth::Third, Nth::Fourth, Nth::Fifth, Nth::Last];
const MONTHS: [Month; 12] = [
    Month::Jan,
    Month::Feb,
    Month::Mar,
    Month::Apr,
    Month::May,
    Month::Jun,
    Month::Jul,
    Month::Aug,
    Month::Sep,
    Month::Oct,
    Month::Nov,
    Month::Dec,
];

/// What a clock showed, minute by minute.
struct Clock {
    shown: Vec<(Timestamp, DateTime)>,
    /// When a time was first shown, or jumped over.
    first: BTreeMap<DateTime, Timestamp>,
    last: BTreeMap<DateTime, Timestamp>,
}

impl Clock {
    fn watch(zone: &TimeZone, from: Timestamp, minutes: i64) -> Self {
        let mut clock = Self { shown: vec![], first: BTreeMap::new(), last: BTreeMap::new() };
        let mut expected = None;
        for minute in 0..minutes {
            let now = from + minute.minutes();
            let time = zone.to_datetime(now);
            let mut skipped = expected.unwrap_or(time);
            while skipped < time {
                clock.first.entry(skipped).or_insert(now);
                clock.last.insert(skipped, now);
                skipped += 1.minute();
            }
            clock.first.entry(time).or_insert(now);
            clock.last.insert(time, now);
            clock.shown.push((now, time));
            expected = Some(time + 1.minute());
        }
        clock
    }
}

/// A schedule with what it should mean.
#[derive(Debug, Clone)]
struct Case {
    schedule: Schedule,
    cron: Option<CronCase>,
}

#[derive(Debug, Clone)]
struct CronCase {
    minutes: BTreeSet<u8>,
    hours: Option<BTreeSet<u8>>,
    step: u8,
    month_days: BTreeSet<i8>,
    weekdays: BTreeSet<u8>,
}

impl CronCase {
    fn text(&self) -> String {
        let list =
            |set: &BTreeSet<u8>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let hours = match &self.hours {
            Some(hours) => list(hours),
            None => format!("*/{}", self.step),
        };
        let days = match self.month_days.is_empty() {
            true => "*".to_owned(),
            false => self.month_days.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        };
        let weekdays = if self.weekdays.is_empty() { "*".into() } else { list(&self.weekdays) };
        format!("{} {hours} {days} * {weekdays}", list(&self.minutes))
    }

    fn day(&self, date: Date) -> bool {
        let month_day = self.month_days.contains(&date.day());
        let number = date.weekday().to_sunday_zero_offset().unsigned_abs();
        let weekday = self.weekdays.contains(&number) || number == 0 && self.weekdays.contains(&7);
        match (self.month_days.is_empty(), self.weekdays.is_empty()) {
            (true, true) => true,
            (false, true) => month_day,
            (true, false) => weekday,
            (false, false) => month_day || weekday,
        }
    }

    fn time(&self, time: DateTime) -> bool {
        let hour = time.hour().unsigned_abs();
        self.minutes.contains(&time.minute().unsigned_abs())
            && match &self.hours {
                Some(hours) => hours.contains(&hour),
                None => hour.is_multiple_of(self.step),
            }
    }
}

/// Whether the schedule's day settings hold, said in other words than in the crate.
fn day(schedule: &Schedule, date: Date) -> bool {
    let month = MONTHS[usize::from(date.month().unsigned_abs()) - 1];
    let weekday = WEEKDAYS[usize::from(date.weekday().to_monday_zero_offset().unsigned_abs())];
    let before = (1..=4).filter(|weeks| (date - (7 * weeks).days()).month() == date.month());
    let nth = NTHS[before.count()];
    let last = (date + 7.days()).month() != date.month();
    let from_end = i8::try_from((date.last_of_month() - date).get_days()).unwrap();
    let days = &schedule.days_of_month;
    (schedule.months.is_empty() || schedule.months.contains(&month))
        && (schedule.days.is_empty() || schedule.days.contains(&weekday))
        && (schedule.occurrence.is_empty()
            || schedule.occurrence.contains(&nth)
            || last && schedule.occurrence.contains(&Nth::Last))
        && (days.is_empty() || days.contains(&date.day()) || days.contains(&(-1 - from_end)))
}

fn on(date: Date, time: TimeOfDay) -> DateTime {
    date.at(0, 0, 0, 0) + i64::from(time.minute_of_day()).minutes()
}

/// The occurrences that the model finds.
fn model(case: &Case, clock: &Clock) -> BTreeSet<Timestamp> {
    let schedule = &case.schedule;
    let mut found = BTreeSet::new();
    if let Some(cron) = &case.cron {
        let hit = |time: &DateTime| cron.day(time.date()) && cron.time(*time);
        if cron.hours.is_some() {
            found.extend(clock.first.iter().filter(|(time, _)| hit(time)).map(|(_, at)| *at));
        } else {
            found.extend(clock.shown.iter().filter(|(_, time)| hit(time)).map(|(at, _)| *at));
        }
        return found;
    }
    let dates: BTreeSet<Date> = clock.first.keys().map(|time| time.date()).collect();
    for date in dates.into_iter().filter(|date| day(schedule, *date)) {
        let first = |date, time| clock.first.get(&on(date, time)).copied();
        let Some(every) = schedule.every else {
            found.extend(schedule.at.iter().filter_map(|time| first(date, *time)));
            continue;
        };
        let from = schedule.from.unwrap_or_default();
        if every >= Span::days(1) {
            let since = schedule.starting.map_or(jiff::civil::date(1970, 1, 1), |day| day.0);
            let passed = i64::from((date - since).get_days());
            if passed >= 0 && passed % i64::try_from(every.as_seconds() / 86_400).unwrap() == 0 {
                found.extend(first(date, from));
            }
            continue;
        }
        let end = match schedule.until {
            None => first(date + 1.day(), from).map(|end| end - 1.second()),
            Some(until) if until < from => clock.last.get(&on(date + 1.day(), until)).copied(),
            Some(until) => clock.last.get(&on(date, until)).copied(),
        };
        let (Some(mut at), Some(end)) = (first(date, from), end) else { continue };
        while at <= end {
            found.insert(at);
            at = every.after(at);
        }
    }
    found
}

fn any_time() -> impl Strategy<Value = TimeOfDay> {
    // Clocks change at night: that is where it matters.
    let hour = prop_oneof![3 => 0_u8..4, 1 => 0_u8..24, 1 => Just(23)];
    (hour, select(vec![0_u8, 1, 15, 30, 45, 59]))
        .prop_map(|(hour, minute)| TimeOfDay::new(hour, minute).unwrap())
}

fn some_of<T: Clone + std::fmt::Debug + 'static>(
    all: &[T],
) -> impl Strategy<Value = Vec<T>> + use<T> {
    prop_oneof![3 => Just(vec![]), 1 => subsequence(all.to_vec(), 1..=all.len())]
}

fn any_case() -> impl Strategy<Value = Case> {
    let days = (
        some_of(&WEEKDAYS),
        some_of(&NTHS),
        some_of(&(-31..=31).filter(|day| *day != 0).collect::<Vec<i8>>()),
        some_of(&MONTHS),
    );
    let at = btree_set(any_time(), 1..4)
        .prop_map(|at| Schedule { at: at.into_iter().collect(), ..Schedule::default() });
    let minutes = select(vec![1_u64, 7, 15, 60, 90, 240, 1439]).prop_map(Span::minutes);
    let window = (minutes, any::<Option<bool>>(), any_time(), any_time()).prop_map(
        |(every, which, from, until)| Schedule {
            every: Some(every),
            from: which.map(|_| from),
            until: which.filter(|both| *both && from != until).map(|_| until),
            ..Schedule::default()
        },
    );
    let stepped = (1_u64..6, any_time(), any::<bool>()).prop_map(|(days, from, starting)| {
        let day = Day(jiff::civil::date(1999, 12, 30));
        Schedule {
            every: Some(Span::days(days)),
            from: Some(from),
            starting: (starting && days > 1).then_some(day),
            ..Schedule::default()
        }
    });
    let cron = (
        btree_set(0_u8..60, 1..4),
        prop_oneof![Just(None), btree_set(0_u8..5, 1..4).prop_map(Some)],
        1_u8..5,
        prop_oneof![Just(BTreeSet::new()), btree_set(1_i8..=31, 1..9)],
        prop_oneof![Just(BTreeSet::new()), btree_set(0_u8..=7, 1..4)],
    )
        .prop_map(|(minutes, hours, step, month_days, weekdays)| {
            let cron = CronCase { minutes, hours, step, month_days, weekdays };
            let schedule = Schedule { cron: Some(cron.text()), ..Schedule::default() };
            Case { schedule, cron: Some(cron) }
        });
    let plain = (prop_oneof![at, window, stepped], days).prop_map(|(schedule, days)| {
        let (days, mut occurrence, days_of_month, months) = days;
        if days.is_empty() {
            occurrence.clear();
        }
        let schedule = Schedule { days, occurrence, days_of_month, months, ..schedule };
        Case { schedule, cron: None }
    });
    prop_oneof![3 => plain, 1 => cron]
}

/// Compares model and calendar while `clock` was watched, leaving out both ends, where the model
/// does not see everything.
fn compare(case: &Case, zone: &str, clock: &Clock) {
    let schedule = Schedule { zone: Some(zone.to_owned()), ..case.schedule.clone() };
    let calendar = schedule.compile().unwrap();
    let margin = (3 * 1440).minutes();
    let (first, last) = (clock.shown[0].0, clock.shown[clock.shown.len() - 1].0);
    let (start, end) = (first + margin, last - margin);
    let expected: Vec<Timestamp> =
        model(case, clock).into_iter().filter(|at| *at > start && *at <= end).collect();
    let found: Vec<Timestamp> = calendar.between(start, end).collect();
    assert_eq!(found, expected, "{calendar}");
    // Every pair of a short list, some of a long one.
    for pair in found.windows(2).step_by(1 + found.len() / 50) {
        let second = 1.second();
        assert_eq!(calendar.next(pair[0]), Some(pair[1]));
        assert_eq!(calendar.next(pair[1] - second), Some(pair[1]));
        assert_eq!(calendar.previous(pair[0]), Some(pair[0]));
        assert_eq!(calendar.previous(pair[0] + second), Some(pair[0]));
        assert_eq!(calendar.previous(pair[1] - second), Some(pair[0]));
    }
}

proptest! {
    // Each case watches ten days of a clock.
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn calendars_agree_with_a_clock_read_every_minute(
        case in any_case(),
        zone in select(ZONES.to_vec()),
        day in 11_000_i64..22_000,
        before in 4_i64..7,
        minute in 0_i64..1440,
    ) {
        prop_assume!(case.schedule.compile().is_ok());
        // Around the next change of the clock, if there is one.
        let moment = Timestamp::from_second(day * 86_400).unwrap();
        let clock = TimeZone::get(zone).unwrap();
        let change = clock.following(moment).next().map(|change| change.timestamp());
        let moment = change.unwrap_or(moment);
        let start = moment.as_second() / 60 * 60 - (before * 1440 + minute) * 60;
        let start = Timestamp::from_second(start).unwrap();
        compare(&case, zone, &Clock::watch(&clock, start, 10 * 1440));
    }

}

proptest! {
    #[test]
    fn a_schedule_survives_its_text(case in any_case()) {
        let text = serde_json::to_string(&case.schedule).unwrap();
        prop_assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), case.schedule);
    }

    #[test]
    fn hostile_cron_is_refused_or_understood(text in vec(select(CRON_PIECES.to_vec()), 0..12)) {
        let schedule = Schedule { cron: Some(text.concat()), ..Schedule::default() };
        if let Ok(calendar) = schedule.compile() {
            assert!(calendar.next(Timestamp::UNIX_EPOCH).is_some());
        }
    }
}

const CRON_PIECES: [&str; 16] =
    [" ", " ", "*", "/", "-", ",", "0", "5", "31", "mon", "L", "#", "?", "@daily", "999", "ä"];

#[test]
fn simulated_years_agree_with_a_clock_read_every_minute() {
    let at = |text: &str| text.parse().unwrap();
    let nightly = Schedule { at: vec![at("02:30"), at("23:59")], ..Schedule::default() };
    let hourly = Schedule { every: Some(Span::minutes(90)), ..Schedule::default() };
    let last_sunday = Schedule {
        at: vec![at("02:00")],
        days: vec![Weekday::Sun],
        occurrence: vec![Nth::Last],
        ..Schedule::default()
    };
    let month_end = Schedule { days_of_month: vec![-1, 1], ..nightly.clone() };
    let start: Timestamp = "2025-12-28T00:00:00Z".parse().unwrap();
    let schedules = [nightly, hourly, last_sunday, month_end];
    for zone in ["Europe/Berlin", "Australia/Lord_Howe"] {
        let clock = Clock::watch(&TimeZone::get(zone).unwrap(), start, 372 * 1440);
        for schedule in &schedules {
            compare(&Case { schedule: schedule.clone(), cron: None }, zone, &clock);
        }
    }
}
