//! The end of history: tasks that ended long ago are removed.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::problem::Result;
use crate::queue::Rules;
use crate::state::Shared;

/// How often is looked for what may go.
const LOOK: Duration = Duration::from_secs(10 * 60);
/// Pause between two parts: whoever else writes goes first.
const PAUSE: Duration = Duration::from_secs(1);
const DAY_MS: u64 = 86_400_000;

/// Removes what may go until `shutdown` is cancelled.
pub(crate) async fn run(shared: Shared, shutdown: CancellationToken) {
    loop {
        let pause = match part(&shared).await {
            Ok(true) => PAUSE,
            Ok(false) => LOOK,
            Err(problem) => {
                tracing::warn!("what ended long ago cannot be removed: {}", problem.detail);
                LOOK
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Removes a part; whether there may be more.
async fn part(shared: &Shared) -> Result<bool> {
    let days = Rules::load(&mut shared.catalog.read().await?).await?.history_days;
    if days == 0 {
        return Ok(false);
    }
    let before = shared.now().saturating_sub(u64::from(days) * DAY_MS);
    let mut tx = shared.catalog.begin().await?;
    let more = tx.forget_ended(before).await?;
    tx.commit().await?;
    Ok(more)
}
