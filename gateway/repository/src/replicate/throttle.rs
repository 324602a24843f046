//! How fast a replication may go: a limit, and others at times of the day.
//!
//! The schedule is a pure function of the time of day. The bucket is one of debts: a pack may be
//! moved when no debt is left, and then makes as much debt as it has bytes, which is paid off at
//! the rate of the moment. So the mean keeps to the limit, in bursts of a pack.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;

/// The longest sleep before the schedule is looked at again.
const STEP: Duration = Duration::from_secs(5);

/// A limit at a time of every day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// When it begins.
    pub from: Time,
    /// When it ends; before `from` it is of the next day, equal to it it is the whole day.
    pub to: Time,
    /// Bytes a second; 0 starts nothing.
    pub rate: u64,
}

impl Window {
    /// Whether the window is open at this time of the day.
    pub fn holds(&self, time: Time) -> bool {
        if self.from < self.to {
            self.from <= time && time < self.to
        } else {
            time >= self.from || time < self.to
        }
    }
}

/// Limits by time of the day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Bytes a second at any time; `None` is no limit.
    pub limit: Option<u64>,
    /// Limits at times of the day.
    pub windows: Vec<Window>,
}

impl Schedule {
    /// Bytes a second at this time of the day: the smallest limit that holds then.
    pub fn rate(&self, time: Time) -> Option<u64> {
        let open = self.windows.iter().filter(|window| window.holds(time));
        open.map(|window| window.rate).chain(self.limit).min()
    }
}

/// Bytes that went ahead of the rate.
#[derive(Debug, Default)]
struct Debt {
    bytes: f64,
}

impl Debt {
    /// Pays off what `elapsed` at `rate` allows. True when no debt is left.
    fn pay(&mut self, elapsed: Duration, rate: Option<u64>) -> bool {
        match rate {
            None => self.bytes = 0.0,
            Some(rate) => {
                self.bytes = (self.bytes - rate as f64 * elapsed.as_secs_f64()).max(0.0);
            }
        }
        self.bytes <= 0.0 && rate != Some(0)
    }

    /// Admits `bytes` after `elapsed` since the last call, or says how long to wait.
    fn admit(&mut self, elapsed: Duration, rate: Option<u64>, bytes: u64) -> Option<Duration> {
        if !self.pay(elapsed, rate) {
            return Some(self.wait(rate).max(Duration::from_millis(1)));
        }
        self.bytes = if rate.is_some() { bytes as f64 } else { 0.0 };
        None
    }

    /// How long until the debt is paid at `rate`, at most [`STEP`].
    fn wait(&self, rate: Option<u64>) -> Duration {
        match rate {
            None => Duration::ZERO,
            Some(0) => STEP,
            Some(rate) => {
                Duration::from_secs_f64((self.bytes / rate as f64).min(STEP.as_secs_f64()))
            }
        }
    }
}

/// Makes those who move bytes wait. Shared between tasks.
#[derive(Debug)]
pub struct Throttle {
    schedule: Schedule,
    clock: Clock,
    zone: TimeZone,
    state: Mutex<(Debt, Instant)>,
}

impl Throttle {
    /// A throttle by the time of the day that `clock` shows in `zone`.
    pub fn new(schedule: Schedule, clock: Clock, zone: TimeZone) -> Self {
        Self { schedule, clock, zone, state: Mutex::new((Debt::default(), Instant::now())) }
    }

    /// Bytes a second now; `None` is no limit.
    pub fn rate(&self) -> Option<u64> {
        let ms = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
        self.schedule.rate(time.to_zoned(self.zone.clone()).time())
    }

    /// Waits until `bytes` may be moved, or nobody wants to wait any longer.
    pub async fn take(&self, bytes: u64, stopped: impl Fn() -> bool) {
        while !stopped() {
            let rate = self.rate();
            let wait = {
                let mut state = self.state.lock();
                let now = Instant::now();
                let elapsed = now - state.1;
                state.1 = now;
                match state.0.admit(elapsed, rate, bytes) {
                    None => return,
                    Some(wait) => wait,
                }
            };
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::time;

    use super::*;

    fn window(from: i8, to: i8, rate: u64) -> Window {
        Window { from: time(from, 0, 0, 0), to: time(to, 0, 0, 0), rate }
    }

    #[test]
    fn the_smallest_limit_that_holds_at_a_time_counts() {
        let windows = vec![window(8, 18, 50), window(12, 13, 10), window(22, 6, 70)];
        let schedule = Schedule { limit: None, windows: windows.clone() };
        let at = |hour, minute| schedule.rate(time(hour, minute, 0, 0));
        assert_eq!(at(7, 59), None);
        assert_eq!(at(8, 0), Some(50));
        assert_eq!(at(12, 30), Some(10));
        assert_eq!(at(13, 0), Some(50));
        assert_eq!(at(18, 0), None, "a window's end is outside");
        assert_eq!(
            [at(22, 0), at(3, 0), at(5, 59), at(6, 0)],
            [Some(70), Some(70), Some(70), None]
        );
        let limited = Schedule { limit: Some(60), windows };
        assert_eq!(limited.rate(time(23, 0, 0, 0)), Some(60));
        assert_eq!(limited.rate(time(9, 0, 0, 0)), Some(50));
        let whole_day = Schedule { limit: None, windows: vec![window(0, 0, 0)] };
        assert_eq!(whole_day.rate(time(17, 0, 0, 0)), Some(0));
        assert_eq!(Schedule::default().rate(time(0, 0, 0, 0)), None);
    }

    #[test]
    fn debts_are_paid_at_the_rate_of_the_moment() {
        let second = Duration::from_secs(1);
        let mut debt = Debt { bytes: 1000.0 };
        assert!(!debt.pay(second, Some(400)));
        assert_eq!(debt.wait(Some(400)), Duration::from_millis(1500));
        assert!(!debt.pay(100 * second, Some(0)), "nothing is paid in a pause");
        assert!(debt.pay(2 * second, Some(400)));
        assert!(!debt.pay(second, Some(0)), "a pause starts nothing, debts or not");
        debt.bytes = 1e12;
        assert_eq!(debt.wait(Some(1)), STEP, "the schedule is looked at again");
        assert!(debt.pay(Duration::ZERO, None), "without a limit there is no debt");
    }

    #[test]
    fn pieces_one_after_the_other_keep_to_the_limit() {
        let mut debt = Debt::default();
        let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
        for piece in 0..10 {
            // At first at 1000 bytes a second, then at 100.
            let rate = Some(if piece < 5 { 1000 } else { 100 });
            while let Some(wait) = debt.admit(now - last, rate, 500) {
                (last, now) = (now, now + wait);
            }
            last = now;
        }
        // Four pieces are paid for at the first rate, five at the second, each before the next.
        assert_eq!(now.as_secs_f64().round() as u64, 2 + 25);
    }

    #[tokio::test]
    async fn who_does_not_want_to_wait_any_longer_is_let_go() {
        let schedule = Schedule { limit: Some(0), windows: Vec::new() };
        let throttle = Throttle::new(schedule, Clock::manual(0).0, TimeZone::UTC);
        assert_eq!(throttle.rate(), Some(0));
        throttle.take(500, || true).await; // or for ever
    }
}
