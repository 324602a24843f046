//! What is wrong with a setting.

use std::fmt;

/// A setting that cannot be used, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The name of the setting, as in configuration files.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub what: String,
}

impl Invalid {
    pub(crate) fn new(field: &'static str, what: impl Into<String>) -> Self {
        Self { field, what: what.into() }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.what)
    }
}

impl std::error::Error for Invalid {}
