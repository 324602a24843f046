//! The node's certificate: renewed in time, by itself.

use std::sync::Arc;
use std::time::Duration;

use sluice_node_api::{CertificateRequest, Certified, ClientError, Identity, KeyRequest};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;

/// How often is looked whether the certificate is due.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait after a server did not make one.
const AGAIN: Duration = Duration::from_secs(10);
/// The same after a server that makes none: one of an earlier release.
const LATER: Duration = Duration::from_secs(3600);

/// Where a node keeps what it shows.
pub trait Credentials: Send + Sync {
    /// What the node is called.
    fn name(&self) -> String;

    /// Whether it is time for another certificate.
    fn is_due(&self) -> bool;

    /// Keeps another one, for good.
    ///
    /// # Errors
    /// In words, why that is not possible. The one before is shown on.
    fn keep(&self, identity: &Identity) -> Result<(), String>;
}

impl Agent {
    /// Asks for another certificate when it is time, until `shutdown`.
    pub(crate) async fn keep_certified(
        self: Arc<Self>,
        credentials: Arc<dyn Credentials>,
        shutdown: CancellationToken,
    ) {
        let mut pause = LOOK;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = LOOK;
            if !credentials.is_due() {
                continue;
            }
            match self.renew(&*credentials).await {
                Ok(()) => tracing::info!("this node has a new certificate"),
                Err(Failed::Server(error)) if error.status() == Some(404) => pause = LATER,
                Err(error) => {
                    tracing::warn!("this node's certificate cannot be renewed: {error}");
                    pause = AGAIN;
                }
            }
        }
    }

    /// Asks for a certificate, keeps it, and shows it from then on.
    async fn renew(&self, credentials: &dyn Credentials) -> Result<(), Failed> {
        let asked = KeyRequest::new(&credentials.name()).map_err(Failed::Here)?;
        let request = CertificateRequest { request: asked.request.clone() };
        let made: Certified = self.client.post("/api/node/v1/certificate", &request).await?;
        let identity = asked.with(made);
        credentials.keep(&identity).map_err(Failed::Here)?;
        Ok(self.client.show(&identity)?)
    }
}

/// Why there is no other certificate.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Server(#[from] ClientError),
    #[error("{0}")]
    Here(String),
}
