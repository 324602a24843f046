use std::time::{Duration, SystemTime};

use crate::{DestinationError, ErrorKind, Key};

/// How strictly a store keeps a locked object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockMode {
    /// Accounts with a permission of their own may still remove the object.
    Governance,
    /// Nobody can remove the object, or take time off its lock.
    Compliance,
}

/// Until when, and how strictly, a store keeps an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lock {
    /// How strictly.
    pub mode: LockMode,
    /// When the lock runs out, by the store's clock.
    pub until: SystemTime,
}

impl Lock {
    /// The lock that keeps what either of two keeps: the later end, the stricter mode.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { mode: self.mode.max(other.mode), until: self.until.max(other.until) }
    }

    /// The same lock with its end rounded up to a whole second, as stores keep it.
    #[must_use]
    pub fn whole_seconds(self) -> Self {
        let since = self.until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs() + u64::from(since.subsec_nanos() > 0);
        Self { until: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), ..self }
    }
}

/// The error of a store without locks.
pub(crate) fn unsupported(key: &Key) -> DestinationError {
    let context = format!("{key} cannot be locked: the destination has no object lock");
    DestinationError::new(ErrorKind::Unsupported, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(mode: LockMode, milliseconds: u64) -> Lock {
        Lock { mode, until: SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds) }
    }

    #[test]
    fn two_locks_keep_what_either_keeps() {
        use LockMode::{Compliance, Governance};
        let (long, strict) = (lock(Governance, 9), lock(Compliance, 5));
        assert_eq!(long.and(strict), lock(Compliance, 9));
        assert_eq!(strict.and(long), lock(Compliance, 9));
        assert_eq!(long.and(lock(Governance, 3)), long);
    }

    #[test]
    fn ends_are_rounded_up() {
        for (asked, kept) in [(0, 0), (1, 1000), (1000, 1000), (1001, 2000)] {
            let kept = lock(LockMode::Governance, kept);
            assert_eq!(lock(LockMode::Governance, asked).whole_seconds(), kept);
        }
    }
}
