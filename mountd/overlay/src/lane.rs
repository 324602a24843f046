//! The one thread at a time that does the short writes to a disk's data.
//!
//! File systems let one writer at a time into a file anyway (an exclusive lock of the inode for
//! buffered writes), and those who wait for it spin. So writes wait here instead, in order, and
//! whoever brings one while another is being written wakes nobody. Long writes do not come here:
//! see `LARGE` in `disk.rs`.
//!
//! # Invariants
//!
//! * While there is work, there is one task that does it, or is about to.
//! * Work that was brought is done though nobody waits for it any more, unless the runtime ends:
//!   then it is dropped, and its caller is told.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use parking_lot::Mutex;
use sluice_block::{BlockError, ErrorKind, Result};
use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// Work that is done one after the other, on a thread for what blocks.
#[derive(Default)]
pub(crate) struct Lane(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Somebody does what is here.
    attended: bool,
    work: VecDeque<Work>,
}

impl Lane {
    /// Does something after what was brought before.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, done) = oneshot::channel();
        let work = Box::new(move || drop(sender.send(work())));
        let attended = {
            let mut waiting = self.0.lock();
            waiting.work.push_back(work);
            std::mem::replace(&mut waiting.attended, true)
        };
        if !attended {
            let attendant = Attendant { lane: self.clone(), done: false };
            // It ends by itself, and whoever waits is told by the channel.
            drop(tokio::task::spawn_blocking(move || attendant.attend()));
        }
        done.await.map_err(|e| BlockError::caused(ErrorKind::Io, "a write to the overlay died", e))
    }
}

/// Whoever does the work of a lane.
struct Attendant {
    lane: Arc<Lane>,
    done: bool,
}

impl Attendant {
    fn attend(mut self) {
        while let Some(work) = self.next() {
            // One that panics has dropped its sender; others are not to wait for ever.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(work));
        }
    }

    fn next(&mut self) -> Option<Work> {
        let mut waiting = self.lane.0.lock();
        let next = waiting.work.pop_front();
        waiting.attended = next.is_some();
        self.done = next.is_none();
        next
    }
}

impl Drop for Attendant {
    /// A runtime that ends drops what has not begun.
    fn drop(&mut self) {
        if !self.done {
            let mut waiting = self.lane.0.lock();
            waiting.attended = false;
            let dropped = std::mem::take(&mut waiting.work);
            drop(waiting);
            drop(dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn work_is_done_one_after_the_other_and_all_of_it() {
        let lane = Arc::new(Lane::default());
        let (inside, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..200)
            .map(|_| {
                let (lane, inside, done) = (lane.clone(), inside.clone(), done.clone());
                tokio::spawn(async move {
                    let alone = lane.run(move || {
                        let alone = inside.fetch_add(1, Ordering::SeqCst) == 0;
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                        alone
                    });
                    alone.await.unwrap()
                })
            })
            .collect();
        for task in tasks {
            assert!(task.await.unwrap(), "two at a time");
        }
        assert_eq!(done.load(Ordering::SeqCst), 200);
    }

    #[tokio::test]
    async fn work_that_panics_takes_no_other_with_it() {
        let lane = Arc::new(Lane::default());
        assert!(lane.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(lane.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_goes_on_though_nobody_waits_for_it() {
        let lane = Arc::new(Lane::default());
        let (sender, told) = oneshot::channel();
        let first = lane.run(|| std::thread::sleep(Duration::from_millis(50)));
        let second = lane.run(move || sender.send(()).unwrap());
        let both = futures::future::join(first, second);
        assert!(tokio::time::timeout(Duration::from_millis(1), both).await.is_err());
        told.await.unwrap();
    }

    #[test]
    fn a_runtime_that_ends_leaves_a_lane_that_another_can_use() {
        let lane = Arc::new(Lane::default());
        let runtime = || {
            let builder = &mut tokio::runtime::Builder::new_current_thread();
            builder.max_blocking_threads(1).build().unwrap()
        };
        let (one, other) = (runtime(), runtime());
        // The only thread has something else to do, so the lane's work does not begin.
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        drop(one.spawn_blocking(move || held.recv()));
        let waiting = one.spawn({
            let lane = lane.clone();
            async move { lane.run(|| 1).await }
        });
        one.block_on(tokio::task::yield_now());
        one.shutdown_background();
        drop(release);
        drop(waiting);
        while lane.0.lock().attended {
            std::thread::yield_now();
        }
        assert_eq!(other.block_on(lane.run(|| 2)).unwrap(), 2);
    }
}
