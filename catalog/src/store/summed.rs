//! The ledger, added up by the database: what was moved by groups, and what was stored by series.
//!
//! Whole days of what was moved are read from `usage_days`, the rest from single lines. Of each
//! series of levels two are read, whatever the length of the period: byte-seconds up to the last
//! level before its end, less those up to the last level before its beginning.

use sqlx::any::AnyRow;

use super::usage::with;
use crate::db::{Columns, Tx, number, query, text_of};
use crate::error::Result;
use crate::model::usage::{Moved, Stored, Transfer, UsageBy, UsageFilter};
use crate::visible::{Visible, Whose};

/// Days of the ledger are those of UTC.
const DAY_MS: u64 = 86_400_000;
/// Byte-seconds are kept in two parts.
const PART: u128 = 1 << 40;
const SUMS: &str = "CAST(SUM(logical_bytes) AS BIGINT) AS logical_bytes, \
                    CAST(SUM(unique_bytes) AS BIGINT) AS unique_bytes, \
                    CAST(SUM(shared_bytes) AS BIGINT) AS shared_bytes, \
                    CAST(SUM(transferred_bytes) AS BIGINT) AS transferred_bytes";

/// Byte-seconds as the database keeps them.
pub(super) fn parts(sum: u128) -> (i64, i64) {
    let part = |value: u128| i64::try_from(value).unwrap_or(i64::MAX);
    (part(sum / PART), part(sum % PART))
}

/// A level, with the byte-seconds of all before it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Summed {
    pub(super) at_ms: u64,
    stored_bytes: u64,
    sum: u128,
}

impl Summed {
    pub(super) fn read(row: &AnyRow) -> Result<Self> {
        Self::named(row, "").map(Option::unwrap_or_default)
    }

    fn named(row: &AnyRow, prefix: &str) -> Result<Option<Self>> {
        let column = |name: &str| row.maybe_count(&format!("{prefix}{name}"));
        let Some(at_ms) = column("at_ms")? else { return Ok(None) };
        let high = u128::from(column("sum_high")?.unwrap_or(0));
        let sum = high * PART + u128::from(column("sum_low")?.unwrap_or(0));
        Ok(Some(Self { at_ms, stored_bytes: column("stored_bytes")?.unwrap_or(0), sum }))
    }

    /// Byte-seconds up to a moment, if this level holds until then. Moments are whole seconds, so
    /// that periods add up.
    pub(super) fn until(&self, ms: u64) -> u128 {
        let seconds = (ms / 1000).saturating_sub(self.at_ms / 1000);
        self.sum + u128::from(self.stored_bytes) * u128::from(seconds)
    }
}

impl UsageBy {
    fn column(self) -> &'static str {
        match self {
            Self::Project => "project_id",
            Self::Instance => "instance_id",
            Self::Policy => "policy_id",
            Self::Destination => "destination_id",
        }
    }
}

impl UsageFilter {
    /// What it asks for beside the time, as a condition and its values.
    fn condition(&self, first: usize) -> (String, Vec<String>) {
        let wanted = [
            ("project_id =", text_of(self.project)),
            ("instance_id =", text_of(self.instance)),
            ("policy_id =", text_of(self.policy)),
            ("destination_id =", text_of(self.destination)),
            ("destination_id <>", text_of(self.without_destination)),
        ];
        let (mut text, mut values) = (String::new(), Vec::new());
        for (condition, value) in wanted.into_iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&format!(" AND {condition} ${}", first + values.len()));
            values.push(value);
        }
        (text, values)
    }
}

impl Tx {
    /// What was moved within a time, of what the caller may know of, by groups and kinds.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn moved(
        &mut self,
        visible: &Visible,
        by: UsageBy,
        filter: &UsageFilter,
    ) -> Result<Vec<Moved>> {
        let UsageFilter { from_ms, until_ms, .. } = *filter;
        let (first, last) = (from_ms.div_ceil(DAY_MS) * DAY_MS, until_ms / DAY_MS * DAY_MS);
        // Days do not tell of single instances.
        let whole = filter.instance.is_none() && !visible.has_single();
        let by_day = by != UsageBy::Instance && whole && first < last;
        if !by_day {
            return self.moved_by(("transfers", "COUNT(*)", "at_ms"), visible, by, filter).await;
        }
        let part = |from_ms, until_ms| UsageFilter { from_ms, until_ms, ..*filter };
        let lines = ("transfers", "COUNT(*)", "at_ms");
        let mut all = self.moved_by(lines, visible, by, &part(from_ms, first)).await?;
        let days = ("usage_days", "SUM(tasks)", "day_ms");
        all.extend(self.moved_by(days, visible, by, &part(first, last)).await?);
        all.extend(self.moved_by(lines, visible, by, &part(last, until_ms)).await?);
        Ok(all)
    }

    async fn moved_by(
        &mut self,
        (table, count, time): (&str, &str, &str),
        visible: &Visible,
        by: UsageBy,
        filter: &UsageFilter,
    ) -> Result<Vec<Moved>> {
        if filter.from_ms >= filter.until_ms {
            return Ok(Vec::new());
        }
        let column = by.column();
        let (only, mut values) = filter.condition(3);
        let (may, more) = visible.condition(&Whose::OF_INSTANCE, 3 + values.len());
        values.extend(more);
        let sql = format!(
            "SELECT {column} AS part, kind, CAST({count} AS BIGINT) AS tasks, {SUMS} \
             FROM {table} WHERE {time} >= $1 AND {time} < $2{only} AND {may} \
             GROUP BY {column}, kind"
        );
        let select = query(sql).bind(number(filter.from_ms)).bind(number(filter.until_ms));
        let rows = self.all(with(select, values)).await?;
        rows.iter()
            .map(|row| {
                Ok(Moved {
                    group: row.text("part")?,
                    kind: row.text("kind")?,
                    tasks: row.count("tasks")?,
                    logical_bytes: row.count("logical_bytes")?,
                    unique_bytes: row.count("unique_bytes")?,
                    shared_bytes: row.count("shared_bytes")?,
                    transferred_bytes: row.count("transferred_bytes")?,
                })
            })
            .collect()
    }

    /// What was stored within a time, of what the caller may know of: one for each series that
    /// held anything.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn stored(
        &mut self,
        visible: &Visible,
        by: UsageBy,
        filter: &UsageFilter,
    ) -> Result<Vec<Stored>> {
        let (only, mut values) = filter.condition(3);
        let (may, more) = visible.condition(&Whose::OF_INSTANCE, 3 + values.len());
        values.extend(more);
        let last = |name: &str, bound: &str| {
            format!(
                "LEFT JOIN levels {name} ON {name}.instance_id = s.instance_id \
                 AND {name}.destination_id = s.destination_id AND {name}.policy_id = s.policy_id \
                 AND {name}.at_ms = (SELECT MAX(x.at_ms) FROM levels x \
                 WHERE x.instance_id = s.instance_id AND x.destination_id = s.destination_id \
                 AND x.policy_id = s.policy_id AND x.at_ms < {bound})"
            )
        };
        let columns = |name: &str| {
            ["at_ms", "stored_bytes", "sum_high", "sum_low"]
                .map(|column| format!("{name}.{column} AS {name}_{column}"))
                .join(", ")
        };
        let sql = format!(
            "SELECT s.part, e.front_end_bytes, {}, {} FROM (SELECT {} AS part, instance_id, \
             destination_id, policy_id FROM series WHERE {may}{only}) AS s {} {}",
            columns("b"),
            columns("e"),
            by.column(),
            last("b", "$1"),
            last("e", "$2"),
        );
        let select = query(sql).bind(number(filter.from_ms)).bind(number(filter.until_ms));
        let mut all = Vec::new();
        for row in self.all(with(select, values)).await? {
            let Some(end) = Summed::named(&row, "e_")? else { continue };
            let begin = Summed::named(&row, "b_")?.map_or(0, |b| b.until(filter.from_ms));
            let stored = Stored {
                group: row.text("part")?,
                byte_seconds: end.until(filter.until_ms).saturating_sub(begin),
                stored_bytes: end.stored_bytes,
                front_end_bytes: row.maybe_count("front_end_bytes")?.unwrap_or(0),
            };
            if stored.byte_seconds > 0 || stored.stored_bytes > 0 || stored.front_end_bytes > 0 {
                all.push(stored);
            }
        }
        Ok(all)
    }

    /// Adds what a task moved to its day.
    pub(super) async fn add_to_day(&mut self, transfer: &Transfer) -> Result<()> {
        let numbers =
            ["tasks", "logical_bytes", "unique_bytes", "shared_bytes", "transferred_bytes"];
        let added = numbers.map(|name| format!("{name} = usage_days.{name} + excluded.{name}"));
        let sql = format!(
            "INSERT INTO usage_days (project_id, policy_id, destination_id, kind, day_ms, {}) \
             VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, $9) \
             ON CONFLICT (day_ms, project_id, policy_id, destination_id, kind) DO UPDATE SET {}",
            numbers.join(", "),
            added.join(", ")
        );
        let insert = query(sql)
            .bind(text_of(transfer.project))
            .bind(text_of(transfer.policy))
            .bind(text_of(transfer.destination))
            .bind(transfer.kind.clone())
            .bind(number(transfer.at_ms / DAY_MS * DAY_MS))
            .bind(number(transfer.logical_bytes))
            .bind(number(transfer.unique_bytes))
            .bind(number(transfer.shared_bytes))
            .bind(number(transfer.transferred_bytes));
        self.run(insert).await.map(drop)
    }
}
