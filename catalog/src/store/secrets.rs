//! Sealed secrets of records.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::db::{Columns, Tx};
use crate::error::Result;
use crate::model::destination::check_variable;
use crate::seal::{Sealed, Sealer};

impl Tx {
    /// Replaces the secrets of `owner`, each named as the variable that will hold it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a variable that may not be set.
    pub async fn set_secrets(
        &mut self,
        sealer: &Sealer,
        owner: &str,
        secrets: &BTreeMap<String, Zeroizing<String>>,
    ) -> Result<()> {
        self.remove_secrets(owner).await?;
        for (name, secret) in secrets {
            check_variable(name)?;
            let sealed = sealer.seal(&format!("{owner}/{name}"), secret);
            let sql = "INSERT INTO secrets (owner, name, sealed) VALUES ($1, $2, $3)";
            let insert = sqlx::query(sql).bind(owner.to_owned()).bind(name.clone());
            self.run(insert.bind(sealed.0)).await?;
        }
        Ok(())
    }

    /// Removes the secrets of `owner`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove_secrets(&mut self, owner: &str) -> Result<()> {
        let delete = sqlx::query("DELETE FROM secrets WHERE owner = $1");
        self.run(delete.bind(owner.to_owned())).await.map(drop)
    }

    /// Removes one secret of `owner`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove_secret(&mut self, owner: &str, name: &str) -> Result<()> {
        let delete = sqlx::query("DELETE FROM secrets WHERE owner = $1 AND name = $2");
        self.run(delete.bind(owner.to_owned()).bind(name.to_owned())).await.map(drop)
    }

    /// Opens the secrets of `owner`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`] when they were sealed with another key.
    pub async fn secrets(
        &mut self,
        sealer: &Sealer,
        owner: &str,
    ) -> Result<BTreeMap<String, Zeroizing<String>>> {
        let select = sqlx::query("SELECT name, sealed FROM secrets WHERE owner = $1");
        let rows = self.all(select.bind(owner.to_owned())).await?;
        let mut secrets = BTreeMap::new();
        for row in rows {
            let name = row.text("name")?;
            let sealed = Sealed(row.text("sealed")?);
            secrets.insert(name.clone(), sealer.open(&format!("{owner}/{name}"), &sealed)?);
        }
        Ok(secrets)
    }

    /// The names of the secrets of `owner`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn secret_names(&mut self, owner: &str) -> Result<Vec<String>> {
        let select = sqlx::query("SELECT name FROM secrets WHERE owner = $1 ORDER BY name");
        let rows = self.all(select.bind(owner.to_owned())).await?;
        rows.iter().map(|row| row.text("name")).collect()
    }
}
