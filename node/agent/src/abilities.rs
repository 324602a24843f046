//! How this node stands: told to the server as it changes, and heard whether to start again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluice_node_api::{Hello, Orders};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;

/// How often is looked, and told.
const LOOK: Duration = Duration::from_secs(5);
/// The same with a server that does not want to know: one of an earlier release.
const LATER: Duration = Duration::from_secs(600);

/// Finds out what works on this machine.
#[async_trait]
pub trait Abilities: Send + Sync {
    /// What this node can do now.
    async fn look(&self) -> Hello;
}

impl Agent {
    /// Tells how this node stands until `shutdown`, or until it is to start again.
    pub(crate) async fn keep_told(
        self: Arc<Self>,
        abilities: Arc<dyn Abilities>,
        leaving: CancellationToken,
        shutdown: CancellationToken,
    ) {
        let mut pause = LOOK;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let telling = async {
                let hello = abilities.look().await;
                self.client.post::<Orders>("/api/node/v1/standing", &hello).await
            };
            let told = tokio::select! {
                () = shutdown.cancelled() => return,
                told = telling => told,
            };
            pause = LOOK;
            match told {
                Ok(Orders { restart: true }) => {
                    tracing::info!("this node is to start again; it waits for what it runs");
                    leaving.cancel();
                    return;
                }
                Ok(_) => {}
                Err(error) if error.status() == Some(404) => pause = LATER,
                Err(error) => tracing::debug!("the server does not hear how it stands: {error}"),
            }
        }
    }
}
