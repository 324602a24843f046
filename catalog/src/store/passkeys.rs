//! Passkeys, and what was asked of browsers and is not answered yet.

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, number, text_of};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::id::{PasskeyId, UserId};
use crate::model::passkey::{
    NewChallenge, NewPasskey, Passkey, PasskeyPurpose, PasskeyUse, TakenChallenge,
};
use crate::record::check_name;

/// Passkeys that one user may have: a few devices, and spare ones.
pub const MOST_PASSKEYS: usize = 20;
/// Questions that may be open at a time: beyond that, somebody asks for no use.
pub const MOST_CHALLENGES: u64 = 10_000;

const PASSKEY: &str = "SELECT id, user_id, name, credential_id, public_key, counter, model, \
                       transports, verified, backup_eligible, backed_up, created_ms, used_ms \
                       FROM passkeys";

impl Passkey {
    fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            id: row.id("id")?,
            user: row.id("user_id")?,
            name: row.text("name")?,
            credential: row.text("credential_id")?,
            key: row.text("public_key")?,
            counter: u32::try_from(row.count("counter")?).unwrap_or(u32::MAX),
            model: row.text("model")?,
            transports: row.text("transports")?,
            verified: row.count("verified")? != 0,
            backup_eligible: row.count("backup_eligible")? != 0,
            backed_up: row.count("backed_up")? != 0,
            created_ms: row.count("created_ms")?,
            used_ms: row.maybe_count("used_ms")?,
        })
    }
}

fn name_taken() -> CatalogError {
    CatalogError::new(ErrorKind::Conflict, "you have a passkey of that name: choose another")
}

impl Tx {
    /// Adds a passkey of a user.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when somebody has it already, the name is taken, or the user has
    /// too many; [`ErrorKind::Invalid`] for another name.
    pub async fn add_passkey(
        &mut self,
        user: UserId,
        new: &NewPasskey,
        now_ms: u64,
    ) -> Result<Passkey> {
        check_name("passkey", &new.name)?;
        // Of several that add at the same time, each counts those of the other.
        let wait = sqlx::query("UPDATE users SET login = login WHERE id = $1");
        self.run(wait.bind(user.to_string())).await?;
        let known = self.passkeys(user).await?;
        let conflict = |text: String| CatalogError::new(ErrorKind::Conflict, text);
        if known.len() >= MOST_PASSKEYS {
            return Err(conflict(format!("nobody has more than {MOST_PASSKEYS} passkeys")));
        }
        if known.iter().any(|one| one.name == new.name) {
            return Err(name_taken());
        }
        if self.passkey_by_credential(&new.credential).await?.is_some() {
            return Err(conflict("this passkey is somebody's already".to_owned()));
        }
        let id = PasskeyId::new(now_ms);
        let sql = "INSERT INTO passkeys (id, user_id, name, credential_id, public_key, counter, \
                   model, transports, verified, backup_eligible, backed_up, created_ms) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
        let insert = sqlx::query(sql)
            .bind(id.to_string())
            .bind(user.to_string())
            .bind(new.name.clone())
            .bind(new.credential.clone())
            .bind(new.key.clone())
            .bind(i64::from(new.counter))
            .bind(new.model.clone())
            .bind(new.transports.clone())
            .bind(i64::from(new.verified))
            .bind(i64::from(new.backup_eligible))
            .bind(i64::from(new.backed_up))
            .bind(number(now_ms));
        self.run(insert).await?;
        let select = crate::db::query(format!("{PASSKEY} WHERE id = $1")).bind(id.to_string());
        let row = self.maybe(select).await?;
        Passkey::read(&row.ok_or_else(|| CatalogError::not_found(format_args!("passkey {id}")))?)
    }

    /// The passkeys of a user, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn passkeys(&mut self, user: UserId) -> Result<Vec<Passkey>> {
        let select = crate::db::query(format!("{PASSKEY} WHERE user_id = $1 ORDER BY id"));
        let rows = self.all(select.bind(user.to_string())).await?;
        rows.iter().map(Passkey::read).collect()
    }

    /// The passkey that authenticators call this.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn passkey_by_credential(&mut self, credential: &str) -> Result<Option<Passkey>> {
        let select = crate::db::query(format!("{PASSKEY} WHERE credential_id = $1"));
        let row = self.maybe(select.bind(credential.to_owned())).await?;
        row.map(|row| Passkey::read(&row)).transpose()
    }

    /// Whether a user logs in with a second factor: codes of an app that was confirmed, or
    /// passkeys.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_second_factor(&mut self, user: UserId) -> Result<bool> {
        let sql = "SELECT user_id FROM totp WHERE user_id = $1 AND confirmed = 1 \
                   UNION ALL SELECT user_id FROM passkeys WHERE user_id = $1 LIMIT 1";
        Ok(self.maybe(sqlx::query(sql).bind(user.to_string())).await?.is_some())
    }

    /// Gives a passkey of a user another name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the user has no such passkey, [`ErrorKind::Conflict`] when the
    /// name is taken, [`ErrorKind::Invalid`] when it is none.
    pub async fn rename_passkey(&mut self, user: UserId, id: PasskeyId, name: &str) -> Result<()> {
        check_name("passkey", name)?;
        let known = self.passkeys(user).await?;
        if known.iter().any(|one| one.name == name && one.id != id) {
            return Err(name_taken());
        }
        let sql = "UPDATE passkeys SET name = $1 WHERE id = $2 AND user_id = $3";
        let update = sqlx::query(sql).bind(name.to_owned()).bind(id.to_string());
        if self.run(update.bind(user.to_string())).await? == 0 {
            return Err(CatalogError::not_found(format_args!("passkey {id}")));
        }
        Ok(())
    }

    /// Removes a passkey of a user, or without an id all of them; returns how many. Recovery codes
    /// go with the last second factor.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove_passkeys(&mut self, user: UserId, id: Option<PasskeyId>) -> Result<u64> {
        let sql = "DELETE FROM passkeys WHERE user_id = $1 AND ($2 = '' OR id = $2)";
        let removed = self.run(sqlx::query(sql).bind(user.to_string()).bind(text_of(id))).await?;
        self.forget_idle_recovery_codes(user).await?;
        Ok(removed)
    }

    /// Notes that a passkey was used; returns whether its counter has grown, or there is none. Of
    /// two servers that are shown the same, one is told so.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn use_passkey(
        &mut self,
        id: PasskeyId,
        used: &PasskeyUse,
        now_ms: u64,
    ) -> Result<bool> {
        let sql = "UPDATE passkeys SET counter = $1, backed_up = $2, used_ms = $3, \
                   verified = CASE WHEN $4 = 1 THEN 1 ELSE verified END \
                   WHERE id = $5 AND (counter < $1 OR (counter = 0 AND $1 = 0))";
        let update = sqlx::query(sql)
            .bind(i64::from(used.counter))
            .bind(i64::from(used.backed_up))
            .bind(number(now_ms))
            .bind(i64::from(used.verified))
            .bind(id.to_string());
        Ok(self.run(update).await? == 1)
    }

    /// Keeps a question until it is answered. What is over is forgotten; and of what one session
    /// asks for, only the last question counts.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when too many are open.
    pub async fn begin_challenge(&mut self, new: &NewChallenge<'_>, now_ms: u64) -> Result<()> {
        let sql = "DELETE FROM passkey_challenges WHERE expires_ms <= $1 \
                   OR (session_hash <> '' AND session_hash = $2 AND purpose = $3)";
        let forget = sqlx::query(sql).bind(number(now_ms)).bind(new.session.to_owned());
        self.run(forget.bind(new.purpose.word())).await?;
        let count = sqlx::query("SELECT COUNT(*) AS many FROM passkey_challenges");
        if self.maybe(count).await?.map_or(Ok(0), |row| row.count("many"))? >= MOST_CHALLENGES {
            let text = "too many logins have begun and not ended: try again in some minutes";
            return Err(CatalogError::new(ErrorKind::Unavailable, text));
        }
        let sql = "INSERT INTO passkey_challenges (token_hash, purpose, user_id, session_hash, \
                   challenge, address, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let insert = sqlx::query(sql)
            .bind(new.hash.to_owned())
            .bind(new.purpose.word())
            .bind(text_of(new.user))
            .bind(new.session.to_owned())
            .bind(new.challenge.to_owned())
            .bind(new.address.to_owned())
            .bind(number(new.expires_ms));
        self.run(insert).await.map(drop)
    }

    /// How many questions that were asked for from an address are open.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_challenges(&mut self, address: &str, now_ms: u64) -> Result<u64> {
        let sql = "SELECT COUNT(*) AS many FROM passkey_challenges \
                   WHERE address = $1 AND expires_ms > $2";
        let select = sqlx::query(sql).bind(address.to_owned()).bind(number(now_ms));
        self.maybe(select).await?.map_or(Ok(0), |row| row.count("many"))
    }

    /// Takes a question that is open: nobody else can answer it any more. Nothing when there is
    /// none for this purpose, it is over, or somebody was faster.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take_challenge(
        &mut self,
        hash: &str,
        purpose: PasskeyPurpose,
        now_ms: u64,
    ) -> Result<Option<TakenChallenge>> {
        let sql = "SELECT user_id, session_hash, challenge FROM passkey_challenges \
                   WHERE token_hash = $1 AND purpose = $2 AND expires_ms > $3";
        let select = sqlx::query(sql).bind(hash.to_owned()).bind(purpose.word());
        let Some(row) = self.maybe(select.bind(number(now_ms))).await? else { return Ok(None) };
        let delete = sqlx::query("DELETE FROM passkey_challenges WHERE token_hash = $1");
        if self.run(delete.bind(hash.to_owned())).await? != 1 {
            return Ok(None);
        }
        Ok(Some(TakenChallenge {
            user: row.maybe_id("user_id")?,
            session: row.text("session_hash")?,
            challenge: row.text("challenge")?,
        }))
    }
}
