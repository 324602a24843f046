//! Questions about the files of mounts: the node waits for them at the server, and answers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sluice_node_api::LookOrder;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, PAUSE};
use crate::mounts::Mounts;

/// Questions at a time. A download asks for the next piece while one is under way.
pub(crate) const AT_A_TIME: usize = 2;
/// How long to wait before a server is asked again that knows no such questions.
const UNKNOWN: Duration = Duration::from_secs(60);

impl Agent {
    /// Answers one question after the other, until `shutdown`.
    pub(crate) async fn answer_looks(
        self: Arc<Self>,
        mounts: Arc<dyn Mounts>,
        shutdown: CancellationToken,
    ) {
        loop {
            let pause = tokio::select! {
                () = shutdown.cancelled() => return,
                pause = self.answer_look(&*mounts) => pause,
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Waits for a question and answers it; returns how long to wait before the next.
    async fn answer_look(&self, mounts: &dyn Mounts) -> Duration {
        let asked = self.client.post::<Option<LookOrder>>("/api/node/v1/looks", &()).await;
        match asked {
            // The server has waited already.
            Ok(None) => Duration::ZERO,
            Ok(Some(order)) => {
                let answer = mounts.look(&order).await;
                let path = format!("/api/node/v1/looks/{}", order.id);
                // Whoever asked may ask again.
                if let Err(error) = self.client.post::<Value>(&path, &answer).await {
                    tracing::debug!("a question of a mount was not answered: {error}");
                }
                Duration::ZERO
            }
            // A server of an earlier release.
            Err(error) if [Some(404), Some(405)].contains(&error.status()) => UNKNOWN,
            Err(_) => PAUSE,
        }
    }
}
