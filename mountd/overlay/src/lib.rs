//! Writable overlays over block devices that cannot be written.
//!
//! ```text
//!  client ──► OverlayDisk ──► top layer      written cells and zeroes of 4 KiB
//!                             lower layers   frozen, while they are being committed
//!                             layer 0        a copy of the base, when it is hydrated
//!                             base           any BlockRead: an image of a restore point
//! ```
//!
//! An [`Overlay`] is a folder, and covers one or more disks, so that all disks of a machine are
//! frozen at one moment. Each [`OverlayDisk`] is a `BlockWrite` that any export can serve. What is
//! written lies in the folder; it is there after a restart, is thrown away by [`Discard`], or
//! becomes a restore point: [`Overlay::freeze`] gives a view of one moment that does not change
//! while clients go on writing, and [`Frozen::rebase`] puts the new point underneath.
//!
//! [`Overlay::hydrate`] copies the base into the folder, piece by piece; what is there is read from
//! there, and in the end the base is not read any more. [`Overlay::move_to`] copies it to files or
//! devices outside the folder, puts what was written on top, and then lets these be the disks.
//!
//! The room does not know what a repository is. The base is described by words of the caller, and
//! only compared.
//!
//! # Invariants
//!
//! * What was flushed survives everything but the loss of the folder's disk. What was not may be
//!   lost cell by cell: each cell is then as it was before or after, and never something else.
//! * The file `overlay.json` says which layers count, and over what. It is replaced as a whole, so
//!   every change of layers or base happens or does not.
//! * One process uses an overlay at a time: it holds a lock on the file `lock`.
//! * What is written takes no more room than the overlay's limit; beyond it, writes fail with
//!   `NoSpace`, and nothing else does.

pub mod control;
mod cut_over;
mod description;
mod disk;
mod error;
mod folder;
mod freeze;
mod hydrate;
mod lane;
mod layer;
pub mod log;
mod map;
pub mod note;
mod notes;
mod overlay;
mod space;
mod view;

pub use description::{Description, DiskInfo, Origin};
pub use disk::OverlayDisk;
pub use error::{OverlayError, Result};
pub use freeze::{Frozen, FrozenDisk};
pub use hydrate::Hydration;
pub use map::{Entry, State};
pub use overlay::{Base, Discard, OpenOptions, Overlay, Status, is_in_use};

/// Bytes of a cell: what is written or not written as a whole.
pub const CELL: u64 = 4096;
/// Bytes of the largest disk: 32 TiB. Its map fills half of what a record of the log can hold.
pub const MAX_SIZE: u64 = 1 << 45;
/// Layers that failed commits may pile up before the overlay must be opened anew, which merges
/// them. Each costs a look at its map for every cell that is not found above it.
pub const MOST_LAYERS: usize = 16;
