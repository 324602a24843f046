//! Checking a schedule, with messages that say what to write instead.

use jiff::civil::{Date, date};
use jiff::tz::TimeZone;

use super::days::{self, DayRule, MonthDays};
use super::{Calendar, Schedule, Times, cron};
use crate::Invalid;
use crate::time::Span;

/// A schedule that falls on no day in so many days never does: the calendar's longest usual gap,
/// 29 February on a given weekday over a century without a leap year, has 40 years.
pub const HORIZON_DAYS: u32 = 41 * 366;

/// Most times of day in one schedule: every quarter of an hour.
const MAX_TIMES: usize = 96;

const DAY: u64 = 86_400;

impl Schedule {
    /// Checks the schedule and makes it ready to be asked. Looks up the time zone.
    ///
    /// # Errors
    /// When settings are missing, contradict each other, or describe no day that exists.
    pub fn compile(&self) -> Result<Calendar, Invalid> {
        let zone = self.time_zone()?;
        self.check_window()?;
        let (days, times) = match (&*self.at, self.every, &self.cron) {
            ([], None, None) => {
                let hint = "say when: at (such as [\"02:00\"]), every (such as 4h) or cron";
                return Err(Invalid::new("at", hint));
            }
            ([_, ..], None, None) => (self.days()?, self.fixed()?),
            ([], Some(every), None) => self.interval(every)?,
            ([], None, Some(text)) => self.cron(text)?,
            _ => {
                let hint = "at, every and cron exclude each other; a rule may have several \
                            schedules";
                return Err(Invalid::new("at", hint));
            }
        };
        let calendar = Calendar { schedule: self.clone(), days, times, zone };
        calendar.exists()?;
        Ok(calendar)
    }

    fn time_zone(&self) -> Result<TimeZone, Invalid> {
        let Some(name) = self.zone.as_deref() else { return Ok(TimeZone::UTC) };
        if name.eq_ignore_ascii_case("utc") {
            return Ok(TimeZone::UTC);
        }
        TimeZone::get(name).map_err(|_| {
            let hint = "write an IANA name such as Europe/Berlin; names come with the package \
                        tzdata";
            Invalid::new("zone", format!("no time zone \"{name}\" is known here; {hint}"))
        })
    }

    fn check_window(&self) -> Result<(), Invalid> {
        let window = self.start_window.unwrap_or(super::DEFAULT_START_WINDOW);
        if (Span::minutes(1)..=Span::days(7)).contains(&window) {
            return Ok(());
        }
        let what = format!("{window} is out of range; allow a start within 1m to 7d");
        Err(Invalid::new("start_window", what))
    }

    /// The days, from all fields but `cron`.
    fn days(&self) -> Result<DayRule, Invalid> {
        if !self.occurrence.is_empty() && self.days.is_empty() {
            let hint = "say of which days, such as days: [sun]; for days of the month as such \
                        there is days_of_month";
            return Err(Invalid::new("occurrence", hint));
        }
        let mut month_days = MonthDays::default();
        for day in &self.days_of_month {
            match day {
                1..=31 => month_days.from_start |= 1 << day,
                -31..=-1 => month_days.from_end |= 1 << -day,
                _ => {
                    let hint = "is no day of a month; write 1 to 31, or -1 for the last day";
                    return Err(Invalid::new("days_of_month", format!("{day} {hint}")));
                }
            }
        }
        let days = &self.days;
        Ok(DayRule {
            months: days::months(&self.months),
            weekdays: (!days.is_empty()).then(|| days::weekdays(days, &self.occurrence)),
            month_days: (!self.days_of_month.is_empty()).then_some(month_days),
            either: false,
            step: None,
        })
    }

    fn fixed(&self) -> Result<Times, Invalid> {
        for (field, given) in [("from", self.from.is_some()), ("until", self.until.is_some())] {
            if given {
                return Err(Invalid::new(field, "goes with every; at names its times itself"));
            }
        }
        self.no_starting()?;
        let mut minutes: Vec<u16> = self.at.iter().map(|time| time.minute_of_day()).collect();
        minutes.sort_unstable();
        if let Some(pair) = minutes.windows(2).find(|pair| pair[0] == pair[1]) {
            let (hour, minute) = (pair[0] / 60, pair[0] % 60);
            let what = format!("{hour:02}:{minute:02} is there twice; remove one");
            return Err(Invalid::new("at", what));
        }
        if minutes.len() > MAX_TIMES {
            let what = format!("{} times are too many; use every", minutes.len());
            return Err(Invalid::new("at", what));
        }
        Ok(Times::Fixed(minutes))
    }

    fn no_starting(&self) -> Result<(), Invalid> {
        if self.starting.is_none() {
            return Ok(());
        }
        Err(Invalid::new("starting", "goes with every of more than a day; leave it out"))
    }

    fn interval(&self, every: Span) -> Result<(DayRule, Times), Invalid> {
        let seconds = every.as_seconds();
        let from = self.from.unwrap_or_default().minute_of_day();
        let until = self.until.map(|until| until.minute_of_day());
        if until == Some(from) {
            let hint = "equals from; leave until out to go on for the whole day";
            return Err(Invalid::new("until", hint));
        }
        let mut days = self.days()?;
        if seconds < DAY {
            self.no_starting()?;
            if seconds == 0 || !seconds.is_multiple_of(60) {
                let what = format!("{every} is not a whole number of minutes, such as 15m");
                return Err(Invalid::new("every", what));
            }
            return Ok((days, Times::Every { seconds, from, until }));
        }
        if !seconds.is_multiple_of(DAY) || seconds > 3660 * DAY {
            let hint = "beyond 24h, write whole days, such as 2d, and no more than ten years";
            return Err(Invalid::new("every", hint));
        }
        if until.is_some() {
            let hint = "goes with every of less than a day; a start at from is the only one";
            return Err(Invalid::new("until", hint));
        }
        let since = self.starting.map_or(date(1970, 1, 1), |day| day.0);
        if seconds > DAY {
            days.step = Some((i32::try_from(seconds / DAY).unwrap_or(1), since));
        } else {
            self.no_starting()?;
        }
        Ok((days, Times::Fixed(vec![from])))
    }

    fn cron(&self, text: &str) -> Result<(DayRule, Times), Invalid> {
        let others = [
            ("from", self.from.is_some()),
            ("until", self.until.is_some()),
            ("days", !self.days.is_empty()),
            ("occurrence", !self.occurrence.is_empty()),
            ("days_of_month", !self.days_of_month.is_empty()),
            ("months", !self.months.is_empty()),
        ];
        if let Some((field, _)) = others.into_iter().find(|(_, given)| *given) {
            return Err(Invalid::new(field, "does not go with cron; say it in the expression"));
        }
        self.no_starting()?;
        cron::parse(text)
    }
}

impl Calendar {
    /// Whether there is a day for it at all.
    fn exists(&self) -> Result<(), Invalid> {
        let field = if self.schedule.cron.is_some() { "cron" } else { "days_of_month" };
        let start = self.days.step.map_or(date(2024, 1, 1), |(_, since)| since);
        let mut day = Some(start);
        for _ in 0..HORIZON_DAYS {
            let Some(today) = day else { break };
            if self.days.holds(today) {
                return Ok(());
            }
            day = Date::tomorrow(today).ok();
        }
        let what = "no day is like that, such as 30 February; widen months or days";
        Err(Invalid::new(field, what))
    }
}
