//! What comes of a list: a part of it, what could not be read, and where the next part begins.
//!
//! One row that cannot be read, because it was damaged or written by a release that knows more,
//! does not keep the others from being told.

use sqlx::any::AnyRow;

use crate::db::Columns;
use crate::error::{CatalogError, Result};
use crate::id::Guid;

/// A part of a list.
#[derive(Debug)]
pub struct Found<T> {
    /// What could be read.
    pub items: Vec<T>,
    /// What could not.
    pub unreadable: Vec<Unreadable>,
    /// Where the next part begins; nothing at the end.
    pub next: Option<String>,
}

/// A row that could not be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Its id.
    pub id: String,
    /// Its name, where it has one.
    pub name: String,
    /// What is wrong with it.
    pub error: CatalogError,
}

/// A time: from a moment on, until before another, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// Where it begins; at the beginning without.
    pub since_ms: Option<u64>,
    /// Where it ends; never without.
    pub until_ms: Option<u64>,
}

impl<T> Found<T> {
    /// Reads rows that were asked for with `limit`; `cursor` tells what comes behind a row.
    pub(crate) fn of(
        rows: &[AnyRow],
        limit: u32,
        read: impl Fn(&AnyRow) -> Result<T>,
        cursor: impl Fn(&AnyRow) -> Result<String>,
    ) -> Result<Self> {
        let full = rows.len() >= limit.min(crate::record::Page::LARGEST) as usize;
        let next = rows.last().filter(|_| full).map(&cursor).transpose()?;
        let (mut items, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            match read(row) {
                Ok(item) => items.push(item),
                Err(error) => unreadable.push(Unreadable::of(row, error)?),
            }
        }
        Ok(Self { items, unreadable, next })
    }

    /// The same of rows in the order of their ids.
    pub(crate) fn by_id(
        rows: &[AnyRow],
        limit: u32,
        read: impl Fn(&AnyRow) -> Result<T>,
    ) -> Result<Self> {
        Self::of(rows, limit, read, |row| row.text("id"))
    }

    /// The same of all that there is to look at: there is no other part.
    pub(crate) fn apart(rows: &[AnyRow], read: impl Fn(&AnyRow) -> Result<T>) -> Result<Self> {
        let found = Self::by_id(rows, u32::MAX, read)?;
        Ok(Self { next: None, ..found })
    }

    /// All of it.
    ///
    /// # Errors
    /// What is wrong with the first that could not be read.
    pub fn whole(self) -> Result<Vec<T>> {
        match self.unreadable.into_iter().next() {
            Some(one) => Err(one.error),
            None => Ok(self.items),
        }
    }
}

impl Unreadable {
    pub(crate) fn of(row: &AnyRow, error: CatalogError) -> Result<Self> {
        let id = row.text("id").or_else(|_| row.count("seq").map(|seq| seq.to_string()))?;
        Ok(Self { id, name: row.text("name").unwrap_or_default(), error })
    }
}

/// A text in which nothing stands for something else in a pattern of LIKE with ESCAPE '!'.
pub(crate) fn escaped(text: &str) -> String {
    ["!", "%", "_"]
        .iter()
        .fold(text.to_owned(), |text, sign| text.replace(sign, &format!("!{sign}")))
}

/// What ids begin with that are made at a moment: it sorts before all of these, and behind all that
/// were made before.
pub(crate) fn id_prefix(ms: u64) -> String {
    let largest = (1 << 48) - 1;
    Guid::new(ms.min(largest)).to_string()[..13].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_moment_sort_behind_its_prefix_and_before_that_of_the_next() {
        let ms = 1_700_000_000_000;
        let id = Guid::new(ms).to_string();
        assert!(id_prefix(ms) < id && id < id_prefix(ms + 1) && id_prefix(ms - 1) < id_prefix(ms));
        assert!(id_prefix(u64::MAX) >= id_prefix(1 << 47));
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_does_not_keep_others_from_being_settled() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("catalog.sqlite").display());
        let catalog = crate::Catalog::open(&url).await.unwrap();
        let mut tx = catalog.begin().await.unwrap();
        let (task, instance) = (crate::TaskId::new(2), crate::InstanceId::new(1));
        let odd = "INSERT INTO imports (task_id, instance_id, tags) VALUES ('0-odd', 'x', '[')";
        tx.run(sqlx::query(odd)).await.unwrap();
        let import = crate::Import { task, instance, tags: ["gold".to_owned()].into() };
        tx.add_import(&import).await.unwrap();
        let found = tx.imports_to_settle().await.unwrap();
        assert_eq!(found.items, [import]);
        assert_eq!(found.unreadable[0].id, "0-odd");
    }
}
