//! A request before it is signed.

use bytes::Bytes;
use http::Method;

#[cfg(feature = "gcs")]
use super::escape;

/// A request below the URL of a server or an account.
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// Begins with a slash; escaped.
    pub(crate) path: String,
    /// Parameters, not escaped.
    pub(crate) query: Vec<(&'static str, String)>,
    /// Names in lower case.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self { method, path, query: Vec::new(), headers: Vec::new(), body: Bytes::new() }
    }

    #[cfg(feature = "azblob")]
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn parameter(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Path and parameters.
    #[cfg(feature = "gcs")]
    pub(crate) fn target(&self) -> String {
        let mut target = self.path.clone();
        for (at, (name, value)) in self.query.iter().enumerate() {
            let mark = if at == 0 { '?' } else { '&' };
            target.push_str(&format!("{mark}{name}={}", escape(value)));
        }
        target
    }
}
