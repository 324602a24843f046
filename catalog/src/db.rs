//! The database: connecting, transactions, and reading rows.

use futures::TryStreamExt;
use sqlx::any::{AnyArguments, AnyPoolOptions, AnyRow};
use sqlx::{Any, AnyPool, AssertSqlSafe, Executor, Row, Transaction};

use crate::error::{CatalogError, ErrorKind, Result};
use crate::{fate, schema};

/// Connections to the database. SQLite has one writer at a time however many there are, and more
/// than these do not make PostgreSQL faster on the machines this runs on.
const CONNECTIONS: u32 = 8;

/// What every connection to SQLite is told: readers do not wait for the writer, what is committed
/// survives a power cut, and a busy database is waited for.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                       PRAGMA busy_timeout = 30000; PRAGMA foreign_keys = ON;";

/// How a transaction begins in PostgreSQL.
const BEGIN: &str = "BEGIN";

/// A statement with its arguments.
pub(crate) type Query = sqlx::query::Query<'static, Any, AnyArguments>;

/// The catalog. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    pool: AnyPool,
    begin: &'static str,
}

impl Catalog {
    /// Opens `sqlite:PATH` (made where there is none) or `postgres://...`, and brings its tables
    /// up to date.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for another URL, [`ErrorKind::Unavailable`] when the database does
    /// not answer, [`ErrorKind::Damaged`] when a newer release has written it.
    pub async fn open(url: &str) -> Result<Self> {
        let catalog = Self::connect(url).await?;
        schema::migrate(&catalog).await?;
        Ok(catalog)
    }

    /// Opens a database as it is.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        if !sqlite && !url.starts_with("postgres:") && !url.starts_with("postgresql:") {
            let text = "a database is sqlite:PATH or postgres://USER@HOST/NAME";
            return Err(CatalogError::invalid(text));
        }
        let mut address = url.to_owned();
        if sqlite && !url.contains('?') && !url.contains(":memory:") {
            address.push_str("?mode=rwc");
        }
        let options = AnyPoolOptions::new().max_connections(CONNECTIONS);
        let options = options.after_connect(move |connection, _| {
            Box::pin(async move {
                if sqlite {
                    connection.execute(PRAGMAS).await?;
                }
                Ok(())
            })
        });
        let pool = options.connect(&address).await.map_err(|error| {
            CatalogError::new(ErrorKind::Unavailable, "cannot open the database").with_source(error)
        })?;
        // SQLite would otherwise find out in the middle of a transaction that it cannot write.
        let begin = if sqlite { "BEGIN IMMEDIATE" } else { BEGIN };
        Ok(Self { pool, begin })
    }

    /// Begins to change something. What is not committed did not happen.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn begin(&self) -> Result<Tx> {
        Ok(Tx::new(self.pool.begin_with(self.begin).await?))
    }

    /// Begins to read: one state of the database, whoever writes meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn read(&self) -> Result<Tx> {
        Ok(Tx::new(self.pool.begin().await?))
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it does not.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.begin != BEGIN
    }

    /// Closes all connections, once transactions have ended.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A transaction: what it did is undone when it is dropped without [`Tx::commit`].
#[derive(Debug)]
pub struct Tx {
    inner: Transaction<'static, Any>,
    /// Locks that it has until it ends, each with the part in which it was taken.
    locks: Vec<(&'static str, u32)>,
    /// Parts that are open.
    depth: u32,
    /// What it asked, for tests that look how a database goes about it.
    #[cfg(test)]
    pub(crate) asked: Vec<String>,
}

/// A part of a transaction that is under way; see [`Tx::begin_part`].
#[derive(Debug)]
#[must_use = "a part is ended or undone"]
pub struct Part(u32);

impl Tx {
    fn new(inner: Transaction<'static, Any>) -> Self {
        Self {
            inner,
            locks: Vec::new(),
            depth: 0,
            #[cfg(test)]
            asked: Vec::new(),
        }
    }

    #[cfg(not(test))]
    fn noted(&mut self, query: Query) -> Query {
        query
    }

    /// Notes what is asked.
    #[cfg(test)]
    fn noted(&mut self, mut query: Query) -> Query {
        use sqlx::Execute;
        let arguments = query.take_arguments().expect("values that can be sent");
        let text = query.sql();
        self.asked.push(text.as_str().to_owned());
        sqlx::query_with(text, arguments.unwrap_or_default())
    }

    /// Begins a part that can be undone without the rest.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn begin_part(&mut self) -> Result<Part> {
        self.depth += 1;
        self.run(query(format!("SAVEPOINT part_{}", self.depth))).await?;
        Ok(Part(self.depth))
    }

    /// Keeps what was done in a part.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn end_part(&mut self, part: Part) -> Result<()> {
        self.depth = part.0 - 1;
        for (_, depth) in &mut self.locks {
            *depth = (*depth).min(self.depth);
        }
        self.run(query(format!("RELEASE SAVEPOINT part_{}", part.0))).await.map(drop)
    }

    /// Undoes what was done in a part, also after an error of the database.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn undo_part(&mut self, part: Part) -> Result<()> {
        self.run(query(format!("ROLLBACK TO SAVEPOINT part_{}", part.0))).await?;
        // What was locked in it is locked no more.
        self.locks.retain(|(_, depth)| *depth < part.0);
        self.end_part(part).await
    }

    /// Makes everything it did happen; undoes it in a rehearsal ([`crate::rehearsed`]).
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer; it is then unknown whether
    /// it happened.
    pub async fn commit(mut self) -> Result<()> {
        match fate::seal(&mut self).await? {
            true => Ok(self.inner.commit().await?),
            false => Ok(self.inner.rollback().await?),
        }
    }

    /// Runs a statement and returns how many rows it touched.
    pub(crate) async fn run(&mut self, query: Query) -> Result<u64> {
        let query = self.noted(query);
        Ok(query.execute(&mut *self.inner).await?.rows_affected())
    }

    pub(crate) async fn all(&mut self, query: Query) -> Result<Vec<AnyRow>> {
        let query = self.noted(query);
        Ok(query.fetch_all(&mut *self.inner).await?)
    }

    /// Reads each row as it comes: for what may be millions.
    pub(crate) async fn each<T>(
        &mut self,
        query: Query,
        mut read: impl FnMut(&AnyRow) -> Result<T>,
    ) -> Result<Vec<T>> {
        let query = self.noted(query);
        let mut rows = query.fetch(&mut *self.inner);
        let mut all = Vec::new();
        while let Some(row) = rows.try_next().await? {
            all.push(read(&row)?);
        }
        Ok(all)
    }

    pub(crate) async fn maybe(&mut self, query: Query) -> Result<Option<AnyRow>> {
        let query = self.noted(query);
        Ok(query.fetch_optional(&mut *self.inner).await?)
    }

    /// Waits until no other transaction that asked for the same `name` is under way.
    pub(crate) async fn lock(&mut self, name: &'static str) -> Result<()> {
        if self.locks.iter().any(|(held, _)| *held == name) {
            return Ok(());
        }
        let sql = "UPDATE settings SET value = value WHERE name = $1";
        let found = self.run(sqlx::query(sql).bind(name)).await?;
        if found == 0 {
            return Err(CatalogError::new(ErrorKind::Damaged, format!("no lock {name}")));
        }
        self.locks.push((name, self.depth));
        Ok(())
    }
}

/// A statement whose text is put together from constants; values are always bound.
pub(crate) fn query(sql: String) -> Query {
    sqlx::query(AssertSqlSafe(sql))
}

/// A number as the database keeps it.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads a row's columns by name.
pub(crate) trait Columns {
    fn text(&self, column: &str) -> Result<String>;
    fn maybe_text(&self, column: &str) -> Result<Option<String>>;
    fn count(&self, column: &str) -> Result<u64>;
    fn maybe_count(&self, column: &str) -> Result<Option<u64>>;

    fn id<I: std::str::FromStr<Err = CatalogError>>(&self, column: &str) -> Result<I> {
        self.text(column)?.parse().map_err(|error| damaged(column, error))
    }

    /// An id that is the empty text where there is none.
    fn maybe_id<I: std::str::FromStr<Err = CatalogError>>(
        &self,
        column: &str,
    ) -> Result<Option<I>> {
        let text = self.text(column)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|error| damaged(column, error))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T> {
        serde_json::from_str(&self.text(column)?).map_err(|error| damaged(column, error))
    }
}

impl Columns for AnyRow {
    fn text(&self, column: &str) -> Result<String> {
        Ok(self.try_get(column)?)
    }

    fn maybe_text(&self, column: &str) -> Result<Option<String>> {
        Ok(self.try_get(column)?)
    }

    fn count(&self, column: &str) -> Result<u64> {
        let value: i64 = self.try_get(column)?;
        Ok(u64::try_from(value).unwrap_or(0))
    }

    fn maybe_count(&self, column: &str) -> Result<Option<u64>> {
        let value: Option<i64> = self.try_get(column)?;
        Ok(value.map(|value| u64::try_from(value).unwrap_or(0)))
    }
}

pub(crate) fn damaged(
    column: &str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> CatalogError {
    let text = format!("the database holds something unreadable in {column}");
    CatalogError::new(ErrorKind::Damaged, text).with_source(error)
}

/// A document as the database keeps it. Ours are maps with text keys, which always can be written.
pub(crate) fn document<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// The text of an id, or the empty text.
pub(crate) fn text_of<I: ToString>(id: Option<I>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}
