//! Users, what they may do, and how they show who they are.

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, number, text_of};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::id::{SessionId, TokenId, UserId};
use crate::model::access::{OpenSession, Session, Token, User};
use crate::record::{Page, check_name};
use crate::sought::Sought;

impl User {
    pub(super) fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            id: row.id("id")?,
            login: row.text("login")?,
            password_hash: row.text("password_hash")?,
            service: row.count("service")? != 0,
            must_change: row.count("must_change")? != 0,
            disabled: row.count("disabled")? != 0,
            provider: row.maybe_id("provider_id")?,
            created_ms: row.count("created_ms")?,
        })
    }
}

pub(super) const USER: &str = "SELECT id, login, password_hash, service, must_change, disabled, \
                               provider_id, created_ms FROM users";

impl Tx {
    /// Adds somebody who logs in with a password.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the login is taken.
    pub async fn add_user(
        &mut self,
        login: &str,
        password_hash: &str,
        now_ms: u64,
    ) -> Result<User> {
        self.add_account(login, password_hash, false, now_ms).await
    }

    /// Adds a program, which has no password.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the login is taken.
    pub async fn add_service(&mut self, login: &str, now_ms: u64) -> Result<User> {
        self.add_account(login, "", true, now_ms).await
    }

    async fn add_account(
        &mut self,
        login: &str,
        password_hash: &str,
        service: bool,
        now_ms: u64,
    ) -> Result<User> {
        check_name("user", login)?;
        let user = User {
            id: UserId::new(now_ms),
            login: login.to_owned(),
            password_hash: password_hash.to_owned(),
            service,
            must_change: false,
            disabled: false,
            provider: None,
            created_ms: now_ms,
        };
        let sql = "INSERT INTO users (id, login, password_hash, disabled, created_ms, service) \
                   VALUES ($1, $2, $3, 0, $4, $5)";
        let insert = sqlx::query(sql)
            .bind(user.id.to_string())
            .bind(user.login.clone())
            .bind(user.password_hash.clone())
            .bind(number(now_ms))
            .bind(i64::from(service));
        self.run(insert).await?;
        Ok(user)
    }

    /// How many users there are.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_users(&mut self) -> Result<u64> {
        let row = self.maybe(sqlx::query("SELECT COUNT(*) AS many FROM users")).await?;
        row.map_or(Ok(0), |row| row.count("many"))
    }

    /// A user by login.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn user_by_login(&mut self, login: &str) -> Result<Option<User>> {
        let select = crate::db::query(format!("{USER} WHERE login = $1")).bind(login.to_owned());
        self.maybe(select).await?.map(|row| User::read(&row)).transpose()
    }

    /// A user by id.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none.
    pub async fn user(&mut self, id: UserId) -> Result<User> {
        let select = crate::db::query(format!("{USER} WHERE id = $1")).bind(id.to_string());
        let row = self.maybe(select).await?;
        User::read(&row.ok_or_else(|| CatalogError::not_found(format_args!("user {id}")))?)
    }

    /// The users whose logins match a pattern, in small letters or large, oldest first: `*` stands
    /// for anything, `?` for one character.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn users_called(&mut self, pattern: &str, page: &Page) -> Result<Vec<User>> {
        let sql = format!(
            "{USER} WHERE id > $1 AND LOWER(login) LIKE LOWER($3) ESCAPE '!' ORDER BY id LIMIT $2"
        );
        let select = crate::db::query(sql).bind(page.after.clone().unwrap_or_default());
        let select = select.bind(i64::from(page.limit.min(Page::LARGEST)));
        let select = select.bind(Sought::like(pattern));
        self.all(select).await?.iter().map(User::read).collect()
    }

    /// Sets another password. All sessions of the user end. The one before is remembered.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such user.
    pub async fn set_password(&mut self, id: UserId, password_hash: &str) -> Result<()> {
        let keep = "INSERT INTO old_passwords (user_id, seq, password_hash) \
                    SELECT id, (SELECT COALESCE(MAX(seq), 0) + 1 FROM old_passwords \
                    WHERE user_id = $1), password_hash FROM users \
                    WHERE id = $1 AND password_hash <> ''";
        self.run(sqlx::query(keep).bind(id.to_string())).await?;
        let sql = "UPDATE users SET password_hash = $1, must_change = 0 WHERE id = $2";
        let update = sqlx::query(sql).bind(password_hash.to_owned()).bind(id.to_string());
        if self.run(update).await? == 0 {
            return Err(CatalogError::not_found(format_args!("user {id}")));
        }
        let end = sqlx::query("DELETE FROM sessions WHERE user_id = $1").bind(id.to_string());
        self.run(end).await.map(drop)
    }

    /// Says that a password must be changed before anything else is done.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn must_change_password(&mut self, id: UserId) -> Result<()> {
        let update = sqlx::query("UPDATE users SET must_change = 1 WHERE id = $1");
        self.run(update.bind(id.to_string())).await.map(drop)
    }

    /// The hashes of a user's last passwords, so many at most, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn last_passwords(&mut self, id: UserId, most: u32) -> Result<Vec<String>> {
        let now = self.user(id).await?.password_hash;
        let sql = "SELECT password_hash FROM old_passwords WHERE user_id = $1 \
                   ORDER BY seq DESC LIMIT $2";
        let select = sqlx::query(sql).bind(id.to_string()).bind(i64::from(most));
        let rows = self.all(select).await?;
        let old = rows.iter().map(|row| row.text("password_hash"));
        let mut all: Vec<_> = std::iter::once(Ok(now)).chain(old).collect::<Result<_>>()?;
        all.retain(|hash| !hash.is_empty());
        all.truncate(most as usize);
        Ok(all)
    }

    /// Removes a user with all sessions and tokens.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such user.
    pub async fn delete_user(&mut self, id: UserId) -> Result<()> {
        let delete = sqlx::query("DELETE FROM users WHERE id = $1").bind(id.to_string());
        if self.run(delete).await? == 0 {
            return Err(CatalogError::not_found(format_args!("user {id}")));
        }
        Ok(())
    }

    /// Waits until nobody else changes who may do what.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn change_access_alone(&mut self) -> Result<()> {
        self.lock("lock-access").await
    }

    /// How many people are administrators of the system and may log in with a password of this
    /// server: they get in even when no identity provider answers.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_administrators(&mut self) -> Result<u64> {
        let sql = "SELECT COUNT(*) AS many FROM users u WHERE u.disabled = 0 AND u.service = 0 \
                   AND u.provider_id = '' \
                   AND (EXISTS (SELECT 1 FROM bindings b WHERE b.user_id = u.id \
                   AND b.role = 'admin' AND b.project_id = '') OR EXISTS \
                   (SELECT 1 FROM group_members m JOIN group_bindings g ON g.group_id = m.group_id \
                   WHERE m.user_id = u.id AND g.role = 'admin' AND g.project_id = ''))";
        let row = self.maybe(sqlx::query(sql)).await?;
        row.map_or(Ok(0), |row| row.count("many"))
    }

    /// Begins a session; old ones are forgotten.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_session(
        &mut self,
        hash: &str,
        user: UserId,
        address: &str,
        now_ms: u64,
        expires_ms: u64,
    ) -> Result<SessionId> {
        let forget = sqlx::query("DELETE FROM sessions WHERE expires_ms <= $1");
        self.run(forget.bind(number(now_ms))).await?;
        let id = SessionId::new(now_ms);
        let sql = "INSERT INTO sessions (token_hash, user_id, created_ms, expires_ms, id, address) \
                   VALUES ($1, $2, $3, $4, $5, $6)";
        let insert = sqlx::query(sql).bind(hash.to_owned()).bind(user.to_string());
        let insert = insert.bind(number(now_ms)).bind(number(expires_ms));
        self.run(insert.bind(id.to_string()).bind(address.to_owned())).await?;
        Ok(id)
    }

    /// The sessions of a user that last, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn sessions(
        &mut self,
        user: UserId,
        page: &Page,
        now_ms: u64,
    ) -> Result<Vec<OpenSession>> {
        let sql = "SELECT id, token_hash, address, created_ms, expires_ms FROM sessions \
                   WHERE user_id = $1 AND expires_ms > $2 AND id > $3 ORDER BY id LIMIT $4";
        let select = sqlx::query(sql).bind(user.to_string()).bind(number(now_ms));
        let select = select.bind(page.after.clone().unwrap_or_default());
        let rows = self.all(select.bind(i64::from(page.limit.min(Page::LARGEST)))).await?;
        let read = |row: &AnyRow| {
            Ok(OpenSession {
                id: row.id("id")?,
                token_hash: row.text("token_hash")?,
                address: row.text("address")?,
                created_ms: row.count("created_ms")?,
                expires_ms: row.count("expires_ms")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Ends a session of a user; or, without one, all of them. Returns how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_sessions(&mut self, user: UserId, id: Option<SessionId>) -> Result<u64> {
        let sql = "DELETE FROM sessions WHERE user_id = $1 AND ($2 = '' OR id = $2)";
        let end = sqlx::query(sql).bind(user.to_string()).bind(text_of(id));
        self.run(end).await
    }

    /// Ends a session.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_session(&mut self, hash: &str) -> Result<()> {
        let end = sqlx::query("DELETE FROM sessions WHERE token_hash = $1");
        self.run(end.bind(hash.to_owned())).await.map(drop)
    }

    /// Adds an API token of a user.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the user has one of that name.
    pub async fn add_token(
        &mut self,
        user: UserId,
        name: &str,
        hash: &str,
        now_ms: u64,
        expires_ms: Option<u64>,
    ) -> Result<Token> {
        check_name("token", name)?;
        let id = TokenId::new(now_ms);
        let sql = "INSERT INTO api_tokens (id, token_hash, user_id, name, created_ms, expires_ms) \
                   VALUES ($1, $2, $3, $4, $5, $6)";
        let insert = sqlx::query(sql)
            .bind(id.to_string())
            .bind(hash.to_owned())
            .bind(user.to_string())
            .bind(name.to_owned())
            .bind(number(now_ms))
            .bind(expires_ms.map(number));
        self.run(insert).await?;
        Ok(Token { id, name: name.to_owned(), created_ms: now_ms, expires_ms })
    }

    /// A part of the API tokens of a user, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tokens(&mut self, user: UserId, page: &Page) -> Result<Vec<Token>> {
        let sql = "SELECT id, name, created_ms, expires_ms FROM api_tokens WHERE user_id = $1 \
                   AND id > $2 ORDER BY id LIMIT $3";
        let select = sqlx::query(sql)
            .bind(user.to_string())
            .bind(page.after.clone().unwrap_or_default())
            .bind(i64::from(page.limit));
        let rows = self.all(select).await?;
        let read = |row: &AnyRow| {
            Ok(Token {
                id: row.id("id")?,
                name: row.text("name")?,
                created_ms: row.count("created_ms")?,
                expires_ms: row.maybe_count("expires_ms")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Removes an API token of a user.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the user has no such token.
    pub async fn delete_token(&mut self, user: UserId, id: TokenId) -> Result<()> {
        let sql = "DELETE FROM api_tokens WHERE id = $1 AND user_id = $2";
        let delete = sqlx::query(sql).bind(id.to_string()).bind(user.to_string());
        if self.run(delete).await? == 0 {
            return Err(CatalogError::not_found(format_args!("token {id}")));
        }
        Ok(())
    }

    /// Who shows the session or API token of this hash, and what they may do now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when nobody has it (any more).
    pub async fn who(&mut self, hash: &str, now_ms: u64) -> Result<Session> {
        let sql = "SELECT user_id, CAST(1 AS BIGINT) AS logged_in FROM sessions \
                   WHERE token_hash = $1 AND expires_ms > $2 \
                   UNION ALL SELECT user_id, CAST(0 AS BIGINT) AS logged_in FROM api_tokens \
                   WHERE token_hash = $1 AND (expires_ms IS NULL OR expires_ms > $2)";
        let select = sqlx::query(sql).bind(hash.to_owned()).bind(number(now_ms));
        let nobody = || CatalogError::new(ErrorKind::NotFound, "nobody is logged in with this");
        let row = self.maybe(select).await?.ok_or_else(nobody)?;
        let user = self.user(row.id("user_id")?).await?;
        if user.disabled {
            return Err(nobody());
        }
        let logged_in = row.count("logged_in")? != 0;
        let second_factor = self.has_second_factor(user.id).await?;
        let grants = self.all_grants(user.id).await?;
        Ok(Session { user, grants, logged_in, second_factor })
    }

    /// What a user would be if it showed a session now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is gone or may not log in.
    pub async fn as_if_logged_in(&mut self, id: UserId) -> Result<Session> {
        let user = self.user(id).await?;
        if user.disabled {
            return Err(CatalogError::not_found(format_args!("user {id} that may log in")));
        }
        let grants = self.all_grants(id).await?;
        Ok(Session { user, grants, logged_in: true, second_factor: true })
    }
}
