use serde::{Deserialize, Serialize};

/// What a destination was seen to do when it was probed.
///
/// Stored in the repository's `format` object, so that every later user knows without asking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// A second create of one key is refused, one after the other and in a race of eight.
    pub put_if_absent: bool,
    /// A get after a put returns the bytes that were put.
    pub read_after_write: bool,
    /// A listing after a put or a delete shows its effect, and is in order of key.
    pub list_after_write: bool,
    /// A span and a suffix of an object can be had.
    pub ranged_get: bool,
    /// The store refuses a body that does not match its checksum.
    pub checksum_verified: bool,
    /// The store keeps a locked object from being removed until its lock runs out.
    pub object_lock: bool,
    /// The store's clock minus ours, in whole seconds, where the store tells its time.
    pub clock_offset_seconds: Option<i64>,
}

impl Capabilities {
    /// Whether commits may rest on the store itself.
    pub fn can_arbitrate(&self) -> bool {
        self.put_if_absent && self.read_after_write && self.list_after_write && self.ranged_get
    }
}
