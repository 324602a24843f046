//! Healing one pack from the replica's.
//!
//! ```text
//!   here            replica     put here                          removed here
//!   any             complete    generation 0, in its own place    later generations: damaged
//!   missing         compacted   the same generation               -
//!   complete or     compacted   sound slots of both, as the       the damaged one
//!   compacted                   next generation
//!   compacted, and  any         slots of both, as the next        the older one
//!   sound                       generation
//! ```
//!
//! The last is for points that come back: a collection may have dropped here what they need.
//!
//! # Invariants
//!
//! * A slot that is sound here is there afterwards, whatever the replica has dropped.
//! * The damaged object goes only once what replaces it was put and read back.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::{ByteRange, ErrorKind as DestinationKind, Key, list_all};

use crate::crypto::random;
use crate::error::{RepositoryError, Result};
use crate::format::id::{generation_key, generations_prefix, parse_pack_key};
use crate::format::pack::{Footer, MAX_PACK, SlotEntry};
use crate::format::{Parsed, take};
use crate::moved::PackNow;
use crate::replicate::merge::{assemble, slots};
use crate::repository::Shared;
use crate::verify::{Memory, PackFlaws, PackName};

/// What became of a pack.
pub(super) enum Brought {
    Healed,
    /// It was sound, and has what the replica has besides now.
    Completed,
    NotDamaged,
    No(String),
}

impl Brought {
    fn no(why: &str) -> Result<Self> {
        Ok(Self::No(why.to_owned()))
    }
}

/// How to bring packs.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// Something is needed that a sound pack may lack.
    pub(super) lacking: bool,
    pub(super) dry_run: bool,
}

/// All slots that a pack has.
fn all(table: &[SlotEntry]) -> Vec<u16> {
    let live = |slot: &u16| table[usize::from(*slot)].stored_len > 0;
    (0..table.len() as u16).filter(live).collect()
}

/// Brings a pack from the replica if it is damaged here.
pub(super) async fn bring_one(
    here: &Arc<Shared>,
    there: &Arc<Shared>,
    (kind, pack): PackName,
    memory: &Memory,
    how: How,
) -> Result<Brought> {
    let flaws = here.check_pack(kind, pack, memory, all).await?;
    let is_sound = flaws.is_sound();
    if is_sound && !how.lacking {
        return Ok(Brought::NotDamaged);
    }
    let Some(theirs) = there.newest_generation(kind, pack).await? else {
        return Brought::no("the replica does not have it");
    };
    let bytes = there.destination.get(&theirs.key, ByteRange::Full).await?;
    let sound = there.check_pack_bytes(kind, pack, bytes.clone(), all).await?;
    if let Some(error) = first_of(&sound) {
        return Ok(Brought::No(format!("the replica's is not sound either: {error}")));
    }
    let ours = here.pack_now(kind, pack).await?;
    if is_sound && ours.as_ref().is_none_or(|ours| ours.generation == 0) {
        return Ok(Brought::NotDamaged);
    }
    let known = list_all(&*here.destination, &generations_prefix(kind, pack)).await?;
    let known: Vec<(u32, Key)> = known
        .into_iter()
        .filter_map(|object| Some((parse_pack_key(&object.key)?.1, object.key)))
        .collect();
    let next = || known.iter().map(|(found, _)| found.saturating_add(1)).max().unwrap_or(0);
    let (generation, bytes) = match &ours {
        _ if theirs.generation == 0 && !is_sound => (0, bytes),
        None => (theirs.generation, bytes),
        Some(ours) => match together(here, (kind, pack), (ours, &flaws), &bytes).await? {
            Ok(both) => (theirs.generation.max(next()), both),
            Err(why) => return Brought::no(why),
        },
    };
    // What is complete has all that others have. Otherwise only what was looked at is replaced:
    // where a collection was killed there may be one more, which has what this one lost.
    let replaced = |found: &u32| match &ours {
        _ if generation == 0 => *found != 0,
        ours => ours.as_ref().is_some_and(|ours| ours.generation == *found),
    };
    if how.dry_run {
        return Ok(Brought::Healed);
    }
    let key = generation_key(kind, pack, generation);
    let lock = match &ours {
        Some(ours) => here.lock_on(&ours.key).await?,
        None => None,
    };
    here.destination.put(&key, bytes.clone()).await?;
    here.lock_like(lock, &key).await?;
    if here.destination.get(&key, ByteRange::Full).await? != bytes {
        return Brought::no("it is not what was put, when it is read back");
    }
    for (_, damaged) in known.iter().filter(|(found, _)| replaced(found)) {
        if let Err(error) = here.destination.delete(damaged).await {
            return Ok(Brought::No(format!("what is damaged cannot be removed: {error}")));
        }
    }
    let again = here.check_pack(kind, pack, memory, all).await?;
    Ok(match first_of(&again) {
        None if is_sound => Brought::Completed,
        None => Brought::Healed,
        Some(error) => Brought::No(format!("some of it the replica does not have: {error}")),
    })
}

/// The sound slots of a pack here and those of the replica's, which was compacted.
async fn together(
    here: &Arc<Shared>,
    name: PackName,
    (ours, flaws): (&PackNow, &PackFlaws),
    theirs: &Bytes,
) -> Result<std::result::Result<Bytes, &'static str>> {
    if flaws.table.is_none() {
        // In a pack that was never compacted, pages tell where slots lie, without its table: what
        // is sound there can still be read.
        return Ok(match ours.generation {
            0 => Err("its table is damaged here, and the replica's was compacted: what that one \
                      dropped would be lost"),
            _ => Ok(theirs.clone()),
        });
    }
    let bytes = match here.destination.get(&ours.key, ByteRange::Full).await {
        Err(error) if error.kind() == DestinationKind::NotFound => return Ok(Ok(theirs.clone())),
        other => other?,
    };
    let flawed: BTreeSet<u16> = flaws.slots.iter().map(|(slot, _)| *slot).collect();
    let (shared, theirs, nonce) = (here.clone(), theirs.clone(), random()?);
    let made = here.pool.run(move || union(&shared, name, (&bytes, &flawed), &theirs, nonce));
    Ok(match made.await? {
        Ok(Some(both)) if both.len() < MAX_PACK => Ok(both.into()),
        Ok(Some(_)) => Err("with what the replica has it would be larger than a pack can be"),
        Ok(None) => Err("the replica's was compacted, without what is damaged here"),
        Err(_) => Err("the replica's is of other slots"),
    })
}

/// The slots of ours but the flawed ones, and otherwise theirs; nothing when theirs do not help.
fn union(
    shared: &Shared,
    name: PackName,
    (ours, flawed): (&[u8], &BTreeSet<u16>),
    theirs: &[u8],
    nonce: [u8; crate::crypto::NONCE_LEN],
) -> Parsed<Option<Vec<u8>>> {
    // What is sound tells under which key slots are sealed, and where the pack comes from.
    let (header, origin) = (take(theirs, 0)?, Footer::decode(theirs)?.origin);
    let ours = slots(&shared.keys, shared.id, name, ours)?;
    let theirs = slots(&shared.keys, shared.id, name, theirs)?;
    if ours.len() != theirs.len() {
        return Err(crate::format::FormatError::Invalid("numbers of slots differ"));
    }
    let helped = flawed.is_empty()
        || flawed.iter().any(|slot| theirs.get(usize::from(*slot)).is_some_and(Option::is_some));
    let both: Vec<_> = ours
        .into_iter()
        .zip(theirs)
        .enumerate()
        .map(|(number, (ours, theirs))| match flawed.contains(&(number as u16)) {
            // What nobody has stays as it is, and is told of.
            true => theirs.or(ours),
            false => ours.or(theirs),
        })
        .collect();
    Ok(helped.then(|| assemble(&shared.keys, header, name, &both, origin, nonce)))
}

fn first_of(flaws: &PackFlaws) -> Option<&RepositoryError> {
    flaws.whole.as_ref().or_else(|| flaws.slots.first().map(|(_, error)| error))
}
