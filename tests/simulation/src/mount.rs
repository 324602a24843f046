//! A mount: it pins a point, looks whether it may read it, reads, unpins.

use crate::rules::Rule;
use crate::state::State;
use crate::world::World;

/// Where the mount is: what it does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mount {
    /// Write the pin.
    #[default]
    Pin,
    /// Look whether the point was tombstoned.
    Check,
    /// Read, then delete the pin.
    Read,
    /// Delete the pin: the point is gone.
    GiveUp,
    /// Nothing more.
    Done,
}

/// The mount's next step.
#[must_use]
pub fn step(world: &World, state: &State) -> Option<State> {
    let point = world.mounts?;
    let mut next = *state;
    match state.mount {
        Mount::Pin => {
            // It was in a listing that may be old by now.
            if state.committed & (1 << point) == 0 {
                return None;
            }
            next.store.p = true;
            next.mount = if world.has(Rule::CheckAfterPin) { Mount::Check } else { Mount::Read };
        }
        Mount::Check => {
            let gone = state.store.t & (1 << point) != 0;
            next.mount = if gone { Mount::GiveUp } else { Mount::Read };
        }
        Mount::Read | Mount::GiveUp => {
            next.store.p = false;
            next.mount = Mount::Done;
        }
        Mount::Done => return None,
    }
    Some(next)
}
