//! What is told of the past for reports: added up by the database, as far as it can.

use crate::id::{DestinationId, InstanceId, PolicyId, ProjectId};
use crate::model::restore_test::TestState;

/// How many backups of an instance ended in which state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The instance.
    pub instance: InstanceId,
    /// The state, in a word.
    pub state: String,
    /// How many.
    pub tasks: u64,
}

/// What a backup of an instance to a destination takes in the mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeanBackup {
    /// The instance.
    pub instance: InstanceId,
    /// The destination.
    pub destination: DestinationId,
    /// How many backups this is the mean of.
    pub tasks: u64,
    /// Bytes of the source that it covers.
    pub logical_bytes: u64,
    /// Bytes that go to the destination.
    pub transferred_bytes: u64,
    /// From its start to its end, in milliseconds.
    pub ran_ms: u64,
}

/// The newest restore test of an instance that came to a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastTest {
    /// The instance.
    pub instance: InstanceId,
    /// The verdict.
    pub state: TestState,
    /// How long it took until the guest answered, in milliseconds.
    pub answer_ms: Option<u64>,
    /// When it was asked for, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A policy that has an instance by hand.
pub type ByHand = (PolicyId, InstanceId);

/// Whose history, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Within {
    /// From this moment on, in milliseconds since 1970.
    pub from_ms: u64,
    /// Until before this moment, in milliseconds since 1970.
    pub until_ms: u64,
    /// Only of this project.
    pub project: Option<ProjectId>,
}
