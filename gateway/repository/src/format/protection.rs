//! What keeps a restore point, as far as it was said after its commit (`docs/format/`, section 7).

use minicbor::{Decode, Encode};

use super::id::{ChainId, OverlayId, PointId};

/// The part of a protection record that needs no key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ProtectionPlain {
    /// The chain of the point.
    #[n(0)]
    pub chain: ChainId,
    /// The point.
    #[n(1)]
    pub point: PointId,
    /// What keeps it. Takes the place of hold and retention in its manifest.
    #[n(2)]
    pub protection: Protection,
    /// When it was said, in ms since 1970.
    #[n(3)]
    pub changed_ms: u64,
}

/// The sealed part of a protection record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ProtectionBody {
    /// Who said it.
    #[n(0)]
    pub by: String,
    /// The host it was said on.
    #[n(1)]
    pub host: String,
}

/// What keeps a point from being pruned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Protection {
    /// On hold: kept until released.
    #[n(0)]
    pub hold: bool,
    /// Why it is on hold.
    #[n(1)]
    pub reason: Option<String>,
    /// Not to be pruned before, in ms since 1970.
    #[n(2)]
    pub retain_until_ms: Option<u64>,
    /// Kept until something happens, and for some time after.
    #[n(3)]
    pub event: Option<AfterEvent>,
    /// A retention that is to become shorter.
    #[n(4)]
    pub shorten: Option<Shorten>,
    /// Overlays that lie over it, ascending: kept until all of them are gone. None in records of
    /// before they were named.
    #[n(5)]
    pub overlays: Option<Vec<OverlayId>>,
}

/// Retention that begins with an event.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AfterEvent {
    /// The event's name.
    #[n(0)]
    pub name: String,
    /// How long to keep the point after it, in ms.
    #[n(1)]
    pub keep_ms: u64,
    /// When it happened, in ms since 1970; until it has, the point is kept without end.
    #[n(2)]
    pub happened_ms: Option<u64>,
}

/// A retention that becomes shorter, but not at once.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Shorten {
    /// The new end, in ms since 1970; none to end it at once.
    #[n(0)]
    pub to_ms: Option<u64>,
    /// From when on the new end counts, in ms since 1970.
    #[n(1)]
    pub effective_ms: u64,
    /// Who else has agreed. Nothing asks for it yet.
    #[n(2)]
    pub approved_by: Vec<String>,
}
