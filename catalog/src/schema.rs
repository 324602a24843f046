//! Bringing the tables up to date.

use crate::db::{Catalog, Columns, Tx};
use crate::error::{CatalogError, ErrorKind, Result};

/// Each migration once, in this order, for ever: what is released is not changed.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001-begin.sql"),
    include_str!("../migrations/0002-queue-and-usage.sql"),
    include_str!("../migrations/0003-mounts.sql"),
    include_str!("../migrations/0004-plans.sql"),
    include_str!("../migrations/0005-access.sql"),
    include_str!("../migrations/0006-at-size.sql"),
    include_str!("../migrations/0007-nodes.sql"),
    include_str!("../migrations/0008-identity.sql"),
    include_str!("../migrations/0009-copies.sql"),
    include_str!("../migrations/0010-login-addresses.sql"),
    include_str!("../migrations/0011-grants.sql"),
    include_str!("../migrations/0012-pending.sql"),
    include_str!("../migrations/0013-visible-to.sql"),
    include_str!("../migrations/0014-passkeys.sql"),
    include_str!("../migrations/0015-lists.sql"),
    include_str!("../migrations/0016-history.sql"),
    include_str!("../migrations/0017-trusted-destinations.sql"),
    include_str!("../migrations/0018-limits-that-hold.sql"),
    include_str!("../migrations/0019-maintenance.sql"),
    include_str!("../migrations/0020-inventories.sql"),
    include_str!("../migrations/0021-policies.sql"),
    include_str!("../migrations/0022-snapshots.sql"),
    include_str!("../migrations/0023-needs.sql"),
    include_str!("../migrations/0024-looks.sql"),
    include_str!("../migrations/0025-filters.sql"),
    include_str!("../migrations/0026-bounds-of-sources.sql"),
    include_str!("../migrations/0030-followed.sql"),
];

const SETTINGS: &str =
    "CREATE TABLE IF NOT EXISTS settings (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)";

/// Runs what has not run yet, each with its note in one transaction.
pub(crate) async fn migrate(catalog: &Catalog) -> Result<()> {
    migrate_by(catalog, MIGRATIONS).await
}

async fn migrate_by(catalog: &Catalog, scripts: &[&'static str]) -> Result<()> {
    let mut tx = catalog.begin().await?;
    if !exists(&mut tx).await {
        // Several servers may find that at the same time; one of them makes it.
        drop(tx);
        tx = catalog.begin().await?;
        let made = tx.run(sqlx::query(SETTINGS)).await;
        if made.is_ok() {
            tx.commit().await?;
        } else {
            drop(tx);
        }
        tx = catalog.begin().await?;
    }
    let first = "INSERT INTO settings (name, value) VALUES ('schema', '0') \
                 ON CONFLICT (name) DO NOTHING";
    tx.run(sqlx::query(first)).await?;
    tx.lock("schema").await?;
    let done = version(&mut tx).await?;
    if done > scripts.len() {
        let text = "a newer release has used this database; use that release";
        return Err(CatalogError::new(ErrorKind::Damaged, text));
    }
    for (number, script) in scripts.iter().enumerate().skip(done) {
        for statement in statements(script) {
            tx.run(sqlx::query(statement)).await?;
        }
        let sql = "UPDATE settings SET value = $1 WHERE name = 'schema'";
        tx.run(sqlx::query(sql).bind((number + 1).to_string())).await?;
    }
    tx.commit().await
}

async fn exists(tx: &mut Tx) -> bool {
    tx.maybe(sqlx::query("SELECT value FROM settings WHERE name = 'schema'")).await.is_ok()
}

async fn version(tx: &mut Tx) -> Result<usize> {
    let row = tx.maybe(sqlx::query("SELECT value FROM settings WHERE name = 'schema'")).await?;
    let text = row.map(|row| row.text("value")).transpose()?.unwrap_or_default();
    text.parse().map_err(|error| crate::db::damaged("settings", std::io::Error::other(error)))
}

/// The statements of a script. Semicolons end statements and stand nowhere else in ours.
fn statements(script: &'static str) -> impl Iterator<Item = &'static str> {
    script.split(';').map(str::trim).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_have_statements_and_only_known_types() {
        for script in MIGRATIONS {
            assert!(statements(script).count() >= 1);
            let code: Vec<_> =
                script.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
            for word in ["BOOLEAN", "INTEGER", "BLOB", "BYTEA", "SERIAL", "TIMESTAMP", "JSON"] {
                assert!(!code.iter().any(|line| line.contains(word)), "{word}");
            }
        }
    }

    #[tokio::test]
    async fn destinations_that_only_the_system_could_write_are_trusted_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("catalog.sqlite").display());
        let catalog = Catalog::connect(&url).await.unwrap();
        let at = MIGRATIONS.iter().position(|text| text.contains("TABLE trusted_destinations"));
        migrate_by(&catalog, &MIGRATIONS[..at.unwrap()]).await.unwrap();
        let mut tx = catalog.begin().await.unwrap();
        let ids = [1, 2, 3, 4].map(crate::DestinationId::new);
        for (id, project) in ids.iter().zip(["", "p", "", ""]) {
            let sql =
                "INSERT INTO destinations VALUES ($1, $2, $1, 1, 1, 1, '{\"url\":\"/r\"}', '')";
            let insert = sqlx::query(sql).bind(id.to_string()).bind(project);
            tx.run(insert).await.unwrap();
        }
        let user = tx.add_user("otto", "hash", 1).await.unwrap();
        for (id, role) in [(ids[2], "operator"), (ids[3], "manager")] {
            let sql = "INSERT INTO resource_bindings VALUES ($1, $2, 'destination', $3)";
            let bind = sqlx::query(sql).bind(user.id.to_string()).bind(role).bind(id.to_string());
            tx.run(bind).await.unwrap();
        }
        let sql = "INSERT INTO idempotency VALUES ('a', 'k', 'h', 201, '{\"token\":\"t\"}', 1)";
        tx.run(sqlx::query(sql)).await.unwrap();
        tx.commit().await.unwrap();
        migrate(&catalog).await.unwrap();
        let mut tx = catalog.read().await.unwrap();
        let mut trusted = Vec::new();
        for id in ids {
            trusted.push(tx.destination_is_trusted(id).await.unwrap());
        }
        // Of the last two, somebody without a role in the system may change one.
        assert_eq!(trusted, [true, false, true, false]);
        let kept = tx.all(sqlx::query("SELECT actor FROM idempotency")).await.unwrap();
        assert!(kept.is_empty(), "answers of before may hold tokens");
    }
}
