use std::error::Error as StdError;
use std::fmt;

use sluice_block::BlockError;
use sluice_repository::{ErrorKind as RepositoryKind, RepositoryError};

/// A result of the engine.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// What went wrong, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The repository failed; its own error is the source.
    Repository(RepositoryKind),
    /// The source could not be read.
    Source,
    /// The target could not be written.
    Target,
    /// The run was cancelled; what was stored is kept for the next run.
    Cancelled,
    /// An argument is out of its range.
    Invalid,
}

/// Kind, context and source of a failed run.
#[derive(Debug)]
pub struct EngineError {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl EngineError {
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

    /// What a caller can act on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn source(image: &str, error: BlockError) -> Self {
        Self::caused(
            ErrorKind::Source,
            format!("reading the source of image {image} failed"),
            error,
        )
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for EngineError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|s| &**s as &(dyn StdError + 'static))
    }
}

impl From<RepositoryError> for EngineError {
    fn from(error: RepositoryError) -> Self {
        let kind = ErrorKind::Repository(error.kind());
        Self { kind, context: "the repository failed".into(), source: Some(error.into()) }
    }
}
