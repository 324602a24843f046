//! Repair of damaged records: those by which running programs speak to each other, and others
//! that one flipped bit spoiled.
//!
//! A record that cannot be read is taken for the most demanding one it may have been:
//!
//! * One flipped bit is put back, in any record: the seal tells which one it was.
//! * A session or pin is that of a living program until the destination has seen no write of it
//!   for the minimum age. A living one writes it again with its next sign of life. Then it is
//!   removed; a session that wakes up after that finds its record gone and gives up.
//! * A condemned list may have named any pack. Its collection is ended without removing anything,
//!   and everything that is there now becomes tainted: nothing new refers to it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use sluice_destination::{Key, ObjectMeta, list_all};

use super::{Flawed, PARALLEL, read, record_of};
use crate::collect::budget::shorten;
use crate::crypto::random;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::collection::{MAX_VERDICTS, Sentence, Verdict};
use crate::format::flipped::unflipped;
use crate::format::id::{
    COLLECTIONS_PREFIX, CollectionPart, PackKind, SessionId, parse_collection_key,
    protections_prefix, tombstones_prefix,
};
use crate::repository::{Repository, Shared};

/// How to repair.
#[derive(Debug, Clone, Copy)]
pub struct RepairOptions {
    /// What was written less than this long ago may belong to a living program.
    pub min_age: Duration,
    /// Only tell what would be done. Ages are then told by this machine's clock.
    pub dry_run: bool,
    /// Most packs that its lists name one by one; below half of [`MAX_VERDICTS`].
    pub most_named: usize,
}

impl Default for RepairOptions {
    fn default() -> Self {
        Self {
            min_age: Duration::from_secs(24 * 3600),
            dry_run: false,
            most_named: MAX_VERDICTS / 2,
        }
    }
}

/// What becomes of a damaged record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is again what was written: one bit had flipped.
    Restored,
    /// It is removed: whoever wrote it has been silent for the minimum age.
    Forgotten,
    /// The collection it belongs to is ended, with nothing removed because of it.
    Ended,
    /// It may belong to a living program: to be tried again after this time.
    Waits(Duration),
    /// The destination does not tell when it was written.
    NoClock,
}

/// A damaged record, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The record, and what was wrong with it.
    pub flaw: Flawed,
    /// What became of it, or would.
    pub outcome: Outcome,
}

/// A record that cannot be read.
struct Damaged {
    object: ObjectMeta,
    /// Of its bytes, which may be many.
    digest: [u8; 32],
    problem: String,
}

impl Damaged {
    fn became(&self, outcome: Outcome) -> Repaired {
        let flaw = Flawed { object: self.object.key.to_string(), problem: self.problem.clone() };
        Repaired { flaw, outcome }
    }
}

impl Repository {
    /// Repairs damaged records that stop backups or collections, and others of which one bit has
    /// flipped. Returns what became of each; those for which nothing can be done here, and which
    /// stop nobody, are not among them.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn repair(&self, options: &RepairOptions) -> Result<Vec<Repaired>> {
        let mut done = Vec::new();
        let mut left = Vec::new();
        for damaged in self.shared.damaged_records().await? {
            match self.shared.clone().put_back(&damaged, options.dry_run).await? {
                true => done.push(damaged.became(Outcome::Restored)),
                false => left.push(damaged),
            }
        }
        let (lists, others): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|damaged| damaged.object.key.as_str().starts_with(COLLECTIONS_PREFIX));
        let alive = |one: &Damaged| ["s/", "p/"].contains(&&one.object.key.as_str()[..2]);
        let others: Vec<_> = others.into_iter().filter(alive).collect();
        if others.is_empty() && lists.is_empty() {
            return Ok(done);
        }
        let now = self.shared.time_of_repair(options.dry_run).await?;
        for damaged in &others {
            let outcome = self.shared.forget_record(damaged, now, options).await?;
            done.extend(outcome.map(|outcome| damaged.became(outcome)));
        }
        let lists: Vec<_> = lists.into_iter().filter(|one| is_list(&one.object.key)).collect();
        if let Some(outcome) = self.shared.end_collection(&lists, now, options).await? {
            done.extend(lists.iter().map(|damaged| damaged.became(outcome)));
        }
        Ok(done)
    }
}

/// Whether a record of a collection is read by anybody.
fn is_list(key: &Key) -> bool {
    let part = parse_collection_key(key).map(|(_, part)| part);
    matches!(part, Some(CollectionPart::Condemned | CollectionPart::Done))
}

/// What to do about a record of this age.
fn ripe(
    now: Option<SystemTime>,
    written: Option<SystemTime>,
    min_age: Duration,
) -> Result<(), Outcome> {
    let (Some(now), Some(written)) = (now, written) else { return Err(Outcome::NoClock) };
    let age = now.duration_since(written).unwrap_or_default();
    if age >= min_age { Ok(()) } else { Err(Outcome::Waits(min_age - age)) }
}

impl Shared {
    async fn damaged_records(&self) -> Result<Vec<Damaged>> {
        let mut objects = Vec::new();
        let places = [tombstones_prefix(), protections_prefix()];
        let prefixes = ["s/", "p/", COLLECTIONS_PREFIX, "e/"].map(str::to_owned);
        for prefix in prefixes.into_iter().chain(places) {
            objects.extend(list_all(&*self.destination, &prefix).await?);
        }
        let reads = stream::iter(objects)
            .map(|object| async move { self.damaged_record(object).await })
            .buffered(PARALLEL);
        reads.try_filter_map(async |damaged| Ok(damaged)).try_collect().await
    }

    /// The record, when its bytes are not what was written.
    async fn damaged_record(&self, object: ObjectMeta) -> Result<Option<Damaged>> {
        let Some((kind, id)) = record_of(&object.key) else { return Ok(None) };
        let Some(bytes) = read(&*self.destination, &object.key).await? else { return Ok(None) };
        match self.open_record(&object.key, kind, id, &bytes) {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                let text = error.to_string();
                let problem = text.split_once(" is damaged: ").map_or(&*text, |(_, what)| what);
                let digest = *blake3::hash(&bytes).as_bytes();
                Ok(Some(Damaged { object, digest, problem: problem.to_owned() }))
            }
            Err(error) => Err(error),
            Ok(_) => Ok(None),
        }
    }

    /// Puts one flipped bit back, if that is all. A newer record that its owner puts at the same
    /// moment may be lost by that; the protocol expects older records to come late.
    async fn put_back(
        self: std::sync::Arc<Self>,
        damaged: &Damaged,
        dry_run: bool,
    ) -> Result<bool> {
        let Some((kind, id)) = record_of(&damaged.object.key) else { return Ok(false) };
        let Some(bytes) = self.unchanged(damaged).await? else { return Ok(false) };
        let shared = self.clone();
        let tried = move || unflipped(&bytes, &shared.keys, kind, shared.id, &id);
        let Some(sound) = self.pool.run(tried).await? else { return Ok(false) };
        let unchanged = self.is_unchanged(damaged).await?;
        if unchanged && !dry_run {
            self.put_in_need(&damaged.object.key, sound.into()).await?;
        }
        Ok(true)
    }

    async fn is_unchanged(&self, damaged: &Damaged) -> Result<bool> {
        Ok(self.unchanged(damaged).await?.is_some())
    }

    /// The bytes of a damaged record, if nobody has written it since.
    async fn unchanged(&self, damaged: &Damaged) -> Result<Option<Bytes>> {
        let bytes = read(&*self.destination, &damaged.object.key).await?;
        Ok(bytes.filter(|bytes| *blake3::hash(bytes).as_bytes() == damaged.digest))
    }

    /// The time by the destination's clock, of a fresh object.
    async fn time_of_repair(&self, dry_run: bool) -> Result<Option<SystemTime>> {
        if dry_run {
            let now = Duration::from_millis(self.clock.now_ms());
            return Ok(Some(SystemTime::UNIX_EPOCH + now));
        }
        let id = SessionId::new(self.clock.now_ms(), random()?);
        let key = Key::new(format!("probe/{id}-time"))?;
        self.put_in_need(&key, Bytes::from_static(b"time")).await?;
        let meta = self.destination.head(&key).await;
        self.destination.delete(&key).await?;
        Ok(meta?.modified)
    }

    /// Removes a session or pin, if its owner has been silent for long; nothing to say when
    /// its owner has written it again meanwhile.
    async fn forget_record(
        &self,
        damaged: &Damaged,
        now: Option<SystemTime>,
        options: &RepairOptions,
    ) -> Result<Option<Outcome>> {
        if let Err(not_yet) = ripe(now, damaged.object.modified, options.min_age) {
            return Ok(Some(not_yet));
        }
        if !self.is_unchanged(damaged).await? {
            return Ok(None);
        }
        if !options.dry_run {
            self.destination.delete(&damaged.object.key).await?;
        }
        Ok(Some(Outcome::Forgotten))
    }

    /// Ends the collection whose lists cannot be read, if they stop anybody: whatever lies here
    /// may have been condemned, so nothing is removed, and nothing new may refer to it.
    async fn end_collection(
        &self,
        lists: &[Damaged],
        now: Option<SystemTime>,
        options: &RepairOptions,
    ) -> Result<Option<Outcome>> {
        match self.verdicts_since(0).await {
            Err(error) if error.kind() == ErrorKind::Damaged && !lists.is_empty() => {}
            other => return other.map(|_| None),
        }
        // A collector at work shows signs of life beside the list.
        let objects = list_all(&*self.destination, COLLECTIONS_PREFIX).await?;
        let last = objects.iter().map(|object| object.modified).max().flatten();
        if let Err(not_yet) = ripe(now, last, options.min_age) {
            return Ok(Some(not_yet));
        }
        if options.dry_run {
            return Ok(Some(Outcome::Ended));
        }
        let (number, _) = self.next_collection().await?;
        let mut tainted = self.readable_verdicts(&objects).await?;
        let (sentence, day) = (Sentence::Tainted, self.today());
        let packs = self.list_packs().await?;
        let data = packs.rows().iter().filter(|row| row.kind == PackKind::Data);
        tainted.extend(data.map(|row| Verdict {
            kind: row.kind,
            pack: row.pack,
            generation: row.generation,
            sentence,
            day,
        }));
        tainted.sort_unstable();
        tainted.dedup();
        // Half of what a list takes, so that collections can condemn something beside it.
        let tainted = shorten(tainted, options.most_named.min(MAX_VERDICTS / 2));
        self.put_verdicts(number, CollectionPart::Done, tainted).await?;
        // Told last: until then the next repair goes on.
        for damaged in lists {
            if self.is_unchanged(damaged).await? {
                self.destination.delete(&damaged.object.key).await?;
            }
        }
        Ok(Some(Outcome::Ended))
    }

    /// What the lists that can be read say, as tainted.
    async fn readable_verdicts(&self, objects: &[ObjectMeta]) -> Result<Vec<Verdict>> {
        let mut all = Vec::new();
        for object in objects.iter().filter(|object| is_list(&object.key)) {
            let Some((number, part)) = parse_collection_key(&object.key) else { continue };
            match self.read_verdicts(number, part).await {
                Ok(read) => all.extend(read.into_iter().flatten()),
                Err(error) if error.kind() == ErrorKind::Damaged => {}
                Err(error) => return Err(error),
            }
        }
        let (sentence, today) = (Sentence::Tainted, self.today());
        for one in &mut all {
            match one.sentence {
                Sentence::Tainted | Sentence::TaintedUpTo => {}
                _ => *one = Verdict { sentence, day: today, ..*one },
            }
        }
        Ok(all)
    }
}

/// Says what helps where a damaged record stops a backup or a collection.
pub(crate) fn advise(error: RepositoryError) -> RepositoryError {
    if error.kind() != ErrorKind::Damaged {
        return error;
    }
    let text = format!("{error}; `sluice doctor --repair` puts right what can be, and says when");
    RepositoryError::new(ErrorKind::Damaged, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_destination_calls_old_is_ripe() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let ripe = |now, written| ripe(now, written, Duration::from_secs(100));
        assert_eq!(ripe(at(1100), at(1000)), Ok(()));
        let left = Outcome::Waits(Duration::from_secs(1));
        assert_eq!(ripe(at(1099), at(1000)), Err(left));
        // Written after the time was asked for.
        let all = Outcome::Waits(Duration::from_secs(100));
        assert_eq!(ripe(at(1000), at(5000)), Err(all));
        assert_eq!(ripe(at(1000), None), Err(Outcome::NoClock));
        assert_eq!(ripe(None, at(1000)), Err(Outcome::NoClock));
    }
}
