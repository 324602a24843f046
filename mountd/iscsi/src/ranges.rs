//! Who is at work on which blocks: commands that read and write as one step have theirs for
//! themselves, all others go on side by side.
//!
//! Each command enters with its blocks and waits for those before it with which it cannot share
//! them. Who comes later waits for who waits already, so that a crowd of reads does not keep one
//! that wants to be alone out for ever. A command enters once and waits for earlier ones only: so
//! they cannot wait for each other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The blocks of one unit.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    /// In the order of their coming.
    all: BTreeMap<u64, Entry>,
    /// How many of them want to be alone: usually none, and then nobody is compared with anybody.
    alone: usize,
}

#[derive(Debug)]
struct Entry {
    blocks: Range<u64>,
    alone: bool,
    /// How many earlier ones stand in the way.
    before: usize,
    turn: Option<Arc<Notify>>,
}

impl Entry {
    fn excludes(&self, other: &Self) -> bool {
        let (one, two) = (&self.blocks, &other.blocks);
        let apart =
            one.is_empty() || two.is_empty() || one.start >= two.end || two.start >= one.end;
        (self.alone || other.alone) && !apart
    }
}

/// Blocks that a command has, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    ranges: &'a Ranges,
    number: u64,
}

impl Ranges {
    /// Waits for blocks: alone, or together with others that do not want to be alone. A place in
    /// the order is taken with the first poll, and given up when this is dropped.
    pub(crate) async fn take(&self, blocks: Range<u64>, alone: bool) -> Held<'_> {
        let (held, turn) = self.enter(blocks, alone);
        if let Some(turn) = turn {
            turn.notified().await;
        }
        held
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, blocks: Range<u64>, alone: bool) -> (Held<'_>, Option<Arc<Notify>>) {
        let mut entries = self.entries();
        let number = entries.next;
        entries.next += 1;
        let mut entry = Entry { blocks, alone, before: 0, turn: None };
        if alone || entries.alone > 0 {
            entry.before = entries.all.values().filter(|other| other.excludes(&entry)).count();
            entry.turn = (entry.before > 0).then(Arc::default);
        }
        let turn = entry.turn.clone();
        entries.alone += usize::from(alone);
        entries.all.insert(number, entry);
        (Held { ranges: self, number }, turn)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut entries = self.ranges.entries();
        let Some(gone) = entries.all.remove(&self.number) else { return };
        if entries.alone == 0 {
            return;
        }
        entries.alone -= usize::from(gone.alone);
        for (_, later) in entries.all.range_mut(self.number..) {
            if later.excludes(&gone) {
                later.before -= 1;
                if let (0, Some(turn)) = (later.before, &later.turn) {
                    turn.notify_one();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    type Taking<'a> = Pin<Box<dyn Future<Output = Held<'a>> + 'a>>;

    fn taking(ranges: &Ranges, blocks: Range<u64>, alone: bool) -> Taking<'_> {
        Box::pin(ranges.take(blocks, alone))
    }

    fn poll<'a>(taking: &mut Taking<'a>) -> Option<Held<'a>> {
        match taking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(held) => Some(held),
            Poll::Pending => None,
        }
    }

    #[test]
    fn who_wants_to_be_alone_waits_for_its_own_blocks_only() {
        let ranges = Ranges::default();
        let near = poll(&mut taking(&ranges, 0..8, false)).unwrap();
        let _far = poll(&mut taking(&ranges, 100..200, false)).unwrap();
        let mut alone = taking(&ranges, 7..9, true);
        assert!(poll(&mut alone).is_none());
        assert!(poll(&mut taking(&ranges, 9..10, true)).is_some(), "other blocks");
        drop(near);
        let held = poll(&mut alone).unwrap();
        let mut reader = taking(&ranges, 0..100, false);
        assert!(poll(&mut reader).is_none());
        assert!(poll(&mut taking(&ranges, 9..9, false)).is_some(), "no blocks at all");
        drop(held);
        assert!(poll(&mut reader).is_some());
    }

    #[test]
    fn who_comes_later_waits_for_who_waits() {
        let ranges = Ranges::default();
        let reader = poll(&mut taking(&ranges, 0..10, false)).unwrap();
        let mut alone = taking(&ranges, 5..6, true);
        assert!(poll(&mut alone).is_none());
        let mut later = taking(&ranges, 0..10, false);
        assert!(poll(&mut later).is_none(), "it does not overtake");
        drop(reader);
        assert!(poll(&mut later).is_none());
        let held = poll(&mut alone).unwrap();
        drop(held);
        assert!(poll(&mut later).is_some());
    }

    #[test]
    fn who_gives_up_waiting_keeps_nobody() {
        let ranges = Ranges::default();
        let reader = poll(&mut taking(&ranges, 0..10, false)).unwrap();
        let mut alone = taking(&ranges, 0..1, true);
        assert!(poll(&mut alone).is_none());
        let mut later = taking(&ranges, 0..1, false);
        assert!(poll(&mut later).is_none());
        drop(alone);
        let held = poll(&mut later).unwrap();
        drop((reader, held));
        let entries = ranges.entries();
        assert!(entries.all.is_empty() && entries.alone == 0);
    }
}
