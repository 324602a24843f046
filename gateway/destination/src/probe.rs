//! What a store does, found by trying it.
//!
//! Stores that accept a condition and ignore it are common. Commits rest on conditions, so a
//! destination is probed before it is first used, and the answer is kept in the repository.
//!
//! The probe writes a few small objects under `probe/`, with random names, and removes them again
//! whatever the outcome. A store that refuses to be written is an error, not
//! a finding; what it does wrong is a finding.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;

use crate::{
    ByteRange, Capabilities, Destination, ErrorKind, Key, Lock, LockMode, Result, list_all,
};

/// Writers in the race for one key.
const RACERS: u8 = 8;

/// Rounds of the race: a store without atomic conditions seldom passes one, and hardly three.
const ROUNDS: u8 = 3;

/// Size of the objects in bytes; large enough that a range is not the whole.
const LENGTH: usize = 4096;

/// How long the probe's own lock lasts: time enough to see whether it holds.
const LOCK: Duration = Duration::from_secs(3);

/// Tries what the repository needs and says what held.
///
/// # Errors
/// What the store reports: it cannot be reached, read or written.
pub async fn probe(destination: &dyn Destination) -> Result<Capabilities> {
    let probe = Probe { destination, id: format!("{:032x}", rand::random::<u128>()) };
    let found = probe.run().await;
    let cleaned = probe.clean_up().await;
    let found = found?;
    cleaned?;
    tracing::debug!(location = destination.location(), ?found, "probed destination");
    Ok(found)
}

struct Probe<'a> {
    destination: &'a dyn Destination,
    /// Keeps probes that run side by side apart.
    id: String,
}

impl Probe<'_> {
    async fn run(&self) -> Result<Capabilities> {
        let key = self.key("object")?;
        let body = Bytes::from_iter((0..LENGTH).map(|at| (at % 251) as u8));
        self.destination.put_new(&key, body.clone()).await?;
        let clock_offset_seconds = self.clock_offset(&key).await?;
        let read_after_write = self.reads_back(&key, &body).await?;
        let object_lock = self.keeps_locks(clock_offset_seconds).await?;
        // Asking the store first: a race that goes well by luck proves nothing.
        let put_if_absent = self.destination.creates_atomically()
            && self.refuses_second(&key).await?
            && self.one_racer_wins().await?;
        Ok(Capabilities {
            put_if_absent,
            read_after_write,
            list_after_write: self.lists_changes().await? && self.lists_in_order().await?,
            ranged_get: self.cuts_ranges(&body).await?,
            checksum_verified: self.destination.verifies_checksums(&self.key("damaged")?).await?,
            object_lock,
            clock_offset_seconds,
        })
    }

    fn key(&self, part: &str) -> Result<Key> {
        Key::new(format!("probe/{}-{part}", self.id))
    }

    /// Two keys in ascending order that a walk through folders would meet the other way round.
    /// The folder always has the same name: some stores never remove one.
    fn ordered_keys(&self) -> Result<[Key; 2]> {
        Ok([
            Key::new(format!("probe/order-{}", self.id))?,
            Key::new(format!("probe/order/{}", self.id))?,
        ])
    }

    /// The time the store gives a fresh object, against our clock now. Stores round to seconds.
    async fn clock_offset(&self, key: &Key) -> Result<Option<i64>> {
        let Some(theirs) = self.destination.head(key).await?.modified else { return Ok(None) };
        #[expect(clippy::disallowed_methods, reason = "measures the system clock itself")]
        let ours = SystemTime::now();
        Ok(Some(match theirs.duration_since(ours) {
            Ok(ahead) => ahead.as_secs().cast_signed(),
            Err(behind) => -behind.duration().as_secs().cast_signed(),
        }))
    }

    /// Whether a lock of a few seconds by the store's clock is kept. Never one of compliance
    /// mode: a store that mistakes the time would keep the object for good.
    async fn keeps_locks(&self, clock_offset: Option<i64>) -> Result<bool> {
        #[expect(clippy::disallowed_methods, reason = "a lock ends at a time of the real clock")]
        let ours = SystemTime::now();
        let offset = clock_offset.unwrap_or(0);
        let apart = Duration::from_secs(offset.unsigned_abs());
        let theirs = if offset < 0 { ours.checked_sub(apart) } else { ours.checked_add(apart) };
        let Some(until) = theirs.and_then(|now| now.checked_add(LOCK)) else { return Ok(false) };
        let lock = Lock { mode: LockMode::Governance, until }.whole_seconds();
        self.destination.keeps_locks(&self.key("locked")?, &lock).await
    }

    async fn refuses_second(&self, key: &Key) -> Result<bool> {
        let second = Bytes::from(vec![0xFF; LENGTH]);
        refused(self.destination.put_new(key, second).await)
    }

    async fn one_racer_wins(&self) -> Result<bool> {
        for round in 0..ROUNDS {
            let key = self.key(&format!("race-{round}"))?;
            let puts = (0..RACERS)
                .map(|racer| self.destination.put_new(&key, Bytes::from(vec![racer; LENGTH])));
            let mut winner = None;
            for (racer, outcome) in (0..RACERS).zip(join_all(puts).await) {
                if refused(outcome)? {
                    continue;
                }
                if winner.replace(racer).is_some() {
                    return Ok(false);
                }
            }
            let Some(winner) = winner else { return Ok(false) };
            if !self.reads_back(&key, &[winner; LENGTH]).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn reads_back(&self, key: &Key, wanted: &[u8]) -> Result<bool> {
        match self.destination.get(key, ByteRange::Full).await {
            Ok(body) => Ok(body == wanted),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn lists_changes(&self) -> Result<bool> {
        let key = self.key("listed")?;
        let prefix = key.as_str();
        self.destination.put(&key, Bytes::from_static(b"x")).await?;
        let seen = list_all(self.destination, prefix).await?;
        self.destination.delete(&key).await?;
        let gone = list_all(self.destination, prefix).await?;
        Ok(seen.len() == 1 && seen[0].key == key && gone.is_empty())
    }

    async fn lists_in_order(&self) -> Result<bool> {
        let keys = self.ordered_keys()?;
        for key in &keys {
            self.destination.put(key, Bytes::from_static(b"x")).await?;
        }
        let listed = match list_all(self.destination, "probe/order").await {
            Err(error) if error.kind() == ErrorKind::Unfit => return Ok(false),
            listed => listed?,
        };
        let ours = listed.iter().map(|object| &object.key).filter(|key| keys.contains(key));
        Ok(ours.eq(&keys))
    }

    async fn cuts_ranges(&self, body: &Bytes) -> Result<bool> {
        let key = self.key("ranges")?;
        self.destination.put(&key, body.clone()).await?;
        for (range, wanted) in [
            (ByteRange::Span { offset: 100, length: 50 }, body.slice(100..150)),
            (ByteRange::Suffix(30), body.slice(LENGTH - 30..)),
        ] {
            match self.destination.get(&key, range).await {
                Ok(found) if found == wanted => {}
                Err(error) if error.is_retryable() => return Err(error),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn clean_up(&self) -> Result<()> {
        // By name, not by what a listing shows: the listing may be what is wrong.
        let races = (0..ROUNDS).map(|round| format!("race-{round}"));
        let parts =
            ["object", "damaged", "listed", "ranges", "locked"].into_iter().map(str::to_owned);
        for part in parts.chain(races) {
            self.destination.delete(&self.key(&part)?).await?;
        }
        for key in self.ordered_keys()? {
            self.destination.delete(&key).await?;
        }
        Ok(())
    }
}

/// Whether the store refused to create an object that exists.
fn refused(outcome: Result<()>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(true),
        // It said that it cannot do conditions at all.
        Err(error) if error.kind() == ErrorKind::Unfit => Ok(false),
        Err(error) => Err(error),
    }
}
