//! The project an instance belongs to: what its newest point's metadata says.

use serde::Deserialize;

use crate::points::RestorePoint;

/// Longer names are none.
const LONGEST: usize = 200;

#[derive(Deserialize)]
struct Tag {
    project: String,
}

impl RestorePoint {
    /// The project the point's metadata names: a text `project` of the JSON object's own.
    pub fn project(&self) -> Option<String> {
        // A list could pass for the structure too.
        let object = self.metadata.as_ref().filter(|text| text.trim_start().starts_with('{'))?;
        let tag: Tag = serde_json::from_str(object).ok()?;
        (1..=LONGEST).contains(&tag.project.len()).then_some(tag.project)
    }
}
