//! Users that come from identity providers, and logins by them that have begun.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::access::USER;
use super::grants::Holder;
use crate::db::{Columns, Tx, number};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::id::{GroupId, ProviderId, UserId};
use crate::model::access::User;
use crate::model::grant::Grant;
use crate::record::check_name;
use crate::seal::{Sealed, Sealer};

/// Logins that may have begun and not ended, of all providers together: whoever asks for more
/// waits until some are over.
pub const MOST_PENDING: u64 = 1000;

/// A login that begins at a provider.
#[derive(Debug, Clone, Copy)]
pub struct BeginningLogin<'a> {
    /// The hash of what is shown when it ends.
    pub hash: &'a str,
    /// Where somebody logs in.
    pub provider: ProviderId,
    /// What it needs to end.
    pub state: &'a str,
    /// From where it begins.
    pub address: &'a str,
    /// Until when it may end, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl Tx {
    /// Adds somebody whom an identity provider knows. Without a subject it is whoever logs in there
    /// first by that name.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the login is taken.
    pub async fn add_provided_user(
        &mut self,
        login: &str,
        provider: ProviderId,
        subject: &str,
        now_ms: u64,
    ) -> Result<User> {
        check_name("user", login)?;
        let id = UserId::new(now_ms);
        let sql = "INSERT INTO users (id, login, password_hash, disabled, created_ms, service, \
                   provider_id, subject) VALUES ($1, $2, '', 0, $3, 0, $4, $5)";
        let insert = sqlx::query(sql)
            .bind(id.to_string())
            .bind(login.to_owned())
            .bind(number(now_ms))
            .bind(provider.to_string())
            .bind(subject.to_owned());
        self.run(insert).await?;
        self.user(id).await
    }

    /// Whom a provider knows by this subject; else the one who was made to be known by this name,
    /// and is known by the subject from now on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn provided_user(
        &mut self,
        provider: ProviderId,
        subject: &str,
        login: &str,
    ) -> Result<Option<User>> {
        if subject.is_empty() {
            return Ok(None);
        }
        let sql = format!("{USER} WHERE provider_id = $1 AND subject = $2");
        let select = crate::db::query(sql).bind(provider.to_string()).bind(subject.to_owned());
        if let Some(row) = self.maybe(select).await? {
            return User::read(&row).map(Some);
        }
        let sql = "UPDATE users SET subject = $1 \
                   WHERE provider_id = $2 AND login = $3 AND subject = ''";
        let update = sqlx::query(sql)
            .bind(subject.to_owned())
            .bind(provider.to_string())
            .bind(login.to_owned());
        match self.run(update).await? {
            0 => Ok(None),
            _ => self.user_by_login(login).await,
        }
    }

    /// How many users come from a provider.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_provided_users(&mut self, provider: ProviderId) -> Result<u64> {
        let sql = "SELECT COUNT(*) AS many FROM users WHERE provider_id = $1";
        let row = self.maybe(sqlx::query(sql).bind(provider.to_string())).await?;
        row.map_or(Ok(0), |row| row.count("many"))
    }

    /// Ends all sessions of who comes from a provider, and all logins by it that have begun.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_provided_sessions(&mut self, provider: ProviderId) -> Result<u64> {
        let pending = sqlx::query("DELETE FROM pending_logins WHERE provider_id = $1");
        self.run(pending.bind(provider.to_string())).await?;
        let sql = "DELETE FROM sessions WHERE user_id IN \
                   (SELECT id FROM users WHERE provider_id = $1)";
        self.run(sqlx::query(sql).bind(provider.to_string())).await
    }

    /// Replaces what a user may do by what its provider says. Groups that are gone are left out,
    /// and so are roles on resources that are gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_mapped(
        &mut self,
        user: UserId,
        grants: &[Grant],
        groups: &BTreeSet<GroupId>,
    ) -> Result<()> {
        self.set_grants_of(Holder::Mapped(user), grants).await?;
        let clear = sqlx::query("DELETE FROM mapped_members WHERE user_id = $1");
        self.run(clear.bind(user.to_string())).await?;
        for group in groups {
            let sql = "INSERT INTO mapped_members (group_id, user_id) \
                       SELECT id, $1 FROM user_groups WHERE id = $2";
            let insert = sqlx::query(sql).bind(user.to_string()).bind(group.to_string());
            self.run(insert).await?;
        }
        Ok(())
    }

    /// Keeps what a login that has begun needs to end, sealed. What is over is forgotten.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when too many have begun.
    pub async fn begin_login(
        &mut self,
        sealer: &Sealer,
        login: &BeginningLogin<'_>,
        now_ms: u64,
    ) -> Result<()> {
        let forget = sqlx::query("DELETE FROM pending_logins WHERE expires_ms <= $1");
        self.run(forget.bind(number(now_ms))).await?;
        let row = self.maybe(sqlx::query("SELECT COUNT(*) AS many FROM pending_logins")).await?;
        if row.map_or(Ok(0), |row| row.count("many"))? >= MOST_PENDING {
            let text = "too many logins have begun and not ended: try again in some minutes";
            return Err(CatalogError::new(ErrorKind::Unavailable, text));
        }
        let sealed = sealer.seal(&owner(login.hash), login.state);
        let sql = "INSERT INTO pending_logins \
                   (token_hash, provider_id, sealed, expires_ms, address) \
                   VALUES ($1, $2, $3, $4, $5)";
        let insert = sqlx::query(sql)
            .bind(login.hash.to_owned())
            .bind(login.provider.to_string())
            .bind(sealed.0)
            .bind(number(login.expires_ms))
            .bind(login.address.to_owned());
        self.run(insert).await.map(drop)
    }

    /// How many logins have begun from an address, and not ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_pending_logins(&mut self, address: &str, now_ms: u64) -> Result<u64> {
        let sql = "SELECT COUNT(*) AS many FROM pending_logins \
                   WHERE address = $1 AND expires_ms > $2";
        let select = sqlx::query(sql).bind(address.to_owned()).bind(number(now_ms));
        self.maybe(select).await?.map_or(Ok(0), |row| row.count("many"))
    }

    /// What a login that has begun needs to end; nothing when there is none, or it is over.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when it was sealed with another key.
    pub async fn pending_login(
        &mut self,
        sealer: &Sealer,
        hash: &str,
        now_ms: u64,
    ) -> Result<Option<(ProviderId, Zeroizing<String>)>> {
        let sql = "SELECT provider_id, sealed FROM pending_logins \
                   WHERE token_hash = $1 AND expires_ms > $2";
        let select = sqlx::query(sql).bind(hash.to_owned()).bind(number(now_ms));
        let Some(row) = self.maybe(select).await? else { return Ok(None) };
        let state = sealer.open(&owner(hash), &Sealed(row.text("sealed")?))?;
        Ok(Some((row.id("provider_id")?, state)))
    }

    /// Forgets a login that has begun; returns whether it was there. Of several that end the same
    /// login one is told so.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_login(&mut self, hash: &str) -> Result<bool> {
        let delete = sqlx::query("DELETE FROM pending_logins WHERE token_hash = $1");
        Ok(self.run(delete.bind(hash.to_owned())).await? > 0)
    }
}

fn owner(hash: &str) -> String {
    format!("{hash}/login")
}
