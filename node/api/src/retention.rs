//! What is said about restore points that events keep.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The name that stands among what is kept of periods where events keep something.
pub const EVENTS: &str = "after-event";

/// Until when restore points are kept because of events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UntilOrder {
    /// All that are not named, in milliseconds since 1970; while an event is waited for, nothing.
    #[serde(default)]
    pub all_ms: Option<u64>,
    /// Those of which events have happened on their own, by name.
    #[serde(default)]
    pub points_ms: BTreeMap<String, Option<u64>>,
    /// Those of an instance that are not named, by its name, where a prune is of several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub instances_ms: BTreeMap<String, Option<u64>>,
}

impl UntilOrder {
    /// Whether nothing is kept because of events any more.
    pub fn is_over(&self, now_ms: u64) -> bool {
        let times = std::iter::once(&self.all_ms).chain(self.points_ms.values());
        let times = times.chain(self.instances_ms.values());
        times.into_iter().all(|until| until.is_some_and(|until| until <= now_ms))
    }
}
