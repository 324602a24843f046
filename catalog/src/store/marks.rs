//! Up to when schedules were decided: a mark for each schedule of each record that has any.
//!
//! # Invariants
//!
//! * A mark is moved by who knows where it stands: of several servers that decide the same
//!   occurrence, one moves it, and the others are told that they have not.
//! * It is moved in the transaction that stores what was decided, so nothing is decided twice, and
//!   nothing is lost.

use std::collections::BTreeMap;

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, number, query};
use crate::error::Result;
use crate::model::destination::Destination;
use crate::model::inventory::Inventory;
use crate::model::plan::Plan;
use crate::model::policy::Policy;
use crate::record::Kind;

/// Records that have schedules.
pub trait Marked: Kind<Id: Ord> {
    /// The table of their marks.
    const MARKS: &'static str;
    /// Its column with the record.
    const OWNER: &'static str;
}

impl Marked for Policy {
    const MARKS: &'static str = "schedule_state";
    const OWNER: &'static str = "policy_id";
}

impl Marked for Plan {
    const MARKS: &'static str = "plan_marks";
    const OWNER: &'static str = "plan_id";
}

impl Marked for Inventory {
    const MARKS: &'static str = "inventory_marks";
    const OWNER: &'static str = "inventory_id";
}

impl Marked for Destination {
    const MARKS: &'static str = "maintenance_marks";
    const OWNER: &'static str = "destination_id";
}

impl Tx {
    /// Up to when each schedule was decided, in milliseconds since 1970, by record and schedule.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn marks<K: Marked>(&mut self) -> Result<BTreeMap<(K::Id, String), u64>> {
        let sql = format!("SELECT {} AS owner, schedule, last_due_ms FROM {}", K::OWNER, K::MARKS);
        let rows = self.all(query(sql)).await?;
        let read = |row: &AnyRow| {
            Ok(((row.id("owner")?, row.text("schedule")?), row.count("last_due_ms")?))
        };
        rows.iter().map(read).collect()
    }

    /// Up to when one schedule was decided; nothing when it never was.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mark<K: Marked>(&mut self, of: K::Id, schedule: &str) -> Result<Option<u64>> {
        let sql = format!(
            "SELECT last_due_ms FROM {} WHERE {} = $1 AND schedule = $2",
            K::MARKS,
            K::OWNER
        );
        let select = query(sql).bind(of.to_string()).bind(schedule.to_owned());
        self.maybe(select).await?.map(|row| row.count("last_due_ms")).transpose()
    }

    /// Moves a mark from where it stood; returns whether it still stood there. One that never was
    /// stands nowhere.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when there was none, and the record is gone.
    pub async fn move_mark<K: Marked>(
        &mut self,
        of: K::Id,
        schedule: &str,
        from: Option<u64>,
        to: u64,
    ) -> Result<bool> {
        let (marks, owner) = (K::MARKS, K::OWNER);
        let sql = match from {
            None => format!(
                "INSERT INTO {marks} (last_due_ms, {owner}, schedule) VALUES ($1, $2, $3) \
                 ON CONFLICT ({owner}, schedule) DO NOTHING"
            ),
            Some(_) => format!(
                "UPDATE {marks} SET last_due_ms = $1 WHERE {owner} = $2 AND schedule = $3 \
                 AND last_due_ms = $4"
            ),
        };
        let write = query(sql).bind(number(to)).bind(of.to_string()).bind(schedule.to_owned());
        let write = match from {
            None => write,
            Some(from) => write.bind(number(from)),
        };
        Ok(self.run(write).await? > 0)
    }
}
