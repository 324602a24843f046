//! One schedule of one rule: what became due between its mark and now.

use serde_json::Value;
use sluice_catalog::{Schedule, When};
use sluice_scheduler::calendar::{self, Calendar, Misfire};
use sluice_scheduler::plan::{MAX_CATCH_UP, MAX_COUNTED, MissReason};

use crate::queue::moment;

/// A calendar as the scheduler reads it.
pub(crate) fn compiled(calendar: &Value) -> Result<Calendar, String> {
    let schedule = serde_json::from_value::<calendar::Schedule>(calendar.clone());
    let schedule = schedule.map_err(|error| error.to_string())?;
    schedule.compile().map_err(|error| error.to_string())
}

/// When something is due.
#[derive(Debug)]
pub(crate) enum Times {
    /// Every so many milliseconds, counted from 1970.
    Every(u64),
    /// By a calendar.
    Calendar(Box<Calendar>),
}

/// What became due: occurrences that run, and those that do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    /// Those that run, with the last moment at which each may start.
    pub(crate) run: Vec<(u64, Option<u64>)>,
    /// Why others do not, the first and the last of them, and how many they are.
    pub(crate) missed: Option<(MissReason, u64, u64, u64)>,
    /// The last of all.
    pub(crate) last: u64,
}

fn ms(at: jiff::Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

impl Times {
    /// The times of a schedule; nothing for one that is never due by itself.
    pub(crate) fn of(schedule: &Schedule) -> Option<Self> {
        match &schedule.when {
            When::Every { seconds } => {
                Some(Self::Every(seconds.checked_mul(1000).filter(|period| *period > 0)?))
            }
            // Checked when it was stored.
            When::Calendar { calendar } => {
                compiled(calendar).ok().map(Box::new).map(Self::Calendar)
            }
            When::Manual {} => None,
        }
    }

    /// The first time later than `after`.
    pub(crate) fn next(&self, after: u64) -> Option<u64> {
        match self {
            Self::Every(period) => (after / period + 1).checked_mul(*period),
            Self::Calendar(calendar) => calendar.next(moment(after)).map(ms),
        }
    }

    /// The last time not later than `now`.
    pub(crate) fn previous(&self, now: u64) -> Option<u64> {
        match self {
            Self::Every(period) => Some(now - now % period),
            Self::Calendar(calendar) => calendar.previous(moment(now)).map(ms),
        }
    }

    /// What became due between `mark` and `now`. While it is paused, nothing of it runs.
    pub(crate) fn due(&self, mark: u64, now: u64, paused: bool) -> Option<Due> {
        let last = self.previous(now).filter(|last| *last > mark)?;
        let mut all: Vec<u64> = std::iter::successors(self.next(mark), |at| self.next(*at))
            .take_while(|at| *at <= last)
            .take(MAX_COUNTED)
            .collect();
        // When there are too many to count, the latest is still the one that runs.
        if let Some(end) = all.last_mut() {
            *end = last;
        }
        let (late, misfire) = match self {
            Self::Every(_) => (false, Misfire::RunOnce),
            Self::Calendar(calendar) => {
                (calendar.start_window().after(moment(last)) <= moment(now), calendar.misfire())
            }
        };
        let many = match misfire {
            _ if paused => 0,
            Misfire::Skip if late => 0,
            Misfire::Skip | Misfire::RunOnce => 1,
            Misfire::RunAll => MAX_CATCH_UP,
        };
        let run = all.split_off(all.len().saturating_sub(many));
        let reason = if paused {
            MissReason::Paused
        } else if run.is_empty() {
            MissReason::TooLate
        } else {
            MissReason::Superseded
        };
        let missed = all.first().zip(all.last());
        let missed = missed.map(|(first, last)| (reason, *first, *last, all.len() as u64));
        let start_by = |at: u64| match self {
            Self::Every(_) => None,
            Self::Calendar(calendar) => {
                let from = if late || at != last { now } else { at };
                Some(ms(calendar.start_window().after(moment(from))))
            }
        };
        let run = run.into_iter().map(|at| (at, start_by(at))).collect();
        Some(Due { run, missed, last })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    fn calendar(more: Value) -> Times {
        let mut calendar = json!({"at": ["02:00"], "start_window": "1h"});
        for (key, value) in more.as_object().unwrap() {
            calendar[key] = value.clone();
        }
        Times::Calendar(Box::new(compiled(&calendar).unwrap()))
    }

    #[test]
    fn an_interval_is_counted_from_1970_and_made_up_for_once() {
        let times = Times::Every(60_000);
        assert_eq!((times.next(59_999), times.next(60_000)), (Some(60_000), Some(120_000)));
        assert_eq!(times.due(60_000, 119_999, false), None);
        let due = times.due(60_000, 240_000, false).unwrap();
        assert_eq!((due.run, due.last), (vec![(240_000, None)], 240_000));
        assert_eq!(due.missed, Some((MissReason::Superseded, 120_000, 180_000, 2)));
        let when = When::Manual {};
        let manual = Schedule { name: "a".into(), paused: false, when, backup_type: None };
        assert!(Times::of(&manual).is_none());
    }

    #[test]
    fn what_is_too_late_runs_or_not_as_its_schedule_says() {
        let (two, window) = (DAY + 2 * HOUR, DAY + 3 * HOUR);
        let skip = calendar(json!({"misfire": "skip"}));
        let due = skip.due(DAY, two, false).unwrap();
        assert_eq!((due.run, due.missed), (vec![(two, Some(window))], None));
        let late = skip.due(DAY, two + 2 * HOUR, false).unwrap();
        assert_eq!(late.missed, Some((MissReason::TooLate, two, two, 1)));
        assert!(late.run.is_empty());
        let once = calendar(json!({})).due(DAY, two + 2 * HOUR, false).unwrap();
        assert_eq!((once.run, once.missed), (vec![(two, Some(two + 3 * HOUR))], None));
        let all = calendar(json!({"misfire": "run-all"}));
        let due = all.due(0, two, false).unwrap();
        assert_eq!(due.run.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [2 * HOUR, two]);
    }

    #[test]
    fn what_is_paused_is_missed_and_not_made_up_for() {
        let due = calendar(json!({})).due(0, 2 * DAY, true).unwrap();
        assert!(due.run.is_empty());
        assert_eq!(due.missed, Some((MissReason::Paused, 2 * HOUR, DAY + 2 * HOUR, 2)));
        assert!(compiled(&json!({"at": ["25:00"]})).is_err());
    }
}
