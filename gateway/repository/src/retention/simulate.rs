//! What a schedule and a policy come to over time, without a repository.

use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::{Candidate, EmptyPolicy, Periods, Policy, Verdict, judge};
use crate::format::id::PointId;

/// Most backups one simulation plays.
pub const MAX_BACKUPS: u64 = 20_000;

/// When backups are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The first one, in ms since 1970.
    pub from_ms: u64,
    /// From one to the next.
    pub every: Duration,
    /// From the first to the end of the simulation.
    pub lasts: Duration,
}

impl Schedule {
    /// How many backups there are.
    pub fn backups(&self) -> u64 {
        let every = u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX).max(1);
        u64::try_from(self.lasts.as_millis()).unwrap_or(u64::MAX) / every + 1
    }

    fn at(&self, number: u64) -> u64 {
        let every = u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX).max(1);
        self.from_ms.saturating_add(number.saturating_mul(every))
    }
}

/// How a simulation went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulation {
    /// After each backup and the pruning that follows it: the time in ms since 1970, and how
    /// many points are kept.
    pub kept: Vec<(u64, usize)>,
    /// The points kept at the end with their times, oldest first.
    pub left: Vec<(u64, Verdict)>,
}

impl Simulation {
    /// The most points that were kept at a time.
    pub fn most(&self) -> usize {
        self.kept.iter().map(|(_, kept)| *kept).max().unwrap_or(0)
    }
}

/// Why nothing was simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CannotSimulate {
    /// The policy has no rule.
    Empty(EmptyPolicy),
    /// There are more backups than [`MAX_BACKUPS`].
    TooMany(u64),
}

impl fmt::Display for CannotSimulate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(empty) => empty.fmt(f),
            Self::TooMany(backups) => {
                write!(f, "that are {backups} backups; simulate at most {MAX_BACKUPS}")
            }
        }
    }
}

impl std::error::Error for CannotSimulate {}

/// Plays a schedule: after each backup the policy is applied to what is there, and what it does
/// not keep is gone.
///
/// # Errors
/// An empty policy, or too many backups.
pub fn simulate(
    policy: &Policy,
    schedule: &Schedule,
    zone: &TimeZone,
) -> Result<Simulation, CannotSimulate> {
    let backups = schedule.backups();
    if backups > MAX_BACKUPS {
        return Err(CannotSimulate::TooMany(backups));
    }
    if policy.is_empty() {
        return Err(CannotSimulate::Empty(EmptyPolicy));
    }
    let mut points: Vec<Candidate> = Vec::new();
    let mut periods: Vec<Periods> = Vec::new();
    let mut simulation = Simulation { kept: Vec::new(), left: Vec::new() };
    for number in 0..backups {
        let now = schedule.at(number);
        points.push(candidate(now, number));
        periods.push(policy.periods_of(now, zone));
        let mut verdicts = judge(policy, &points, &periods, now);
        let mut keeps = verdicts.iter().map(Verdict::keep);
        points.retain(|_| keeps.next().unwrap_or(true));
        let mut keeps = verdicts.iter().map(Verdict::keep);
        periods.retain(|_| keeps.next().unwrap_or(true));
        simulation.kept.push((now, points.len()));
        if number + 1 == backups {
            verdicts.retain(Verdict::keep);
            simulation.left = points.iter().map(|point| point.created_ms).zip(verdicts).collect();
        }
    }
    Ok(simulation)
}

/// The point of a backup.
fn candidate(created_ms: u64, number: u64) -> Candidate {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&number.to_be_bytes());
    let id = PointId::new(created_ms, random);
    let (hold, overlay, event) = (false, false, false);
    Candidate { id, created_ms, hold, overlay, retain_until_ms: None, event, keep_until_ms: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::retention::apply;
    use crate::retention::tests::any_policy;

    const HOUR: u64 = 3600;

    fn schedule(every_hours: u64, days: u64) -> Schedule {
        Schedule {
            from_ms: 1_767_225_600_000, // 2026-01-01T00:00:00Z
            every: Duration::from_secs(every_hours * HOUR),
            lasts: Duration::from_secs(days * 24 * HOUR),
        }
    }

    #[test]
    fn a_week_of_days_and_a_year_of_months_settle_at_what_they_say() {
        let policy = Policy { keep_daily: Some(7), keep_monthly: Some(12), ..Policy::default() };
        let played = simulate(&policy, &schedule(24, 730), &TimeZone::UTC).unwrap();
        assert_eq!(played.kept.len(), 731);
        assert_eq!(played.kept[0].1, 1);
        // Seven days, twelve months, of which one or two points stand for both.
        assert!((17..=18).contains(&played.left.len()), "{}", played.left.len());
        assert!(played.most() <= 19);
        assert_eq!(played.left.last().unwrap().0, played.kept.last().unwrap().0);
        assert!(played.left.is_sorted_by_key(|(time, _)| *time));
        assert_eq!(played.left.len(), played.kept.last().unwrap().1);
    }

    #[test]
    fn what_cannot_be_simulated_is_said() {
        let one = schedule(24, 10);
        let empty = simulate(&Policy::default(), &one, &TimeZone::UTC);
        assert_eq!(empty, Err(CannotSimulate::Empty(EmptyPolicy)));
        let policy = Policy { keep_last: Some(3), ..Policy::default() };
        let endless = Schedule { every: Duration::from_millis(1), ..one };
        let refused = simulate(&policy, &endless, &TimeZone::UTC);
        assert_eq!(refused, Err(CannotSimulate::TooMany(864_000_001)));
        assert_eq!(simulate(&policy, &one, &TimeZone::UTC).unwrap().left.len(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Pruning each time keeps what one pruning at the end would have kept.
        #[test]
        fn pruning_often_comes_to_the_same_as_pruning_once(
            policy in any_policy(), every in 1_u64..60, days in 1_u64..60,
        ) {
            prop_assume!(!policy.is_empty());
            let schedule = schedule(every, days);
            let played = simulate(&policy, &schedule, &TimeZone::UTC).unwrap();
            let all: Vec<Candidate> = (0..schedule.backups())
                .map(|number| candidate(schedule.at(number), number))
                .collect();
            let now = all.last().unwrap().created_ms;
            let once = apply(&policy, &all, now, &TimeZone::UTC).unwrap();
            let once: Vec<Verdict> = once.into_iter().filter(Verdict::keep).collect();
            let left: Vec<Verdict> = played.left.into_iter().map(|(_, verdict)| verdict).collect();
            prop_assert_eq!(left, once);
        }
    }
}
