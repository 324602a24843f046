//! Requests that may be sent twice: who answers one, and what was answered.
//!
//! ```text
//!   claimed ──► done ──► answered
//!      │          └─ the request's own transaction says so: its answer may be lost, it is not
//!      └─ nothing has happened yet; somebody else may claim it after a while
//! ```
//!
//! A request is run as [`claimed`](crate::claimed): each of its transactions is committed only
//! while the claim holds. So whoever took a claim over may begin anew, and what was slow, or on
//! another server, does nothing any more.

use crate::db::{Columns, Tx, number};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::fate::Claim;

/// Instead of the status of an answer: nothing has happened yet.
const UNDER_WAY: i64 = 0;
/// It was done, and nobody has written down yet what was answered.
const DONE: i64 = 1;

/// What is known of a request that somebody claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It is for whoever asked to do it.
    Mine,
    /// The key stands for another request.
    Other,
    /// Somebody does it.
    UnderWay,
    /// It was done, and what was answered is not known.
    Lost,
    /// It was answered.
    Answered(Answer),
}

/// An answer as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status, as HTTP has it.
    pub status: u16,
    /// The headers that matter, as a document.
    pub headers: String,
    /// The body.
    pub body: String,
}

impl Tx {
    /// Claims a request, unless it was done or somebody does it. What nobody has done since
    /// `lost_before_ms` is taken over; what is older than `forget_before_ms` is forgotten.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim(
        &mut self,
        claim: &Claim,
        request_hash: &str,
        now_ms: u64,
        (lost_before_ms, forget_before_ms): (u64, u64),
    ) -> Result<Claimed> {
        let forget = sqlx::query("DELETE FROM idempotency WHERE created_ms < $1");
        self.run(forget.bind(number(forget_before_ms))).await?;
        let sql = "INSERT INTO idempotency \
                   (actor, idempotency_key, request_hash, status, answer, created_ms, claim) \
                   VALUES ($1, $2, $3, $4, '', $5, $6) \
                   ON CONFLICT (actor, idempotency_key) DO NOTHING";
        let insert = sqlx::query(sql)
            .bind(claim.actor.clone())
            .bind(claim.key.clone())
            .bind(request_hash.to_owned())
            .bind(UNDER_WAY)
            .bind(number(now_ms))
            .bind(claim.id.clone());
        if self.run(insert).await? > 0 {
            return Ok(Claimed::Mine);
        }
        let sql = "UPDATE idempotency SET claim = $3, created_ms = $4 \
                   WHERE actor = $1 AND idempotency_key = $2 AND request_hash = $5 \
                   AND status = $6 AND created_ms < $7";
        let take = sqlx::query(sql)
            .bind(claim.actor.clone())
            .bind(claim.key.clone())
            .bind(claim.id.clone())
            .bind(number(now_ms))
            .bind(request_hash.to_owned())
            .bind(UNDER_WAY)
            .bind(number(lost_before_ms));
        if self.run(take).await? > 0 {
            return Ok(Claimed::Mine);
        }
        self.claimed_by(claim, request_hash).await
    }

    /// What is known of a request that is not for this claim to do.
    async fn claimed_by(&mut self, claim: &Claim, request_hash: &str) -> Result<Claimed> {
        let sql = "SELECT request_hash, status, answer, headers FROM idempotency \
                   WHERE actor = $1 AND idempotency_key = $2";
        let select = sqlx::query(sql).bind(claim.actor.clone()).bind(claim.key.clone());
        // Whoever had it gave it up just now.
        let Some(row) = self.maybe(select).await? else { return Ok(Claimed::UnderWay) };
        if row.text("request_hash")? != request_hash {
            return Ok(Claimed::Other);
        }
        let status = number(row.count("status")?);
        Ok(match status {
            UNDER_WAY => Claimed::UnderWay,
            DONE => Claimed::Lost,
            _ => Claimed::Answered(Answer {
                status: u16::try_from(status).unwrap_or(500),
                headers: row.text("headers")?,
                body: row.text("answer")?,
            }),
        })
    }

    /// Notes that a claimed request was done, with what it did.
    pub(crate) async fn done(&mut self, claim: &Claim) -> Result<()> {
        let sql = "UPDATE idempotency SET status = $4 \
                   WHERE actor = $1 AND idempotency_key = $2 AND claim = $3 AND status IN (0, 1)";
        if self.run(of(sql, claim).bind(DONE)).await? > 0 {
            return Ok(());
        }
        let text = "it took too long, and the same request was sent again: that one counts";
        Err(CatalogError::new(ErrorKind::Stale, text))
    }

    /// Keeps what was answered.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn keep_answer(&mut self, claim: &Claim, answer: &Answer) -> Result<()> {
        let sql = "UPDATE idempotency SET status = $4, answer = $5, headers = $6 \
                   WHERE actor = $1 AND idempotency_key = $2 AND claim = $3";
        let keep = of(sql, claim)
            .bind(i64::from(answer.status))
            .bind(answer.body.clone())
            .bind(answer.headers.clone());
        self.run(keep).await.map(drop)
    }

    /// Gives a claim up, so that the request may be sent again; with `undone`, only if nothing was
    /// done.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn give_up(&mut self, claim: &Claim, undone: bool) -> Result<()> {
        let sql = match undone {
            true => {
                "DELETE FROM idempotency \
                 WHERE actor = $1 AND idempotency_key = $2 AND claim = $3 AND status = 0"
            }
            false => {
                "DELETE FROM idempotency \
                 WHERE actor = $1 AND idempotency_key = $2 AND claim = $3"
            }
        };
        self.run(of(sql, claim)).await.map(drop)
    }
}

/// A statement on the row of a claim.
fn of(sql: &'static str, claim: &Claim) -> crate::db::Query {
    sqlx::query(sql).bind(claim.actor.clone()).bind(claim.key.clone()).bind(claim.id.clone())
}
