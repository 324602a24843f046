//! The copies that a repository has of another one's points: which are there, which were removed
//! here, and where one that comes late has its place.
//!
//! # Model
//!
//! Points of a chain sort by their ids, and the last one is the newest. Copies stand in the order
//! of the points they were made of, also where a point was committed after one with a greater id
//! was copied: a late copy gets an id between those of its neighbours.
//!
//! ```text
//!  id of a copy:  ms (6) | tag (8) | check (2)
//! ```
//!
//! The tag is a keyed hash of the point it was made of, and the check one of the tag. A tombstone
//! stays for ever, and is nothing but a name: so it tells which point somebody has removed here,
//! and does not want back, long after the commit record is gone.
//!
//! # Invariants
//!
//! * A point that has a copy is not missing, nor is one whose copy was removed here.
//! * What a tombstone stands for is not known where the id has no tag: a backup of this
//!   repository's own, or a copy of a program that gave ids without. It counts as the copy of each
//!   point that would have its place there, for what was removed must not come back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use super::listing;
use crate::crypto::{KeyRing, random};
use crate::error::{ErrorKind, Result};
use crate::format::id::{ChainId, PointId, RepositoryId};
use crate::points::RestorePoint;
use crate::repository::{Repository, Shared};

/// How far before all others a copy is put that has nothing before it.
const DAY_MS: u64 = 24 * 3600 * 1000;
/// The time in an id has 48 bits.
const LAST_MS: u64 = (1 << 48) - 1;

/// Which id a new point gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewId {
    /// After all others of its chain, with this behind the time.
    Last([u8; 10]),
    /// Between others.
    Between(PointId),
}

impl NewId {
    /// The id, where `ms` is later than any other of the chain.
    pub(crate) fn at(self, ms: u64) -> PointId {
        match self {
            Self::Last(tag) => PointId::new(ms, tag),
            Self::Between(id) => id,
        }
    }
}

/// What a chain has of copies.
#[derive(Debug, Default)]
struct Chain {
    /// Live copies, by the points they were made of.
    copies: BTreeMap<PointId, RestorePoint>,
    /// What tombstones have behind the time, where it is a tag.
    removed: HashSet<[u8; 10]>,
    /// Tombstones of which nobody knows what they stand for.
    unknown: BTreeSet<PointId>,
    /// Commit records that were looked at.
    seen: HashSet<PointId>,
}

/// The copies of another repository's points.
#[derive(Debug)]
pub struct Copies {
    shared: Arc<Shared>,
    of: RepositoryId,
    chains: HashMap<ChainId, Chain>,
}

fn tag_of(id: PointId) -> [u8; 10] {
    let mut tag = [0; 10];
    tag.copy_from_slice(&id.0[6..]);
    tag
}

impl Chain {
    fn add(&mut self, of: RepositoryId, point: &RestorePoint) {
        self.seen.insert(point.id);
        let Some(origin) = point.origin.filter(|origin| origin.repository == of) else { return };
        // Of two copies of one point, the later one: whoever asks for the newest gets that.
        match self.copies.get(&origin.point) {
            Some(known) if known.id > point.id => {}
            _ => drop(self.copies.insert(origin.point, point.clone())),
        }
    }

    fn bury(&mut self, keys: &KeyRing, id: PointId) {
        if keys.is_copy(id) {
            self.removed.insert(tag_of(id));
        } else {
            self.unknown.insert(id);
        }
    }

    /// The copies of the nearest points before and after this one.
    fn around(&self, point: PointId) -> (Option<PointId>, Option<PointId>) {
        let before = self.copies.range(..point).next_back();
        let after = self.copies.range((Bound::Excluded(point), Bound::Unbounded)).next();
        let id = |(_, copy): (&PointId, &RestorePoint)| copy.id;
        (before.map(id), after.map(id))
    }

    fn was_removed(&self, point: PointId, tag: [u8; 10]) -> bool {
        if self.removed.contains(&tag) {
            return true;
        }
        let (before, Some(after)) = self.around(point) else { return false };
        let from = before.filter(|before| *before < after);
        let from = from.map_or(Bound::Unbounded, Bound::Excluded);
        self.unknown.range((from, Bound::Excluded(after))).next().is_some()
    }
}

impl Repository {
    /// The copies of points of another repository among `points`, which is all that this one lists.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn copies(&self, of: RepositoryId, points: &[RestorePoint]) -> Result<Copies> {
        let shared = self.shared.clone();
        let mut chains: HashMap<ChainId, Chain> = HashMap::new();
        for point in points {
            chains.entry(point.chain).or_default().add(of, point);
        }
        for (chain, id) in listing::tombstones(&*shared.destination).await? {
            chains.entry(chain).or_default().bury(&shared.keys, id);
        }
        Ok(Copies { shared, of, chains })
    }
}

impl Copies {
    fn chain(&self, point: &RestorePoint) -> Option<&Chain> {
        self.chains.get(&self.shared.keys.chain(&point.instance))
    }

    fn tag(&self, point: &RestorePoint) -> [u8; 10] {
        self.shared.keys.copy_tag(self.of, point.id)
    }

    /// Whether there is a copy of this point of the other repository.
    pub fn has(&self, point: &RestorePoint) -> bool {
        self.chain(point).is_some_and(|chain| chain.copies.contains_key(&point.id))
    }

    /// Whether there was one, and somebody has removed it.
    pub fn was_removed(&self, point: &RestorePoint) -> bool {
        self.chain(point).is_some_and(|chain| chain.was_removed(point.id, self.tag(point)))
    }

    /// The copy to build that of `point` on, with the point it was made of: the nearest before it,
    /// or else after it, of those whose point is still there.
    pub fn nearest(
        &self,
        point: &RestorePoint,
        is_there: impl Fn(PointId) -> bool,
    ) -> Option<(PointId, &RestorePoint)> {
        let copies = &self.chain(point)?.copies;
        let after = (Bound::Excluded(point.id), Bound::Unbounded);
        let mut both = copies.range(..point.id).rev().chain(copies.range(after));
        both.find(|(origin, _)| is_there(**origin)).map(|(origin, copy)| (*origin, copy))
    }

    /// Looks at what has changed in the chain that `point` has here.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn look_again(&mut self, point: &RestorePoint) -> Result<()> {
        let name = self.shared.keys.chain(&point.instance);
        let (places, buried) = self.shared.places(Some(name)).await?;
        let chain = self.chains.entry(name).or_default();
        for (_, id) in &buried {
            chain.bury(&self.shared.keys, *id);
        }
        chain.copies.retain(|_, copy| !buried.contains(&(name, copy.id)));
        for place in places {
            if buried.contains(&place) || !chain.seen.insert(place.1) {
                continue;
            }
            match self.shared.read_point(place.0, place.1).await {
                Ok(Some(read)) => chain.add(self.of, &read),
                Ok(None) => {}
                // No copy that could be used: another one is made.
                Err(error) if error.kind() == ErrorKind::Damaged => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Notes a copy that was made just now.
    pub fn add(&mut self, copy: &RestorePoint) {
        self.chains.entry(copy.chain).or_default().add(self.of, copy);
    }

    /// The id for a copy of `point`.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new_id(&self, point: &RestorePoint) -> Result<NewId> {
        let tag = self.tag(point);
        let Some(chain) = self.chain(point) else { return Ok(NewId::Last(tag)) };
        let (before, Some(after)) = chain.around(point.id) else { return Ok(NewId::Last(tag)) };
        let taken = |id: PointId| chain.seen.contains(&id);
        let before = before.filter(|before| *before < after);
        Ok(NewId::Between(between(before, after, tag, random()?, taken)))
    }
}

/// An id between two others, with the tag where there is room for it. It differs from one attempt
/// to the next: the id of one that was given up may be taken for ever.
fn between(
    before: Option<PointId>,
    after: PointId,
    tag: [u8; 10],
    random: [u8; 16],
    taken: impl Fn(PointId) -> bool,
) -> PointId {
    let number = u128::from_be_bytes(random);
    let last = after.ms().min(LAST_MS);
    let first = before.map_or(last.saturating_sub(DAY_MS), |before| before.ms());
    let room = last.saturating_sub(first);
    let mut tagged = Vec::with_capacity(3);
    if room > 1 {
        let ms = first + 1 + (number % u128::from(room - 1)) as u64;
        tagged.push(PointId::new(ms, tag));
    }
    tagged.extend([PointId::new(first, tag), PointId::new(last, tag)]);
    let fits = |id: &PointId| before.is_none_or(|before| before < *id) && *id < after;
    if let Some(id) = tagged.into_iter().find(|id| fits(id) && !taken(*id)) {
        return id;
    }
    let (low, high) = (before.map_or(0, as_number), as_number(after));
    let room = high.saturating_sub(low).saturating_sub(1).max(1);
    PointId(low.saturating_add(1 + number % room).to_be_bytes())
}

fn as_number(id: PointId) -> u128 {
    u128::from_be_bytes(id.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::MasterKey;
    use crate::format::manifest::{BackupStats, Origin};
    use crate::format::protection::Protection;

    fn id(ms: u64, rest: u8) -> PointId {
        PointId::new(ms, [rest; 10])
    }

    fn made_of(repository: RepositoryId, point: PointId, id: PointId) -> RestorePoint {
        RestorePoint {
            id,
            chain: ChainId([1; 16]),
            instance: "vm".into(),
            created_ms: 1,
            parent: None,
            retain_until_ms: None,
            hold: false,
            protection: Protection::default(),
            images: Vec::new(),
            metadata: None,
            stats: BackupStats::default(),
            tool: String::new(),
            host: String::new(),
            consistency: String::new(),
            method: String::new(),
            origin: Some(Origin { repository, point }),
        }
    }

    #[test]
    fn an_id_lies_between_its_neighbours_and_has_the_tag_where_there_is_room() {
        let (tag, free) = ([7; 10], |_| false);
        for random in [[0; 16], [0x5a; 16], [0xff; 16]] {
            for (before, after) in [(id(10, 9), id(12, 1)), (id(10, 0), id(1 << 40, 0))] {
                let new = between(Some(before), after, tag, random, free);
                assert!(before < new && new < after, "{before} {new} {after}");
                assert_eq!(tag_of(new), tag);
                assert!(before.ms() < new.ms() && new.ms() < after.ms());
            }
            // Nothing lies before it.
            for after in [id(3, 1), id(0, 8), id(1 << 40, 1)] {
                let new = between(None, after, tag, random, free);
                assert!(new < after && tag_of(new) == tag, "{new} {after}");
            }
            // Within one millisecond, or next to it.
            for (before, after) in
                [(id(5, 1), id(5, 9)), (id(5, 1), id(6, 1)), (id(5, 9), id(6, 9))]
            {
                let new = between(Some(before), after, tag, random, free);
                assert!(before < new && new < after && tag_of(new) == tag, "{new}");
                let other = between(Some(before), after, tag, random, |id| id == new);
                assert!(before < other && other < after && other != new, "{other}");
            }
            // Where the tag does not fit, the order is kept.
            for (before, after) in [(id(5, 9), id(6, 1)), (id(5, 8), id(5, 9))] {
                let new = between(Some(before), after, tag, random, free);
                assert!(before < new && new < after, "{before} {new} {after}");
            }
        }
    }

    #[test]
    fn tombstones_tell_what_was_removed_here() {
        let keys = KeyRing::new(&MasterKey::generate().unwrap());
        let of = RepositoryId([2; 16]);
        let tag = |point| keys.copy_tag(of, point);
        assert!(keys.is_copy(PointId::new(7, tag(id(1, 1)))));
        assert!(!keys.is_copy(id(7, 1)));
        assert_ne!(tag(id(1, 1)), tag(id(1, 2)));
        let mut chain = Chain::default();
        let mut copy = |point: PointId, ms| {
            chain.add(of, &made_of(of, point, PointId::new(ms, tag(point))));
        };
        copy(id(1, 1), 1000);
        copy(id(5, 1), 5000);
        assert_eq!(chain.around(id(3, 1)).0.map(|id| id.ms()), Some(1000));
        let removed = |chain: &Chain, point| chain.was_removed(point, tag(point));
        assert!(!removed(&chain, id(3, 1)));
        // Its own, and nobody else's.
        chain.bury(&keys, PointId::new(2000, tag(id(3, 1))));
        assert!(removed(&chain, id(3, 1)));
        assert!(!removed(&chain, id(2, 1)) && !removed(&chain, id(4, 1)));
        // One without a tag stands for all that would have its place there.
        chain.bury(&keys, id(4000, 1));
        assert!(removed(&chain, id(2, 1)) && removed(&chain, id(4, 1)));
        assert!(!removed(&chain, id(0, 1)) && !removed(&chain, id(6, 1)));
        // What is newer than all copies is wanted, whatever lies there.
        chain.bury(&keys, id(9000, 1));
        assert!(!removed(&chain, id(6, 1)));
    }
}
