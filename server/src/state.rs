//! What all requests share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use sluice_catalog::{Catalog, Sealer};
use sluice_node_api::Fingerprint;
use sluice_repository::Clock;
use sluice_webauthn::RelyingParty;
use tokio::sync::Notify;

use crate::authority::Authority;
use crate::identity::oidc;
use crate::limiter::Limiter;
use crate::metrics::Metrics;
use crate::passkeys::NoPasskeys;
use crate::queue::{Told, Waiter};
use crate::reports::Reports;
use crate::watchers::Watchers;

/// What all requests share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<Inner>);

impl std::ops::Deref for Shared {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// The same, not shared.
pub(crate) struct Inner {
    pub(crate) catalog: Catalog,
    pub(crate) sealer: Sealer,
    pub(crate) clock: Clock,
    /// Rings when a task may be waiting.
    pub(crate) work: Notify,
    /// Nodes that ask for work here.
    pub(crate) waiters: Mutex<Vec<Waiter>>,
    /// What tasks wait for, as it was told last.
    pub(crate) told: Told,
    /// What nodes tell here.
    pub(crate) reports: Reports,
    pub(crate) limiter: Mutex<Limiter>,
    pub(crate) watchers: Watchers,
    /// What identity providers have told of themselves.
    pub(crate) providers: oidc::Memory,
    pub(crate) fingerprint: Fingerprint,
    /// Makes and judges the certificates of nodes.
    pub(crate) authority: Arc<Authority>,
    /// For whom passkeys are made, or why none are.
    pub(crate) party: Result<RelyingParty, NoPasskeys>,
    /// Where nodes reach this server.
    pub(crate) url: String,
    pub(crate) lease_ms: u64,
    /// The server's own folder.
    pub(crate) folder: PathBuf,
    /// When the server's certificate expires, in milliseconds since 1970.
    pub(crate) certificate_end_ms: Option<u64>,
    pub(crate) metrics: Metrics,
}

impl Inner {
    pub(crate) fn now(&self) -> u64 {
        self.clock.now_ms()
    }
}

/// How a program on the same machine reaches this server.
#[derive(Debug, Clone)]
pub struct Local {
    /// `https://HOST:PORT`.
    pub url: String,
    /// Its certificate.
    pub fingerprint: Fingerprint,
}

/// A new token: 32 random bytes as hexadecimal digits behind a word that says what it is for.
pub(crate) fn new_token(word: &str) -> String {
    let bytes: [u8; 32] = rand::random();
    format!("{word}-{}", data_encoding::HEXLOWER.encode(&bytes))
}
