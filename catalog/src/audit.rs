//! Who did what. Each entry's hash covers the one before it, so that what was written cannot be
//! changed or taken out without all later hashes changing.

use serde_json::Value;
use sqlx::any::AnyRow;

use crate::db::{Columns, Query, Tx, document, number, query, text_of};
use crate::error::Result;
use crate::found::{Found, Span, escaped};
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

/// How far clocks are set back at most that entries are found in spite of, in milliseconds.
const CLOCK_MS: u64 = 3_600_000;

/// Which entries to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// What this login did.
    pub actor: Option<String>,
    /// Those that tell of this: `policy.create`, or `policy.*` for all that was done to policies.
    pub action: Option<String>,
    /// What was done to this: an id or a name.
    pub object: Option<String>,
    /// What was done in this project.
    pub project: Option<ProjectId>,
    /// What was done within this time.
    pub at: Span,
    /// The newest first.
    pub newest_first: bool,
}

/// A list of entries. Of what is named, one chooses the index; `single` resources, where these are
/// what is seen, have few enough. `known` are the actions that a filter like `policy.*` stands for.
pub(crate) fn listed(filter: &AuditFilter, single: bool, known: Vec<String>) -> Listed {
    let list = match filter.newest_first {
        true => Listed::newest("audit", COLUMNS),
        false => Listed::oldest("audit", COLUMNS),
    };
    let word = |word: &Option<String>| word.clone().unwrap_or_default();
    let whole = filter.action.as_ref().filter(|action| !action.ends_with(".*"));
    let list = list.by("seq").of_first(&[
        ("object", word(&filter.object)),
        ("actor", word(&filter.actor)),
        ("action", whole.filter(|_| !single).cloned().unwrap_or_default()),
    ]);
    let list = match single {
        true => list.also("action", whole.cloned().unwrap_or_default()),
        false => list,
    };
    let list = match filter.start() {
        Some(start) if single || list.is_narrow() => {
            list.holds("action LIKE ? ESCAPE '!'", format!("{}%", escaped(start)))
        }
        Some(_) => list.among("action", known),
        None => list,
    };
    match list.is_narrow() {
        true => list.also("project_id", text_of(filter.project)),
        false => list.with("project_id", text_of(filter.project)),
    }
}

impl AuditFilter {
    /// What actions begin with, where all of these are asked for.
    fn start(&self) -> Option<&str> {
        let start = self.action.as_ref()?.strip_suffix('*')?;
        start.ends_with('.').then_some(start)
    }
}

impl Tx {
    /// The actions that were ever written down and begin like this: each is looked up behind the
    /// one before.
    async fn actions(&mut self, start: &str) -> Result<Vec<String>> {
        let sql = "WITH RECURSIVE known (action) AS (SELECT MIN(action) FROM audit UNION ALL \
                   SELECT (SELECT MIN(a.action) FROM audit a WHERE a.action > known.action) \
                   FROM known WHERE known.action IS NOT NULL) \
                   SELECT action FROM known WHERE action LIKE $1 ESCAPE '!'";
        let select = sqlx::query(sql).bind(format!("{}%", escaped(start)));
        self.all(select).await?.iter().map(|row| row.text("action")).collect()
    }

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
        let filter = AuditFilter::default();
        self.audit_found(visible, &filter, Some(after), limit).await?.whole()
    }

    /// The entries that are asked for, with those that cannot be read apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_found(
        &mut self,
        visible: &Visible,
        filter: &AuditFilter,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Found<AuditRow>> {
        let visible = visible.of_project(filter.project);
        let (since, until) = (self.audit_at(filter.at.since_ms, false).await?, filter.at.until_ms);
        let until = self.audit_at(until, true).await?;
        let known = match filter.start() {
            Some(start) => self.actions(start).await?,
            None => Vec::new(),
        };
        let mut list = listed(filter, visible.has_single(), known);
        // Numbers of entries follow their times, but for clocks that were set.
        let (first, other) = match filter.newest_first {
            true => (after.unwrap_or(u64::MAX).min(until.unwrap_or(u64::MAX)), (">=", since)),
            false => (after.unwrap_or(0).max(since.map_or(0, |seq| seq.max(1) - 1)), ("<", until)),
        };
        if let (sign, Some(seq)) = other {
            list = list.holds(&format!("seq {sign} CAST(? AS BIGINT)"), number(seq).to_string());
        }
        for (sign, bound) in [(">=", filter.at.since_ms), ("<", filter.at.until_ms)] {
            if let Some(bound) = bound {
                let condition = format!("at_ms + 0 {sign} CAST(? AS BIGINT)");
                list = list.holds(&condition, number(bound).to_string());
            }
        }
        let begins = |select: Query| select.bind(number(first));
        let rows = self.page_after(list, (&visible, &OF_OBJECT), begins, limit).await?;
        Found::of(&rows, limit, AuditRow::read, |row| row.count("seq").map(|seq| seq.to_string()))
    }

    /// The number of the first entry of a moment, with time to spare before it, or behind it for
    /// the last; nothing without a moment, or where all entries are before it.
    async fn audit_at(&mut self, ms: Option<u64>, last: bool) -> Result<Option<u64>> {
        let Some(ms) = ms else { return Ok(None) };
        let at = if last { ms.saturating_add(CLOCK_MS) } else { ms.saturating_sub(CLOCK_MS) };
        let sql = "SELECT seq FROM audit WHERE at_ms >= $1 ORDER BY at_ms, seq LIMIT 1";
        let row = self.maybe(sqlx::query(sql).bind(number(at))).await?;
        match (row, last) {
            (Some(row), _) => row.count("seq").map(Some),
            (None, true) => Ok(None),
            // All entries were made before.
            (None, false) => Ok(Some(u64::MAX)),
        }
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
