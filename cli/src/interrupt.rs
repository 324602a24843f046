//! Ctrl-C and SIGTERM: the first stops cleanly, the second at once.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{leash, managed};

/// A token that is cancelled by the first signal; `message` is then said on stderr. A second
/// signal ends the process.
pub(crate) fn watch(message: &'static str) -> Result<CancellationToken> {
    let failed = "cannot watch for signals";
    let mut interrupt = signal(SignalKind::interrupt()).context(failed)?;
    let mut terminate = signal(SignalKind::terminate()).context(failed)?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut told = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = managed::dismissed().cancelled(), if !told => {}
            }
            if told {
                leash::end();
            }
            told = true;
            cancelled.cancel();
            if !message.is_empty() {
                crate::output::note(message);
            }
        }
    });
    Ok(token)
}
