//! All steps of a world, and what must hold in every state of it.

use stateright::{Model, Property};

use crate::state::{LATE, Record, State};
use crate::world::{Sight, World};
use crate::writer::Pc;
use crate::{collector, mount, writer};

/// A step of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A writer goes on.
    Writer(usize),
    /// A writer looks at the collections in the middle of its work.
    Heartbeat(usize),
    /// A writer's request is under way.
    WriterLate(usize),
    /// A writer dies, and others see that.
    Die(usize),
    /// A session record becomes damaged.
    Rot(usize),
    /// A damaged session record is removed.
    Mend(usize),
    /// The condemned list becomes damaged.
    RotList,
    /// A repair ends the collection whose list is damaged.
    End,
    /// A collector goes on.
    Collector(usize),
    /// A collector's request is under way.
    CollectorLate(usize),
    /// A collector fences a writer.
    Fence(usize, usize),
    /// A collector's ABORT for a writer is under way.
    FenceLate(usize, usize),
    /// A point gets its tombstone.
    Prune(usize),
    /// The mount goes on.
    Mount,
    /// A request arrives at last.
    Arrive(usize),
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.begin()]
    }

    fn actions(&self, _: &State, steps: &mut Vec<Step>) {
        for w in 0..self.backups.len() {
            steps.extend([Step::Writer(w), Step::Heartbeat(w), Step::WriterLate(w), Step::Die(w)]);
            steps.extend([Step::Rot(w), Step::Mend(w)]);
        }
        for c in 0..usize::from(self.collectors) {
            steps.extend([Step::Collector(c), Step::CollectorLate(c)]);
            for w in 0..self.backups.len() {
                steps.extend([Step::Fence(c, w), Step::FenceLate(c, w)]);
            }
        }
        steps.extend((0..self.points.len() + self.backups.len()).map(Step::Prune));
        steps.extend([Step::Mount, Step::RotList, Step::End]);
        steps.extend((0..LATE).map(Step::Arrive));
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = match step {
            Step::Writer(w) => writer::step(self, state, w),
            Step::Heartbeat(w) => writer::heartbeat(self, state, w),
            Step::WriterLate(w) => writer::late(self, state, w),
            Step::Die(w) => writer::die(self, state, w),
            Step::Rot(w) => writer::rot(self, state, w),
            Step::Mend(w) => writer::mend(self, state, w),
            Step::RotList => collector::rot_list(self, state),
            Step::End => collector::end(self, state),
            Step::Collector(c) => collector::step(self, state, c),
            Step::CollectorLate(c) => collector::late(self, state, c),
            Step::Fence(c, w) => collector::fence(self, state, c, w),
            Step::FenceLate(c, w) => collector::fence_late(self, state, c, w),
            Step::Prune(point) => prune(self, state, point),
            Step::Mount => mount::step(self, state),
            Step::Arrive(at) => arrive(state, at),
        }?;
        next.remember();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("S1: what is committed can be read", committed_is_readable),
            Property::always("S1: what is pinned can be read", pinned_is_readable),
            Property::always("S1: a session can read its parent", parent_is_readable),
            Property::always("S2: a fenced session is no point", fenced_is_no_point),
        ];
        properties.extend(self.sights.iter().map(|sight| see(*sight)));
        properties
    }
}

/// PUT-IF-ABSENT of a tombstone.
fn prune(world: &World, state: &State, point: usize) -> Option<State> {
    let bit = 1 << point;
    let may = world.prunable & state.store.commits() & !state.store.t & bit != 0;
    let mut next = *state;
    next.store.t |= bit;
    may.then_some(next)
}

fn arrive(state: &State, at: usize) -> Option<State> {
    let mut next = *state;
    next.late[at].take()?.arrive(&mut next.store);
    next.late.sort_unstable();
    Some(next)
}

fn readable(world: &World, state: &State, point: usize) -> bool {
    state.store.r[point] == Record::Commit && state.store.missing(world.content(state, point)) == 0
}

fn committed_is_readable(world: &World, state: &State) -> bool {
    let points = state.store.commits() & !state.store.t;
    (0..state.store.r.len()).all(|p| points & (1 << p) == 0 || readable(world, state, p))
}

fn pinned_is_readable(world: &World, state: &State) -> bool {
    let reading = world.mounts.filter(|_| state.mount == mount::Mount::Read);
    reading.is_none_or(|point| readable(world, state, point.into()))
}

fn parent_is_readable(world: &World, state: &State) -> bool {
    let reads = |w: usize| {
        let parent = state.writers[w].reads();
        // One that has committed reads no more; one whose record was removed is as good as fenced.
        let undecided = state.store.r[world.point_of(w)] == Record::Absent;
        let open = state.store.s[w].is_some() && undecided;
        parent.filter(|_| open)
    };
    (0..world.backups.len()).filter_map(reads).all(|parent| readable(world, state, parent))
}

/// S2 and S3: nothing was ever both, except a point that was removed before its dead session was.
fn fenced_is_no_point(_: &World, state: &State) -> bool {
    state.committed & state.aborted & !state.store.t == 0
}

/// A property that some state must have, lest the world show nothing.
fn see(sight: Sight) -> Property<World> {
    match sight {
        Sight::Deleted => Property::sometimes("seen: a pack is deleted", |_, state: &State| {
            about_to_delete(state, false)
        }),
        Sight::Moved => Property::sometimes("seen: a pack is moved", |_, state: &State| {
            state.collectors.iter().any(|c| c.pc == collector::Pc::Move)
        }),
        Sight::Rescued => Property::sometimes("seen: a pack is rescued", |_, state: &State| {
            state.collectors.iter().any(|c| c.rescued() != 0)
        }),
        Sight::Fenced => Property::sometimes("seen: a writer is fenced", |_, state: &State| {
            state.writers.iter().any(|w| w.pc == Pc::Failed)
        }),
        Sight::Zombie => Property::sometimes("seen: a zombie deletes", |_, state: &State| {
            about_to_delete(state, true)
        }),
        Sight::Needed => Property::sometimes("seen: a needed pack", |_, state: &State| {
            state.writers.iter().any(|w| w.pc == Pc::Leave && w.needs() != 0)
        }),
        Sight::Committed => {
            Property::sometimes("seen: commit and collection", |_, state: &State| {
                let done = state.store.latest_done() != 0;
                done && state.writers.iter().any(|w: &writer::Writer| w.pc == Pc::Done)
            })
        }
        Sight::Mended => Property::sometimes("seen: repaired", |world: &World, state: &State| {
            let open = |w: &usize| !state.writers[*w].is_over();
            (0..world.backups.len()).filter(open).any(|w| writer::mend(world, state, w).is_some())
        }),
        Sight::PinnedTombstoned => {
            Property::sometimes("seen: pinned, pruned", |world: &World, state: &State| {
                let pinned = state.mount == mount::Mount::Read;
                pinned && world.mounts.is_some_and(|point| state.store.t & (1 << point) != 0)
            })
        }
    }
}

/// Whether a collector is about to delete a pack, for a generation that is or is not over.
fn about_to_delete(state: &State, over: bool) -> bool {
    state
        .collectors
        .iter()
        .any(|c| c.deletes().is_some() && (state.store.latest_done() >= usize::from(c.n)) == over)
}
