//! Who did what. Each entry's hash covers the one before it, so that what was written cannot be
//! changed or taken out without all later hashes changing.

use serde_json::Value;
use sqlx::any::AnyRow;

use crate::db::{Columns, Query, Tx, document, number, query, text_of};
use crate::error::Result;
use crate::id::ProjectId;
use crate::listed::Listed;
use crate::record::Page;
use crate::visible::{OF_OBJECT, Visible};

/// What to write down.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Who did it.
    pub actor: String,
    /// What was done, such as `policy.create`.
    pub action: &'static str,
    /// To what: an id or a name.
    pub object: String,
    /// The project of that.
    pub project: Option<ProjectId>,
    /// More about it, without secrets.
    pub detail: Value,
}

/// What was written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number; there are no gaps.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// The project of that.
    pub project: Option<ProjectId>,
    /// More about it, as JSON.
    pub detail: String,
    /// The hash of this and all before it.
    pub hash: String,
}

/// Where the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainFlaw {
    /// The first entry that is not what was written, or is missing.
    pub seq: u64,
}

impl AuditRow {
    fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            seq: row.count("seq")?,
            at_ms: row.count("at_ms")?,
            actor: row.text("actor")?,
            action: row.text("action")?,
            object: row.text("object")?,
            project: row.maybe_id("project_id")?,
            detail: row.text("detail")?,
            hash: row.text("hash")?,
        })
    }

    /// The hash of this entry after `previous`. Lengths stand before texts, so that no two
    /// entries have the same bytes.
    fn chained(&self, previous: &str) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("sluice catalog audit chain 1");
        let project = text_of(self.project);
        let texts = [previous, &self.actor, &self.action, &self.object, &project, &self.detail];
        hasher.update(&self.seq.to_le_bytes());
        hasher.update(&self.at_ms.to_le_bytes());
        for text in texts {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

const COLUMNS: &str = "seq, at_ms, actor, action, object, project_id, detail, hash";

impl Tx {
    /// Adds an entry at the end of the chain.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit(&mut self, entry: AuditEntry, now_ms: u64) -> Result<()> {
        self.lock("lock-audit").await?;
        let last = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
        let (seq, previous) = match self.maybe(sqlx::query(last)).await? {
            Some(row) => (row.count("seq")?, row.text("hash")?),
            None => (0, String::new()),
        };
        let mut row = AuditRow {
            seq: seq + 1,
            at_ms: now_ms,
            actor: entry.actor,
            action: entry.action.to_owned(),
            object: entry.object,
            project: entry.project,
            detail: document(&entry.detail),
            hash: String::new(),
        };
        row.hash = row.chained(&previous);
        let sql = format!("INSERT INTO audit ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)");
        let insert = query(sql)
            .bind(number(row.seq))
            .bind(number(row.at_ms))
            .bind(row.actor)
            .bind(row.action)
            .bind(row.object)
            .bind(text_of(row.project))
            .bind(row.detail)
            .bind(row.hash);
        self.run(insert).await.map(drop)
    }

    /// Entries after a number, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_list(
        &mut self,
        visible: &Visible,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditRow>> {
        let list = Listed::oldest("audit", COLUMNS).by("seq");
        let after = |select: Query| select.bind(number(after));
        let rows = self.page_after(list, (visible, &OF_OBJECT), after, limit).await?;
        rows.iter().map(AuditRow::read).collect()
    }

    /// Follows the chain from its beginning. Returns how many entries it has, and where it breaks.
    /// That entries were cut off at the end only shows to who knows how many there were.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_verify(&mut self) -> Result<(u64, Option<ChainFlaw>)> {
        let (mut seq, mut previous) = (0, String::new());
        loop {
            let rows = self.audit_list(&Visible::All, seq, Page::LARGEST).await?;
            if rows.is_empty() {
                return Ok((seq, None));
            }
            for row in rows {
                if row.seq != seq + 1 || row.chained(&previous) != row.hash {
                    return Ok((seq, Some(ChainFlaw { seq: seq + 1 })));
                }
                (seq, previous) = (row.seq, row.hash);
            }
        }
    }
}
