//! Hashing of passwords: so few at a time that nobody can fill the memory with it.
//!
//! A hash takes 19 MiB and tens of milliseconds of a processor, on purpose, and whoever reaches the
//! server can ask for one: with any name, and without having guessed before.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::problem::{Problem, Result};

/// Hashes at the same time.
const AT_ONCE: usize = 4;
/// Those that wait for one of them, or have it: the last of them waits some seconds.
const IN_LINE: usize = 64;
/// Those of them who come from one place: others are not shut out by it.
const OF_ONE: usize = 16;

/// Places for hashes.
struct Hashing {
    places: Semaphore,
    /// Who has one or waits for it, by where they come from.
    line: Mutex<Option<HashMap<String, usize>>>,
}

static OURS: Hashing = Hashing::new();

/// A place for one hash, given back once it is made, also when nobody waits for it any more.
pub(crate) struct Place {
    _one: SemaphorePermit<'static>,
    _in_line: InLine,
}

/// Somebody in the line, until dropped.
struct InLine(&'static Hashing, String);

/// Waits for a place; `from` is whoever asks, or where they come from.
///
/// # Errors
/// When too many wait.
pub(crate) async fn place(from: &str) -> Result<Place> {
    OURS.place(from).await
}

fn busy() -> Problem {
    let text = "too many log in at this moment: try again";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "slow-down", text)
}

impl Hashing {
    const fn new() -> Self {
        Self { places: Semaphore::const_new(AT_ONCE), line: Mutex::new(None) }
    }

    async fn place(&'static self, from: &str) -> Result<Place> {
        let in_line = self.stand(from).ok_or_else(busy)?;
        let one = self.places.acquire().await.map_err(|_| busy())?;
        Ok(Place { _one: one, _in_line: in_line })
    }

    fn stand(&'static self, from: &str) -> Option<InLine> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let line = line.get_or_insert_default();
        let own = line.get(from).copied().unwrap_or(0);
        if own >= OF_ONE || line.values().sum::<usize>() >= IN_LINE {
            return None;
        }
        line.insert(from.to_owned(), own + 1);
        Some(InLine(self, from.to_owned()))
    }
}

impl Place {
    /// Does the work where blocking is allowed. Returns nothing when it has panicked.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        // Whoever asked may hang up, and the memory is taken all the same until it is done.
        let work = move || {
            let _place = self;
            work()
        };
        tokio::task::spawn_blocking(work).await.ok()
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let mut line = self.0.line.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(line) = line.as_mut() else { return };
        match line.get_mut(&self.1) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(line.remove(&self.1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::future::join_all;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn few_hashes_are_made_at_the_same_time_however_many_ask() {
        static HASHING: Hashing = Hashing::new();
        static NOW: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let one = async |number: usize| {
            let place = HASHING.place(&(number % 4).to_string()).await.ok()?;
            let work = || {
                let now = NOW.fetch_add(1, Ordering::SeqCst) + 1;
                MOST.fetch_max(now, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
                NOW.fetch_sub(1, Ordering::SeqCst);
            };
            place.run(work).await
        };
        let done = join_all((0..IN_LINE).map(one)).await;
        assert!(done.iter().all(Option::is_some), "there was room for all of them");
        assert!((1..=AT_ONCE).contains(&MOST.load(Ordering::SeqCst)));
        assert!(HASHING.line.lock().unwrap().as_ref().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_line_that_is_full_is_refused_and_one_place_does_not_fill_it() {
        static HASHING: Hashing = Hashing::new();
        let stand = |from: &str| HASHING.stand(from);
        let mut line: Vec<InLine> = (0..OF_ONE).map(|_| stand("one").unwrap()).collect();
        assert!(stand("one").is_none());
        for other in ["two", "three", "four"] {
            line.extend((0..OF_ONE).map(|_| stand(other).unwrap()));
        }
        let refused = HASHING.place("five").await.err().unwrap();
        assert_eq!((refused.status, refused.code.as_str()), (429, "slow-down"));
        line.pop();
        assert!(HASHING.place("five").await.is_ok());
    }
}
