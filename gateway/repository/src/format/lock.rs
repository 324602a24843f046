//! The lock record: how long the destination keeps what is written (`docs/format/`, section 10).

use minicbor::{Decode, Encode};

use super::{FormatError, Parsed};

/// A weaker lock takes effect this long after it was asked for: 7 days.
pub const WEAKER_AFTER_MS: u64 = 7 * DAY_MS;
/// Beyond what a point needs, so that not every backup has to extend every lock: 30 days.
pub const SLACK_MS: u64 = 30 * DAY_MS;
/// The longest lock: 100 years.
pub const LONGEST_MS: u64 = 36_525 * DAY_MS;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// How strictly and for how long; weaker ones sort first within each field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LockTerms {
    /// 1 governance, 2 compliance; 0 with a time of 0.
    #[n(0)]
    pub mode: u8,
    /// How long a point is kept from the time of its backup, in ms; 0 when nothing is locked.
    #[n(1)]
    pub for_ms: u64,
}

/// Terms that take effect later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LaterTerms {
    /// When, in ms since 1970.
    #[n(0)]
    pub from_ms: u64,
    /// What.
    #[n(1)]
    pub terms: LockTerms,
}

/// Body of the lock record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LockRecord {
    /// When it was written, in ms since 1970.
    #[n(0)]
    pub set_ms: u64,
    /// The host that wrote it.
    #[n(1)]
    pub host: String,
    /// What holds when nothing later does.
    #[n(2)]
    pub terms: LockTerms,
    /// What was asked for and is weaker.
    #[n(3)]
    pub later: Option<LaterTerms>,
    /// Who else has agreed to it; nothing asks for them yet.
    #[n(4)]
    pub approved_by: Vec<String>,
}

impl LockTerms {
    /// Nothing is locked.
    pub const OFF: Self = Self { mode: 0, for_ms: 0 };

    /// Whether nothing is locked.
    pub fn is_off(&self) -> bool {
        self.for_ms == 0
    }

    /// Until when a point must be kept, in ms since 1970.
    pub fn needed_until(&self, now_ms: u64, retain_until_ms: Option<u64>) -> u64 {
        let until = now_ms.saturating_add(self.for_ms).max(retain_until_ms.unwrap_or(0));
        until.min(now_ms.saturating_add(LONGEST_MS))
    }

    /// The end that a lock is given when `needed` is what it must reach: with slack, rounded up to
    /// a whole day.
    pub fn given_until(needed_ms: u64) -> u64 {
        needed_ms.saturating_add(SLACK_MS).div_ceil(DAY_MS).saturating_mul(DAY_MS)
    }

    fn at_least(self, other: Self) -> Self {
        Self { mode: self.mode.max(other.mode), for_ms: self.for_ms.max(other.for_ms) }
    }
}

impl LockRecord {
    /// The first record of a repository, or the one after `before`: what is stricter or longer
    /// holds at once, what is weaker after [`WEAKER_AFTER_MS`].
    pub fn following(before: Option<&Self>, asked: LockTerms, now_ms: u64, host: String) -> Self {
        let held = before.map_or(LockTerms::OFF, |before| before.at(now_ms));
        let terms = held.at_least(asked);
        let pending = before.and_then(|before| before.later);
        let from_ms = match pending {
            // Asking again for the same does not begin the time anew.
            Some(later) if later.terms == asked && later.from_ms > now_ms => later.from_ms,
            _ => now_ms.saturating_add(WEAKER_AFTER_MS),
        };
        let later = (terms != asked).then_some(LaterTerms { from_ms, terms: asked });
        Self { set_ms: now_ms, host, terms, later, approved_by: Vec::new() }
    }

    /// The terms that hold at a time.
    pub fn at(&self, now_ms: u64) -> LockTerms {
        match self.later {
            Some(later) if later.from_ms <= now_ms => later.terms,
            _ => self.terms,
        }
    }

    /// What is yet to take effect at a time.
    pub fn pending(&self, now_ms: u64) -> Option<LaterTerms> {
        self.later.filter(|later| later.from_ms > now_ms)
    }

    /// The record, if a writer of this version knows what it says.
    ///
    /// # Errors
    /// [`FormatError::Newer`] for an unknown mode, [`FormatError::Invalid`] for a time out of
    /// range.
    pub fn checked(self) -> Parsed<Self> {
        for terms in [Some(self.terms), self.later.map(|later| later.terms)].iter().flatten() {
            if terms.mode > 2 {
                return Err(FormatError::Newer(format!("lock mode {}", terms.mode)));
            }
            if terms.for_ms > LONGEST_MS || (terms.mode == 0) != (terms.for_ms == 0) {
                return Err(FormatError::Invalid("lock terms"));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::record::{from_cbor, to_cbor};

    fn terms(mode: u8, days: u64) -> LockTerms {
        LockTerms { mode, for_ms: days * DAY_MS }
    }

    fn next(before: Option<&LockRecord>, asked: LockTerms, day: u64) -> LockRecord {
        LockRecord::following(before, asked, day * DAY_MS, "one".into())
    }

    #[test]
    fn stronger_holds_at_once_and_weaker_after_a_week() {
        let first = next(None, terms(1, 30), 0);
        assert_eq!((first.at(0), first.later), (terms(1, 30), None));
        let longer = next(Some(&first), terms(2, 60), 1);
        assert_eq!((longer.at(DAY_MS), longer.later), (terms(2, 60), None));
        let shorter = next(Some(&longer), terms(2, 10), 2);
        assert_eq!(shorter.at(9 * DAY_MS - 1), terms(2, 60));
        assert_eq!(shorter.at(9 * DAY_MS), terms(2, 10));
        // Asked again, the week does not begin anew; something else asked, it does.
        assert_eq!(next(Some(&shorter), terms(2, 10), 5).later, shorter.later);
        let off = next(Some(&shorter), LockTerms::OFF, 5);
        assert_eq!(off.at(11 * DAY_MS), terms(2, 60));
        assert!(off.at(12 * DAY_MS).is_off());
        // Longer again: nothing is pending any more.
        assert_eq!(next(Some(&off), terms(2, 90), 6).later, None);
    }

    #[test]
    fn longer_but_less_strict_is_both_for_a_week() {
        let strict = next(None, terms(2, 10), 0);
        let mixed = next(Some(&strict), terms(1, 20), 0);
        assert_eq!((mixed.at(0), mixed.at(7 * DAY_MS)), (terms(2, 20), terms(1, 20)));
    }

    #[test]
    fn ends_have_slack_and_are_whole_days() {
        let needed = terms(1, 30).needed_until(5, None);
        assert_eq!(needed, 30 * DAY_MS + 5);
        assert_eq!(LockTerms::given_until(needed), 61 * DAY_MS);
        assert_eq!(terms(1, 30).needed_until(5, Some(90 * DAY_MS)), 90 * DAY_MS);
        assert_eq!(terms(1, 1).needed_until(0, Some(u64::MAX)), LONGEST_MS);
    }

    #[test]
    fn unknown_modes_are_of_a_newer_version() {
        let record = next(None, terms(3, 1), 0);
        assert!(matches!(record.checked(), Err(FormatError::Newer(_))));
        let record = next(None, terms(0, 1), 0);
        assert!(matches!(record.checked(), Err(FormatError::Invalid(_))));
    }

    proptest! {
        #[test]
        fn what_holds_never_weakens_before_its_time(
            asked in proptest::collection::vec((1u8..3, 0u64..50, 0u64..10), 1..12),
        ) {
            let mut record: Option<LockRecord> = None;
            let mut day = 0;
            for (mode, days, pause) in asked {
                let wanted = if days == 0 { LockTerms::OFF } else { terms(mode, days) };
                let held = record.as_ref().map_or(LockTerms::OFF, |r| r.at(day * DAY_MS));
                let after = next(record.as_ref(), wanted, day);
                prop_assert_eq!(after.at(day * DAY_MS), held.at_least(wanted));
                let weak = after.at(day * DAY_MS + WEAKER_AFTER_MS);
                prop_assert_eq!(weak, wanted);
                prop_assert_eq!(&from_cbor::<LockRecord>(&to_cbor(&after)).unwrap(), &after);
                prop_assert_eq!(after.clone().checked().unwrap(), after.clone());
                record = Some(after);
                day += pause;
            }
        }

        #[test]
        fn hostile_records_never_panic(junk in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(record) = from_cbor::<LockRecord>(&junk) {
                let _ = record.checked();
            }
        }
    }
}
