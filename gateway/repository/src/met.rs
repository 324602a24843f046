//! Damage that readers meet, told to writers beside the reading.
//!
//! A reader that gets bytes which fail their checks notes the place and goes on: recording reads
//! the pack once more, perhaps over a slow line, and nobody waits for it. Each place is noted once
//! by a process; one that could not be recorded for another reason than that the destination
//! cannot be written is noted again when it is met again.
//!
//! ```text
//!  a read fails its checks -> note -> queue -> (second look) -> `b/`
//! ```

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use sluice_destination::ErrorKind as DestinationKind;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::bad_slots::{Recorded, parse_pack_name};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::{ChainId, PointId, tombstone_key};
use crate::repository::{Repository, Shared};
use crate::verify::{Place, split};

/// Most places noted by one process; whoever meets more has lost more than a backup should store
/// again unasked, and `verify` finds all of it.
const MOST_NOTED: usize = 4096;
/// Places recorded together, so that a process that ends meanwhile has recorded some.
const TOGETHER: usize = 16;

/// The point that was being read.
pub(crate) type Reading = (ChainId, PointId);

/// What was met, and what became of it.
#[derive(Debug)]
pub(crate) struct Met {
    state: Mutex<State>,
    /// One record is made after another.
    turn: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    seen: HashSet<Place>,
    queue: Vec<(Place, Reading)>,
    recorded: Recorded,
    /// The destination cannot be written.
    off: bool,
}

impl Default for Met {
    fn default() -> Self {
        Self { state: Mutex::default(), turn: Semaphore::new(1) }
    }
}

impl Met {
    /// Takes no more notes: the destination cannot be written.
    pub(crate) fn turn_off(&self) {
        let mut state = self.state.lock();
        state.off = true;
        state.queue.clear();
    }

    /// Queues a place; false when there is nothing to do about it.
    fn queue(&self, place: Place, reading: Reading) -> bool {
        let mut state = self.state.lock();
        if state.off || state.seen.len() >= MOST_NOTED || !state.seen.insert(place) {
            return false;
        }
        state.queue.push((place, reading));
        true
    }

    fn take(&self) -> Vec<(Place, Reading)> {
        let mut state = self.state.lock();
        let from = state.queue.len().saturating_sub(TOGETHER);
        state.queue.split_off(from)
    }

    fn forget(&self, places: &[(Place, Reading)]) {
        let mut state = self.state.lock();
        for (place, _) in places {
            state.seen.remove(place);
        }
    }
}

impl Repository {
    /// Waits until damage that readers of this repository met is recorded, and says what has been
    /// recorded by now. Nothing is, and nothing is waited for, when no read has failed its checks.
    pub async fn settle_damage_met(&self) -> Recorded {
        self.shared.clone().record_met().await;
        self.shared.met.state.lock().recorded
    }
}

impl Shared {
    /// Notes the damage that a read failed with. Never waits, and does nothing about errors of
    /// another kind: what a network lost is not damaged.
    pub(crate) fn note_met(self: &Arc<Self>, error: &RepositoryError, reading: Reading) {
        let Some(place) = place_of(error) else { return };
        if self.met.queue(place, reading)
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(self.clone().record_met());
        }
    }

    /// Passes a result on, and notes the damage in it.
    pub(crate) fn noting<T>(self: &Arc<Self>, result: Result<T>, reading: Reading) -> Result<T> {
        result.inspect_err(|error| self.note_met(error, reading))
    }

    /// Records what is noted and not yet recorded.
    async fn record_met(self: Arc<Self>) {
        let _turn = self.met.turn.acquire().await.expect("the semaphore is never closed");
        loop {
            let places = self.met.take();
            if places.is_empty() {
                return;
            }
            match self.record_noted(&places).await {
                Ok(recorded) => {
                    if recorded.bad > 0 {
                        tracing::info!(packs = recorded.bad, "damage met by readers is recorded");
                    }
                    self.met.state.lock().recorded.bad += recorded.bad;
                }
                Err(error) if error.is_unwritable() => {
                    tracing::debug!(%error, "damage met by readers is not recorded");
                    self.met.turn_off();
                }
                Err(error) => {
                    tracing::warn!(%error, "damage met by readers is not recorded");
                    self.met.forget(&places);
                }
            }
        }
    }

    async fn record_noted(self: &Arc<Self>, noted: &[(Place, Reading)]) -> Result<Recorded> {
        let mut gone: Vec<Reading> = Vec::new();
        let readings: HashSet<Reading> = noted.iter().map(|(_, reading)| *reading).collect();
        for (chain, point) in readings {
            // What a collection took from a removed point is not damaged.
            match self.destination.head(&tombstone_key(chain, point)).await {
                Ok(_) => gone.push((chain, point)),
                Err(error) if error.kind() == DestinationKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        let live = noted.iter().filter(|(_, reading)| !gone.contains(reading));
        let places: Vec<(Place, bool)> = live.map(|(place, _)| (*place, false)).collect();
        if places.is_empty() {
            return Ok(Recorded::default());
        }
        self.record_places(&places, &[]).await
    }
}

/// Where the damage lies that an error tells of, when it lies in a pack.
fn place_of(error: &RepositoryError) -> Option<Place> {
    if error.kind() != ErrorKind::Damaged {
        return None;
    }
    let (object, _) = split(error, "");
    let mut words = object.split(' ');
    let (kind, pack) = parse_pack_name(words.next()?)?;
    let slot = match (words.next(), words.next()) {
        (Some("slot"), Some(slot)) => slot.parse().ok(),
        _ => None,
    };
    Some(Place { kind, pack, slot })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::{PackId, PackKind, generation_key, pack_key};

    #[test]
    fn damage_is_placed_by_what_its_error_says_and_nothing_else_is() {
        let (kind, pack) = (PackKind::Data, PackId([7; 16]));
        let key = pack_key(kind, pack);
        let place = |slot| Some(Place { kind, pack, slot });
        let damaged = |object: String| RepositoryError::damaged(object, "it is cut off");
        assert_eq!(place_of(&damaged(format!("{key} slot 12"))), place(Some(12)));
        assert_eq!(place_of(&damaged(key.to_string())), place(None));
        let later = generation_key(kind, pack, 3);
        assert_eq!(place_of(&damaged(format!("{later} slot 4095"))), place(Some(4095)));
        assert_eq!(place_of(&damaged("r/default/x/y".into())), None);
        assert_eq!(place_of(&damaged("block 3 of image d/x".into())), None);
        for kind in [
            ErrorKind::Destination(DestinationKind::Unavailable),
            ErrorKind::Conflict,
            ErrorKind::Local,
        ] {
            let text = format!("object {key} slot 1 is damaged: no");
            assert_eq!(place_of(&RepositoryError::new(kind, text)), None);
        }
    }

    #[test]
    fn a_place_is_queued_once_until_it_is_forgotten_and_never_when_off() {
        let met = Met::default();
        let reading = (ChainId([1; 16]), PointId([2; 16]));
        let place = |slot| Place { kind: PackKind::Data, pack: PackId([7; 16]), slot };
        assert!(met.queue(place(Some(1)), reading));
        assert!(!met.queue(place(Some(1)), reading));
        assert!(met.queue(place(None), reading));
        let taken = met.take();
        assert_eq!(taken.len(), 2);
        assert!(!met.queue(place(Some(1)), reading));
        met.forget(&taken);
        assert!(met.queue(place(Some(1)), reading));
        met.turn_off();
        assert!(met.take().is_empty());
        assert!(!met.queue(place(Some(2)), reading));
    }
}
