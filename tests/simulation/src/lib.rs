//! An executable model of the commit, fencing and collection protocol.
//!
//! `docs/decisions/0010-collection-protocol.md` says the protocol in words; the steps here have its
//! names (W1, C1 and so on). The model is small on purpose: a handful of packs of two slots, up to
//! three sessions and two collectors, a pruner, a mount. Within such a world *every* order of
//! steps is tried, with actors that stop for ever at any step or go on weeks later, and with
//! requests that arrive long after their sender gave up on them.
//!
//! ```text
//!   rules   what may be switched off, to see that it was needed
//!   world   who acts, on what, and what may go wrong: a configuration
//!   state   the store's objects, and bit sets for names, slots and points
//!   writer, collector, mount    one module for each kind of actor: its next step
//!   model   all steps of a world, and the properties that must hold in every state
//!   check   runs a world and tells what was found
//!   catalogue   the worlds, and which one shows what a rule is for
//! ```
//!
//! Each step is one request to the store plus what the actor does with its answer on its own.
//! The store is linearizable: a request takes effect at one moment. An actor that crashed is one
//! that takes no step any more, so crashes need no steps of their own, except where somebody
//! else learns of the crash.

pub mod catalogue;
pub mod check;
pub mod collector;
pub mod model;
pub mod mount;
pub mod rules;
pub mod state;
pub mod world;
pub mod writer;
