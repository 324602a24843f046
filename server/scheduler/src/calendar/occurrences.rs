//! From days and times to moments: what a time on the clock means in its zone.

use std::collections::BTreeSet;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};

use super::{Calendar, Times};

/// Days without an occurrence after which a search ends: a schedule that was compiled has one
/// within [`super::compile::HORIZON_DAYS`].
const PATIENCE: u32 = super::compile::HORIZON_DAYS + 2;

/// What a time on the clock means.
#[derive(Debug, Clone, Copy)]
enum Meaning {
    Once(Timestamp),
    /// It is skipped; the clock goes on at this moment.
    Skipped(Timestamp),
    Twice(Timestamp, Timestamp),
}

impl Meaning {
    fn of(zone: &TimeZone, time: DateTime) -> Option<Self> {
        Some(match zone.to_ambiguous_timestamp(time).offset() {
            AmbiguousOffset::Unambiguous { offset } => Self::Once(offset.to_timestamp(time).ok()?),
            AmbiguousOffset::Fold { before, after } => {
                Self::Twice(before.to_timestamp(time).ok()?, after.to_timestamp(time).ok()?)
            }
            AmbiguousOffset::Gap { after, .. } => {
                let earlier = after.to_timestamp(time).ok()?;
                let change = zone.following(earlier).find(|change| change.offset() == after)?;
                Self::Skipped(change.timestamp())
            }
        })
    }

    fn first(self) -> Timestamp {
        match self {
            Self::Once(time) | Self::Skipped(time) | Self::Twice(time, _) => time,
        }
    }

    fn last(self) -> Timestamp {
        match self {
            Self::Once(time) | Self::Skipped(time) | Self::Twice(_, time) => time,
        }
    }
}

fn on(date: Date, minute: u16) -> DateTime {
    // A minute of the day is below 1440.
    let hour = i8::try_from(minute / 60).unwrap_or(0);
    let minute = i8::try_from(minute % 60).unwrap_or(0);
    date.at(hour, minute, 0, 0)
}

/// Occurrences of a calendar in order, from [`Calendar::occurrences`].
#[derive(Debug, Clone)]
pub struct Occurrences<'a> {
    calendar: &'a Calendar,
    after: Timestamp,
    /// The next day to look at.
    date: Option<Date>,
    /// Found and not yet given out, all later than `after`.
    found: BTreeSet<Timestamp>,
}

impl<'a> Occurrences<'a> {
    pub(super) fn new(calendar: &'a Calendar, after: Timestamp) -> Self {
        // Windows over midnight, and a gap of a whole day, reach into the days that follow.
        let date = calendar.zone.to_datetime(after).date();
        let date = date.saturating_sub(2.days());
        // What begins in a far year is not searched for day by day.
        let since = calendar.days.step.map_or(date, |(_, since)| since);
        Self { calendar, after, date: Some(date.max(since)), found: BTreeSet::new() }
    }

    /// The earliest moment that `date` and later days can have.
    fn bound(&self) -> Timestamp {
        let meaning = self.date.and_then(|date| Meaning::of(&self.calendar.zone, on(date, 0)));
        meaning.map_or(Timestamp::MAX, Meaning::first)
    }
}

impl Iterator for Occurrences<'_> {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        let mut patience = PATIENCE;
        loop {
            // A day may have moments that are later than the next day's first.
            if let Some(first) = self.found.first().copied()
                && (first < self.bound() || self.date.is_none())
            {
                self.found.remove(&first);
                self.after = first;
                return Some(first);
            }
            let date = self.date?;
            patience = patience.checked_sub(1)?;
            let after = self.after;
            self.calendar.on_day(date, &mut |time| {
                if time > after {
                    self.found.insert(time);
                }
            });
            self.date = date.tomorrow().ok();
        }
    }
}

impl Calendar {
    /// The last occurrence not later than `at`, if there is one.
    pub fn previous(&self, at: Timestamp) -> Option<Timestamp> {
        let mut date = self.zone.to_datetime(at).date().saturating_add(1.days());
        let mut best = None;
        for _ in 0..PATIENCE {
            let earlier = best;
            self.on_day(date, &mut |time| {
                if time <= at {
                    best = best.max(Some(time));
                }
            });
            // One day more: its moments may be later than the first ones of this day.
            if earlier.is_some() {
                return best;
            }
            let Ok(before) = date.yesterday() else { break };
            date = before;
        }
        best
    }

    /// Every moment that belongs to `date`, in no order, and perhaps twice.
    fn on_day(&self, date: Date, found: &mut dyn FnMut(Timestamp)) {
        if !self.days.holds(date) {
            return;
        }
        match &self.times {
            Times::Fixed(minutes) => self.at_minutes(date, minutes, false, found),
            Times::Shown(minutes) => self.at_minutes(date, minutes, true, found),
            Times::Every { seconds, from, until } => {
                self.in_window(date, *seconds, (*from, *until), found);
            }
        }
    }

    fn at_minutes(
        &self,
        date: Date,
        minutes: &[u16],
        as_shown: bool,
        found: &mut dyn FnMut(Timestamp),
    ) {
        if let Some(midnight) = self.plain_day(date) {
            for minute in minutes {
                if let Ok(time) = Timestamp::from_second(midnight + i64::from(*minute) * 60) {
                    found(time);
                }
            }
            return;
        }
        for minute in minutes {
            match Meaning::of(&self.zone, on(date, *minute)) {
                Some(Meaning::Once(time)) => found(time),
                Some(Meaning::Skipped(time)) if !as_shown => found(time),
                Some(Meaning::Twice(first, second)) => {
                    found(first);
                    if as_shown {
                        found(second);
                    }
                }
                Some(Meaning::Skipped(_)) | None => {}
            }
        }
    }

    fn in_window(
        &self,
        date: Date,
        seconds: u64,
        (from, until): (u16, Option<u16>),
        found: &mut dyn FnMut(Timestamp),
    ) {
        let meaning = |date, minute| Meaning::of(&self.zone, on(date, minute));
        let Some(start) = meaning(date, from).map(|from| from.first().as_second()) else { return };
        let over_midnight = until.is_none_or(|until| until < from);
        let Ok(last_date) = (if over_midnight { date.tomorrow() } else { Ok(date) }) else {
            return;
        };
        // Without an end, a day's window ends where the next one begins.
        let end = match until {
            Some(until) => meaning(last_date, until).map(|until| until.last().as_second()),
            None => meaning(last_date, from).map(|from| from.first().as_second() - 1),
        };
        let Some(end) = end else { return };
        let step = usize::try_from(seconds).unwrap_or(usize::MAX).max(60);
        for time in (start..=end).step_by(step) {
            if let Ok(time) = Timestamp::from_second(time) {
                found(time);
            }
        }
    }

    /// When `date` has 24 hours and no time twice: its midnight, in seconds since 1970.
    fn plain_day(&self, date: Date) -> Option<i64> {
        let midnight = |date: Date| match self.zone.to_ambiguous_timestamp(on(date, 0)).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(on(date, 0)).ok(),
            _ => None,
        };
        let start = midnight(date)?.as_second();
        let end = midnight(date.tomorrow().ok()?)?.as_second();
        (end - start == 86_400).then_some(start)
    }
}
