//! How often logins may fail.

use std::collections::HashMap;

use aws_lc_rs::digest;

/// So many failures are forgiven.
const FREE: u32 = 5;
/// The first wait after that; each further failure doubles it.
const FIRST_WAIT_MS: u64 = 1_000;
const LONGEST_WAIT_MS: u64 = 15 * 60_000;
/// Names that are remembered; beyond that the oldest failures are forgotten.
const MOST: usize = 10_000;

/// Failures by login and address. Pure: whoever asks says what time it is.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    failures: HashMap<[u8; 32], (u32, u64)>,
}

/// Whoever logs in says how long a name is; what is remembered of it is not longer for that.
fn key(who: &str) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, who.as_bytes());
    digest.as_ref().try_into().unwrap_or_default()
}

impl Limiter {
    /// How long to wait, in milliseconds; 0 when a login may be tried now.
    pub(crate) fn wait(&self, who: &str, now_ms: u64) -> u64 {
        let Some((count, last_ms)) = self.failures.get(&key(who)) else { return 0 };
        if *count < FREE {
            return 0;
        }
        let doublings = (count - FREE).min(20);
        let wait = (FIRST_WAIT_MS << doublings).min(LONGEST_WAIT_MS);
        (last_ms + wait).saturating_sub(now_ms)
    }

    /// Notes a failure.
    pub(crate) fn failed(&mut self, who: &str, now_ms: u64) {
        let who = key(who);
        if self.failures.len() >= MOST && !self.failures.contains_key(&who) {
            self.failures.retain(|_, (_, last_ms)| *last_ms + LONGEST_WAIT_MS > now_ms);
            if self.failures.len() >= MOST {
                let oldest = self.failures.iter().min_by_key(|(_, (_, last_ms))| *last_ms);
                let oldest = oldest.map(|(who, _)| *who);
                oldest.and_then(|who| self.failures.remove(&who));
            }
        }
        let entry = self.failures.entry(who).or_default();
        *entry = (entry.0.saturating_add(1), now_ms);
    }

    /// Forgets failures after a success.
    pub(crate) fn succeeded(&mut self, who: &str) {
        self.failures.remove(&key(who));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_becomes_slow_and_others_do_not_notice() {
        let mut limiter = Limiter::default();
        for _ in 0..FREE {
            assert_eq!(limiter.wait("anna", 0), 0);
            limiter.failed("anna", 0);
        }
        assert_eq!(limiter.wait("anna", 0), FIRST_WAIT_MS);
        assert_eq!(limiter.wait("anna", FIRST_WAIT_MS), 0);
        assert_eq!(limiter.wait("otto", 0), 0);
        for _ in 0..40 {
            limiter.failed("anna", 5);
        }
        assert_eq!(limiter.wait("anna", 5), LONGEST_WAIT_MS);
        limiter.succeeded("anna");
        assert_eq!(limiter.wait("anna", 5), 0);
    }

    #[test]
    fn names_as_long_as_somebody_likes_are_told_apart_by_their_last_letter() {
        let mut limiter = Limiter::default();
        let long = "a".repeat(1 << 20);
        let (one, two) = (format!("{long}1"), format!("{long}2"));
        for _ in 0..FREE {
            limiter.failed(&one, 0);
        }
        assert_eq!((limiter.wait(&one, 0), limiter.wait(&two, 0)), (FIRST_WAIT_MS, 0));
        limiter.succeeded(&two);
        assert_eq!(limiter.wait(&one, 0), FIRST_WAIT_MS);
        limiter.succeeded(&one);
        assert!(limiter.failures.is_empty());
    }

    #[test]
    fn memory_stays_bounded() {
        let mut limiter = Limiter::default();
        for number in 0..MOST + 50 {
            limiter.failed(&number.to_string(), 1);
        }
        assert_eq!(limiter.failures.len(), MOST);
    }
}
