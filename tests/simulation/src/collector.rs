//! A collector: C1 to C9. Any number of them work on the same generation.

use crate::rules::Rule;
use crate::state::{Bits, Condemned, GENERATIONS, Late, MOVES, Names, Record, SLOTS, Slots};
use crate::state::{State, members, slots_of};
use crate::world::{Lag, World};
use crate::writer::Pc as WriterPc;

/// Where a collector is: what it does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pc {
    /// C1: find the generation to work on.
    #[default]
    Begin,
    /// C2 to C4: the next prefix to list. After the last one, mark and judge.
    First(u8),
    /// C4: write the condemned list.
    Condemn,
    /// C4: look whether the generation is over already.
    Confirm,
    /// C5: list the sessions until all have seen the condemned list.
    Quiesce,
    /// C5: delete the record of a fenced session.
    Forsake(u8),
    /// C6: the next prefix to list. After the last one, mark, and choose what to rescue.
    Again(u8),
    /// C7: read a pack that is to be moved.
    Fetch,
    /// C7: write it at its next name.
    Move,
    /// C7: delete a pack.
    Delete,
    /// C8: delete the commit record of a tombstoned point.
    Retire,
    /// C9.
    Finish,
    /// C9: delete the objects of older generations.
    Forget,
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefix {
    Packs,
    Tombstones,
    Pins,
    Sessions,
    Records,
}

/// A collector's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Collector {
    /// What it does next.
    pub pc: Pc,
    /// The generation it works on.
    pub n: u8,
    names: Names,
    tombstones: Bits,
    pinned: Bits,
    open: Bits,
    parents: Bits,
    needs: Bits,
    commits: Bits,
    /// The roots found in C2.
    kept: Bits,
    list: Condemned,
    live: Slots,
    /// What is still to be moved or deleted, lowest first.
    doomed: Names,
    rescued: Names,
    /// The points whose records are still to be deleted.
    retired: Bits,
    /// The slots of a pack that is being moved.
    fetched: Slots,
}

impl Collector {
    /// The pack that is deleted next.
    #[must_use]
    pub fn deletes(&self) -> Option<usize> {
        members(self.doomed).next().filter(|_| self.pc == Pc::Delete)
    }

    /// Packs that it rescued.
    #[must_use]
    pub const fn rescued(&self) -> Names {
        self.rescued
    }

    fn clear_lists(&mut self) {
        let Self { pc, n, kept, list, live, doomed, rescued, retired, .. } = *self;
        *self = Self { pc, n, kept, list, live, doomed, rescued, retired, ..Self::default() };
    }

    /// C2, C6: one more prefix is listed.
    fn list(&mut self, world: &World, state: &State, prefix: Prefix) {
        let store = &state.store;
        match prefix {
            Prefix::Packs => self.names = store.names(),
            Prefix::Tombstones => self.tombstones = store.t,
            Prefix::Pins => {
                let pin = world.mounts.filter(|_| store.p);
                self.pinned = pin.map_or(0, |point| 1 << point);
            }
            Prefix::Records => self.commits = store.commits(),
            Prefix::Sessions => {
                for (writer, session) in store.s.iter().enumerate() {
                    let Some(session) = session else { continue };
                    self.open |= 1 << writer;
                    self.parents |= session.parent.map_or(0, |parent| 1 << parent);
                    self.needs |= session.needs;
                }
            }
        }
    }

    fn roots(&self, world: &World) -> Bits {
        let on = |rule, bits: Bits| if world.has(rule) { bits } else { 0 };
        (self.commits & !self.tombstones)
            | on(Rule::ParentsAreRoots, self.parents)
            | on(Rule::PinsAreRoots, self.pinned)
    }

    /// C3, C4: marks, and judges the packs that were listed.
    fn judge(&mut self, world: &World, state: &State) {
        self.kept = self.roots(world);
        let live = mark(world, state, self.kept);
        for name in members(self.names) {
            let pid = name / MOVES;
            let open = world.owner(pid).is_some_and(|w| self.open & (1 << w) != 0);
            let Some(table) = state.store.table(name) else { continue };
            if open && world.has(Rule::SpareOpenSessions) {
                continue;
            }
            if table & live == 0 {
                self.list.dead |= 1 << name;
            } else if table & !live != 0 && name % MOVES + 1 < MOVES {
                self.list.compact |= 1 << name;
            }
        }
        self.clear_lists();
        self.pc = Pc::Condemn;
    }

    /// C6: marks again, and chooses what to rescue.
    fn choose(&mut self, world: &World, state: &State) {
        let mut roots = if world.has(Rule::KeepFirstRoots) { self.kept } else { 0 };
        if world.has(Rule::Remark) {
            roots |= self.roots(world);
        } else {
            roots |= self.kept;
        }
        self.live = mark(world, state, roots);
        for name in members(self.list.all()) {
            let pid = name / MOVES;
            let needed = self.needs & (1 << pid) != 0 && world.has(Rule::RescueNeeds);
            let alive = self.live & slots_of(pid) != 0 && self.list.dead & (1 << name) != 0;
            if needed || alive {
                self.rescued |= 1 << name;
            } else {
                self.doomed |= 1 << name;
            }
        }
        self.retired = self.commits & self.tombstones & !roots;
        if !world.has(Rule::KeepAborts) {
            let aborted = |p: &usize| state.store.r[*p] == Record::Abort;
            let gone = |p: &usize| self.open & (1 << (p - world.points.len())) == 0;
            let aborts = (0..state.store.r.len()).filter(aborted).filter(gone);
            self.retired |= aborts.fold(0, |all, p| all | 1 << p);
        }
        self.kept = 0;
        self.clear_lists();
        self.proceed();
    }

    /// C7, C8: what comes next.
    fn proceed(&mut self) {
        self.fetched = 0;
        self.pc = match members(self.doomed).next() {
            Some(name) if self.moves(name) => Pc::Fetch,
            Some(_) => Pc::Delete,
            None if self.retired != 0 => Pc::Retire,
            None => Pc::Finish,
        };
    }

    fn moves(&self, name: usize) -> bool {
        self.list.compact & (1 << name) != 0 && self.live & slots_of(name / MOVES) != 0
    }

    /// C5: the sessions that have not seen the condemned list.
    fn blockers(&self, world: &World, state: &State) -> Bits {
        let blocks = |w: &usize| {
            let dead = state.writers[*w].pc == WriterPc::Dead && !world.has(Rule::FenceTheDead);
            let damaged = state.store.damaged & (1 << *w) != 0;
            let lags = state.store.s[*w].is_some_and(|session| session.seen_gen < self.n);
            damaged || (lags && !dead)
        };
        (0..world.backups.len()).filter(blocks).fold(0, |all, w| all | 1 << w)
    }
}

/// C3: all slots that these points refer to.
fn mark(world: &World, state: &State, points: Bits) -> Slots {
    members(points.into()).fold(0, |all, point| all | world.content(state, point))
}

/// C2: the order of listing. C6: the same, without the packs.
fn order(world: &World) -> [Prefix; 5] {
    use Prefix::{Packs, Pins, Records, Sessions, Tombstones};
    if !world.has(Rule::PacksFirst) {
        [Tombstones, Pins, Sessions, Records, Packs]
    } else if !world.has(Rule::SessionsBeforeCommits) {
        [Packs, Tombstones, Pins, Records, Sessions]
    } else if !world.has(Rule::TombstonesBeforeSessions) {
        [Packs, Sessions, Records, Tombstones, Pins]
    } else if !world.has(Rule::TombstonesBeforePins) {
        [Packs, Pins, Tombstones, Sessions, Records]
    } else {
        [Packs, Tombstones, Pins, Sessions, Records]
    }
}

/// The collector's next step.
#[must_use]
pub fn step(world: &World, state: &State, c: usize) -> Option<State> {
    let mut next = *state;
    let (store, own) = (&mut next.store, &mut next.collectors[c]);
    let n = usize::from(own.n);
    let order = order(world);
    match own.pc {
        Pc::Begin => {
            own.n = state.store.latest_done() as u8 + 1;
            if own.n > world.generations {
                return None;
            }
            own.pc = Pc::First(0);
        }
        Pc::First(at) => {
            let last = if world.split_c2 { at } else { order.len() as u8 - 1 };
            for prefix in &order[usize::from(at)..=usize::from(last)] {
                if *prefix == Prefix::Sessions && state.store.damaged != 0 {
                    return None;
                }
                own.list(world, state, *prefix);
            }
            own.pc = Pc::First(last + 1);
            if usize::from(last) + 1 == order.len() {
                own.judge(world, state);
            }
        }
        Pc::Condemn if state.store.unreadable() == Some(n) => return None,
        Pc::Condemn => {
            let there = *store.g[n].condemned.get_or_insert(own.list);
            if world.has(Rule::AdoptCondemned) {
                own.list = there;
            }
            let vanishes = world.forgets || world.lists_rot;
            let confirm = vanishes && world.has(Rule::StillUnfinished);
            own.pc = if confirm { Pc::Confirm } else { Pc::Quiesce };
        }
        Pc::Confirm => {
            if state.store.latest_done() >= n {
                *own = Collector::default();
            } else {
                own.pc = Pc::Quiesce;
            }
        }
        Pc::Quiesce => {
            if own.blockers(world, state) != 0 && world.has(Rule::Quiesce) {
                return None;
            }
            own.pc = Pc::Again(0);
        }
        Pc::Forsake(writer) => {
            store.delete_session(writer.into());
            own.pc = Pc::Quiesce;
        }
        Pc::Again(at) => again(world, state, own, at),
        Pc::Fetch => {
            let name = members(own.doomed).next()?;
            if let Some(table) = store.table(name) {
                own.fetched = table & own.live;
                own.pc = Pc::Move;
                if !world.has(Rule::MoveBeforeDelete) {
                    own.pc = Pc::Delete;
                }
            } else {
                own.doomed &= !(1 << name);
                own.proceed();
            }
        }
        Pc::Move => {
            let name = members(own.doomed).next()?;
            store.put_pack(name + 1, own.fetched);
            own.pc = Pc::Delete;
            if !world.has(Rule::MoveBeforeDelete) {
                own.doomed &= !(1 << name);
                own.proceed();
            }
        }
        Pc::Delete => {
            let name = members(own.doomed).next()?;
            store.delete_pack(name);
            if own.fetched != 0 && !world.has(Rule::MoveBeforeDelete) {
                own.pc = Pc::Move;
            } else {
                own.doomed &= !(1 << name);
                own.proceed();
            }
        }
        Pc::Retire => {
            let point = members(own.retired.into()).next()?;
            store.r[point] = Record::Absent;
            if !world.has(Rule::KeepTombstones) {
                store.t &= !(1 << point);
            }
            own.retired &= !(1 << point);
            own.proceed();
        }
        Pc::Finish => {
            let tainted = tainted(world, state, own);
            store.g[n].done.get_or_insert(tainted);
            if world.forgets {
                own.pc = Pc::Forget;
            } else {
                *own = Collector::default();
            }
        }
        Pc::Forget => {
            for old in &mut store.g[1..n] {
                *old = crate::state::Generation::default();
            }
            *own = Collector::default();
        }
    }
    Some(next)
}

/// C6: lists, and begins anew when a session is found that has not seen the condemned list.
fn again(world: &World, state: &State, own: &mut Collector, at: u8) {
    let order = order(world).map(|prefix| (prefix != Prefix::Packs).then_some(prefix));
    let last = if world.split_c6 { at } else { order.len() as u8 - 1 };
    for prefix in order[usize::from(at)..=usize::from(last)].iter().flatten() {
        own.list(world, state, *prefix);
        let stale = *prefix == Prefix::Sessions && own.blockers(world, state) != 0;
        if stale && world.has(Rule::RecheckSeen) && world.has(Rule::Quiesce) {
            own.clear_lists();
            own.pc = Pc::Quiesce;
            return;
        }
    }
    own.pc = Pc::Again(last + 1);
    if usize::from(last) + 1 == order.len() {
        own.choose(world, state);
    }
}

/// C9: the packs that are never referred to anew.
fn tainted(world: &World, state: &State, own: &Collector) -> Names {
    let before = state.store.g[usize::from(own.n) - 1].done.unwrap_or(0);
    let on = |rule, names: Names| if world.has(rule) { names } else { 0 };
    on(Rule::TaintRescued, (before & state.store.names()) | own.rescued)
        | on(Rule::TaintDeleted, (before | own.list.all()) & !own.rescued)
}

/// The condemned list of the unfinished generation can be read no more.
#[must_use]
pub fn rot_list(world: &World, state: &State) -> Option<State> {
    let mut next = *state;
    let n = state.store.latest_done() + 1;
    let there = n <= GENERATIONS && state.store.g[n].condemned.is_some();
    next.budget = state.budget.checked_sub(1)?;
    next.store.rotten |= 1 << n;
    (world.lists_rot && there && state.store.unreadable().is_none()).then_some(next)
}

/// A repair ends the generation whose list cannot be read. It waits for nobody: a collector may be
/// asleep anywhere, with the list in its memory.
#[must_use]
pub fn end(world: &World, state: &State) -> Option<State> {
    let mut next = *state;
    let n = state.store.unreadable()?;
    let earlier = state.store.g[1..n].iter();
    let known = earlier.map(|g| g.done.unwrap_or(0) | g.condemned.unwrap_or_default().all());
    let there = if world.has(Rule::TaintAll) { state.store.names() } else { 0 };
    next.store.g[n].done = Some(known.fold(there, |all, names| all | names));
    next.store.g[n].condemned = None;
    next.store.rotten = 0;
    Some(next)
}

/// C5: gives up a session that has not seen the condemned list.
#[must_use]
pub fn fence(world: &World, state: &State, c: usize, w: usize) -> Option<State> {
    let own = &state.collectors[c];
    let known = own.blockers(world, state) & !state.store.damaged;
    if own.pc != Pc::Quiesce || known & (1 << w) == 0 {
        return None;
    }
    let mut next = *state;
    if world.has(Rule::FenceFirst) {
        next.store.put_record(world.point_of(w), Record::Abort);
    }
    next.collectors[c].pc = Pc::Forsake(w as u8);
    Some(next)
}

/// The ABORT is under way; the collector hears nothing, and will send it again, or die.
#[must_use]
pub fn fence_late(world: &World, state: &State, c: usize, w: usize) -> Option<State> {
    let own = &state.collectors[c];
    let known = own.blockers(world, state) & !state.store.damaged;
    let fences = own.pc == Pc::Quiesce && known & (1 << w) != 0;
    let request = Late::Abort(world.point_of(w) as u8);
    if fences && world.lags(Lag::Records) { state.send(request) } else { None }
}

/// The collector's request is under way; it hears nothing, and will send it again, or die.
#[must_use]
pub fn late(world: &World, state: &State, c: usize) -> Option<State> {
    let own = &state.collectors[c];
    let doomed = members(own.doomed).next();
    let (lag, request) = match own.pc {
        Pc::Condemn => (Lag::Condemned, Late::Condemned(own.n, own.list)),
        Pc::Move => (Lag::Packs, Late::Pack(doomed? as u8 + 1, own.fetched)),
        Pc::Delete => (Lag::Deletes, Late::DeletePack(doomed? as u8)),
        _ => return None,
    };
    if world.lags(lag) { state.send(request) } else { None }
}

const _: () = assert!(GENERATIONS < u8::MAX as usize && SLOTS * 4 <= Slots::BITS as usize);
