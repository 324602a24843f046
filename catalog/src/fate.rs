//! What becomes of the transactions of a request: usually what they say, but a rehearsal commits
//! nothing, and what a second person has agreed to is committed with the agreement, once. A request
//! that may be sent twice says in its own transaction that it was done.
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

/// Who does a request that may be sent twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who sent it.
    pub actor: String,
    /// Its key.
    pub key: String,
    /// Different for each attempt.
    pub id: String,
}

tokio::task_local! {
    static FATE: Fate;
    static CLAIM: Claim;
}

/// Runs something that a claim was made for ([`crate::Tx::claim`]): its transactions say that it
/// was done, and are not committed once somebody else has taken it over.
pub async fn claimed<F: Future>(claim: Claim, work: F) -> F::Output {
    CLAIM.scope(claim, work).await
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
        Err(_) => {}
        Ok(Fate::Rehearsed) => return Ok(false),
        Ok(Fate::Approved(consent)) => tx.settle(&consent).await?,
    }
    if let Ok(claim) = CLAIM.try_with(Clone::clone) {
        tx.done(&claim).await?;
    }
    Ok(true)
}
