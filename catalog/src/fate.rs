//! What becomes of the transactions of a request: usually what they say, but a rehearsal commits
//! nothing, and what a second person has agreed to is committed with the agreement, once.
//!
//! Handlers do not know of it: they begin and commit as always. So a request that was kept runs
//! later through the very code that it would have run through at once.

use crate::db::Tx;
use crate::error::Result;
use crate::id::ApprovalId;

/// That a second person agrees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    /// To what.
    pub approval: ApprovalId,
    /// Who: a login.
    pub decider: String,
    /// What they say.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub now_ms: u64,
}

#[derive(Debug, Clone)]
enum Fate {
    Rehearsed,
    Approved(Consent),
}

tokio::task_local! {
    static FATE: Fate;
}

/// Runs something whose transactions are all undone at their end.
pub async fn rehearsed<F: Future>(work: F) -> F::Output {
    FATE.scope(Fate::Rehearsed, work).await
}

/// Runs something whose only transaction is committed together with the consent: if the request is
/// still waiting then, and so once, however many say yes at the same time.
pub async fn approved<F: Future>(consent: Consent, work: F) -> F::Output {
    FATE.scope(Fate::Approved(consent), work).await
}

/// Whether to commit.
pub(crate) async fn seal(tx: &mut Tx) -> Result<bool> {
    match FATE.try_with(Clone::clone) {
        Err(_) => Ok(true),
        Ok(Fate::Rehearsed) => Ok(false),
        Ok(Fate::Approved(consent)) => tx.settle(&consent).await.map(|()| true),
    }
}
