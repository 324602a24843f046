//! The worlds.

use crate::rules::Rule;
use crate::world::{Backup, Lag, Point, Sight, Work, World};

/// Pack 0 is half live.
const HALF: Point = Point { chain: 0, refers: 0b0001, tombstoned: false };
/// Pack 1 was used by a point that is no more.
const GONE: Point = Point { chain: 1, refers: 0b0100, tombstoned: true };

/// One backup beside one collector that deletes one pack and moves another.
pub const FIRST: World = World {
    name: "one of each",
    packs: 0b0011,
    points: &[HALF, GONE],
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

/// The same with two collectors, each of which may sleep anywhere.
pub const TWO_COLLECTORS: World = World {
    name: "two collectors",
    collectors: 2,
    sights: &[Sight::Deleted, Sight::Moved, Sight::Rescued, Sight::Fenced, Sight::Zombie],
    ..FIRST
};

/// One backup goes on from another one's point, which is pruned at once.
pub const SUCCESSOR: World = World {
    name: "successor",
    packs: 0b0010,
    points: &[GONE],
    backups: &[
        Backup { chain: 0, inherits: 0, work: &[Work::Dedup(2)], after: None },
        Backup { chain: 0, inherits: 0b0100, work: &[], after: None },
    ],
    prunable: 0b010,
    split_c2: true,
    split_c6: true,
    sights: &[Sight::Deleted, Sight::Rescued, Sight::Needed],
    ..World::EMPTY
};

/// A collector sleeps over the end of its generation; others begin after that.
pub const ZOMBIE: World = World {
    name: "zombie",
    packs: 0b0010,
    points: &[GONE],
    backups: &[
        Backup { chain: 0, inherits: 0, work: &[Work::Dedup(2)], after: None },
        Backup { chain: 1, inherits: 0, work: &[Work::Dedup(2)], after: Some(0) },
    ],
    collectors: 2,
    prunable: 0b010,
    split_c6: true,
    sights: &[Sight::Deleted, Sight::Rescued, Sight::Zombie],
    ..World::EMPTY
};

/// Two generations, two collectors, one backup that lasts.
pub const GENERATIONS: World = World { name: "two generations", generations: 2, ..TWO_COLLECTORS };

/// A mount that pins a point while it is pruned.
pub const MOUNT: World = World {
    name: "mount",
    packs: 0b0011,
    points: &[HALF, GONE],
    prunable: 0b001,
    mounts: Some(0),
    collectors: 2,
    generations: 2,
    split_c2: true,
    split_c6: true,
    sights: &[Sight::Deleted, Sight::Moved, Sight::PinnedTombstoned],
    ..World::EMPTY
};

/// A mount that pins a point which a backup just committed.
pub const MOUNT_OF_NEW: World = World {
    name: "mount of a new point",
    packs: 0b0010,
    points: &[GONE],
    backups: &[Backup { chain: 0, inherits: 0, work: &[Work::Dedup(2)], after: None }],
    prunable: 0b010,
    mounts: Some(1),
    split_c2: true,
    split_c6: true,
    sights: &[Sight::Deleted, Sight::Rescued, Sight::PinnedTombstoned],
    ..World::EMPTY
};

/// A session that died, and the next one that goes on with its packs.
pub const RESUME: World = World {
    name: "resume",
    packs: 0b0010,
    points: &[GONE],
    backups: &[
        Backup { chain: 0, inherits: 0, work: &[Work::Pack(2), Work::Dedup(2)], after: None },
        Backup { chain: 0, inherits: 0, work: &[Work::Dedup(4), Work::Dedup(2)], after: Some(0) },
    ],
    generations: 2,
    prunable: 0b010,
    mortal: 0b01,
    sights: &[Sight::Deleted, Sight::Rescued, Sight::Needed],
    ..World::EMPTY
};

/// Commit records that arrive late.
pub const LATE_RECORDS: World = World {
    name: "late records",
    packs: 0b0010,
    points: &[GONE],
    backups: &[Backup { chain: 0, inherits: 0, work: &[Work::Dedup(2)], after: None }],
    generations: 2,
    prunable: 0b010,
    mortal: 0b1,
    lags: &[Lag::Records],
    budget: 2,
    sights: &[Sight::Deleted, Sight::Rescued, Sight::Fenced],
    ..World::EMPTY
};

/// Session records that arrive late, over newer ones.
pub const LATE_SESSIONS: World = World {
    name: "late sessions",
    packs: 0b0011,
    points: &[GONE, HALF],
    backups: &[Backup { chain: 0, inherits: 0, work: &[Work::Dedup(2)], after: None }],
    generations: 2,
    split_c6: true,
    lags: &[Lag::Sessions],
    budget: 2,
    sights: &[Sight::Deleted, Sight::Rescued],
    ..World::EMPTY
};

/// Packs that arrive late, when they were deleted already, and deletions that do.
pub const LATE_PACKS: World = World {
    name: "late packs",
    packs: 0b0010,
    points: &[GONE],
    backups: &[
        Backup { chain: 0, inherits: 0, work: &[Work::Pack(2)], after: None },
        Backup { chain: 1, inherits: 0, work: &[Work::Dedup(4)], after: Some(0) },
    ],
    generations: 2,
    prunable: 0b010,
    lags: &[Lag::Packs, Lag::Deletes],
    budget: 2,
    sights: &[Sight::Deleted],
    ..World::EMPTY
};

/// Packs that are moved, and arrive late where they were moved to.
pub const LATE_MOVES: World = World {
    name: "late moves",
    packs: 0b0001,
    points: &[HALF],
    backups: &[Backup { chain: 1, inherits: 0, work: &[Work::Dedup(0)], after: None }],
    generations: 2,
    prunable: 0b001,
    lags: &[Lag::Packs, Lag::Deletes],
    budget: 2,
    sights: &[Sight::Moved],
    ..World::EMPTY
};

/// Condemned lists of older generations are deleted, and a collector wakes up after that.
pub const FORGETFUL: World = World {
    name: "forgetful",
    packs: 0b0010,
    points: &[GONE],
    backups: &[
        Backup { chain: 0, inherits: 0, work: &[Work::Dedup(2)], after: None },
        Backup { chain: 1, inherits: 0, work: &[Work::Dedup(2)], after: Some(0) },
    ],
    collectors: 2,
    generations: 2,
    prunable: 0b010,
    forgets: true,
    sights: &[Sight::Deleted, Sight::Rescued, Sight::Zombie],
    ..World::EMPTY
};

/// Session records that become damaged, and are removed when they are old.
pub const DAMAGED_SESSIONS: World = World {
    name: "damaged sessions",
    packs: 0b0011,
    points: &[GONE, HALF],
    backups: &[Backup { chain: 0, inherits: 0b0001, work: &[Work::Dedup(2)], after: None }],
    prunable: 0b010,
    mortal: 0b1,
    rots: 0b1,
    budget: 2,
    lags: &[Lag::Records, Lag::Sessions],
    split_c6: true,
    sights: &[Sight::Deleted, Sight::Moved, Sight::Rescued, Sight::Mended, Sight::Needed],
    ..World::EMPTY
};

/// Condemned lists that become damaged, and a repair that ends their collection beside collectors
/// that have them in memory.
pub const DAMAGED_LISTS: World = World {
    name: "damaged lists",
    packs: 0b0011,
    points: &[GONE, HALF],
    backups: &[
        Backup { chain: 0, inherits: 0, work: &[Work::Dedup(2)], after: None },
        Backup { chain: 1, inherits: 0, work: &[Work::Dedup(2)], after: None },
    ],
    generations: 2,
    lists_rot: true,
    budget: 1,
    split_c6: true,
    sights: &[Sight::Deleted, Sight::Moved, Sight::Rescued, Sight::Needed, Sight::Zombie],
    ..World::EMPTY
};

/// The same with two collectors: one that sleeps, and one that goes on after the repair.
pub const DAMAGED_LISTS_AND_A_SLEEPER: World = World {
    name: "damaged lists, a sleeper",
    packs: 0b0010,
    points: &[GONE],
    backups: ZOMBIE.backups,
    collectors: 2,
    split_c6: false,
    sights: &[Sight::Deleted, Sight::Rescued, Sight::Needed, Sight::Zombie],
    ..DAMAGED_LISTS
};

/// All worlds that are checked with every change.
pub const SMALL: &[World] = &[
    FIRST,
    TWO_COLLECTORS,
    SUCCESSOR,
    ZOMBIE,
    MOUNT,
    MOUNT_OF_NEW,
    RESUME,
    LATE_RECORDS,
    LATE_SESSIONS,
    DAMAGED_SESSIONS,
    DAMAGED_LISTS,
    DAMAGED_LISTS_AND_A_SLEEPER,
    LATE_PACKS,
    LATE_MOVES,
    FORGETFUL,
    NEIGHBOURS,
    LINE,
    MOUNT_BESIDE_BACKUP,
];

/// Two backups at once: each finds its data in the packs of the other, and in old ones.
pub const NEIGHBOURS: World = World {
    name: "neighbours",
    packs: 0b0011,
    points: &[HALF, GONE],
    backups: &[
        Backup {
            chain: 0,
            inherits: 0b0001,
            work: &[Work::Pack(2), Work::Dedup(1), Work::Dedup(6)],
            after: None,
        },
        Backup { chain: 1, inherits: 0, work: &[Work::Pack(3), Work::Dedup(4)], after: None },
    ],
    prunable: 0b0101,
    sights: &[Sight::Deleted, Sight::Moved, Sight::Rescued, Sight::Fenced, Sight::Needed],
    ..World::EMPTY
};

/// Three collectors over two generations: one runs, one sleeps in each.
pub const THREE_COLLECTORS: World =
    World { name: "three collectors", collectors: 3, generations: 2, ..ZOMBIE };

/// Anything may come late, once.
pub const ALL_LATE: World = World {
    name: "anything late",
    lags: &[Lag::Records, Lag::Sessions, Lag::Packs, Lag::Deletes, Lag::Condemned],
    budget: 1,
    mortal: 0b1,
    forgets: true,
    split_c2: false,
    split_c6: false,
    generations: 2,
    ..TWO_COLLECTORS
};

/// Three sessions in a row, each of which goes on from the one before.
pub const LINE: World = World {
    name: "three in a line",
    packs: 0b0010,
    points: &[GONE],
    backups: &[
        Backup { chain: 0, inherits: 0, work: &[Work::Pack(2), Work::Dedup(2)], after: None },
        Backup { chain: 0, inherits: 0b010100, work: &[Work::Dedup(3)], after: None },
        Backup { chain: 0, inherits: 0b011100, work: &[], after: Some(0) },
    ],
    prunable: 0b0110,
    split_c6: true,
    sights: &[Sight::Deleted, Sight::Rescued, Sight::Needed, Sight::Fenced],
    ..World::EMPTY
};

/// A mount beside a backup that goes on from the mounted point, and two collectors.
pub const MOUNT_BESIDE_BACKUP: World = World {
    name: "mount beside a backup",
    packs: 0b0011,
    points: &[HALF, GONE],
    backups: &[Backup { chain: 0, inherits: 0b0001, work: &[Work::Dedup(2)], after: None }],
    prunable: 0b101,
    mounts: Some(2),
    collectors: 2,
    split_c6: true,
    sights: &[Sight::Deleted, Sight::Moved, Sight::Rescued, Sight::PinnedTombstoned],
    ..World::EMPTY
};

/// A successor to a dead session whose last requests are still under way, and two collectors.
pub const LATE_RESUME: World = World {
    name: "late resume",
    collectors: 2,
    lags: &[Lag::Records, Lag::Packs],
    budget: 1,
    ..RESUME
};

/// Worlds that take longer.
pub const DEEP: &[World] = &[GENERATIONS, THREE_COLLECTORS, ALL_LATE, LATE_RESUME];

/// For each rule a world in which something goes wrong without it.
pub const NEEDED: &[(Rule, World)] = &[
    (Rule::RecheckParent, FIRST),
    (Rule::ReadCollectionsLate, FIRST),
    (Rule::AvoidCondemned, FIRST),
    (Rule::AvoidTainted, ZOMBIE),
    (Rule::ConfirmSlot, FIRST),
    (Rule::RecordNeeds, FIRST),
    (Rule::SeenMeansRead, FIRST),
    (Rule::OwnRecord, DAMAGED_SESSIONS),
    (Rule::MendTheOld, DAMAGED_SESSIONS),
    (Rule::NeedTainted, DAMAGED_LISTS),
    (Rule::TaintAll, DAMAGED_LISTS),
    (Rule::KnowOutcome, LATE_RECORDS),
    (Rule::PacksFirst, FIRST),
    (Rule::SessionsBeforeCommits, FIRST),
    (Rule::TombstonesBeforeSessions, SUCCESSOR),
    (Rule::TombstonesBeforePins, MOUNT_OF_NEW),
    (Rule::SpareOpenSessions, FIRST),
    (Rule::AdoptCondemned, ZOMBIE),
    (Rule::StillUnfinished, FORGETFUL),
    (Rule::Quiesce, FIRST),
    (Rule::FenceFirst, FIRST),
    (Rule::FenceTheDead, LATE_RECORDS),
    (Rule::Remark, FIRST),
    (Rule::RecheckSeen, LATE_SESSIONS),
    (Rule::RescueNeeds, FIRST),
    (Rule::ParentsAreRoots, FIRST),
    (Rule::PinsAreRoots, MOUNT),
    (Rule::MoveBeforeDelete, FIRST),
    (Rule::KeepTombstones, FIRST),
    (Rule::KeepAborts, FIRST),
    (Rule::TaintRescued, ZOMBIE),
    (Rule::TaintDeleted, LATE_MOVES),
    (Rule::CheckAfterPin, MOUNT),
];

/// Rules without which everything holds all the same.
pub const COMFORT: &[Rule] = &[Rule::ReadBeforeCommit, Rule::KeepFirstRoots];
