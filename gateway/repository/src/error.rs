use std::error::Error as StdError;
use std::fmt;

use sluice_destination::{DestinationError, ErrorKind as DestinationKind};

/// A result of a repository operation.
pub type Result<T, E = RepositoryError> = std::result::Result<T, E>;

/// What went wrong, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no repository at the destination.
    NotARepository,
    /// There is one already.
    AlreadyARepository,
    /// The format is newer than this program.
    NewerFormat,
    /// The passphrase or recovery key opens none of the key slots.
    WrongKey,
    /// An object's bytes failed verification, or an object that must exist is missing.
    Damaged,
    /// No such restore point, instance or image.
    NotFound,
    /// The name fits more than one thing.
    Ambiguous,
    /// Someone else got there first (a lost commit race, a fenced session).
    Conflict,
    /// Replicas take no backups, and primaries no copies: the place has the other role.
    Role,
    /// A hold or a retention is in the way.
    Protected,
    /// An argument is out of its range.
    Invalid,
    /// The destination failed; its own error is the source.
    Destination(DestinationKind),
    /// The local cache or another local file failed.
    Local,
    /// More would be stored than was allowed.
    Allowance,
    /// The operation was cancelled.
    Cancelled,
}

/// Kind, context and source of a failed repository operation.
///
/// The message says what was being done and, where something can be done about it, what; it does
/// not repeat its source.
#[derive(Debug)]
pub struct RepositoryError {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl RepositoryError {
    /// An error with no deeper cause.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// An error caused by `source`.
    pub fn caused(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }

    /// The bytes of `object` failed verification: `what` says how.
    pub fn damaged(object: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Damaged, format!("object {object} is damaged: {what}"))
    }

    /// What a caller can act on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the destination may be read but not written.
    pub(crate) fn is_unwritable(&self) -> bool {
        let unwritable = [DestinationKind::ReadOnly, DestinationKind::AccessDenied];
        unwritable.iter().any(|kind| self.kind == ErrorKind::Destination(*kind))
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.kind == ErrorKind::Destination(DestinationKind::Unavailable)
    }
}

impl fmt::Display for RepositoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for RepositoryError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|s| &**s as &(dyn StdError + 'static))
    }
}

impl From<DestinationError> for RepositoryError {
    fn from(error: DestinationError) -> Self {
        let kind = ErrorKind::Destination(error.kind());
        Self { kind, context: "the destination failed".into(), source: Some(error.into()) }
    }
}

impl From<RepositoryError> for sluice_block::BlockError {
    fn from(error: RepositoryError) -> Self {
        use sluice_block::ErrorKind as Block;
        let kind = match error.kind {
            ErrorKind::Damaged => Block::Damaged,
            ErrorKind::Destination(DestinationKind::Unavailable) => Block::Unavailable,
            ErrorKind::Destination(DestinationKind::NoSpace) => Block::NoSpace,
            ErrorKind::Destination(DestinationKind::ReadOnly) => Block::ReadOnly,
            _ => Block::Io,
        };
        Self::caused(kind, "reading from the repository failed", error)
    }
}
