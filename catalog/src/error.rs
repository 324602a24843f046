//! What can go wrong.

use std::fmt;

/// The result of everything here.
pub type Result<T, E = CatalogError> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such record, or the caller may not know of it.
    NotFound,
    /// A record with that name is there already, or is in use.
    Conflict,
    /// Somebody changed the record in the meantime, or took over the task.
    Stale,
    /// What was given makes no sense.
    Invalid,
    /// The database does not answer now; trying again may help.
    Unavailable,
    /// The database holds something that was never written so.
    Damaged,
}

/// A failure with its context.
#[derive(Debug)]
pub struct CatalogError {
    kind: ErrorKind,
    context: String,
    source: Option<Source>,
}

impl CatalogError {
    /// A failure without a cause below it.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// The same with its cause.
    #[must_use]
    pub fn with_source(self, source: impl Into<Source>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether trying again may help.
    pub fn is_retryable(&self) -> bool {
        self.kind == ErrorKind::Unavailable
    }

    pub(crate) fn not_found(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("there is no {what}"))
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, what)
    }
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for CatalogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// What PostgreSQL says of a zero byte in a text; SQLite takes it.
const UNTRANSLATABLE: &str = "22021";

impl From<sqlx::Error> for CatalogError {
    fn from(error: sqlx::Error) -> Self {
        let database = error.as_database_error();
        let (kind, context) = if database.is_some_and(|e| e.is_unique_violation()) {
            (ErrorKind::Conflict, "a record with that name is there already")
        } else if database.is_some_and(|e| e.is_foreign_key_violation()) {
            (ErrorKind::Conflict, "other records refer to it, or what it refers to is gone")
        } else if database.is_some_and(|e| e.code().as_deref() == Some(UNTRANSLATABLE)) {
            (ErrorKind::Invalid, "a text holds a zero byte, which no text here may")
        } else if matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) {
            (ErrorKind::Damaged, "the database holds something unreadable")
        } else {
            (ErrorKind::Unavailable, "the database does not do what it is asked")
        };
        Self::new(kind, context).with_source(error)
    }
}
