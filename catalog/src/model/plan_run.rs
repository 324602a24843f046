use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::found::Span;
use crate::id::{PlanId, PlanRunId, ProjectId};
use crate::model::plan::PlanMode;

/// How far a run of a plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PlanRunState {
    /// It goes on.
    Running,
    /// All steps are done.
    Succeeded,
    /// It went on over steps that have failed.
    Warnings,
    /// Something has failed, and what comes later was left out.
    Failed,
    /// Somebody wanted it to end.
    Cancelled,
}

impl PlanRunState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Running, Self::Succeeded, Self::Warnings, Self::Failed, Self::Cancelled];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Warnings => "warnings",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// A run of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRun {
    /// Its id.
    pub id: PlanRunId,
    /// The project of the plan.
    pub project: Option<ProjectId>,
    /// The plan.
    pub plan: PlanId,
    /// What that was called.
    pub plan_name: String,
    /// What it is for.
    pub mode: PlanMode,
    /// How far it is.
    pub state: PlanRunState,
    /// A run with the same key is not added again.
    pub due_key: Option<String>,
    /// Grows with every change.
    pub revision: u64,
    /// When it began, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it ended, in milliseconds since 1970.
    pub finished_ms: Option<u64>,
    /// Why it is in this state, in one line.
    pub message: String,
    /// The plan as it was, and how far each step is.
    pub body: Value,
}

/// Which runs to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanRunFilter {
    /// Those in this state.
    pub state: Option<PlanRunState>,
    /// Those of this plan.
    pub plan: Option<PlanId>,
    /// Those of this project.
    pub project: Option<ProjectId>,
    /// Those that are for this.
    pub mode: Option<PlanMode>,
    /// Those that began within this time.
    pub begun: Span,
    /// The oldest first.
    pub oldest_first: bool,
}
