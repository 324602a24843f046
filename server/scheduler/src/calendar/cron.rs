//! Cron expressions: five fields, parsed to bit sets.
//!
//! Known: `*`, `?`, lists, ranges, steps, names of months and days, Sunday as 0 or 7, `L` (last day
//! of the month), `5L` or `friL` (last Friday), `fri#2` (second Friday), and `@hourly`, `@daily`,
//! `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`. As in other crons, when both the day
//! of the month and the day of the week are restricted, either is enough.

use super::Times;
use super::days::{DayRule, EVERY, MonthDays};
use crate::Invalid;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 8] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// What a field may hold.
struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    names: &'static [&'static str],
    first_name: u8,
}

const MINUTE: Field = Field { name: "minute", least: 0, most: 59, names: &[], first_name: 0 };
const HOUR: Field = Field { name: "hour", least: 0, most: 23, names: &[], first_name: 0 };
const MONTH_DAY: Field =
    Field { name: "day of month", least: 1, most: 31, names: &[], first_name: 0 };
const MONTH: Field = Field { name: "month", least: 1, most: 12, names: &MONTHS, first_name: 1 };
const WEEKDAY: Field =
    Field { name: "day of week", least: 0, most: 7, names: &DAYS, first_name: 0 };

/// The days and times of an expression.
pub fn parse(text: &str) -> Result<(DayRule, Times), Invalid> {
    let text = text.trim().to_ascii_lowercase();
    let expanded = match text.as_str() {
        "@hourly" => "0 * * * *",
        "@daily" | "@midnight" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        other if other.starts_with('@') => {
            return Err(wrong(format!(
                "\"{other}\" is not known; write @hourly, @daily, @weekly, @monthly or @yearly"
            )));
        }
        other => other,
    };
    let fields: Vec<&str> = expanded.split_ascii_whitespace().collect();
    let &[minute, hour, month_day, month, weekday] = fields.as_slice() else {
        return Err(wrong(format!(
            "{} fields where five are needed: minute, hour, day of month, month, day of week; \
             such as \"0 2 * * mon-fri\"",
            fields.len()
        )));
    };
    let minutes = MINUTE.set(minute)?;
    let hours = HOUR.set(hour)?;
    let mut all = Vec::new();
    for hour in (0..24).filter(|hour| hours >> hour & 1 != 0) {
        all.extend((0..60).filter(|minute| minutes >> minute & 1 != 0).map(|m| hour * 60 + m));
    }
    let times = if hour.starts_with('*') { Times::Shown(all) } else { Times::Fixed(all) };
    let months = u16::try_from(MONTH.set(month)?).unwrap_or(0);
    let rule = DayRule {
        months,
        weekdays: weekdays(weekday)?,
        month_days: month_days(month_day)?,
        either: true,
        step: None,
    };
    Ok((rule, times))
}

fn wrong(what: impl Into<String>) -> Invalid {
    Invalid::new("cron", what)
}

fn any(text: &str) -> bool {
    text == "*" || text == "?"
}

fn month_days(text: &str) -> Result<Option<MonthDays>, Invalid> {
    if any(text) {
        return Ok(None);
    }
    let mut days = MonthDays::default();
    for part in text.split(',') {
        if part == "l" {
            days.from_end |= 2;
        } else {
            days.from_start |= u32::try_from(MONTH_DAY.part(part)?).unwrap_or(0);
        }
    }
    Ok(Some(days))
}

fn weekdays(text: &str) -> Result<Option<[u8; 7]>, Invalid> {
    if any(text) {
        return Ok(None);
    }
    let mut days = [0_u8; 7];
    for part in text.split(',') {
        let (part, nth) = match (part.split_once('#'), part.strip_suffix('l')) {
            (Some((day, nth)), _) => (day, nth_bits(nth)?),
            (None, Some(day)) if !day.is_empty() => (day, super::days::nth_bit(super::Nth::Last)),
            _ => (part, EVERY),
        };
        let set = WEEKDAY.part(part)?;
        for day in (0..8_usize).filter(|day| set >> day & 1 != 0) {
            // Cron counts from Sunday, and has it twice; days count from Monday.
            days[(day + 6) % 7] |= nth;
        }
    }
    Ok(Some(days))
}

fn nth_bits(text: &str) -> Result<u8, Invalid> {
    match text.parse::<u8>() {
        Ok(nth @ 1..=5) => Ok(1 << (nth - 1)),
        _ => {
            Err(wrong(format!("\"#{text}\" must be #1 to #5, such as fri#2 for the second Friday")))
        }
    }
}

impl Field {
    /// The bits of a list.
    fn set(&self, text: &str) -> Result<u64, Invalid> {
        text.split(',').try_fold(0, |bits, part| Ok(bits | self.part(part)?))
    }

    /// The bits of one value, range or step.
    fn part(&self, text: &str) -> Result<u64, Invalid> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => match step.parse::<usize>() {
                Ok(step) if step > 0 => (range, Some(step)),
                _ => return Err(self.wrong(text)),
            },
            None => (text, None),
        };
        let (from, to) = if any(range) {
            // Sunday once.
            (self.least, if self.most == 7 { 6 } else { self.most })
        } else if let Some((from, to)) = range.split_once('-') {
            (self.value(from)?, self.end(self.value(from)?, to)?)
        } else {
            let value = self.value(range)?;
            (value, if step.is_some() { self.most } else { value })
        };
        if from > to {
            let hint = "write two ranges, such as 22-23,0-5 in the place of 22-5";
            return Err(wrong(format!("{} \"{text}\" runs backwards; {hint}", self.name)));
        }
        Ok((from..=to).step_by(step.unwrap_or(1)).fold(0, |bits, value| bits | 1 << value))
    }

    /// The end of a range; `fri-sun` ends on the later of the two Sundays.
    fn end(&self, from: u8, text: &str) -> Result<u8, Invalid> {
        let end = self.value(text)?;
        Ok(if self.most == 7 && end == 0 && from > 0 { 7 } else { end })
    }

    fn value(&self, text: &str) -> Result<u8, Invalid> {
        let named = self.names.iter().position(|name| *name == text);
        if let Some(at) = named.and_then(|at| u8::try_from(at).ok()) {
            return Ok(at + self.first_name);
        }
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let value = digits.then(|| text.parse::<u8>().ok()).flatten();
        value
            .filter(|value| (self.least..=self.most).contains(value))
            .ok_or_else(|| self.wrong(text))
    }

    fn wrong(&self, text: &str) -> Invalid {
        let Self { name, least, most, .. } = self;
        let names = match self.names {
            [first, .., last] => format!(", or {first} to {last}"),
            _ => String::new(),
        };
        wrong(format!(
            "{name} \"{text}\" is not understood; write *, {least} to {most}{names}, \
             a range such as 1-3, or a step such as */2"
        ))
    }
}
