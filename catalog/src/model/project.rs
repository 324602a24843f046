use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Result;
use crate::id::ProjectId;
use crate::record::Kind;

/// A tenant: what belongs to one project is not seen by another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// For people.
    #[serde(default)]
    pub description: String,
}

impl Kind for Project {
    type Id = ProjectId;
    const TABLE: &'static str = "projects";
    const WORD: &'static str = "project";
    const SHARED: bool = false;

    fn is_project(id: ProjectId) -> Option<ProjectId> {
        Some(id)
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}
