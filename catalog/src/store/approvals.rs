//! Requests that wait for a second person.

use serde_json::json;
use sqlx::any::AnyRow;
use zeroize::Zeroizing;

use crate::audit::AuditEntry;
use crate::db::{Columns, Tx, document, number, query, text_of};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::fate::Consent;
use crate::found::Found;
use crate::id::{ApprovalId, UserId};
use crate::model::approval::{Approval, ApprovalFilter, ApprovalState, NewApproval};
use crate::record::Page;
use crate::seal::{Sealed, Sealer};
use crate::visible::{OF_OBJECT, Visible};

const COLUMNS: &str = "id, project_id, action, object, requester_id, requester, state, created_ms, \
                       expires_ms, decided_ms, decider, reason, method, path, headers, sealed";

fn read(row: &AnyRow, sealer: &Sealer, now_ms: u64) -> Result<Approval> {
    let id: ApprovalId = row.id("id")?;
    let word = row.text("state")?;
    let state = ApprovalState::ALL.into_iter().find(|state| state.word() == word);
    let expires_ms = row.count("expires_ms")?;
    let state = match state.unwrap_or(ApprovalState::Failed) {
        ApprovalState::Pending if expires_ms <= now_ms => ApprovalState::Expired,
        state => state,
    };
    let body = sealer.open(&id.to_string(), &Sealed(row.text("sealed")?))?;
    let new = NewApproval {
        project: row.maybe_id("project_id")?,
        action: row.text("action")?,
        object: row.text("object")?,
        requester: row.id("requester_id")?,
        requester_login: row.text("requester")?,
        expires_ms,
        method: row.text("method")?,
        path: row.text("path")?,
        headers: row.json("headers")?,
        body: Zeroizing::new(body.to_string()),
    };
    Ok(Approval {
        id,
        new,
        state,
        created_ms: row.count("created_ms")?,
        decided_ms: row.maybe_count("decided_ms")?,
        decider: row.text("decider")?,
        reason: row.text("reason")?,
    })
}

fn decided() -> CatalogError {
    CatalogError::new(ErrorKind::Conflict, "it is decided already, or nobody decided in time")
}

impl Tx {
    /// Keeps a request until a second person decides.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_approval(
        &mut self,
        sealer: &Sealer,
        new: &NewApproval,
        now_ms: u64,
    ) -> Result<ApprovalId> {
        let id = ApprovalId::new(now_ms);
        let sealed = sealer.seal(&id.to_string(), &new.body);
        let sql = format!(
            "INSERT INTO approvals ({COLUMNS}) VALUES \
             ($1, $2, $3, $4, $5, $6, 'pending', $7, $8, NULL, '', '', $9, $10, $11, $12)"
        );
        let insert = query(sql)
            .bind(id.to_string())
            .bind(text_of(new.project))
            .bind(new.action.clone())
            .bind(new.object.clone())
            .bind(new.requester.to_string())
            .bind(new.requester_login.clone())
            .bind(number(now_ms))
            .bind(number(new.expires_ms))
            .bind(new.method.clone())
            .bind(new.path.clone())
            .bind(document(&new.headers))
            .bind(sealed.0);
        self.run(insert).await?;
        Ok(id)
    }

    /// Requests that concern what the caller may know of, and the caller's own, oldest first;
    /// those that cannot be read apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn approvals(
        &mut self,
        sealer: &Sealer,
        (visible, requester): (&Visible, UserId),
        filter: &ApprovalFilter,
        page: &Page,
        now_ms: u64,
    ) -> Result<Found<Approval>> {
        let (condition, values) = visible.condition(&OF_OBJECT, 11);
        let sql = format!(
            "SELECT {COLUMNS} FROM approvals WHERE id > $1 AND ($3 = '' OR CASE \
             WHEN state = 'pending' AND expires_ms <= $4 THEN 'expired' ELSE state END = $3) \
             AND ($6 = '' OR action = $6) AND ($7 = '' OR project_id = $7) \
             AND ($8 = '' OR requester = $8) AND created_ms >= $9 AND created_ms < $10 \
             AND ({condition} OR requester_id = $5) ORDER BY id LIMIT $2"
        );
        let ApprovalFilter { state, action, project, requester: login, asked } = filter;
        let mut select = query(sql)
            .bind(page.after.clone().unwrap_or_default())
            .bind(i64::from(page.limit.min(Page::LARGEST)))
            .bind(state.map(ApprovalState::word).unwrap_or_default())
            .bind(number(now_ms))
            .bind(requester.to_string())
            .bind(action.clone().unwrap_or_default())
            .bind(text_of(*project))
            .bind(login.clone().unwrap_or_default())
            .bind(number(asked.since_ms.unwrap_or(0)))
            .bind(number(asked.until_ms.unwrap_or(u64::MAX)));
        for value in values {
            select = select.bind(value);
        }
        let rows = self.all(select).await?;
        Found::by_id(&rows, page.limit, |row| read(row, sealer, now_ms))
    }

    /// A request, if the caller may know of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, or the caller may not know.
    pub async fn approval(
        &mut self,
        sealer: &Sealer,
        id: ApprovalId,
        (visible, requester): (&Visible, UserId),
        now_ms: u64,
    ) -> Result<Approval> {
        let sql = format!("SELECT {COLUMNS} FROM approvals WHERE id = $1");
        let row = self.maybe(query(sql).bind(id.to_string())).await?;
        let found = row.map(|row| read(&row, sealer, now_ms)).transpose()?;
        found
            .filter(|Approval { new, .. }| {
                let own = new.requester == requester;
                own || visible.covers(new.project) || visible.names(&new.object)
            })
            .ok_or_else(|| CatalogError::not_found(format_args!("approval {id}")))
    }

    /// Says how a request ended that was not done.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it does not wait any more.
    pub async fn end_approval(&mut self, state: ApprovalState, consent: &Consent) -> Result<()> {
        let sql = "UPDATE approvals SET state = $1, decider = $2, reason = $3, decided_ms = $4 \
                   WHERE id = $5 AND state = 'pending' AND expires_ms > $4";
        let update = sqlx::query(sql)
            .bind(state.word())
            .bind(consent.decider.clone())
            .bind(consent.reason.clone())
            .bind(number(consent.now_ms))
            .bind(consent.approval.to_string());
        if self.run(update).await? == 0 {
            return Err(decided());
        }
        Ok(())
    }

    /// Notes that it is done, in the transaction that does it.
    pub(crate) async fn settle(&mut self, consent: &Consent) -> Result<()> {
        self.end_approval(ApprovalState::Done, consent).await?;
        let sql = "SELECT requester, action, project_id FROM approvals WHERE id = $1";
        let select = sqlx::query(sql).bind(consent.approval.to_string());
        let row = self.maybe(select).await?.ok_or_else(decided)?;
        let detail = json!({"requester": row.text("requester")?, "action": row.text("action")?,
            "reason": consent.reason});
        let entry = AuditEntry {
            actor: consent.decider.clone(),
            action: "approval.approve",
            object: consent.approval.to_string(),
            project: row.maybe_id("project_id")?,
            detail,
        };
        self.audit(entry, consent.now_ms).await
    }

    /// Forgets requests that were made before a moment and do not wait any more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_approvals(&mut self, before_ms: u64, now_ms: u64) -> Result<u64> {
        let sql = "DELETE FROM approvals WHERE created_ms < $1 \
                   AND (state <> 'pending' OR expires_ms <= $2)";
        self.run(sqlx::query(sql).bind(number(before_ms)).bind(number(now_ms))).await
    }
}
