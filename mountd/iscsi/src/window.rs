//! Which commands may be sent: the window of command numbers, and places for what stands outside
//! their order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sluice_iscsi_wire::Serial;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Immediate commands under way: pings and task management, one for each command and some.
const IMMEDIATE: usize = 160;

/// The window of one session, shared by who reads and who writes.
#[derive(Debug)]
pub(crate) struct Window {
    expected: AtomicU32,
    most: AtomicU32,
    immediate: Arc<Semaphore>,
}

impl Window {
    /// A window of `size` commands that begins with `first`.
    pub(crate) fn new(first: Serial, size: u32) -> Arc<Self> {
        Arc::new(Self {
            expected: AtomicU32::new(first.0),
            most: AtomicU32::new(first.0.wrapping_add(size).wrapping_sub(1)),
            immediate: Arc::new(Semaphore::new(IMMEDIATE)),
        })
    }

    /// The next command that is expected.
    pub(crate) fn expected(&self) -> Serial {
        Serial(self.expected.load(Ordering::Acquire))
    }

    /// The last command that would be accepted now.
    pub(crate) fn most(&self) -> Serial {
        Serial(self.most.load(Ordering::Acquire))
    }

    /// Whether no place outside the order is taken.
    pub(crate) fn is_free(&self) -> bool {
        self.immediate.available_permits() == IMMEDIATE
    }

    /// A place outside the order, if there is one.
    pub(crate) fn immediate(&self) -> Option<Slot> {
        Some(Slot::Immediate { _permit: Arc::clone(&self.immediate).try_acquire_owned().ok()? })
    }
}

/// Places for everything that one window lets through at a time.
pub(crate) fn places(size: u32) -> usize {
    size as usize + IMMEDIATE
}

/// A command's place. When it is dropped, another command may be sent.
#[derive(Debug)]
pub(crate) enum Slot {
    Ordered { _place: Ordered },
    Immediate { _permit: OwnedSemaphorePermit },
}

/// A place in the window.
#[derive(Debug)]
pub(crate) struct Ordered(Arc<Window>);

impl Drop for Ordered {
    fn drop(&mut self) {
        self.0.most.fetch_add(1, Ordering::AcqRel);
    }
}

/// The numbers that came, on the side that reads.
#[derive(Debug)]
pub(crate) struct Arrivals {
    window: Arc<Window>,
    /// Those that came before their turn.
    early: BTreeSet<u32>,
}

impl Arrivals {
    pub(crate) fn new(window: &Arc<Window>) -> Self {
        Self { window: Arc::clone(window), early: BTreeSet::new() }
    }

    /// Takes a command in, unless it is outside the window or was there before.
    ///
    /// On its one connection a session sends commands in their order, so that one which comes
    /// before its turn is not kept waiting for those that would have to come first.
    pub(crate) fn take(&mut self, number: Serial) -> Option<Slot> {
        let expected = self.window.expected();
        if number.before(expected) || self.window.most().before(number) {
            return None;
        }
        if !self.early.insert(number.0) {
            return None;
        }
        let mut next = expected;
        while self.early.remove(&next.0) {
            next = next.plus(1);
        }
        self.window.expected.store(next.0, Ordering::Release);
        Some(Slot::Ordered { _place: Ordered(Arc::clone(&self.window)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_once_and_only_through_the_window() {
        let window = Window::new(Serial(u32::MAX), 3);
        let mut arrivals = Arrivals::new(&window);
        let first = arrivals.take(Serial(u32::MAX)).unwrap();
        assert!(arrivals.take(Serial(u32::MAX)).is_none(), "it was there before");
        assert!(arrivals.take(Serial(2)).is_none(), "beyond the window");
        let _early = arrivals.take(Serial(1)).unwrap();
        assert!(arrivals.take(Serial(1)).is_none());
        assert_eq!(window.expected(), Serial(0));
        let _late = arrivals.take(Serial(0)).unwrap();
        assert_eq!(window.expected(), Serial(2));
        assert_eq!(window.most(), Serial(1), "closed");
        drop(first);
        assert_eq!(window.most(), Serial(2));
        assert!(arrivals.take(Serial(2)).is_some());
    }

    #[test]
    fn places_outside_the_order_are_counted() {
        let window = Window::new(Serial(0), 1);
        let all: Vec<Slot> = (0..IMMEDIATE).map(|_| window.immediate().unwrap()).collect();
        assert!(window.immediate().is_none());
        drop(all);
        assert!(window.immediate().is_some());
    }
}
