//! What both sides have, by their listings.

use std::collections::{BTreeMap, BTreeSet};

use sluice_destination::{Destination, Key, ObjectMeta, list_all};

use crate::error::Result;
use crate::format::id::{
    ChainId, PackId, PackKind, PointId, commits_prefix, parse_pack_key, parse_point_key,
    segments_prefix, tombstones_prefix,
};

/// Names a pack, whatever its generation.
pub(crate) type PackName = (PackKind, PackId);

/// The newest generation of a pack on one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) generation: u32,
    pub(crate) key: Key,
    pub(crate) size: u64,
}

/// The packs of one side.
pub(crate) type Packs = BTreeMap<PackName, Found>;

/// The commit records and tombstones of one side.
#[derive(Debug, Default)]
pub(crate) struct Points {
    pub(crate) commits: BTreeSet<(ChainId, PointId)>,
    pub(crate) tombstones: BTreeSet<(ChainId, PointId)>,
}

impl Points {
    /// Commit records without a tombstone.
    pub(crate) fn live(&self) -> impl Iterator<Item = &(ChainId, PointId)> {
        self.commits.difference(&self.tombstones)
    }

    pub(crate) fn is_live(&self, place: &(ChainId, PointId)) -> bool {
        self.commits.contains(place) && !self.tombstones.contains(place)
    }
}

/// The key of another generation of the same pack.
pub(crate) fn with_generation(key: &Key, generation: u32) -> Result<Key> {
    let stem = key.as_str().rsplit_once('.').map_or(key.as_str(), |(stem, _)| stem);
    Ok(Key::new(format!("{stem}.{generation}"))?)
}

fn newest(packs: &mut Packs, object: ObjectMeta) {
    let Some((name, generation)) = parse_pack_key(&object.key) else { return };
    let found = Found { generation, key: object.key, size: object.size };
    match packs.get(&name) {
        Some(known) if known.generation >= generation => {}
        _ => drop(packs.insert(name, found)),
    }
}

/// All packs of a side, the newest generation each.
pub(crate) async fn packs(destination: &dyn Destination) -> Result<Packs> {
    let mut packs = Packs::new();
    for prefix in ["d/", "m/"] {
        for object in list_all(destination, prefix).await? {
            newest(&mut packs, object);
        }
    }
    Ok(packs)
}

/// The newest generation of one pack now.
pub(crate) async fn look_again(destination: &dyn Destination, key: &Key) -> Result<Option<Found>> {
    let stem = key.as_str().rsplit_once('.').map_or(key.as_str(), |(stem, _)| stem);
    let mut packs = Packs::new();
    for object in list_all(destination, &format!("{stem}.")).await? {
        newest(&mut packs, object);
    }
    Ok(packs.pop_first().map(|(_, found)| found))
}

/// The commit records and tombstones of a side. Commits come first, so that a point pruned in
/// between counts as pruned.
pub(crate) async fn points(destination: &dyn Destination) -> Result<Points> {
    let commits = places(destination, commits_prefix()).await?;
    Ok(Points { commits, tombstones: tombstones(destination).await? })
}

/// The tombstones of a side.
pub(crate) async fn tombstones(
    destination: &dyn Destination,
) -> Result<BTreeSet<(ChainId, PointId)>> {
    places(destination, tombstones_prefix()).await
}

async fn places(
    destination: &dyn Destination,
    below: String,
) -> Result<BTreeSet<(ChainId, PointId)>> {
    let objects = list_all(destination, &below).await?;
    Ok(objects.iter().filter_map(|object| parse_point_key(&object.key)).collect())
}

/// The index segments of a side.
pub(crate) async fn segments(destination: &dyn Destination) -> Result<BTreeMap<Key, u64>> {
    let objects = list_all(destination, &segments_prefix()).await?;
    Ok(objects.into_iter().map(|object| (object.key, object.size)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::{SessionId, pack_key};

    #[test]
    fn the_newest_generation_of_a_pack_counts() {
        let pack = PackId::new(SessionId([7; 12]), 3);
        let key = pack_key(PackKind::Meta, pack);
        assert_eq!(parse_pack_key(&key), Some(((PackKind::Meta, pack), 0)));
        let mut packs = Packs::new();
        for generation in [2, 10, 0] {
            let key = with_generation(&key, generation).unwrap();
            let size = u64::from(generation);
            newest(&mut packs, ObjectMeta { key, size, modified: None });
        }
        assert_eq!(packs[&(PackKind::Meta, pack)].generation, 10);
        assert_eq!(packs[&(PackKind::Meta, pack)].size, 10);
        for odd in ["format", "d/00/x.0", "d/00/", "m/aa", "r/default/a/b"] {
            if let Ok(key) = Key::new(odd) {
                assert_eq!(parse_pack_key(&key), None, "{odd}");
            }
        }
    }
}
