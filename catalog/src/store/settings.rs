//! Single values, and answers to requests that may be sent twice.

use crate::db::{Columns, Tx, number};
use crate::error::Result;

impl Tx {
    /// A single value.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn setting(&mut self, name: &str) -> Result<Option<String>> {
        let select = sqlx::query("SELECT value FROM settings WHERE name = $1");
        let row = self.maybe(select.bind(format!("value-{name}"))).await?;
        row.map(|row| row.text("value")).transpose()
    }

    /// Sets a single value.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_setting(&mut self, name: &str, value: &str) -> Result<()> {
        let sql = "INSERT INTO settings (name, value) VALUES ($1, $2) \
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        let set = sqlx::query(sql).bind(format!("value-{name}")).bind(value.to_owned());
        self.run(set).await.map(drop)
    }

    /// Removes a single value; returns whether it was there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove_setting(&mut self, name: &str) -> Result<bool> {
        let delete = sqlx::query("DELETE FROM settings WHERE name = $1");
        Ok(self.run(delete.bind(format!("value-{name}"))).await? > 0)
    }

    /// What was answered to this actor's request of that key: hash of the request, status, text.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn answered(
        &mut self,
        actor: &str,
        key: &str,
    ) -> Result<Option<(String, u16, String)>> {
        let sql = "SELECT request_hash, status, answer FROM idempotency \
                   WHERE actor = $1 AND idempotency_key = $2";
        let select = sqlx::query(sql).bind(actor.to_owned()).bind(key.to_owned());
        let Some(row) = self.maybe(select).await? else { return Ok(None) };
        let status = u16::try_from(row.count("status")?).unwrap_or(500);
        Ok(Some((row.text("request_hash")?, status, row.text("answer")?)))
    }

    /// Remembers what was answered, and forgets what is older than `forget_before_ms`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when the same was answered at the same time.
    pub async fn remember_answer(
        &mut self,
        actor: &str,
        key: &str,
        answer: (&str, u16, &str),
        now_ms: u64,
        forget_before_ms: u64,
    ) -> Result<()> {
        let forget = sqlx::query("DELETE FROM idempotency WHERE created_ms < $1");
        self.run(forget.bind(number(forget_before_ms))).await?;
        let sql = "INSERT INTO idempotency \
                   (actor, idempotency_key, request_hash, status, answer, created_ms) \
                   VALUES ($1, $2, $3, $4, $5, $6)";
        let (request_hash, status, text) = answer;
        let insert = sqlx::query(sql)
            .bind(actor.to_owned())
            .bind(key.to_owned())
            .bind(request_hash.to_owned())
            .bind(i64::from(status))
            .bind(text.to_owned())
            .bind(number(now_ms));
        self.run(insert).await.map(drop)
    }
}
