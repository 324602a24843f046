//! What lies in the store, and a state of the whole world.

use crate::collector::Collector;
use crate::mount::Mount;
use crate::writer::Writer;

/// Packs in a world, at most.
pub const PACKS: usize = 4;
/// Slots in a pack.
pub const SLOTS: usize = 2;
/// Names a pack can have: `<pid>.0` and what it is moved to.
pub const MOVES: usize = 3;
/// Points in a world, at most: those of the beginning first, then one for each writer.
pub const POINTS: usize = 5;
/// Writers in a world, at most.
pub const WRITERS: usize = 3;
/// Collectors in a world, at most.
pub const COLLECTORS: usize = 3;
/// Generations of collection in a world, at most. They are counted from 1.
pub const GENERATIONS: usize = 3;
/// Requests under way without a sender that waits for them, at most.
pub const LATE: usize = 2;

/// Marks a pack that exists, beside the bits of its slots.
const EXISTS: u8 = 1 << SLOTS;

/// A set of small numbers.
pub type Bits = u8;
/// A set of (pid, slot), bit `pid * SLOTS + slot`.
pub type Slots = u8;
/// A set of (pid, gen), bit `pid * MOVES + gen`.
pub type Names = u16;

/// The members of a set, lowest first.
pub fn members(set: u16) -> impl Iterator<Item = usize> {
    (0..u16::BITS as usize).filter(move |n| set & (1 << n) != 0)
}

/// The slots of a pack.
#[must_use]
pub const fn slots_of(pid: usize) -> Slots {
    ((1 << SLOTS) - 1) << (pid * SLOTS)
}

/// The packs that these slots lie in.
#[must_use]
pub fn pids_of(slots: Slots) -> Bits {
    (0..PACKS).filter(|pid| slots & slots_of(*pid) != 0).map(|pid| 1 << pid).sum()
}

/// The packs that these names belong to.
#[must_use]
pub fn pids_of_names(names: Names) -> Bits {
    members(names).fold(0, |pids, name| pids | 1 << (name / MOVES))
}

/// What lies at `r/<chain>/<point>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Record {
    /// Nothing.
    #[default]
    Absent,
    /// The point exists.
    Commit,
    /// The session that was to commit it is fenced.
    Abort,
}

/// What lies at `s/<session>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session {
    /// The parent point, if any.
    pub parent: Option<u8>,
    /// The newest condemned list that was read.
    pub seen_gen: u8,
    /// Packs that are used although condemned.
    pub needs: Bits,
}

/// What lies at `g/<n>/condemned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Condemned {
    /// Packs without a live slot.
    pub dead: Names,
    /// Packs with few live slots.
    pub compact: Names,
}

impl Condemned {
    /// Both kinds.
    #[must_use]
    pub const fn all(self) -> Names {
        self.dead | self.compact
    }
}

/// The objects `g/<n>/...`. The plan says nothing and decides nothing, so it is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Generation {
    /// `condemned`.
    pub condemned: Option<Condemned>,
    /// `done`: the packs that are tainted.
    pub done: Option<Names>,
}

/// All objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Store {
    /// The table of each pack, by name.
    packs: [u8; PACKS * MOVES],
    /// `r/`, by point.
    pub r: [Record; POINTS],
    /// `t/`: the points that have a tombstone.
    pub t: Bits,
    /// `s/`, by writer.
    pub s: [Option<Session>; WRITERS],
    /// The records at `s/` that cannot be read.
    pub damaged: Bits,
    /// `p/`: the mount's pin is there.
    pub p: bool,
    /// `g/`, by generation; 0 is not used.
    pub g: [Generation; GENERATIONS + 1],
    /// The generations whose condemned list cannot be read.
    pub rotten: Bits,
}

impl Store {
    /// The slots at a name; `None` if there is no such object.
    #[must_use]
    pub fn table(&self, name: usize) -> Option<Slots> {
        let pack = self.packs[name];
        (pack & EXISTS != 0).then(|| (pack & !EXISTS) << (name / MOVES * SLOTS))
    }

    /// PUT-IF-ABSENT of a pack.
    pub fn put_pack(&mut self, name: usize, slots: Slots) {
        if self.packs[name] == 0 {
            let pid = name / MOVES;
            self.packs[name] = EXISTS | ((slots & slots_of(pid)) >> (pid * SLOTS));
        }
    }

    /// DELETE of a pack.
    pub fn delete_pack(&mut self, name: usize) {
        self.packs[name] = 0;
    }

    /// LIST of `d/` and `m/`.
    #[must_use]
    pub fn names(&self) -> Names {
        (0..PACKS * MOVES).filter(|n| self.packs[*n] != 0).map(|n| 1 << n).sum()
    }

    /// The newest name of a pack, as a reader finds it.
    #[must_use]
    pub fn newest(&self, pid: usize) -> Option<usize> {
        (0..MOVES).rev().map(|moved| pid * MOVES + moved).find(|name| self.packs[*name] != 0)
    }

    /// Which of these slots a reader cannot read.
    #[must_use]
    pub fn missing(&self, slots: Slots) -> Slots {
        let there = (0..PACKS).filter_map(|pid| self.table(self.newest(pid)?));
        slots & !there.fold(0, |all, table| all | table)
    }

    /// PUT of a session record. It replaces a damaged one.
    pub fn put_session(&mut self, writer: usize, session: Session) {
        self.s[writer] = Some(session);
        self.damaged &= !(1 << writer);
    }

    /// DELETE of a session record.
    pub fn delete_session(&mut self, writer: usize) {
        self.s[writer] = None;
        self.damaged &= !(1 << writer);
    }

    /// PUT-IF-ABSENT at `r/`. What is there afterwards?
    pub fn put_record(&mut self, point: usize, record: Record) -> Record {
        if self.r[point] == Record::Absent {
            self.r[point] = record;
        }
        self.r[point]
    }

    /// LIST of `r/`: the points that are committed.
    #[must_use]
    pub fn commits(&self) -> Bits {
        (0..POINTS).filter(|p| self.r[*p] == Record::Commit).map(|p| 1 << p).sum()
    }

    /// The newest generation that is done; 0 for none.
    #[must_use]
    pub fn latest_done(&self) -> usize {
        (1..=GENERATIONS).rev().find(|n| self.g[*n].done.is_some()).unwrap_or(0)
    }

    /// The unfinished generation, if its condemned list cannot be read.
    #[must_use]
    pub fn unreadable(&self) -> Option<usize> {
        (self.latest_done() + 1..=GENERATIONS).find(|n| self.rotten & (1 << n) != 0)
    }
}

/// A request that takes effect although nobody waits for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Late {
    /// PUT-IF-ABSENT of COMMIT at a point.
    Commit(u8),
    /// PUT-IF-ABSENT of ABORT at a point.
    Abort(u8),
    /// PUT of a session record.
    Session(u8, Session),
    /// PUT-IF-ABSENT of a pack with its slots.
    Pack(u8, Slots),
    /// PUT-IF-ABSENT of a condemned list.
    Condemned(u8, Condemned),
    /// DELETE of a pack.
    DeletePack(u8),
}

impl Late {
    /// The request takes effect.
    pub fn arrive(self, store: &mut Store) {
        match self {
            Self::Commit(point) => _ = store.put_record(point.into(), Record::Commit),
            Self::Abort(point) => _ = store.put_record(point.into(), Record::Abort),
            Self::Session(writer, session) => store.put_session(writer.into(), session),
            Self::Pack(name, slots) => store.put_pack(name.into(), slots),
            Self::Condemned(n, list) => {
                store.g[usize::from(n)].condemned.get_or_insert(list);
            }
            Self::DeletePack(name) => store.delete_pack(name.into()),
        }
    }
}

/// A state of the world: the store, requests under way, and where each actor is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The objects.
    pub store: Store,
    /// Requests under way, in order, so that equal states look equal.
    pub late: [Option<Late>; LATE],
    /// How many more requests may come late.
    pub budget: u8,
    /// The backup sessions.
    pub writers: [Writer; WRITERS],
    /// The collectors.
    pub collectors: [Collector; COLLECTORS],
    /// The mount.
    pub mount: Mount,
    /// Points that were committed at some time.
    pub committed: Bits,
    /// Points that were aborted at some time.
    pub aborted: Bits,
}

impl State {
    /// Lets a request be under way from now on; `None` if no more may be.
    #[must_use]
    pub fn send(&self, request: Late) -> Option<Self> {
        let mut next = *self;
        next.budget = self.budget.checked_sub(1)?;
        *next.late.iter_mut().find(|place| place.is_none())? = Some(request);
        next.late.sort_unstable();
        Some(next)
    }

    /// Writes down, for the properties only, what lies at `r/`.
    pub fn remember(&mut self) {
        self.committed |= self.store.commits();
        for (point, record) in self.store.r.iter().enumerate() {
            if *record == Record::Abort {
                self.aborted |= 1 << point;
            }
        }
    }
}
