//! Whether and when a task that failed is tried again.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Invalid;
use crate::time::Span;

/// How often and how soon a task is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetryPolicy {
    /// Attempts altogether, the first one counted.
    pub max_attempts: u32,
    /// From the first failure to the second attempt. Each later pause is twice the one before.
    pub first_delay: Span,
    /// No pause is longer.
    pub max_delay: Span,
    /// By how many percent a pause is made shorter or longer, so that tasks that failed together
    /// do not come back together.
    pub jitter: u8,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            first_delay: Span::minutes(1),
            max_delay: Span::hours(1),
            jitter: 20,
        }
    }
}

/// Most times a task that lost its node is given to another one: a task that takes its nodes down
/// must not take down all of them for ever.
pub const MAX_LOSSES: u32 = 10;

/// Why an attempt failed, as far as it matters for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ErrorClass {
    /// Something did not answer, or a connection broke.
    Transient,
    /// Something asked to come back later.
    Busy,
    /// The node died or was not heard of. Counted apart from other attempts.
    NodeLost,
    /// A bug, or what nobody has put into a class.
    Unknown,
    /// Settings are wrong.
    Configuration,
    /// A password or a permission is wrong.
    Permission,
    /// What should be read is not there.
    NotFound,
    /// There is no space at the destination.
    NoSpace,
    /// A quota does not allow it.
    Quota,
    /// Stored data is damaged.
    Damaged,
}

impl ErrorClass {
    /// Whether another attempt may go better without anybody doing something.
    pub fn may_pass(self) -> bool {
        match self {
            Self::Transient | Self::Busy | Self::NodeLost | Self::Unknown => true,
            Self::Configuration
            | Self::Permission
            | Self::NotFound
            | Self::NoSpace
            | Self::Quota
            | Self::Damaged => false,
        }
    }
}

/// How often a task was tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Attempts {
    /// Attempts that ended by themselves, badly.
    pub failed: u32,
    /// Attempts that ended with their node.
    pub lost: u32,
}

/// What becomes of a task that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It waits, and is tried again then.
    At(Timestamp),
    /// It has failed for good.
    GiveUp(GiveUp),
}

/// Why a task is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum GiveUp {
    /// Another attempt would fail in the same way.
    NoUse,
    /// It was tried as often as the policy says.
    TooManyAttempts,
    /// It lost [`MAX_LOSSES`] nodes.
    TooManyLosses,
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoUse => "another attempt would fail in the same way; mend the cause first",
            Self::TooManyAttempts => "it was tried as often as its policy says",
            Self::TooManyLosses => "it lost too many nodes; see whether it is what takes them down",
        })
    }
}

impl RetryPolicy {
    /// Checks the settings.
    ///
    /// # Errors
    /// When there would be no attempt, or pauses would be of no use.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.max_attempts == 0 {
            return Err(Invalid::new("max_attempts", "must be at least 1, the first attempt"));
        }
        if self.first_delay < Span::seconds(1) || self.first_delay > self.max_delay {
            return Err(Invalid::new("first_delay", "must be between 1s and max_delay"));
        }
        if self.jitter > 50 {
            return Err(Invalid::new("jitter", "is a percentage of the pause up to 50"));
        }
        Ok(())
    }

    /// What becomes of a task whose attempt ended at `now` with `class`; `attempts` counts that
    /// one too. `seed` makes tasks differ: give something of the task that stays the same.
    pub fn after(&self, class: ErrorClass, attempts: Attempts, now: Timestamp, seed: u64) -> Retry {
        if !class.may_pass() {
            return Retry::GiveUp(GiveUp::NoUse);
        }
        if class == ErrorClass::NodeLost {
            // The node is gone, and others are there: nothing is won by a pause.
            return match attempts.lost {
                MAX_LOSSES.. => Retry::GiveUp(GiveUp::TooManyLosses),
                _ => Retry::At(now),
            };
        }
        if attempts.failed >= self.max_attempts {
            return Retry::GiveUp(GiveUp::TooManyAttempts);
        }
        Retry::At(self.pause(attempts.failed, seed).after(now))
    }

    /// The pause after so many failures.
    fn pause(&self, failed: u32, seed: u64) -> Span {
        let doublings = failed.saturating_sub(1).min(40);
        let whole = self.first_delay.as_seconds().saturating_mul(1 << doublings);
        let whole = whole.min(self.max_delay.as_seconds());
        let swing = whole * u64::from(self.jitter.min(50)) / 100;
        let chance = mix(seed ^ u64::from(failed)) % (2 * swing + 1);
        Span::seconds((whole - swing + chance).max(1))
    }
}

/// Spreads the bits of a number over all of it (SplitMix64's finaliser).
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::{any, proptest};

    use super::{Attempts, ErrorClass, GiveUp, MAX_LOSSES, Retry, RetryPolicy};
    use crate::time::Span;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn after(class: ErrorClass, failed: u32, lost: u32, seed: u64) -> Retry {
        let policy = RetryPolicy { max_attempts: 8, ..RetryPolicy::default() };
        policy.after(class, Attempts { failed, lost }, NOW, seed)
    }

    proptest! {
        #[test]
        fn pauses_double_up_to_the_longest_give_or_take_a_fifth(seed in any::<u64>()) {
            for (failed, minutes) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60)] {
                let Retry::At(at) = after(ErrorClass::Transient, failed, 0, seed) else {
                    panic!("given up after {failed}");
                };
                let seconds = Span::between(NOW, at).as_seconds();
                assert!((minutes * 48..=minutes * 72).contains(&seconds), "{failed}: {seconds} s");
            }
        }
    }

    #[test]
    fn tasks_that_fail_together_do_not_come_back_together() {
        let at: std::collections::HashSet<_> =
            (0..100).map(|seed| format!("{:?}", after(ErrorClass::Busy, 7, 0, seed))).collect();
        assert!(at.len() > 90, "{}", at.len());
    }

    #[test]
    fn what_cannot_pass_by_itself_is_not_tried_again() {
        let verdict = after(ErrorClass::Permission, 1, 0, 0);
        assert_eq!(verdict, Retry::GiveUp(GiveUp::NoUse));
        let verdict = after(ErrorClass::Transient, 8, 0, 0);
        assert_eq!(verdict, Retry::GiveUp(GiveUp::TooManyAttempts));
    }

    #[test]
    fn lost_nodes_are_counted_apart() {
        assert_eq!(after(ErrorClass::NodeLost, 8, MAX_LOSSES - 1, 0), Retry::At(NOW));
        let verdict = after(ErrorClass::NodeLost, 0, MAX_LOSSES, 0);
        assert_eq!(verdict, Retry::GiveUp(GiveUp::TooManyLosses));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        assert_eq!(RetryPolicy::default().check(), Ok(()));
        let bad = [
            RetryPolicy { max_attempts: 0, ..RetryPolicy::default() },
            RetryPolicy { first_delay: Span::default(), ..RetryPolicy::default() },
            RetryPolicy { first_delay: Span::hours(2), ..RetryPolicy::default() },
            RetryPolicy { jitter: 51, ..RetryPolicy::default() },
        ];
        assert!(bad.iter().all(|policy| policy.check().is_err()));
    }
}
