//! What tasks say while they run.

use crate::db::{Columns, Tx, number};
use crate::error::Result;
use crate::id::TaskId;
use crate::model::task::LogLine;
use crate::record::Page;

/// A task that talks without end is not listened to any more.
const MOST_LINES: u64 = 10_000;
/// A line is cut off here, in bytes.
const LONGEST_LINE: usize = 4 << 10;

impl Tx {
    /// Adds lines to a task's log.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn log(
        &mut self,
        task: TaskId,
        attempt: u32,
        lines: &[(String, String)],
        now_ms: u64,
    ) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let sql = "SELECT COUNT(*) AS many FROM task_log WHERE task_id = $1";
        let row = self.maybe(sqlx::query(sql).bind(task.to_string())).await?;
        let have = row.map_or(Ok(0), |row| row.count("many"))?;
        let room = usize::try_from(MOST_LINES.saturating_sub(have)).unwrap_or(0);
        for (at, (level, line)) in lines.iter().take(room).enumerate() {
            // PostgreSQL has no place for NUL in texts.
            let mut line = line.replace('\0', "");
            let cut = line.floor_char_boundary(LONGEST_LINE);
            line.truncate(cut);
            let sql = "INSERT INTO task_log (task_id, seq, at_ms, attempt, level, line) \
                       VALUES ($1, $2, $3, $4, $5, $6)";
            let insert = sqlx::query(sql)
                .bind(task.to_string())
                .bind(number(have + at as u64 + 1))
                .bind(number(now_ms))
                .bind(i64::from(attempt))
                .bind(level.clone())
                .bind(line);
            self.run(insert).await?;
        }
        Ok(())
    }

    /// Lines of a task's log after a number.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn log_lines(
        &mut self,
        task: TaskId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<LogLine>> {
        let sql = "SELECT seq, at_ms, attempt, level, line FROM task_log \
                   WHERE task_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
        let select = sqlx::query(sql).bind(task.to_string()).bind(number(after));
        let rows = self.all(select.bind(i64::from(limit.min(Page::LARGEST)))).await?;
        let read = |row: &sqlx::any::AnyRow| {
            Ok(LogLine {
                seq: row.count("seq")?,
                at_ms: row.count("at_ms")?,
                attempt: u32::try_from(row.count("attempt")?).unwrap_or(u32::MAX),
                level: row.text("level")?,
                line: row.text("line")?,
            })
        };
        rows.iter().map(read).collect()
    }
}
