//! Messages that wait to be sent, and what they tell of.

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, number};
use crate::error::Result;
use crate::found::Found;
use crate::id::Guid;
use crate::model::notice::{FailedTask, Notice};

impl Notice {
    fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            id: row.id("id")?,
            channel: row.text("channel")?,
            created_ms: row.count("created_ms")?,
            attempts: u32::try_from(row.count("attempts")?).unwrap_or(u32::MAX),
            body: row.json("body")?,
            failure: row.text("failure")?,
        })
    }
}

impl Tx {
    /// Adds a message.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_notice(
        &mut self,
        channel: &str,
        body: &serde_json::Value,
        now_ms: u64,
    ) -> Result<()> {
        let sql = "INSERT INTO notices (id, channel, created_ms, not_before_ms, attempts, body, \
                   failure) VALUES ($1, $2, $3, $3, 0, $4, '')";
        let insert = sqlx::query(sql).bind(Guid::new(now_ms).to_string()).bind(channel.to_owned());
        self.run(insert.bind(number(now_ms)).bind(body.to_string())).await.map(drop)
    }

    /// Messages that may be sent now, oldest first, at most so many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn notices(&mut self, now_ms: u64, most: u32) -> Result<Vec<Notice>> {
        let sql = "SELECT id, channel, created_ms, attempts, body, failure FROM notices \
                   WHERE not_before_ms <= $1 ORDER BY id LIMIT $2";
        let select = sqlx::query(sql).bind(number(now_ms)).bind(i64::from(most));
        self.all(select).await?.iter().map(Notice::read).collect()
    }

    /// How many messages of a channel wait, and why the last one could not be sent.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn notices_waiting(&mut self, channel: &str) -> Result<(u64, Option<String>)> {
        let sql = "SELECT COUNT(*) AS many FROM notices WHERE channel = $1";
        let row = self.maybe(sqlx::query(sql).bind(channel.to_owned())).await?;
        let many = row.map_or(Ok(0), |row| row.count("many"))?;
        let sql = "SELECT failure FROM notices WHERE channel = $1 AND failure <> '' \
                   ORDER BY id DESC LIMIT 1";
        let row = self.maybe(sqlx::query(sql).bind(channel.to_owned())).await?;
        Ok((many, row.map(|row| row.text("failure")).transpose()?))
    }

    /// Notes that a message could not be sent, and when it is tried again.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn notice_failed(&mut self, id: Guid, why: &str, again_ms: u64) -> Result<()> {
        let sql = "UPDATE notices SET attempts = attempts + 1, failure = $1, not_before_ms = $2 \
                   WHERE id = $3";
        let update = sqlx::query(sql).bind(why.to_owned()).bind(number(again_ms));
        self.run(update.bind(id.to_string())).await.map(drop)
    }

    /// Removes a message: it was sent, or nobody wants it any more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove_notice(&mut self, id: Guid) -> Result<()> {
        let delete = sqlx::query("DELETE FROM notices WHERE id = $1").bind(id.to_string());
        self.run(delete).await.map(drop)
    }

    /// Tasks that failed since a time, oldest first, at most a thousand. Those that cannot be read
    /// are apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn failed_since(&mut self, since_ms: u64) -> Result<Found<FailedTask>> {
        let sql = "SELECT id, kind, project_id, instance_id, message, finished_ms FROM tasks \
                   WHERE finished_ms >= $1 AND state || '' = 'failed' \
                   ORDER BY finished_ms LIMIT 1000";
        let rows = self.all(sqlx::query(sql).bind(number(since_ms))).await?;
        Found::apart(&rows, |row| {
            Ok(FailedTask {
                id: row.id("id")?,
                kind: row.text("kind")?,
                project: row.maybe_id("project_id")?,
                instance: row.maybe_id("instance_id")?,
                message: row.text("message")?,
                finished_ms: row.count("finished_ms")?,
            })
        })
    }
}
