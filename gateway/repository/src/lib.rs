//! Restore points as block-indexed, deduplicated, sealed images on a destination.
//!
//! The format is specified in `docs/format/`; [`format`](mod@format) turns its bytes into values
//! and back, without I/O. Above it:
//!
//! ```text
//!  Repository ── points ── ImageReader          BackupSession ── ImageWriter
//!      │                       │                      │               │
//!      │                  fetch, cache            ChunkWriter ── DedupIndex
//!      └───────────────────────┴───────── format ─────┴── Destination
//! ```
//!
//! # Invariants
//!
//! * A restore point exists from the moment its manifest is put, and everything the manifest
//!   names was durable before.
//! * Bytes that fail verification are never returned.
//! * The local index and the caches can be deleted at any time; that costs time and space only.
//!
//! # Threads
//!
//! Requests to the destination run on tokio. Hashing, compression, sealing, and decoding run on
//! the repository's [`Pool`]. No lock is held across an await.

mod allowance;
mod bad_slots;
mod ballast;
mod bounded;
mod cache;
mod chunk_writer;
pub mod clock;
pub mod collect;
pub mod crypto;
mod defragment;
mod destroy;
mod diff;
pub mod doctor;
mod error;
mod fetch;
pub mod format;
pub mod heal;
mod holds;
mod host;
mod image_reader;
mod image_writer;
mod index;
mod keys;
pub mod lock;
mod met;
mod moved;
mod points;
mod pool;
mod read_ahead;
pub mod replicate;
mod repository;
mod reread;
pub mod retention;
pub mod scrub;
mod session;
pub mod stat;
mod verify;

pub use allowance::Allowance;
pub use bad_slots::Recorded;
pub use cache::CacheCounts;
pub use chunk_writer::{BlockHash, WriteCounters, is_zero};
pub use clock::Clock;
pub use defragment::Defragment;
pub use destroy::{DestroyRequest, Destroyed};
pub use error::{ErrorKind, RepositoryError, Result};
pub use fetch::Run;
pub use format::id::{ChainId, Digest, OverlayId, PackId, PointId, RepositoryId, SessionId};
pub use format::keyslot::{KdfCost, KeySlot, RecoveryKey};
pub use format::manifest::{BackupStats, ImageRecord, Origin};
pub use format::page::{Entry, Page};
pub use format::protection::{AfterEvent, Protection, Shorten};
pub use image_reader::{BlockSink, ImageReader};
pub use image_writer::{Base, ImageWriter};
pub use keys::{KeyCheck, ListedSlot, RotateData, RotatedData, Standing, VouchedSlots};
pub use lock::{LockRule, LockSetting};
pub use moved::RunBytes;
pub use points::{DamagedPoint, Listing, Pin, PointSelector, PointSpec, RestorePoint};
pub use pool::Pool;
pub use repository::{InitOptions, Repository, Settings, Unlock, rfc3339};
pub use reread::Reread;
pub use session::{BackupSession, CommitInfo, OtherSession, SessionOptions, check_name};
pub use verify::{Damage, Depth, Place, Touched, VerifyProgress, VerifyReport};
