//! A world: who acts, on what, and what may go wrong.

use crate::rules::{Rule, Rules};
use crate::state::{Bits, MOVES, PACKS, SLOTS, Slots, State, WRITERS};

/// What a writer does between its session record and its commit, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Writes a pack of its own with all its slots, and refers to the first.
    Pack(u8),
    /// Finds that its data are at this (pid, slot) of somebody's pack.
    Dedup(u8),
}

/// A backup session.
#[derive(Clone, Copy, Debug)]
pub struct Backup {
    /// Of which chain.
    pub chain: u8,
    /// What it takes over from its parent, as far as the parent has it.
    pub inherits: Slots,
    /// Its data.
    pub work: &'static [Work],
    /// It begins only when this other writer is through, or dead.
    pub after: Option<u8>,
}

/// A point that is there at the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Of which chain.
    pub chain: u8,
    /// What it refers to.
    pub refers: Slots,
    /// It has a tombstone already.
    pub tombstoned: bool,
}

/// Requests that may come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// PUT-IF-ABSENT of a commit record, COMMIT or ABORT.
    Records,
    /// PUT of a session record.
    Sessions,
    /// PUT-IF-ABSENT of a pack, at its first name and at later ones.
    Packs,
    /// DELETE of a pack.
    Deletes,
    /// PUT-IF-ABSENT of a condemned list.
    Condemned,
}

/// What must happen in some run of the world: else it shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A pack is deleted because nothing refers to it.
    Deleted,
    /// A pack is moved.
    Moved,
    /// A condemned pack is rescued.
    Rescued,
    /// A writer finds itself fenced.
    Fenced,
    /// A collector deletes for a generation that another one finished.
    Zombie,
    /// A writer commits with a reference to a condemned pack.
    Needed,
    /// A writer commits beside a finished collection.
    Committed,
    /// A point is pinned that has a tombstone.
    PinnedTombstoned,
    /// The damaged record of a session that is not over can be removed.
    Mended,
}

/// A configuration. `..World::EMPTY` fills in what does not matter.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// How it is called.
    pub name: &'static str,
    /// The rules in force.
    pub rules: Rules,
    /// Packs that are there at the beginning: all their slots are filled.
    pub packs: Bits,
    /// Points that are there at the beginning.
    pub points: &'static [Point],
    /// The backup sessions.
    pub backups: &'static [Backup],
    /// How many collectors.
    pub collectors: u8,
    /// How many generations they run.
    pub generations: u8,
    /// Points that may be pruned.
    pub prunable: Bits,
    /// The point that a mount reads.
    pub mounts: Option<u8>,
    /// C2 lists one prefix after the other, not all at one moment.
    pub split_c2: bool,
    /// C6 likewise.
    pub split_c6: bool,
    /// Objects of older generations are deleted.
    pub forgets: bool,
    /// Writers that may die in a way that collectors know of.
    pub mortal: Bits,
    /// Writers whose records may become damaged.
    pub rots: Bits,
    /// Condemned lists may become damaged.
    pub lists_rot: bool,
    /// Requests that may come late.
    pub lags: &'static [Lag],
    /// How many of them, and of damages.
    pub budget: u8,
    /// What must happen in some run.
    pub sights: &'static [Sight],
}

impl World {
    /// Nothing and nobody.
    pub const EMPTY: Self = Self {
        name: "",
        rules: Rules::ALL,
        packs: 0,
        points: &[],
        backups: &[],
        collectors: 1,
        generations: 1,
        prunable: 0,
        mounts: None,
        split_c2: false,
        split_c6: false,
        forgets: false,
        mortal: 0,
        rots: 0,
        lists_rot: false,
        lags: &[],
        budget: 0,
        sights: &[],
    };

    /// The same world without a rule.
    #[must_use]
    pub const fn without(mut self, rule: Rule) -> Self {
        self.rules = self.rules.without(rule);
        self
    }

    /// Whether a rule is in force.
    #[must_use]
    pub const fn has(&self, rule: Rule) -> bool {
        self.rules.has(rule)
    }

    /// Whether requests of a kind may come late.
    #[must_use]
    pub fn lags(&self, kind: Lag) -> bool {
        self.lags.contains(&kind)
    }

    /// Whether a writer that looks for its record finds that it was removed.
    #[must_use]
    pub const fn is_forgotten(&self, state: &State, writer: usize) -> bool {
        self.has(Rule::OwnRecord) && state.store.s[writer].is_none()
    }

    /// The point that a writer is to commit.
    #[must_use]
    pub const fn point_of(&self, writer: usize) -> usize {
        self.points.len() + writer
    }

    /// The writer that is to commit a point.
    #[must_use]
    pub const fn writer_of(&self, point: usize) -> Option<usize> {
        point.checked_sub(self.points.len())
    }

    /// The chain of a point.
    #[must_use]
    pub fn chain_of(&self, point: usize) -> Option<u8> {
        match self.writer_of(point) {
            None => Some(self.points[point].chain),
            Some(writer) => self.backups.get(writer).map(|backup| backup.chain),
        }
    }

    /// What a point refers to, or would if it were committed now.
    #[must_use]
    pub fn content(&self, state: &State, point: usize) -> Slots {
        match self.writer_of(point) {
            None => self.points[point].refers,
            Some(writer) if writer < WRITERS => state.writers[writer].refers(),
            Some(_) => 0,
        }
    }

    /// The session that writes a pack; `None` for those of the beginning.
    #[must_use]
    pub fn owner(&self, pid: usize) -> Option<usize> {
        let own = |backup: &Backup| backup.work.contains(&Work::Pack(pid as u8));
        self.backups.iter().position(own)
    }

    /// How it begins.
    #[must_use]
    pub fn begin(&self) -> State {
        let mut state = State { budget: self.budget, ..State::default() };
        for pid in (0..PACKS).filter(|pid| self.packs & (1 << pid) != 0) {
            state.store.put_pack(pid * MOVES, ((1 << SLOTS) - 1) << (pid * SLOTS));
        }
        for (point, known) in self.points.iter().enumerate() {
            state.store.put_record(point, crate::state::Record::Commit);
            state.store.t |= u8::from(known.tombstoned) << point;
        }
        state.remember();
        state
    }
}
