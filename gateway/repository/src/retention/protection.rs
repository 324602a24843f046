//! What keeps a single point: hold, retention, and retention that begins with an event.
//!
//! # Model
//!
//! A point is kept while it is on hold, while an overlay lies over it, while its retention time
//! has not come, or while it waits for an event. Retention becomes longer at once, and shorter only
//! after a delay during which everybody can see it coming.
//!
//! # Invariants
//!
//! * Nothing but [`Protection::shorten`] brings the end of a retention forward, and that not
//!   before its delay is over.
//! * A hold ends only by being released; it does not touch the retention.
//! * Each overlay over a point keeps it by itself, whatever becomes of the others and of a hold.

use std::fmt;

use crate::format::id::OverlayId;
use crate::format::protection::{AfterEvent, Protection, Shorten};

/// What keeps a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeper {
    /// A hold, and why.
    Hold(Option<String>),
    /// Overlays that lie over it, how many.
    Overlays(usize),
    /// An event that has not happened, and the time in ms it is kept after it.
    Event(String, u64),
    /// Its retention, up to this time in ms since 1970.
    Until(u64),
}

/// A change that would weaken a protection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is kept up to this time in ms since 1970, which is later.
    Shorter(u64),
    /// It waits for this event, which may never happen.
    Waits(String),
    /// It is not kept any longer than asked for.
    NotShorter,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shorter(until) => {
                let until = crate::rfc3339(*until);
                write!(f, "it is kept until {until} already, and retention is only made longer")
            }
            Self::Waits(event) => write!(f, "it is kept until the event {event:?} happens"),
            Self::NotShorter => f.write_str("it is not kept for longer than that"),
        }
    }
}

impl std::error::Error for Refused {}

impl Protection {
    /// What a manifest says.
    pub fn committed(hold: bool, retain_until_ms: Option<u64>) -> Self {
        Self { hold, retain_until_ms, ..Self::default() }
    }

    /// The same after what was to happen by `now_ms` has happened.
    pub fn settled(mut self, now_ms: u64) -> Self {
        if let Some(shorten) = self.shorten.take_if(|shorten| shorten.effective_ms <= now_ms) {
            self.retain_until_ms = shorten.to_ms;
            self.event = None;
        }
        self
    }

    /// The event it waits for.
    pub fn waits_for(&self) -> Option<&AfterEvent> {
        self.event.as_ref().filter(|event| event.happened_ms.is_none())
    }

    /// What keeps the point at `now_ms`, the strongest first; nothing when it may be pruned.
    pub fn keeper(&self, now_ms: u64) -> Option<Keeper> {
        let now = self.clone().settled(now_ms);
        if now.hold {
            return Some(Keeper::Hold(now.reason));
        }
        if now.has_overlays() {
            return Some(Keeper::Overlays(now.overlays.map_or(0, |all| all.len())));
        }
        if let Some(event) = now.waits_for() {
            return Some(Keeper::Event(event.name.clone(), event.keep_ms));
        }
        now.retain_until_ms.filter(|until| *until > now_ms).map(Keeper::Until)
    }

    /// Whether it keeps the point at least as long as another one does, whatever happens.
    pub fn keeps_as_much_as(&self, other: &Self) -> bool {
        let overlays = other.overlays.iter().flatten().all(|overlay| self.has_overlay(*overlay));
        let event = other.waits_for().is_none_or(|waits| {
            let own = self.waits_for();
            own.is_some_and(|own| own.name == waits.name && own.keep_ms >= waits.keep_ms)
        });
        let shorten = self.shorten.is_none() || self.shorten == other.shorten;
        let until = self.retain_until_ms >= other.retain_until_ms;
        (self.hold || !other.hold) && overlays && event && shorten && until
    }

    /// Puts it on hold.
    pub fn hold(&mut self, reason: Option<String>) {
        self.hold = true;
        self.reason = reason.or(self.reason.take());
    }

    /// Ends a hold.
    pub fn release(&mut self) {
        (self.hold, self.reason) = (false, None);
    }

    /// Whether overlays lie over it.
    pub fn has_overlays(&self) -> bool {
        self.overlays.as_ref().is_some_and(|all| !all.is_empty())
    }

    /// Whether this overlay lies over it.
    pub fn has_overlay(&self, overlay: OverlayId) -> bool {
        self.overlays.as_ref().is_some_and(|all| all.contains(&overlay))
    }

    /// Says whether an overlay lies over it.
    pub fn set_overlay(&mut self, overlay: OverlayId, there: bool) {
        let mut all = self.overlays.take().unwrap_or_default();
        all.retain(|one| *one != overlay);
        if there {
            all.push(overlay);
            all.sort_unstable();
        }
        self.overlays = Some(all).filter(|all| !all.is_empty());
    }

    /// Keeps it up to `until_ms`. A shortening that was coming does not come any more.
    ///
    /// # Errors
    /// [`Refused::Shorter`].
    pub fn retain(&mut self, until_ms: u64, now_ms: u64) -> Result<(), Refused> {
        let mut next = self.clone().settled(now_ms);
        if let Some(until) = next.retain_until_ms.filter(|until| *until > until_ms) {
            return Err(Refused::Shorter(until));
        }
        next.retain_until_ms = Some(until_ms);
        next.shorten = None;
        *self = next;
        Ok(())
    }

    /// Keeps it until an event happens, and for `keep_ms` after that.
    ///
    /// # Errors
    /// [`Refused::Waits`] while it waits for another event, or longer after this one.
    pub fn retain_after(&mut self, name: &str, keep_ms: u64, now_ms: u64) -> Result<(), Refused> {
        let mut next = self.clone().settled(now_ms);
        if let Some(event) = next.waits_for()
            && (event.name != name || event.keep_ms > keep_ms)
        {
            return Err(Refused::Waits(event.name.clone()));
        }
        next.event = Some(AfterEvent { name: name.to_owned(), keep_ms, happened_ms: None });
        next.shorten = None;
        *self = next;
        Ok(())
    }

    /// An event has happened at `at_ms`. Returns whether that changes anything. Heard of twice,
    /// the later time counts: retention is only made longer.
    pub fn happened(&mut self, name: &str, at_ms: u64) -> bool {
        let Some(event) = self.event.as_mut().filter(|event| event.name == name) else {
            return false;
        };
        if event.happened_ms.is_some_and(|known| known >= at_ms) {
            return false;
        }
        event.happened_ms = Some(at_ms);
        let until = at_ms.saturating_add(event.keep_ms);
        self.retain_until_ms = Some(self.retain_until_ms.map_or(until, |known| known.max(until)));
        true
    }

    /// Lets the retention end at `to_ms` (none: at once), and not wait for an event, but only
    /// from `effective_ms` on.
    ///
    /// # Errors
    /// [`Refused::NotShorter`].
    pub fn shorten(
        &mut self,
        to_ms: Option<u64>,
        effective_ms: u64,
        now_ms: u64,
    ) -> Result<(), Refused> {
        let mut next = self.clone().settled(now_ms);
        let end = next.retain_until_ms.filter(|until| *until > now_ms);
        let shorter = end.is_some_and(|end| to_ms.is_none_or(|to| to < end));
        if !shorter && next.waits_for().is_none() {
            return Err(Refused::NotShorter);
        }
        // Asking again does not make it come sooner than it would have.
        let approved_by = Vec::new();
        next.shorten = Some(Shorten { to_ms, effective_ms, approved_by });
        *self = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retention_becomes_longer_at_once_and_shorter_after_the_delay() {
        let mut kept = Protection::committed(false, Some(100));
        assert_eq!(kept.keeper(99), Some(Keeper::Until(100)));
        assert_eq!(kept.keeper(100), None);
        assert_eq!(kept.retain(50, 0), Err(Refused::Shorter(100)));
        kept.retain(200, 0).unwrap();
        kept.shorten(Some(120), 60, 10).unwrap();
        assert_eq!(kept.keeper(59), Some(Keeper::Until(200)));
        assert_eq!(kept.keeper(60), Some(Keeper::Until(120)));
        assert_eq!(kept.keeper(120), None);
        // Once it has come, the old end does not count against a new one.
        kept.retain(150, 70).unwrap();
        assert_eq!(kept.keeper(149), Some(Keeper::Until(150)));
        assert_eq!(kept.shorten(Some(150), 80, 71), Err(Refused::NotShorter));
        // Wishing to keep it takes back a shortening that is coming.
        kept.shorten(None, 80, 71).unwrap();
        kept.retain(150, 72).unwrap();
        assert_eq!(kept.keeper(149), Some(Keeper::Until(150)));
    }

    #[test]
    fn a_hold_outlasts_everything_and_leaves_the_retention_alone() {
        let mut kept = Protection::committed(true, Some(100));
        kept.hold(Some("case 7".into()));
        kept.hold(None);
        assert_eq!(kept.keeper(u64::MAX), Some(Keeper::Hold(Some("case 7".into()))));
        kept.release();
        assert_eq!(kept.keeper(99), Some(Keeper::Until(100)));
        assert_eq!((kept.keeper(100), kept.reason), (None, None));
    }

    #[test]
    fn each_overlay_keeps_it_until_it_is_gone_and_so_does_a_hold() {
        let (one, other) = (OverlayId([1; 16]), OverlayId([2; 16]));
        let mut kept = Protection::default();
        kept.set_overlay(other, true);
        kept.set_overlay(one, true);
        kept.set_overlay(one, true);
        assert_eq!(kept.overlays, Some(vec![one, other]));
        assert_eq!(kept.keeper(u64::MAX), Some(Keeper::Overlays(2)));
        kept.hold(None);
        kept.set_overlay(one, false);
        assert_eq!((kept.has_overlay(one), kept.has_overlay(other)), (false, true));
        assert_eq!(kept.keeper(u64::MAX), Some(Keeper::Hold(None)));
        kept.release();
        assert_eq!(kept.keeper(u64::MAX), Some(Keeper::Overlays(1)));
        kept.set_overlay(other, false);
        assert_eq!((kept.keeper(0), kept), (None, Protection::default()));
    }

    #[test]
    fn an_event_begins_the_retention() {
        let mut kept = Protection::default();
        kept.retain_after("contract-end", 70, 0).unwrap();
        let waits = Some(Keeper::Event("contract-end".into(), 70));
        assert_eq!(kept.keeper(u64::MAX), waits);
        assert_eq!(kept.retain_after("other", 99, 0), Err(Refused::Waits("contract-end".into())));
        assert!(kept.retain_after("contract-end", 60, 0).is_err());
        kept.retain(10, 0).unwrap();
        assert_eq!(kept.keeper(20), waits, "a date does not end the waiting");
        assert!(!kept.happened("other", 30));
        assert!(kept.happened("contract-end", 30));
        assert_eq!(kept.keeper(31), Some(Keeper::Until(100)));
        assert!(!kept.happened("contract-end", 20), "earlier does not shorten");
        assert!(kept.happened("contract-end", 40));
        assert_eq!((kept.keeper(109), kept.keeper(110)), (Some(Keeper::Until(110)), None));
        // Giving up on an event needs the delay too.
        let mut waiting = Protection::default();
        waiting.retain_after("never", 70, 0).unwrap();
        waiting.shorten(Some(50), 20, 0).unwrap();
        assert!(matches!(waiting.keeper(19), Some(Keeper::Event(..))));
        assert_eq!(waiting.keeper(20), Some(Keeper::Until(50)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Pass(u64),
        Hold,
        Release,
        Retain(u64),
        After(u64),
        Happen(u64),
        Shorten(Option<u64>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1_u64..40).prop_map(Step::Pass),
            1 => Just(Step::Hold),
            1 => Just(Step::Release),
            2 => (0_u64..200).prop_map(Step::Retain),
            1 => (0_u64..100).prop_map(Step::After),
            1 => (0_u64..100).prop_map(Step::Happen),
            2 => proptest::option::of(0_u64..100).prop_map(Step::Shorten),
        ]
    }

    const DELAY: u64 = 30;

    #[test]
    fn what_keeps_less_is_known_whatever_it_says() {
        let none = Protection::default();
        let event = |keep_ms, happened_ms| Protection {
            event: Some(AfterEvent { name: "e".into(), keep_ms, happened_ms }),
            ..none.clone()
        };
        let until = |ms| Protection { retain_until_ms: Some(ms), ..none.clone() };
        let hold = Protection { hold: true, reason: Some("case 7".into()), ..none.clone() };
        let overlays = |of: &[u8]| Protection {
            overlays: Some(of.iter().map(|of| OverlayId([*of; 16])).collect()),
            ..none.clone()
        };
        let more = [
            (&hold, &none),
            (&until(5), &none),
            (&until(6), &until(5)),
            (&event(5, None), &event(4, None)),
            (&overlays(&[1, 2]), &overlays(&[2])),
        ];
        for (more, less) in more {
            assert!(more.keeps_as_much_as(less) && more.keeps_as_much_as(more), "{more:?}");
            assert!(!less.keeps_as_much_as(more), "{less:?} keeps less than {more:?}");
        }
        assert!(!event(5, Some(1)).keeps_as_much_as(&event(5, None)));
        let shorten = Shorten { to_ms: None, effective_ms: 0, approved_by: Vec::new() };
        let shorter = Protection { shorten: Some(shorten), ..until(9) };
        assert!(!shorter.keeps_as_much_as(&until(5)));
        assert!(shorter.keeps_as_much_as(&shorter));
    }

    proptest! {
        /// The model knows only what was promised: an end of retention holds until it is over
        /// or until a delay after somebody asked for a shorter one; a hold until it is released.
        #[test]
        fn no_promise_is_broken_before_its_delay(
            steps in proptest::collection::vec(step(), 0..40),
        ) {
            let mut kept = Protection::default();
            let (mut now, mut held) = (1000_u64, false);
            // Ends promised, none for an event that has not happened; and when that may end.
            let mut promises: Vec<(Option<u64>, u64)> = Vec::new();
            let (mut waiting, mut coming): (Option<u64>, Option<u64>) = (None, None);
            for step in steps {
                match step {
                    Step::Pass(time) => now += time,
                    Step::Hold => { kept.hold(None); held = true; }
                    Step::Release => { kept.release(); held = false; }
                    Step::Retain(time) => {
                        if kept.retain(now + time, now).is_ok() {
                            coming = None;
                            promises.push((Some(now + time), u64::MAX));
                        }
                    }
                    Step::After(time) => {
                        if kept.retain_after("e", time, now).is_ok() {
                            (waiting, coming) = (Some(time), None);
                            promises.push((None, u64::MAX));
                        }
                    }
                    Step::Happen(ago) => {
                        kept = kept.settled(now);
                        if kept.happened("e", now - ago) && let Some(time) = waiting {
                            promises.retain(|(end, _)| end.is_some());
                            // What was asked for before it happened still comes.
                            promises.push((Some(now - ago + time), coming.unwrap_or(u64::MAX)));
                        }
                    }
                    Step::Shorten(to) => {
                        if kept.shorten(to.map(|to| now + to), now + DELAY, now).is_ok() {
                            coming = Some(now + DELAY);
                            for (_, off) in &mut promises {
                                *off = (*off).min(now + DELAY);
                            }
                        }
                    }
                }
                let promised = promises
                    .iter()
                    .any(|(end, off)| now < *off && end.is_none_or(|end| now < end));
                let keeper = kept.keeper(now);
                prop_assert!(!(held || promised) || keeper.is_some(), "{now}: {kept:?}");
                prop_assert_eq!(held, matches!(keeper, Some(Keeper::Hold(_))));
            }
        }
    }
}
