//! What was tried of a provider, for who sets it up.

use serde::Serialize;
use utoipa::ToSchema;

/// Something that was tried.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Step {
    /// With which server.
    pub(crate) server: String,
    /// What: `connect`, `start-tls`, `tls`, `bind`, `user`, `password`, `groups`, `metadata`,
    /// `mapping`.
    pub(crate) step: &'static str,
    /// Whether it went well.
    pub(crate) ok: bool,
    /// What became of it.
    pub(crate) detail: String,
}

/// What was tried so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    server: String,
    now: &'static str,
    pub(crate) all: Vec<Step>,
}

impl Steps {
    /// Goes on with another server.
    pub(crate) fn at(&mut self, server: &str) {
        server.clone_into(&mut self.server);
    }

    /// Begins something.
    pub(crate) fn begin(&mut self, step: &'static str) {
        self.now = step;
    }

    /// It went well.
    pub(crate) fn done(&mut self, detail: impl Into<String>) {
        self.push(true, detail.into());
    }

    /// It did not.
    pub(crate) fn failed(&mut self, detail: impl Into<String>) {
        self.push(false, detail.into());
    }

    fn push(&mut self, ok: bool, detail: String) {
        let server = self.server.clone();
        self.all.push(Step { server, step: self.now, ok, detail });
    }
}
