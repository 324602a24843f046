use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{CatalogError, Result};
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
    const RENAMES: bool = false;

    /// Repositories know an instance as `PROJECT.INSTANCE`: with a dot in it, the name of one
    /// project could begin what is another's.
    fn check_name(name: &str) -> Result<()> {
        let fits = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let text = "the name of a project has 1 to 64 letters, digits, dashes and underscores";
        if fits { Ok(()) } else { Err(CatalogError::invalid(text)) }
    }

    fn is_project(id: ProjectId) -> Option<ProjectId> {
        Some(id)
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}
