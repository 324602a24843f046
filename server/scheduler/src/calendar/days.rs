//! Which days a schedule falls on, as bit sets.

use jiff::civil::Date;

use super::{Month, Nth, Weekday};

/// Every occurrence of a weekday: first to fifth, and last.
pub const EVERY: u8 = 0b11_1111;
const LAST: u8 = 0b10_0000;

/// A set of days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayRule {
    /// Bit 1 is January.
    pub months: u16,
    /// Of each weekday from Monday on, which occurrences in the month: bits of [`EVERY`]. `None`
    /// when the day of the week does not matter.
    pub weekdays: Option<[u8; 7]>,
    /// Days of the month. `None` when they do not matter.
    pub month_days: Option<MonthDays>,
    /// One of days of the week and days of the month is enough, as in cron.
    pub either: bool,
    /// Every so many days, counted from a day.
    pub step: Option<(i32, Date)>,
}

/// Days of a month.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MonthDays {
    /// Bit 1 is the first.
    pub from_start: u32,
    /// Bit 1 is the last, bit 2 the one before.
    pub from_end: u32,
}

impl DayRule {
    pub const ALL: Self = Self {
        months: 0b1_1111_1111_1110,
        weekdays: None,
        month_days: None,
        either: false,
        step: None,
    };

    /// Whether `date` is in the set.
    pub fn holds(&self, date: Date) -> bool {
        if self.months >> date.month() & 1 == 0 {
            return false;
        }
        if let Some((days, since)) = self.step {
            let passed = since.duration_until(date).as_hours() / 24;
            if passed < 0 || passed % i64::from(days) != 0 {
                return false;
            }
        }
        let weekday = self.weekdays.map(|weekdays| weekday_holds(&weekdays, date));
        let month_day = self.month_days.map(|days| month_day_holds(days, date));
        match (weekday, month_day) {
            (Some(one), Some(other)) if self.either => one || other,
            (one, other) => one.unwrap_or(true) && other.unwrap_or(true),
        }
    }
}

fn weekday_holds(weekdays: &[u8; 7], date: Date) -> bool {
    let wanted = weekdays[usize::from(date.weekday().to_monday_zero_offset().unsigned_abs())];
    let nth = 1_u8 << ((date.day() - 1) / 7);
    let last = if date.day() + 7 > date.days_in_month() { LAST } else { 0 };
    wanted & (nth | last) != 0
}

fn month_day_holds(days: MonthDays, date: Date) -> bool {
    let to_end = date.days_in_month() - date.day() + 1;
    days.from_start >> date.day() & 1 != 0 || days.from_end >> to_end & 1 != 0
}

/// The bits of weekdays, with their occurrences.
pub fn weekdays(days: &[Weekday], occurrences: &[Nth]) -> [u8; 7] {
    let bits = occurrences.iter().fold(0, |bits, nth| bits | nth_bit(*nth));
    let bits = if occurrences.is_empty() { EVERY } else { bits };
    let mut all = [0; 7];
    for day in days {
        all[*day as usize] = bits;
    }
    all
}

pub fn nth_bit(nth: Nth) -> u8 {
    1 << (nth as u8)
}

/// The bits of months.
pub fn months(months: &[Month]) -> u16 {
    if months.is_empty() {
        return DayRule::ALL.months;
    }
    months.iter().fold(0, |bits, month| bits | 2 << (*month as u16))
}
