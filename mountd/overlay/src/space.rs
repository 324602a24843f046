//! The room of an overlay: a number of cells that all its disks share.

use std::sync::atomic::{AtomicU64, Ordering};

/// Cells that are taken, and how many may be.
#[derive(Debug)]
pub(crate) struct Space {
    used: AtomicU64,
    most: AtomicU64,
}

impl Space {
    pub(crate) fn new(used: u64, most: u64) -> Self {
        Self { used: AtomicU64::new(used), most: AtomicU64::new(most) }
    }

    /// Room without a bound.
    pub(crate) fn unbounded() -> Self {
        Self::new(u64::MAX / 2, u64::MAX)
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes room for cells, if there is so much.
    pub(crate) fn take(&self, cells: u64) -> bool {
        if cells == 0 {
            return true;
        }
        let most = self.most.load(Ordering::Relaxed);
        let fits = |used: u64| used.checked_add(cells).filter(|sum| *sum <= most);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Takes room whatever the bound: the cells are written already.
    pub(crate) fn force(&self, cells: u64) {
        self.used.fetch_add(cells, Ordering::Relaxed);
    }

    /// From now on there is no bound.
    pub(crate) fn unbind(&self) {
        self.most.store(u64::MAX, Ordering::Relaxed);
    }

    /// Gives room back.
    pub(crate) fn give(&self, cells: u64) {
        self.used.fetch_sub(cells, Ordering::Relaxed);
    }
}
