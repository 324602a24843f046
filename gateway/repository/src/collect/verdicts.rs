//! The records of collections on the destination.

use sluice_destination::{ErrorKind as DestinationKind, list_all};

use crate::bounded::get_record;
use crate::doctor::repair::advise;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::collection::{
    self, MAX_VERDICTS, PlanRecord, Sentence, Verdict, VerdictsRecord, collection_object,
};
use crate::format::header::Kind;
use crate::format::id::{COLLECTIONS_PREFIX, CollectionPart, collection_key, parse_collection_key};
use crate::format::record::{from_cbor, to_cbor};
use crate::repository::{Shared, parse_error};

/// How often records that vanish while they are read are looked for again.
const ATTEMPTS: usize = 10;
/// A collection is not further ahead of the last one that is over; one would do.
const AHEAD: u64 = 64;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Which collections there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Collections {
    /// The newest one that is over.
    pub(crate) done: u64,
    /// The newest one that has condemned packs.
    pub(crate) condemned: u64,
    /// The newest one that has begun.
    pub(crate) begun: u64,
}

impl Collections {
    /// The newest one of which something can be known, for a session that knew of `seen`.
    pub(crate) fn newest(&self, seen: u64) -> u64 {
        self.condemned.max(self.done).max(seen)
    }

    /// Refuses a number that no collection can have come to: each begins once the one before is
    /// over. Whoever can put objects can give them any name.
    pub(crate) fn must_follow(&self, part: CollectionPart, number: u64) -> Result<()> {
        if number <= self.done.saturating_add(AHEAD) {
            return Ok(());
        }
        let what = format!(
            "no collection has come to this number ({} is the last that is over): remove it from \
             the destination",
            self.done
        );
        Err(RepositoryError::damaged(collection_key(number, part), what))
    }
}

impl Shared {
    /// Which collections there are.
    pub(crate) async fn collections(&self) -> Result<Collections> {
        let mut found = Collections::default();
        for object in list_all(&*self.destination, COLLECTIONS_PREFIX).await? {
            let Some((number, part)) = parse_collection_key(&object.key) else { continue };
            let newest = match part {
                CollectionPart::Plan => &mut found.begun,
                CollectionPart::Condemned => &mut found.condemned,
                CollectionPart::Done => &mut found.done,
                CollectionPart::Alive => continue,
            };
            *newest = number.max(*newest);
        }
        Ok(found)
    }

    /// What collections have condemned that a session which knows of number `seen` does not know:
    /// which there are now, and packs not to be referenced any more.
    pub(crate) async fn verdicts_since(&self, seen: u64) -> Result<(Collections, Vec<Verdict>)> {
        'again: for _ in 0..ATTEMPTS {
            let found = self.collections().await?;
            let mut parts = Vec::new();
            if found.done > seen {
                parts.push((found.done, CollectionPart::Done));
            }
            found.must_follow(CollectionPart::Condemned, found.condemned)?;
            let later = found.done.max(seen) + 1..=found.condemned;
            parts.extend(later.map(|number| (number, CollectionPart::Condemned)));
            let mut verdicts = Vec::new();
            for (number, part) in parts {
                let read = match part {
                    CollectionPart::Done => self.tainted_by(number).await,
                    _ => self.read_verdicts(number, part).await,
                };
                match read.map_err(advise)? {
                    Some(more) => verdicts.extend(more),
                    // A later collection ended meanwhile and tidied up.
                    None => continue 'again,
                }
            }
            return Ok((found, verdicts));
        }
        let what = "collections follow each other faster than they can be read";
        Err(RepositoryError::damaged(COLLECTIONS_PREFIX, what))
    }

    /// What is tainted since a collection ended; nothing when its record is not there. A damaged
    /// one is made good by what it was made of, which stays as long: what was condemned, and what
    /// was tainted before. That may be more than it said, and is never less.
    pub(crate) async fn tainted_by(&self, number: u64) -> Result<Option<Vec<Verdict>>> {
        let damage = match self.read_verdicts(number, CollectionPart::Done).await {
            Err(error) if error.kind() == ErrorKind::Damaged => error,
            other => return other,
        };
        let condemned = self.read_verdicts(number, CollectionPart::Condemned).await?;
        let before = match number {
            0 | 1 => Some(Vec::new()),
            _ => self.read_verdicts(number - 1, CollectionPart::Done).await?,
        };
        let (Some(condemned), Some(mut tainted)) = (condemned, before) else { return Err(damage) };
        tracing::warn!(error = %damage, "going by the records it was made of");
        let (sentence, day) = (Sentence::Tainted, self.today());
        tainted.extend(condemned.into_iter().map(|one| Verdict { sentence, day, ..one }));
        Ok(Some(tainted))
    }

    /// What the collections that are over left tainted.
    pub(crate) async fn tainted_before(&self) -> Result<Vec<Verdict>> {
        match self.collections().await?.done {
            0 => Ok(Vec::new()),
            number => Ok(self.tainted_by(number).await.map_err(advise)?.unwrap_or_default()),
        }
    }

    /// The day it is, since 1970.
    pub(crate) fn today(&self) -> u16 {
        u16::try_from(self.clock.now_ms() / DAY_MS).unwrap_or(u16::MAX)
    }

    /// The verdicts of a part of a collection; nothing when it is not there.
    pub(crate) async fn read_verdicts(
        &self,
        number: u64,
        part: CollectionPart,
    ) -> Result<Option<Vec<Verdict>>> {
        let key = collection_key(number, part);
        let bytes = match get_record(&*self.destination, &key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => return Ok(None),
            other => other?,
        };
        let body = self.open_record(&key, kind(part), collection_object(number), &bytes)?;
        let record: VerdictsRecord = from_cbor(&body).map_err(|e| parse_error(&key, e))?;
        collection::decode(&record.verdicts).map(Some).map_err(|e| parse_error(&key, e))
    }

    /// C4: condemns packs, unless that is done already; returns the verdicts that count, or
    /// nothing when the collection is over. Then the list, if it was put here at all, was put too
    /// late: no session waits for it to be read.
    pub(crate) async fn condemn(
        &self,
        number: u64,
        verdicts: Vec<Verdict>,
    ) -> Result<Option<Vec<Verdict>>> {
        let part = CollectionPart::Condemned;
        let verdicts = match self.read_verdicts(number, part).await.map_err(advise)? {
            Some(theirs) => theirs,
            None => self.put_what_fits(number, part, verdicts).await?,
        };
        let is_over = self.collections().await?.done >= number;
        Ok((!is_over).then_some(verdicts))
    }

    /// Puts as many of the verdicts as a full destination takes: the rest has room once these are
    /// carried out.
    async fn put_what_fits(
        &self,
        number: u64,
        part: CollectionPart,
        mut verdicts: Vec<Verdict>,
    ) -> Result<Vec<Verdict>> {
        const FULL: ErrorKind = ErrorKind::Destination(DestinationKind::NoSpace);
        loop {
            let half = verdicts.len() / 2;
            match self.put_verdicts(number, part, verdicts.clone()).await {
                Err(error) if error.kind() == FULL && half > 0 => verdicts.truncate(half),
                other => return other,
            }
        }
    }

    /// Puts the verdicts of a part of a collection, unless they are there; returns those that
    /// count. No more than [`MAX_VERDICTS`], or nobody could read them.
    pub(crate) async fn put_verdicts(
        &self,
        number: u64,
        part: CollectionPart,
        verdicts: Vec<Verdict>,
    ) -> Result<Vec<Verdict>> {
        if verdicts.len() > MAX_VERDICTS {
            let text = format!("{} packs are more than a list takes", verdicts.len());
            return Err(RepositoryError::new(ErrorKind::Invalid, text));
        }
        let written_ms = self.clock.now_ms();
        let encoded = collection::encode(&verdicts);
        let record = VerdictsRecord { number, written_ms, verdicts: encoded };
        let object = collection_object(number);
        let body = self.seal_record(kind(part), object, &[], &to_cbor(&record))?;
        match self.put_new_in_need(&collection_key(number, part), body).await {
            Ok(()) => Ok(verdicts),
            // Another collector's, or our own after a lost answer.
            Err(error) => match self.read_verdicts(number, part).await? {
                Some(theirs) => Ok(theirs),
                None => Err(error.into()),
            },
        }
    }

    /// Begins a collection, unless it has begun; shows that a collector is at work on it.
    pub(crate) async fn begin_collection(&self, number: u64) -> Result<()> {
        let host = crate::host::name();
        let record = PlanRecord { number, started_ms: self.clock.now_ms(), host };
        let object = collection_object(number);
        let body = self.seal_record(Kind::Plan, object, &[], &to_cbor(&record))?;
        let plan = collection_key(number, CollectionPart::Plan);
        match self.put_new_in_need(&plan, body.clone()).await {
            Ok(()) => {}
            Err(error) if error.kind() == DestinationKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.put_in_need(&collection_key(number, CollectionPart::Alive), body).await?)
    }
}

fn kind(part: CollectionPart) -> Kind {
    match part {
        CollectionPart::Plan | CollectionPart::Alive => Kind::Plan,
        CollectionPart::Condemned => Kind::Condemned,
        CollectionPart::Done => Kind::Collected,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_destination::memory::MemoryDestination;

    use super::*;
    use crate::format::id::{PackId, PackKind};
    use crate::{Clock, InitOptions, KdfCost, Repository, Settings, Unlock};

    #[tokio::test]
    async fn the_longest_list_can_be_read_and_a_longer_one_is_never_written() {
        let options = InitOptions {
            unlock: Unlock::Open,
            recovery: false,
            kdf: KdfCost::default(),
            lock: None,
        };
        let (place, settings) = (Arc::new(MemoryDestination::new()), Settings::default());
        let made = Repository::init(place, Clock::system(), options, settings).await;
        let repository = made.unwrap().0;
        let mut verdicts: Vec<Verdict> = (0..MAX_VERDICTS as u128)
            .map(|number| Verdict {
                kind: PackKind::Data,
                pack: PackId(number.to_be_bytes()),
                generation: 0,
                sentence: Sentence::Tainted,
                day: 1,
            })
            .collect();
        let (shared, part) = (&repository.shared, CollectionPart::Done);
        shared.put_verdicts(1, part, verdicts.clone()).await.unwrap();
        let read = shared.read_verdicts(1, part).await.unwrap().expect("it is there");
        assert!(read == verdicts);
        verdicts.push(verdicts[0]);
        let error = shared.put_verdicts(2, part, verdicts).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(shared.collections().await.unwrap().done, 1);
    }
}
