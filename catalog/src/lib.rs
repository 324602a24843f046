//! What the control plane knows: projects, users, destinations, nodes, instances, policies, tasks,
//! restore points, and who did what.
//!
//! ```text
//!   Catalog ── begin ──► Tx ── commit ──► database (SQLite in a file, or PostgreSQL by URL)
//!      │                  │
//!      │                  └─ records of a kind: JSON document + the columns that are searched
//!      └─ Sealer: secrets, encrypted with a key that lies outside the database
//! ```
//!
//! # Invariants
//!
//! * One code path for both databases: columns are `BIGINT` or `TEXT`, times are milliseconds
//!   since 1970, and nothing asks which database it is except [`Catalog::open`] and the lock of
//!   a transaction.
//! * The room owns no clock. Who calls says what time it is.
//! * A record has a revision that grows with every change; a change names the revision it is
//!   based on, and loses if somebody was faster.
//! * What changes something and the audit entry that tells of it are one transaction.
//! * A task has one lease at a time. Its *attempt* is the fence: a report of an earlier attempt
//!   is refused.
//! * What must not be read is not there in clear: passwords are Argon2id hashes, tokens are
//!   BLAKE3 hashes, secrets of destinations are sealed.

mod audit;
mod db;
mod error;
mod fate;
#[cfg(test)]
mod followed;
mod found;
mod id;
mod listed;
mod model;
mod password;
mod record;
mod schema;
mod seal;
mod snapshot;
mod sought;
mod store;
mod visible;

pub use audit::{AuditEntry, AuditFilter, AuditRow, ChainFlaw};
pub use db::{Catalog, Part, Tx};
pub use error::{CatalogError, ErrorKind, Result};
pub use fate::{Claim, Consent, approved, claimed, rehearsed};
pub use found::{Found, Span, Unreadable};
pub use id::{
    ApprovalId, DestinationId, GroupId, Guid, InstanceId, InventoryId, MountId, NodeConfigId,
    NodeId, PasskeyId, PlanId, PlanRunId, PointId, PolicyId, ProjectId, ProviderId, RestoreTestId,
    RetentionEventId, SessionId, SnapshotId, TaskId, TokenId, UserId,
};
pub use model::access::{Binding, Group, OpenSession, Role, Session, Token, User};
pub use model::approval::{Approval, ApprovalFilter, ApprovalState, NewApproval};
pub use model::assign::{Assign, Having};
pub use model::destination::{Destination, Maintenance, MaintenanceWork};
pub use model::event::{EventFilter, RetentionEvent};
pub use model::grant::{Grant, Resource, Scope};
pub use model::history::{ByHand, Ended, LastTest, MeanBackup, Within};
pub use model::hook::{Hook, HookFailure, Hooks};
pub use model::instance::{BlockSize, Instance, Source, SourceImage};
pub use model::inventory::{Finding, Inventory, Look, Looked, Per};
pub use model::mount::{Mount, MountFilter, MountProtocol, MountSpec, MountState, NewMount};
pub use model::need::{SNAPSHOTS as NEEDS_SNAPSHOTS, needs as task_needs};
pub use model::node::{
    Ability, Capabilities, Installed, Node, NodeLiveness, NodeState, Upgrade, UpgradeState,
};
pub use model::node_config::{Bandwidth, GuestSsh, NodeConfig, lies_in};
pub use model::notice::{FailedTask, Notice};
pub use model::overview::{AtDestination, Heard, Protected, TaskCount};
pub use model::passkey::{
    NewChallenge, NewPasskey, Passkey, PasskeyPurpose, PasskeyUse, TakenChallenge,
};
pub use model::plan::{
    OnFailure, Plan, PlanGroup, PlanItem, PlanMode, PlanNetwork, PlanSchedule, PlanTarget,
    PointChoice, Script,
};
pub use model::plan_run::{PlanRun, PlanRunFilter, PlanRunState};
pub use model::point::{NewPoint, Point, PointFilter};
pub use model::policy::{
    CopyRule, Keep, Missed, MissedFilter, Objectives, Policy, Rule, Schedule, Timed, When,
};
pub use model::project::Project;
pub use model::proof::{
    BackupType, Proof, ProofState, VerifyAt, VerifyDepth, VerifyPlaces, VerifyRule,
};
pub use model::provider::{
    GroupMapping, GroupSearch, IdentityProvider, LdapGroups, LdapVia, LoginVia, MemberOf, OidcVia,
};
pub use model::restore_test::{
    BootCheck, BootDisk, BootFirmware, BootNic, BootSpec, NewTest, RestoreTest, TestFilter,
    TestOutcome, TestRule, TestState,
};
pub use model::serves::{Placed, Serves, ServesBy};
pub use model::snapshot::{
    InstanceSnapshot, NewSnapshot, SnapshotFilter, SnapshotImage, SnapshotKeep, SnapshotRule,
    SnapshotState,
};
pub use model::task::{InLine, LeaseMark, LogLine, NewTask, Progress, Task, TaskFilter, TaskState};
pub use model::usage::{Held, InUse, Level, Moved, Stored, Transfer, UsageBy, UsageFilter};
pub use password::{hash_password, token_hash, verify_password};
pub use record::{Kind, Page, Readable, Record};
pub use seal::{Sealed, Sealer};
pub use sought::Sought;
pub use store::answers::{Answer, Claimed};
pub use store::certificates::NodeCertificate;
pub use store::events::{NewRetentionEvent, SettledEvent};
pub use store::groups::NewGroup;
pub use store::imports::Import;
pub use store::looks::WaitingLook;
pub use store::marks::Marked;
pub use store::passkeys::{MOST_CHALLENGES, MOST_PASSKEYS};
pub use store::proofs::Checked;
pub use store::providers::{BeginningLogin, MOST_PENDING};
pub use store::snapshots::OfRule;
pub use store::totp::Totp;
pub use visible::Visible;
