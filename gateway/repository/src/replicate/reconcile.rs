//! Whether a pack that both sides have is good enough as it is at the target.
//!
//! A pack of generation 0 is complete. A later generation was compacted by what was alive on its
//! side; when both were, neither may have all that the other has. The footers, which need no key,
//! tell whether one has all slots. Beyond that the tables tell, which need it.

use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::{ByteRange, Destination, Key};

use super::listing::{Found, PackName, with_generation};
use super::{check, merge};
use crate::crypto::random;
use crate::error::Result;
use crate::format::id::{RepositoryId, next_generation};
use crate::format::pack::{FOOTER_LEN, Footer, MAX_PACK, MAX_TAIL, SlotEntry, open_table};
use crate::repository::Shared;

/// What to do about a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The target has it.
    Keep,
    /// Put the source's bytes under this key.
    Copy(Key),
    /// Put what both have under this key.
    Merge(Key),
    /// The target's bytes are damaged: put the source's in their place.
    Repair,
    /// It cannot be had, and why.
    Bad(&'static str),
}

/// Both sides of a pack.
pub(crate) struct Sides<'s> {
    pub(crate) source: &'s Arc<dyn Destination>,
    pub(crate) target: &'s Arc<dyn Destination>,
    pub(crate) repository: RepositoryId,
    /// The opened repository, where there is one.
    pub(crate) shared: Option<&'s Arc<Shared>>,
}

impl Sides<'_> {
    /// What to do about a pack both sides have.
    pub(crate) async fn judge(
        &self,
        name: PackName,
        here: &Found,
        there: &Found,
    ) -> Result<Verdict> {
        if there.generation == 0 {
            let same = here.generation > 0 || here.size == there.size;
            if same || self.is_sound(name, there).await? {
                return Ok(Verdict::Keep);
            }
            return Ok(Verdict::Repair);
        }
        let Some(after) = next_generation(there.generation) else {
            return Ok(Verdict::Bad("it cannot have a later generation at the target"));
        };
        let next = with_generation(&here.key, here.generation.max(after))?;
        let (theirs, ours) = (footer(self.target, there).await?, footer(self.source, here).await?);
        match (theirs, ours) {
            (Some(theirs), _) if theirs.live == theirs.slots => Ok(Verdict::Keep),
            (Some(theirs), Some(ours)) if theirs.hash == ours.hash => Ok(Verdict::Keep),
            // Complete, so it holds whatever the target's holds; the newest generation wins.
            (_, Some(ours)) if ours.live == ours.slots => match self.shared {
                Some(shared) if table(shared, self.source, name, here).await?.is_none() => {
                    Ok(Verdict::Bad("its table is damaged"))
                }
                _ => Ok(Verdict::Copy(next)),
            },
            (None, _) => Ok(Verdict::Bad("it is damaged at the target, and compacted here")),
            (Some(_), None) => Ok(Verdict::Bad("its footer is damaged")),
            (Some(_), Some(_)) => self.compare(name, here, there, next).await,
        }
    }

    /// Compares the tables of two compacted generations.
    async fn compare(
        &self,
        name: PackName,
        here: &Found,
        there: &Found,
        next: Key,
    ) -> Result<Verdict> {
        let Some(shared) = self.shared else {
            return Ok(Verdict::Bad(
                "both sides have compacted it, and what each lacks can only be told with the key",
            ));
        };
        let ours = table(shared, self.source, name, here).await?;
        let theirs = table(shared, self.target, name, there).await?;
        Ok(match (ours, theirs) {
            (Some(ours), Some(theirs)) if merge::covers(&theirs, &ours) => Verdict::Keep,
            (Some(ours), Some(theirs)) if merge::covers(&ours, &theirs) => Verdict::Copy(next),
            (Some(_), Some(_)) => Verdict::Merge(next),
            (None, _) => Verdict::Bad("its table is damaged"),
            (_, None) => Verdict::Bad("its table is damaged at the target"),
        })
    }

    async fn is_sound(&self, name: PackName, found: &Found) -> Result<bool> {
        if found.size >= MAX_PACK as u64 {
            return Ok(false);
        }
        let bytes = self.target.get(&found.key, ByteRange::Full).await?;
        Ok(sound(bytes, self.repository, name).await?.is_ok())
    }
}

/// Checks a pack's bytes on a thread of its own: hashing takes milliseconds.
pub(crate) async fn sound(
    bytes: Bytes,
    repository: RepositoryId,
    name: PackName,
) -> Result<std::result::Result<Bytes, String>> {
    let check = move || match check::pack(&bytes, repository, name) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    };
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|error| crate::repository::local("checking a pack was interrupted", error))
}

/// A pack with the slots of both generations.
pub(crate) async fn merged(
    shared: &Arc<Shared>,
    name: PackName,
    here: Bytes,
    there: Bytes,
) -> Result<std::result::Result<Bytes, String>> {
    let (shared, nonce) = (shared.clone(), random()?);
    let merge = move || {
        let (keys, id) = (&shared.keys, shared.id);
        check::pack(&there, id, name)
            .and_then(|_| merge::merge(keys, id, name, (&here, &there), nonce))
            .map(Bytes::from)
            .map_err(|error| error.to_string())
    };
    tokio::task::spawn_blocking(merge)
        .await
        .map_err(|error| crate::repository::local("merging a pack was interrupted", error))
}

/// The footer of a pack; nothing when it is damaged.
async fn footer(side: &Arc<dyn Destination>, found: &Found) -> Result<Option<Footer>> {
    let tail = side.get(&found.key, ByteRange::Suffix(FOOTER_LEN as u64)).await?;
    Ok(Footer::decode(&tail).ok().filter(|footer| footer.pack_len() == found.size))
}

/// The table of a pack; nothing when it is damaged.
async fn table(
    shared: &Arc<Shared>,
    side: &Arc<dyn Destination>,
    name: PackName,
    found: &Found,
) -> Result<Option<Vec<SlotEntry>>> {
    let tail = side.get(&found.key, ByteRange::Suffix(MAX_TAIL as u64)).await?;
    let opened = open_table(&shared.keys, shared.id, name.0, name.1, &tail);
    Ok(opened.ok().map(|(_, table)| table))
}

#[cfg(test)]
mod tests {
    use sluice_destination::list_all;
    use sluice_destination::memory::MemoryDestination;

    use super::*;
    use crate::clock::Clock;
    use crate::format::header::Kind;
    use crate::format::id::{ChainId, PackId, PackKind, PointId, SessionId, commit_key, pack_key};
    use crate::format::pack::{Codec, PackBuilder};
    use crate::replicate::merge::{assemble, slots};
    use crate::replicate::{Means, Options, Report, Source, plan};
    use crate::repository::{InitOptions, Repository, Settings, Unlock};

    const NAME: PackName = (PackKind::Data, PackId([3; 16]));

    struct Lab {
        shared: Arc<Shared>,
        whole: Bytes,
        source: Arc<dyn Destination>,
        target: Arc<dyn Destination>,
    }

    async fn lab() -> Lab {
        let place: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
        let kdf = crate::KdfCost { memory_kib: 64, passes: 1, lanes: 1 };
        let options = InitOptions { unlock: Unlock::Open, recovery: false, kdf, lock: None };
        let made = Repository::init(place.clone(), Clock::system(), options, Settings::default());
        let shared = made.await.unwrap().0.shared;
        assert_eq!(NAME.1.session(), SessionId([3; 12]));
        let mut builder = PackBuilder::new(&shared.keys, shared.id, NAME.0, NAME.1);
        for slot in 0..6u8 {
            builder.push([slot; 32], Codec::Raw, 100, &[slot; 100]);
        }
        let whole = builder.finish(&shared.keys, [1; 12]).0;
        Lab { shared, whole, source: place, target: Arc::new(MemoryDestination::new()) }
    }

    impl Lab {
        /// The pack with these slots only, as a compaction leaves it.
        fn compacted(&self, live: &[usize]) -> Bytes {
            let (keys, id) = (&self.shared.keys, self.shared.id);
            let mut slots = slots(keys, id, NAME, &self.whole).unwrap();
            for (number, slot) in slots.iter_mut().enumerate() {
                *slot = slot.take().filter(|_| live.contains(&number));
            }
            let header = self.whole[..64].try_into().unwrap();
            assemble(keys, header, NAME, &slots, 0, [live.len() as u8 + 7; 12]).into()
        }

        fn live(&self, pack: &Bytes) -> Vec<usize> {
            check::pack(pack, self.shared.id, NAME).unwrap();
            let slots = slots(&self.shared.keys, self.shared.id, NAME, pack).unwrap();
            let live = slots.iter().enumerate().filter(|(_, slot)| slot.is_some());
            live.map(|(number, _)| number).collect()
        }

        /// Replicates, with a record that is new: only then more than names is compared.
        async fn replicate(&self, with_key: bool) -> Report {
            let (chain, point) = (ChainId([4; 16]), PointId(random().unwrap()));
            let abort = self.shared.seal_record(Kind::Abort, point.0, &[], &[]).unwrap();
            self.source.put(&commit_key(chain, point), abort).await.unwrap();
            let key = with_key.then(|| Repository { shared: self.shared.clone() });
            let source = Source { destination: self.source.clone(), key };
            let (clock, progress) = (Clock::system(), Arc::default());
            let means = Means { clock, throttle: None, progress };
            let (target, options) = (self.target.clone(), Options::default());
            plan(source, target, options, &means).await.unwrap().run(means).await.unwrap()
        }

        /// The packs at the target, with their live slots.
        async fn at_target(&self) -> Vec<(Key, Vec<usize>)> {
            let mut packs = Vec::new();
            for object in list_all(&*self.target, "d/").await.unwrap() {
                let bytes = self.target.get(&object.key, ByteRange::Full).await.unwrap();
                packs.push((object.key, self.live(&bytes)));
            }
            packs
        }

        async fn judge(
            &self,
            (here, generation): (&Bytes, u32),
            (there, at): (&Bytes, u32),
            with_key: bool,
        ) -> Verdict {
            let put = async |side: &Arc<dyn Destination>, bytes: &Bytes, generation| {
                let key = with_generation(&pack_key(NAME.0, NAME.1), generation).unwrap();
                side.put(&key, bytes.clone()).await.unwrap();
                Found { generation, key, size: bytes.len() as u64 }
            };
            let here = put(&self.source, here, generation).await;
            let there = put(&self.target, there, at).await;
            let sides = Sides {
                source: &self.source,
                target: &self.target,
                repository: self.shared.id,
                shared: with_key.then_some(&self.shared),
            };
            sides.judge(NAME, &here, &there).await.unwrap()
        }
    }

    fn key(generation: u32) -> Key {
        with_generation(&pack_key(NAME.0, NAME.1), generation).unwrap()
    }

    #[tokio::test]
    async fn what_the_target_has_is_kept_when_it_is_enough() {
        let lab = lab().await;
        let (whole, some) = (&lab.whole, &lab.compacted(&[1, 4]));
        assert_eq!(lab.judge((whole, 0), (whole, 0), false).await, Verdict::Keep);
        assert_eq!(lab.judge((some, 2), (whole, 0), false).await, Verdict::Keep);
        assert_eq!(lab.judge((some, 1), (some, 1), false).await, Verdict::Keep);
        assert_eq!(lab.judge((some, 1), (whole, 3), false).await, Verdict::Keep);
        let fewer = &lab.compacted(&[4]);
        assert_eq!(lab.judge((fewer, 1), (some, 1), true).await, Verdict::Keep);
    }

    #[tokio::test]
    async fn what_the_target_lacks_comes_as_its_next_generation() {
        let lab = lab().await;
        let (whole, some) = (&lab.whole, &lab.compacted(&[1, 4]));
        assert_eq!(lab.judge((whole, 0), (some, 1), false).await, Verdict::Copy(key(2)));
        assert_eq!(lab.judge((whole, 5), (some, 1), false).await, Verdict::Copy(key(5)));
        let (more, other) = (&lab.compacted(&[1, 2, 4]), &lab.compacted(&[0, 4]));
        assert_eq!(lab.judge((more, 1), (some, 1), true).await, Verdict::Copy(key(2)));
        assert_eq!(lab.judge((other, 1), (some, 3), true).await, Verdict::Merge(key(4)));
        let without = lab.judge((other, 1), (some, 3), false).await;
        assert!(matches!(without, Verdict::Bad(_)), "{without:?}");
        let both = merged(&lab.shared, NAME, other.clone(), some.clone()).await.unwrap().unwrap();
        assert_eq!(lab.live(&both), [0, 1, 4]);
        // Sealed bytes are the same at the same numbers.
        let at = |pack: &Bytes, number: usize| {
            let slots = slots(&lab.shared.keys, lab.shared.id, NAME, pack).unwrap();
            slots[number].map(|(entry, stored)| (entry.id, entry.plain_len, stored.to_vec()))
        };
        for number in [0, 1, 4] {
            assert_eq!(at(&both, number), at(whole, number));
        }
    }

    #[tokio::test]
    async fn a_run_brings_what_the_target_lacks_and_loses_nothing_it_has() {
        let lab = lab().await;
        lab.source.put(&key(1), lab.compacted(&[1, 2])).await.unwrap();
        assert_eq!(lab.replicate(false).await.packs, 1);
        assert_eq!(lab.at_target().await, [(key(1), vec![1, 2])]);
        // Each side goes its own way.
        lab.target.put(&key(1), lab.compacted(&[1, 4])).await.unwrap();
        let blind = lab.replicate(false).await;
        assert_eq!((blind.packs, blind.damage.len()), (0, 1));
        assert_eq!(lab.replicate(true).await.packs, 1);
        assert_eq!(lab.at_target().await, [(key(2), vec![1, 2, 4])]);
        assert_eq!(lab.replicate(true).await.packs, 0);
        lab.target.put(&key(3), lab.compacted(&[5])).await.unwrap();
        lab.target.delete(&key(2)).await.unwrap();
        lab.source.put(&key(0), lab.whole.clone()).await.unwrap();
        lab.source.delete(&key(1)).await.unwrap();
        assert_eq!(lab.replicate(false).await.packs, 1);
        // What it has less of stays for a collection, which compares both with the key.
        assert_eq!(lab.at_target().await, [(key(3), vec![5]), (key(4), vec![0, 1, 2, 3, 4, 5])]);
    }

    #[tokio::test]
    async fn damage_at_the_target_is_seen_by_its_length() {
        let lab = lab().await;
        let whole = &lab.whole;
        let cut = whole.slice(..whole.len() - 10);
        assert_eq!(lab.judge((whole, 0), (&cut, 0), false).await, Verdict::Repair);
        assert_eq!(lab.judge((&cut, 0), (whole, 0), false).await, Verdict::Keep);
        let some = lab.compacted(&[1, 4]);
        let cut = some.slice(..some.len() - 10);
        assert_eq!(lab.judge((whole, 0), (&cut, 1), false).await, Verdict::Copy(key(2)));
        for (here, there) in [(&some, &cut), (&cut, &some)] {
            let verdict = lab.judge((here, 1), (there, 1), true).await;
            assert!(matches!(verdict, Verdict::Bad(_)), "{verdict:?}");
        }
    }
}
