//! Second factors: secrets of time-based codes, and recovery codes.

use zeroize::Zeroizing;

use crate::db::{Columns, Tx, number};
use crate::error::{CatalogError, Result};
use crate::id::UserId;
use crate::seal::{Sealed, Sealer};

/// A user's second factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totp {
    /// Whether the user has shown that it has it; before, it is not asked for.
    pub confirmed: bool,
    sealed: Sealed,
    user: UserId,
}

impl Totp {
    /// The secret, as Base32.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`] when it was sealed with another key.
    pub fn secret(&self, sealer: &Sealer) -> Result<Zeroizing<String>> {
        sealer.open(&owner(self.user), &self.sealed)
    }
}

fn owner(user: UserId) -> String {
    format!("{user}/totp")
}

impl Tx {
    /// A user's second factor, if there is one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn totp(&mut self, user: UserId) -> Result<Option<Totp>> {
        let select = sqlx::query("SELECT sealed, confirmed FROM totp WHERE user_id = $1");
        let row = self.maybe(select.bind(user.to_string())).await?;
        let read = |row: sqlx::any::AnyRow| {
            let confirmed = row.count("confirmed")? != 0;
            Ok(Totp { confirmed, sealed: Sealed(row.text("sealed")?), user })
        };
        row.map(read).transpose()
    }

    /// Begins with a new secret, which counts once it is confirmed. One that is confirmed stays.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when the user has a second factor.
    pub async fn begin_totp(&mut self, sealer: &Sealer, user: UserId, secret: &str) -> Result<()> {
        let sealed = sealer.seal(&owner(user), secret);
        let sql = "INSERT INTO totp (user_id, sealed, confirmed, last_step) VALUES ($1, $2, 0, 0) \
                   ON CONFLICT (user_id) DO UPDATE SET sealed = excluded.sealed \
                   WHERE totp.confirmed = 0";
        let set = sqlx::query(sql).bind(user.to_string()).bind(sealed.0);
        if self.run(set).await? == 0 {
            let text = "there is an authenticator app already; remove it first";
            return Err(CatalogError::new(crate::ErrorKind::Conflict, text));
        }
        Ok(())
    }

    /// Makes the secret count.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn confirm_totp(&mut self, user: UserId) -> Result<()> {
        let update = sqlx::query("UPDATE totp SET confirmed = 1 WHERE user_id = $1");
        self.run(update.bind(user.to_string())).await.map(drop)
    }

    /// Replaces the recovery codes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_recovery_codes(&mut self, user: UserId, code_hashes: &[String]) -> Result<()> {
        let clear = sqlx::query("DELETE FROM recovery_codes WHERE user_id = $1");
        self.run(clear.bind(user.to_string())).await?;
        for hash in code_hashes {
            let sql = "INSERT INTO recovery_codes (user_id, code_hash) VALUES ($1, $2)";
            self.run(sqlx::query(sql).bind(user.to_string()).bind(hash.clone())).await?;
        }
        Ok(())
    }

    /// Uses the code of a step; returns whether neither it nor a later one was used before.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn use_totp_step(&mut self, user: UserId, step: u64) -> Result<bool> {
        let sql = "UPDATE totp SET last_step = $1 WHERE user_id = $2 AND last_step < $1";
        let used = self.run(sqlx::query(sql).bind(number(step)).bind(user.to_string())).await?;
        Ok(used == 1)
    }

    /// Uses up a recovery code; returns whether it was one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn use_recovery_code(&mut self, user: UserId, hash: &str) -> Result<bool> {
        let sql = "DELETE FROM recovery_codes WHERE user_id = $1 AND code_hash = $2";
        let delete = sqlx::query(sql).bind(user.to_string()).bind(hash.to_owned());
        Ok(self.run(delete).await? == 1)
    }

    /// How many recovery codes are left.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn recovery_codes_left(&mut self, user: UserId) -> Result<u64> {
        let sql = "SELECT COUNT(*) AS many FROM recovery_codes WHERE user_id = $1";
        let row = self.maybe(sqlx::query(sql).bind(user.to_string())).await?;
        row.map_or(Ok(0), |row| row.count("many"))
    }

    /// Removes the secret; returns whether there was one. Recovery codes go with the last second
    /// factor.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove_totp(&mut self, user: UserId) -> Result<bool> {
        let delete = sqlx::query("DELETE FROM totp WHERE user_id = $1");
        let removed = self.run(delete.bind(user.to_string())).await? == 1;
        self.forget_idle_recovery_codes(user).await?;
        Ok(removed)
    }

    /// Removes the recovery codes of who has no second factor.
    pub(crate) async fn forget_idle_recovery_codes(&mut self, user: UserId) -> Result<()> {
        let sql = "DELETE FROM recovery_codes WHERE user_id = $1 \
                   AND NOT EXISTS (SELECT 1 FROM passkeys WHERE user_id = $1) \
                   AND NOT EXISTS (SELECT 1 FROM totp WHERE user_id = $1 AND confirmed = 1)";
        self.run(sqlx::query(sql).bind(user.to_string())).await.map(drop)
    }
}
