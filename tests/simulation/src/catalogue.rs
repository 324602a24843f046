//! The worlds.

use crate::world::{Backup, Point, Sight, Work, World};

/// One backup beside one collector that deletes one pack and moves another.
///
/// Pack 0 is half live through point 0; pack 1 is dead, as point 1 is tombstoned.
pub const FIRST: World = World {
    name: "one of each",
    packs: 0b0011,
    points: &[
        Point { chain: 0, refers: 0b0001, tombstoned: false },
        Point { chain: 1, refers: 0b0100, tombstoned: true },
    ],
    backups: &[Backup {
        chain: 0,
        inherits: 0b0001,
        work: &[Work::Dedup(1), Work::Pack(2), Work::Dedup(2)],
        after: None,
    }],
    prunable: 0b001,
    split_c2: true,
    split_c6: true,
    sights: &[Sight::Deleted, Sight::Moved, Sight::Rescued, Sight::Fenced, Sight::Needed],
    ..World::EMPTY
};

/// All worlds that are checked with every change.
pub const SMALL: &[World] = &[FIRST];
