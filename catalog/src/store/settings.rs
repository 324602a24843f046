//! Single values.

use crate::db::{Columns, Tx};
use crate::error::Result;

impl Tx {
    /// Lets nobody else set a value, or what is set like one, until this transaction ends: what is
    /// based on what was read is so when it is written.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn alone_with_settings(&mut self) -> Result<()> {
        self.lock("lock-settings").await
    }

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
}
