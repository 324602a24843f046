//! A backup session: W1 to W7.

use crate::rules::Rule;
use crate::state::{Bits, Late, MOVES, Names, Record, SLOTS, Session, Slots, State};
use crate::state::{pids_of, pids_of_names, slots_of};
use crate::world::{Backup, Lag, Work, World};

/// Where a writer is: what it does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pc {
    /// W1: list tombstones and commits, choose a parent.
    #[default]
    Choose,
    /// W1: write the session record.
    Announce,
    /// W2: look whether the parent was tombstoned.
    Recheck,
    /// W3: read the collections.
    Read,
    /// W3: write the session record with what was read.
    Seen,
    /// W4: the next piece of work.
    Work(u8),
    /// W5 in the middle of the work: write the session record.
    Needs(u8),
    /// W5 before the commit: read the collections.
    ReadLast,
    /// W5 before the commit: write the session record.
    NeedsLast,
    /// W6.
    Commit,
    /// W7.
    Leave,
    /// Deletes its session record without knowing what became of the commit.
    GiveUp,
    /// It committed.
    Done,
    /// It was fenced, or gave up.
    Failed,
    /// It died, and everybody knows.
    Dead,
}

/// A writer's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Writer {
    /// What it does next.
    pub pc: Pc,
    parent: Option<u8>,
    seen_gen: u8,
    needs: Bits,
    /// References taken over from the parent.
    inherited: Slots,
    /// References to slots found in packs of others.
    found: Slots,
    /// References to its own packs.
    own: Slots,
    /// Packs that must not be referred to anew.
    avoid: Names,
}

impl Writer {
    /// All that its point refers to.
    #[must_use]
    pub const fn refers(&self) -> Slots {
        self.inherited | self.found | self.own
    }

    /// Packs that it uses although they are condemned.
    #[must_use]
    pub const fn needs(&self) -> Bits {
        self.needs
    }

    /// Nothing more will come from it, as far as it knows.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.pc, Pc::Done | Pc::Failed | Pc::Dead)
    }

    /// The parent it reads from right now.
    #[must_use]
    pub fn reads(&self) -> Option<usize> {
        let working = matches!(
            self.pc,
            Pc::Work(_) | Pc::Needs(_) | Pc::ReadLast | Pc::NeedsLast | Pc::Commit
        );
        self.parent.filter(|_| working).map(usize::from)
    }

    const fn session(&self) -> Session {
        Session { parent: self.parent, seen_gen: self.seen_gen, needs: self.needs }
    }

    /// Takes in what the collections say; the work goes on with that.
    fn learn(&mut self, world: &World, state: &State) {
        let mut read = usize::from(self.seen_gen);
        let done = state.store.latest_done();
        if done > read {
            // What was condemned until then is tainted now.
            let tainted = state.store.g[done].done.unwrap_or(0);
            if world.has(Rule::AvoidTainted) {
                self.avoid |= tainted;
            }
            if world.has(Rule::NeedTainted) {
                self.needs |= pids_of(self.found) & pids_of_names(tainted);
            }
            read = done;
        }
        for (n, objects) in state.store.g.iter().enumerate().skip(read + 1) {
            let Some(condemned) = objects.condemned else { continue };
            read = n;
            let condemned = condemned.all();
            if world.has(Rule::AvoidCondemned) {
                self.avoid |= condemned;
            }
            if world.has(Rule::RecordNeeds) {
                self.needs |= pids_of(self.found) & pids_of_names(condemned);
            }
        }
        if !world.has(Rule::SeenMeansRead) {
            read = read.max(state.store.latest_done() + 1);
        }
        self.seen_gen = read as u8;
    }

    /// W3: as `learn`, from the beginning.
    fn read(&mut self, world: &World, state: &State) {
        let done = state.store.latest_done();
        self.seen_gen = done as u8;
        if world.has(Rule::AvoidTainted) {
            self.avoid |= state.store.g[done].done.unwrap_or(0);
        }
        self.learn(world, state);
    }
}

/// The newest point of the chain that has no tombstone.
fn newest(world: &World, state: &State, backup: &Backup) -> Option<u8> {
    let points = state.store.commits() & !state.store.t;
    let of_chain = |p: &u8| world.chain_of(usize::from(*p)) == Some(backup.chain);
    (0..u8::BITS as u8).rev().filter(|p| points & (1 << p) != 0).find(of_chain)
}

/// W4 (b) and (d): refers to a slot, if the rules and the pack's table allow it.
fn dedup(world: &World, state: &State, writer: &mut Writer, slot: u8) {
    let Some(name) = state.store.newest(usize::from(slot) / SLOTS) else {
        if !world.has(Rule::ConfirmSlot) {
            writer.found |= 1 << slot;
        }
        return;
    };
    let there = state.store.table(name).unwrap_or(0) & (1 << slot) != 0;
    if writer.avoid & (1 << name) == 0 && (there || !world.has(Rule::ConfirmSlot)) {
        writer.found |= 1 << slot;
    }
}

/// The writer's next step.
#[must_use]
pub fn step(world: &World, state: &State, w: usize) -> Option<State> {
    let backup = &world.backups[w];
    let mut next = *state;
    let (store, writer) = (&mut next.store, &mut next.writers[w]);
    let after = |done: u8| {
        let ready = usize::from(done) == backup.work.len();
        let looks = world.has(Rule::ReadBeforeCommit) || world.has(Rule::OwnRecord);
        let pc = if looks { Pc::ReadLast } else { Pc::Commit };
        if ready { pc } else { Pc::Work(done) }
    };
    match writer.pc {
        Pc::Choose => {
            if backup.after.is_some_and(|other| !state.writers[usize::from(other)].is_over()) {
                return None;
            }
            writer.parent = newest(world, state, backup);
            if !world.has(Rule::ReadCollectionsLate) {
                writer.read(world, state);
            }
            writer.pc = Pc::Announce;
        }
        Pc::Announce => {
            store.put_session(w, writer.session());
            let recheck = writer.parent.is_some() && world.has(Rule::RecheckParent);
            writer.pc = if recheck { Pc::Recheck } else { Pc::Read };
        }
        Pc::Recheck => {
            let gone = writer.parent.is_some_and(|p| state.store.t & (1 << p) != 0);
            writer.pc = if gone { Pc::Choose } else { Pc::Read };
        }
        Pc::Read if world.is_forgotten(state, w) => writer.pc = Pc::Failed,
        // It fails, or waits for a repair: to others that is the same.
        Pc::Read | Pc::ReadLast if state.store.unreadable().is_some() => return None,
        Pc::Read => {
            if world.has(Rule::ReadCollectionsLate) {
                writer.read(world, state);
            }
            writer.pc = Pc::Seen;
        }
        Pc::Seen => {
            store.put_session(w, writer.session());
            let parent = writer.parent.map(usize::from);
            writer.inherited = parent.map_or(0, |p| world.content(state, p)) & backup.inherits;
            writer.pc = after(0);
        }
        Pc::Work(done) => {
            match backup.work[usize::from(done)] {
                Work::Pack(pid) => {
                    let pid = usize::from(pid);
                    store.put_pack(pid * MOVES, slots_of(pid));
                    writer.own |= 1 << (pid * SLOTS);
                }
                Work::Dedup(slot) => dedup(world, state, writer, slot),
            }
            writer.pc = after(done + 1);
        }
        Pc::Needs(done) => {
            store.put_session(w, writer.session());
            writer.pc = Pc::Work(done);
        }
        Pc::ReadLast if world.is_forgotten(state, w) => writer.pc = Pc::Failed,
        Pc::ReadLast => {
            let before = writer.seen_gen;
            if world.has(Rule::ReadBeforeCommit) {
                writer.learn(world, state);
            }
            writer.pc = if before == writer.seen_gen { Pc::Commit } else { Pc::NeedsLast };
        }
        Pc::NeedsLast => {
            store.put_session(w, writer.session());
            writer.pc = Pc::Commit;
        }
        Pc::Commit => {
            let there = store.put_record(world.point_of(w), Record::Commit);
            writer.pc = if there == Record::Commit { Pc::Leave } else { Pc::Failed };
        }
        Pc::Leave | Pc::GiveUp => {
            store.delete_session(w);
            writer.pc = if writer.pc == Pc::Leave { Pc::Done } else { Pc::Failed };
        }
        Pc::Done | Pc::Failed | Pc::Dead => return None,
    }
    Some(next)
}

/// W5 in the middle of the work. It makes a difference only when there is something new.
#[must_use]
pub fn heartbeat(world: &World, state: &State, w: usize) -> Option<State> {
    let mut next = *state;
    let writer = &mut next.writers[w];
    let Pc::Work(done) = writer.pc else { return None };
    if state.store.unreadable().is_some() {
        return None;
    }
    if world.is_forgotten(state, w) {
        writer.pc = Pc::Failed;
        return Some(next);
    }
    let before = writer.seen_gen;
    writer.learn(world, state);
    writer.pc = Pc::Needs(done);
    (before != writer.seen_gen).then_some(next)
}

/// The writer's request is under way; it hears nothing, and will send it again, or die.
#[must_use]
pub fn late(world: &World, state: &State, w: usize) -> Option<State> {
    let writer = &state.writers[w];
    let (lag, request) = match writer.pc {
        Pc::Announce | Pc::Seen | Pc::Needs(_) | Pc::NeedsLast => {
            (Lag::Sessions, Late::Session(w as u8, writer.session()))
        }
        Pc::Commit => (Lag::Records, Late::Commit(world.point_of(w) as u8)),
        Pc::Work(done) => match world.backups[w].work[usize::from(done)] {
            Work::Pack(pid) => (Lag::Packs, Late::Pack(pid * MOVES as u8, Slots::MAX)),
            Work::Dedup(_) => return None,
        },
        _ => return None,
    };
    let mut next = if world.lags(lag) { state.send(request)? } else { return None };
    if writer.pc == Pc::Commit && !world.has(Rule::KnowOutcome) {
        next.writers[w].pc = Pc::GiveUp;
    }
    Some(next)
}

/// Its record can be read no more.
#[must_use]
pub fn rot(world: &World, state: &State, w: usize) -> Option<State> {
    let mut next = *state;
    let bit = 1 << w;
    let sound = state.store.s[w].is_some() && state.store.damaged & bit == 0;
    next.budget = state.budget.checked_sub(1)?;
    next.store.damaged |= bit;
    (sound && world.rots & bit != 0).then_some(next)
}

/// A repair removes its damaged record. In the model nothing has an age: old is the record of a
/// writer of which no request is under way, and that will look for its record before it sends
/// another one that counts.
#[must_use]
pub fn mend(world: &World, state: &State, w: usize) -> Option<State> {
    use Pc::{Commit, GiveUp, Leave, Needs, NeedsLast, Seen};
    let sends =
        matches!(state.writers[w].pc, Seen | Needs(_) | NeedsLast | Commit | Leave | GiveUp);
    let (own, point) = (w as u8, world.point_of(w) as u8);
    let of_writer = |late: &Late| match late {
        Late::Session(writer, _) => *writer == own,
        Late::Commit(sent) => *sent == point,
        _ => false,
    };
    let old = !sends && !state.late.iter().flatten().any(of_writer);
    let mut next = *state;
    next.store.delete_session(w);
    let may = old || !world.has(Rule::MendTheOld);
    (may && state.store.damaged & (1 << w) != 0).then_some(next)
}

/// The writer dies, and others on its host see that.
#[must_use]
pub fn die(world: &World, state: &State, w: usize) -> Option<State> {
    let mut next = *state;
    let writer = &mut next.writers[w];
    let alive = !writer.is_over() && writer.pc != Pc::Choose;
    writer.pc = Pc::Dead;
    (alive && world.mortal & (1 << w) != 0).then_some(next)
}
