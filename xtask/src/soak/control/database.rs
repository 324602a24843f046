//! A PostgreSQL of its own, that can be taken away.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// A server by the lab's scripts, with data and port of its own; removed when dropped.
#[derive(Debug)]
pub(super) struct Database {
    root: TempDir,
    port: u16,
}

impl Database {
    pub(super) fn start() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let root = tempfile::Builder::new().prefix("soak-postgres-").tempdir()?;
        // Its owner is another user, who must be able to get there.
        std::fs::set_permissions(root.path(), Permissions::from_mode(0o755))?;
        let database = Self { root, port };
        database.restart()?;
        Ok(database)
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(format!("tests/lab/postgres/{name}"));
        command
            .env("SLUICE_LAB_POSTGRES_ROOT", self.root.path())
            .env("SLUICE_LAB_POSTGRES_PORT", self.port.to_string());
        command
    }

    pub(super) fn url(&self) -> Result<String> {
        Ok(format!("postgres://sluice@127.0.0.1:{}/postgres", self.port))
    }

    pub(super) fn restart(&self) -> Result<()> {
        let output = self.script("postgres-up").output().context("cannot run postgres-up")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    pub(super) fn stop(&self) -> Result<()> {
        let status = self.script("postgres-down").status().context("cannot run postgres-down")?;
        if !status.success() {
            bail!("postgres-down ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.script("postgres-down").arg("--purge").status();
    }
}
