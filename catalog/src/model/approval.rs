use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::found::Span;
use crate::id::{ApprovalId, ProjectId, UserId};

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalState {
    /// Nobody has decided.
    Pending,
    /// A second person agreed, and it was done.
    Done,
    /// A second person agreed, but it could not be done any more.
    Failed,
    /// A second person did not agree.
    Rejected,
    /// Whoever asked for it does not want it any more.
    Withdrawn,
    /// Nobody decided in time.
    Expired,
}

impl ApprovalState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Done, Self::Failed, Self::Rejected, Self::Withdrawn, Self::Expired];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
        }
    }
}

/// A request that is to wait for a second person.
#[derive(Debug, Clone)]
pub struct NewApproval {
    /// Where it belongs; the system when there is none.
    pub project: Option<ProjectId>,
    /// What it does: a word.
    pub action: String,
    /// To what: an id or a name.
    pub object: String,
    /// Who asked, and as whom it will be done.
    pub requester: UserId,
    /// Their login.
    pub requester_login: String,
    /// Nobody can decide from then on, in milliseconds since 1970.
    pub expires_ms: u64,
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The headers that matter, by their names in lower case.
    pub headers: Vec<(String, String)>,
    /// The document that was sent; may hold secrets, and is kept sealed.
    pub body: Zeroizing<String>,
}

/// A request that waits, or has waited.
#[derive(Debug, Clone)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// What was asked.
    pub new: NewApproval,
    /// How far it is.
    pub state: ApprovalState,
    /// When it was asked, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was decided, in milliseconds since 1970.
    pub decided_ms: Option<u64>,
    /// Who decided: a login.
    pub decider: String,
    /// What they said, or what went wrong.
    pub reason: String,
}

/// Which requests to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApprovalFilter {
    /// Those in this state.
    pub state: Option<ApprovalState>,
    /// Those that do this.
    pub action: Option<String>,
    /// Those of this project.
    pub project: Option<ProjectId>,
    /// Those that this login asked for.
    pub requester: Option<String>,
    /// Those that were asked for within this time.
    pub asked: Span,
}
