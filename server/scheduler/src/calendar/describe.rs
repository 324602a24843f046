//! A calendar in words.

use std::fmt;

use super::{Calendar, Month, Nth, Schedule, Weekday};
use crate::time::Span;

const WEEKDAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const NTHS: [&str; 6] = ["first", "second", "third", "fourth", "fifth", "last"];

/// Such as `every day at 02:00 Europe/Berlin`.
impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schedule = &self.schedule;
        if let Some(cron) = &schedule.cron {
            write!(f, "cron \"{}\"", cron.trim())?;
        } else if let Some(every) = schedule.every {
            interval(f, schedule, every)?;
        } else {
            let times: Vec<String> = schedule.at.iter().map(ToString::to_string).collect();
            write!(f, "{} at {}", days(schedule, "every day"), list(&times))?;
        }
        write!(f, " {}", schedule.zone.as_deref().unwrap_or("UTC"))
    }
}

fn interval(f: &mut fmt::Formatter<'_>, schedule: &Schedule, every: Span) -> fmt::Result {
    let from = schedule.from.unwrap_or_default();
    let filtered = *schedule
        != Schedule {
            days: vec![],
            occurrence: vec![],
            months: vec![],
            days_of_month: vec![],
            ..schedule.clone()
        };
    if every >= Span::days(2) {
        let days = every.as_seconds() / 86_400;
        write!(f, "every {days} days")?;
        if let Some(day) = schedule.starting {
            write!(f, " from {} on", day.0)?;
        }
        if filtered {
            write!(f, ", if that is {}", days_only(schedule))?;
        }
        return write!(f, " at {from}");
    }
    if every == Span::days(1) {
        return write!(f, "{} at {from}", days(schedule, "every day"));
    }
    write!(f, "every {}", words(every))?;
    if filtered {
        write!(f, " {}", days_only(schedule))?;
    }
    match (schedule.from, schedule.until) {
        (None, None) => Ok(()),
        (_, None) => write!(f, ", counted from {from}"),
        (_, Some(until)) if until < from => write!(f, " from {from} to {until} the next day"),
        (_, Some(until)) => write!(f, " from {from} to {until}"),
    }
}

fn words(span: Span) -> String {
    match span.as_seconds() {
        60 => "minute".to_owned(),
        3600 => "hour".to_owned(),
        seconds if seconds.is_multiple_of(3600) => format!("{} hours", seconds / 3600),
        seconds if seconds < 3600 => format!("{} minutes", seconds / 60),
        _ => span.to_string(),
    }
}

fn days(schedule: &Schedule, all: &str) -> String {
    let text = days_only(schedule);
    if text.is_empty() { all.to_owned() } else { text }
}

/// The days in words; empty when it is all of them.
fn days_only(schedule: &Schedule) -> String {
    let mut parts = Vec::new();
    if !schedule.days.is_empty() {
        parts.push(weekdays(&schedule.days, &schedule.occurrence));
    }
    if !schedule.days_of_month.is_empty() {
        let days: Vec<String> = schedule.days_of_month.iter().map(|day| month_day(*day)).collect();
        let lead = if parts.is_empty() { "on" } else { "if it is" };
        parts.push(format!("{lead} the {} of the month", list(&days)));
    }
    if !schedule.months.is_empty() {
        if parts.is_empty() {
            parts.push("every day".to_owned());
        }
        let months: Vec<&str> = sorted(&schedule.months).iter().map(|m| month(*m)).collect();
        parts.push(format!("in {}", list(&months)));
    }
    parts.join(" ")
}

fn weekdays(days: &[Weekday], occurrences: &[Nth]) -> String {
    let days = sorted(days);
    let numbers: Vec<usize> = days.iter().map(|day| *day as usize).collect();
    let names: Vec<&str> = numbers.iter().map(|day| WEEKDAYS[*day]).collect();
    if !occurrences.is_empty() {
        let nths: Vec<&str> = sorted(occurrences).iter().map(|nth| NTHS[*nth as usize]).collect();
        return format!("on the {} {} of the month", list(&nths), list(&names));
    }
    match &*numbers {
        [0, 1, 2, 3, 4, 5, 6] => "every day".to_owned(),
        [0, 1, 2, 3, 4] => "Monday to Friday".to_owned(),
        [_] => format!("every {}", names[0]),
        _ => format!("on {}", list(&names)),
    }
}

fn sorted<T: Copy + Ord>(values: &[T]) -> Vec<T> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.dedup();
    values
}

fn month(month: Month) -> &'static str {
    MONTHS[month as usize]
}

fn month_day(day: i8) -> String {
    match day {
        -1 => "last day".to_owned(),
        ..0 => format!("{} last day", ordinal(day.unsigned_abs())),
        _ => ordinal(day.unsigned_abs()),
    }
}

fn ordinal(number: u8) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

fn list(parts: &[impl AsRef<str>]) -> String {
    match parts {
        [] => String::new(),
        [only] => only.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}
