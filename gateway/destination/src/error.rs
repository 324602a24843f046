use std::error::Error as StdError;
use std::fmt;

/// A result of a destination operation.
pub type Result<T, E = DestinationError> = std::result::Result<T, E>;

/// What went wrong, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No object under this key.
    NotFound,
    /// The key is taken.
    AlreadyExists,
    /// The span starts beyond the object's end.
    InvalidRange,
    /// The text is no object key.
    InvalidKey,
    /// The destination's URL or configuration is wrong.
    InvalidConfig,
    /// Credentials are missing, wrong, or do not allow this.
    AccessDenied,
    /// The destination cannot be written.
    ReadOnly,
    /// There is no room left.
    NoSpace,
    /// No answer, a broken one, or a request to come back later: the same call may succeed.
    Unavailable,
    /// The store does not have this function.
    Unsupported,
    /// The store broke its contract (for example it ignores a condition).
    Unfit,
    /// Anything else.
    Other,
}

/// Kind, context and source of a failed destination operation.
#[derive(Debug)]
pub struct DestinationError {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl DestinationError {
    /// An error with no deeper cause.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// An error of a store that does not do what a destination needs.
    #[cfg(any(feature = "s3", feature = "web"))]
    pub(crate) fn unfit(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unfit, context)
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

    /// Whether the same call may succeed when repeated.
    pub fn is_retryable(&self) -> bool {
        self.kind == ErrorKind::Unavailable
    }
}

impl fmt::Display for DestinationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for DestinationError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|s| &**s as &(dyn StdError + 'static))
    }
}
