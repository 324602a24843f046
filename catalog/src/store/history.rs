//! What happened within a time, for reports.

use sqlx::any::AnyRow;

use super::usage::with;
use crate::db::{Columns, Query, Tx, number, query, text_of};
use crate::error::Result;
use crate::id::InstanceId;
use crate::model::history::{Ended, LastTest, MeanBackup, Within};
use crate::model::restore_test::TestState;
use crate::visible::{Visible, Whose};

/// A question about a time and a project: `$1`, `$2` and `$3`. The rest is what the caller may
/// know.
fn asked(visible: &Visible, within: &Within, sql: impl Fn(&str) -> String) -> Query {
    asked_of(visible.condition(&Whose::OF_INSTANCE, 4), within, sql)
}

/// The same, with the condition of what the caller may know, from `$4`.
fn asked_of(
    (may, values): (String, Vec<String>),
    within: &Within,
    sql: impl Fn(&str) -> String,
) -> Query {
    let sql = sql(&format!("($3 = '' OR project_id = $3) AND {may}"));
    let select = query(sql).bind(number(within.from_ms)).bind(number(within.until_ms));
    with(select.bind(text_of(within.project)), values)
}

impl Tx {
    /// The moments that restore points hold within a time, by instance, earliest first; with the
    /// last one before it. Points that are gone count: they were there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn taken(
        &mut self,
        visible: &Visible,
        within: &Within,
    ) -> Result<Vec<(InstanceId, u64)>> {
        let before = asked(visible, within, |and| {
            format!(
                "SELECT instance_id, MAX(taken_ms) AS at_ms FROM points \
                 WHERE taken_ms < $1 AND taken_ms < $2 AND proof <> 'damaged' AND {and} \
                 GROUP BY instance_id"
            )
        });
        let inside = asked(visible, within, |and| {
            format!(
                "SELECT DISTINCT instance_id, taken_ms AS at_ms FROM points \
                 WHERE taken_ms >= $1 AND taken_ms < $2 AND proof <> 'damaged' AND {and}"
            )
        });
        let read = |row: &AnyRow| Ok((row.id("instance_id")?, row.count("at_ms")?));
        let mut all = self.each(before, read).await?;
        all.extend(self.each(inside, read).await?);
        all.sort_unstable();
        Ok(all)
    }

    /// How the backups ended that ended within a time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn backups_ended(
        &mut self,
        visible: &Visible,
        within: &Within,
    ) -> Result<Vec<Ended>> {
        let may = visible.sieve(&Whose::OF_INSTANCE, 4);
        let select = asked_of(may, within, |and| {
            format!(
                "SELECT instance_id, state, COUNT(*) AS tasks FROM tasks \
                 WHERE finished_ms >= $1 AND finished_ms < $2 AND kind || '' = 'backup' \
                 AND instance_id <> '' AND {and} GROUP BY instance_id, state"
            )
        });
        let read = |row: &AnyRow| {
            let (instance, state) = (row.id("instance_id")?, row.text("state")?);
            Ok(Ended { instance, state, tasks: row.count("tasks")? })
        };
        self.all(select).await?.iter().map(read).collect()
    }

    /// What good backups took in the mean that ended within a time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mean_backups(
        &mut self,
        visible: &Visible,
        within: &Within,
    ) -> Result<Vec<MeanBackup>> {
        let select = asked(visible, within, |and| {
            format!(
                "SELECT m.instance_id, m.destination_id, COUNT(*) AS tasks, \
                 CAST(AVG(m.logical_bytes) AS BIGINT) AS logical_bytes, \
                 CAST(AVG(m.transferred_bytes) AS BIGINT) AS transferred_bytes, \
                 CAST(AVG(t.finished_ms - COALESCE(t.started_ms, t.finished_ms)) AS BIGINT) \
                 AS ran_ms FROM (SELECT * FROM transfers WHERE at_ms >= $1 AND at_ms < $2 \
                 AND kind = 'backup' AND {and}) AS m JOIN tasks t ON t.id = m.task_id \
                 WHERE t.state || '' IN ('succeeded', 'warnings') \
                 GROUP BY m.instance_id, m.destination_id"
            )
        });
        let read = |row: &AnyRow| {
            Ok(MeanBackup {
                instance: row.id("instance_id")?,
                destination: row.id("destination_id")?,
                tasks: row.count("tasks")?,
                logical_bytes: row.count("logical_bytes")?,
                transferred_bytes: row.count("transferred_bytes")?,
                ran_ms: row.count("ran_ms")?,
            })
        };
        self.all(select).await?.iter().map(read).collect()
    }

    /// The newest restore test of each instance that was asked for within a time and came to a
    /// verdict.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn last_tests(
        &mut self,
        visible: &Visible,
        within: &Within,
    ) -> Result<Vec<LastTest>> {
        let select = asked(visible, within, |and| {
            format!(
                "SELECT instance_id, state, report, created_ms FROM restore_tests \
                 WHERE id IN (SELECT MAX(id) FROM restore_tests WHERE created_ms >= $1 \
                 AND created_ms < $2 AND state IN ('ok', 'failed') AND {and} \
                 GROUP BY instance_id)"
            )
        });
        let read = |row: &AnyRow| {
            let report: serde_json::Value = row.json("report")?;
            let state = row.text("state")?;
            Ok(LastTest {
                instance: row.id("instance_id")?,
                state: TestState::from_word(&state).unwrap_or(TestState::Undone),
                answer_ms: report["timings"]["answer_ms"].as_u64(),
                created_ms: row.count("created_ms")?,
            })
        };
        self.all(select).await?.iter().map(read).collect()
    }

    /// How many runs of each instance were missed, of what was missed last within a time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn missed_runs(
        &mut self,
        visible: &Visible,
        within: &Within,
    ) -> Result<Vec<(InstanceId, u64)>> {
        let select = asked(visible, within, |and| {
            format!(
                "SELECT instance_id, CAST(SUM(times) AS BIGINT) AS times FROM missed \
                 WHERE last_ms >= $1 AND last_ms < $2 AND instance_id <> '' AND {and} \
                 GROUP BY instance_id"
            )
        });
        let read = |row: &AnyRow| Ok((row.id("instance_id")?, row.count("times")?));
        self.all(select).await?.iter().map(read).collect()
    }
}
