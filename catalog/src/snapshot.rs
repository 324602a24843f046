//! The whole catalog as one SQLite file, and back: for backups of the control plane, and for
//! moving from one kind of database to the other.
//!
//! The tables are found in the database, not listed here, and have columns of two types only; so
//! what a later migration adds is copied as well.

use std::path::Path;

use futures::TryStreamExt;
use sqlx::any::{AnyRow, AnyTypeInfoKind};
use sqlx::{Any, AssertSqlSafe, Column, Executor, Row, Transaction, TypeInfo, ValueRef};

use crate::db::{Catalog, Columns};
use crate::error::{CatalogError, ErrorKind, Result};

/// Bound values in one statement; SQLite takes 32766, PostgreSQL 65535.
const VALUES: usize = 8000;

/// Tables of what is under way between servers: what nodes answer holds parts of files that are
/// backed up, and nobody waits for it where a snapshot is restored.
const PASSING: &[&str] = &["looks"];

/// A value of a column.
#[derive(Debug, Clone)]
enum Value {
    Number(Option<i64>),
    Text(Option<String>),
}

impl Catalog {
    /// Writes all that the catalog knows to a new SQLite file, as it is at one moment.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the file is there, [`ErrorKind::Unavailable`] when it cannot
    /// be written or the database does not answer.
    pub async fn snapshot(&self, path: &Path) -> Result<()> {
        if path.exists() {
            let text = format!("{} is there already", path.display());
            return Err(CatalogError::new(ErrorKind::Conflict, text));
        }
        let name = path.to_str().ok_or_else(|| CatalogError::invalid("a path is UTF-8"))?;
        if self.is_sqlite() {
            let copy = sqlx::query("VACUUM INTO $1").bind(name.to_owned());
            copy.execute(self.pool()).await?;
            return forget_passing(&format!("sqlite:{name}")).await;
        }
        let copy = Self::open(&format!("sqlite:{name}")).await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let mut from = self.pool().begin_with(begin).await?;
        let mut to = copy.pool().begin_with("BEGIN IMMEDIATE").await?;
        let tables = tables(&mut to).await?;
        for table in &tables {
            copy_table(&mut from, &mut to, table).await?;
        }
        to.commit().await?;
        // What lies in the log beside the file goes into it with the last connection.
        copy.close().await;
        Ok(())
    }

    /// Takes over all that a snapshot knows. This catalog must be a new one. What waited or ran
    /// when the snapshot was made may have been done since: it is tried as something that was
    /// tried before.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when this catalog knows something already,
    /// [`ErrorKind::Damaged`] when the file is no catalog.
    pub async fn restore(&self, path: &Path) -> Result<()> {
        let mut to = self.begin().await?;
        if to.count_users().await? > 0 {
            let text = "this database is in use already; restore into an empty one";
            return Err(CatalogError::new(ErrorKind::Conflict, text));
        }
        drop(to);
        // An older release may have made it: it is brought up to date first.
        let source = Self::open(&format!("sqlite:{}", path.display())).await?;
        let mut from = source.pool().begin().await?;
        let mut to = self.pool().begin().await?;
        let tables = tables(&mut from).await?;
        for table in &tables {
            copy_table(&mut from, &mut to, table).await?;
        }
        let tried = "UPDATE tasks SET attempt = attempt + 1, max_attempts = max_attempts + 1 \
                     WHERE state IN ('queued', 'running')";
        sqlx::query(tried).execute(&mut *to).await?;
        to.commit().await?;
        drop(from);
        source.close().await;
        Ok(())
    }
}

/// Removes from a SQLite file what is of no use to whoever restores it, so that nothing of it is
/// left in the file.
async fn forget_passing(url: &str) -> Result<()> {
    let copy = Catalog::connect(url).await?;
    let mut connection = copy.pool().acquire().await?;
    connection.execute("PRAGMA secure_delete = ON").await?;
    for table in PASSING {
        connection.execute(AssertSqlSafe(format!("DELETE FROM {table}"))).await?;
    }
    drop(connection);
    copy.close().await;
    Ok(())
}

/// The tables of a SQLite catalog that are copied, those that others refer to first.
async fn tables(tx: &mut Transaction<'static, Any>) -> Result<Vec<String>> {
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' \
               ORDER BY name";
    let mut waiting = Vec::new();
    for row in sqlx::query(sql).fetch_all(&mut **tx).await? {
        let name: String = row.text("name")?;
        if PASSING.contains(&name.as_str()) {
            continue;
        }
        let sql = format!("SELECT \"table\" AS other FROM pragma_foreign_key_list('{name}')");
        let others = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut **tx).await?;
        let others = others.iter().map(|row| row.text("other")).collect::<Result<Vec<_>>>()?;
        waiting.push((name, others));
    }
    let mut done: Vec<String> = Vec::new();
    while !waiting.is_empty() {
        let ready = |(name, others): &(String, Vec<String>)| {
            others.iter().all(|other| other == name || done.contains(other))
        };
        let (now, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(ready);
        if now.is_empty() {
            let text = "the tables of this catalog refer to each other in a circle";
            return Err(CatalogError::new(ErrorKind::Damaged, text));
        }
        done.extend(now.into_iter().map(|(name, _)| name));
        waiting = later;
    }
    Ok(done)
}

/// Copies all rows of a table. Settings are there already, and are overwritten; but not the one
/// that says how new the tables are.
async fn copy_table(
    from: &mut Transaction<'static, Any>,
    to: &mut Transaction<'static, Any>,
    table: &str,
) -> Result<()> {
    let settings = table == "settings";
    let only = if settings { " WHERE name <> 'schema'" } else { "" };
    let sql = format!("SELECT * FROM {table}{only}");
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut **from);
    let mut batch: Vec<Vec<Value>> = Vec::new();
    let mut columns: Vec<String> = Vec::new();
    while let Some(row) = rows.try_next().await? {
        if columns.is_empty() {
            columns = row.columns().iter().map(|column| column.name().to_owned()).collect();
        }
        batch.push(values(&row)?);
        if (batch.len() + 1) * columns.len() > VALUES {
            put(to, table, &columns, std::mem::take(&mut batch)).await?;
        }
    }
    put(to, table, &columns, batch).await
}

fn values(row: &AnyRow) -> Result<Vec<Value>> {
    let mut values = Vec::with_capacity(row.len());
    for at in 0..row.len() {
        let raw = row.try_get_raw(at)?;
        let null = raw.is_null();
        let kind = raw.type_info().kind();
        let column = row.column(at).type_info().name().to_owned();
        let number = match kind {
            AnyTypeInfoKind::BigInt | AnyTypeInfoKind::Integer | AnyTypeInfoKind::SmallInt => true,
            AnyTypeInfoKind::Null => column.contains("INT"),
            _ => false,
        };
        values.push(match (number, null) {
            (true, true) => Value::Number(None),
            (true, false) => Value::Number(Some(row.try_get(at)?)),
            (false, true) => Value::Text(None),
            (false, false) => Value::Text(Some(row.try_get(at)?)),
        });
    }
    Ok(values)
}

async fn put(
    to: &mut Transaction<'static, Any>,
    table: &str,
    columns: &[String],
    rows: Vec<Vec<Value>>,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let places: Vec<String> = (0..rows.len())
        .map(|row| {
            let own = (0..columns.len()).map(|at| format!("${}", row * columns.len() + at + 1));
            format!("({})", own.collect::<Vec<_>>().join(", "))
        })
        .collect();
    let conflict = match table {
        "settings" => " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        _ => "",
    };
    let sql = format!(
        "INSERT INTO {table} ({}) VALUES {}{conflict}",
        columns.join(", "),
        places.join(", ")
    );
    let mut insert = sqlx::query(AssertSqlSafe(sql));
    for value in rows.into_iter().flatten() {
        insert = match value {
            Value::Number(number) => insert.bind(number),
            Value::Text(text) => insert.bind(text),
        };
    }
    insert.execute(&mut **to).await?;
    Ok(())
}
