//! Databases to try the catalog on.

use std::path::Path;
use std::process::Command;

use sluice_catalog::Catalog;
use tempfile::TempDir;

/// A catalog on a database of its own.
pub struct Lab {
    pub catalog: Catalog,
    pub url: String,
    pub _folder: TempDir,
}

/// An empty catalog in a file.
pub async fn sqlite() -> Option<Lab> {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("catalog.sqlite").display());
    Some(Lab { catalog: Catalog::open(&url).await.unwrap(), url, _folder: folder })
}

/// An empty catalog in the lab's PostgreSQL; nothing where that was switched off.
pub async fn postgres() -> Option<Lab> {
    if std::env::var_os("SLUICE_SKIP_POSTGRES").is_some() {
        eprintln!("SKIPPED: SLUICE_SKIP_POSTGRES is set");
        return None;
    }
    let server = std::env::var("SLUICE_TEST_POSTGRES").unwrap_or_else(|_| start());
    let folder = tempfile::tempdir().unwrap();
    // Unique on this server: names of temporary folders do not come twice.
    let own = folder.path().file_name().unwrap().to_str().unwrap().to_lowercase();
    let name = format!("t{}_{}", std::process::id(), own.replace('.', ""));
    let made = Command::new("psql")
        .args([&server, "-qc", &format!("CREATE DATABASE {name}")])
        .status()
        .expect("psql runs (package postgresql-client)");
    assert!(made.success(), "no database {name}");
    let (base, _) = server.rsplit_once('/').unwrap();
    let url = format!("{base}/{name}");
    Some(Lab { catalog: Catalog::open(&url).await.unwrap(), url, _folder: folder })
}

fn start() -> String {
    let up = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/lab/postgres/postgres-up");
    let ran = Command::new(up).output().expect("postgres-up runs");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said} (SLUICE_SKIP_POSTGRES=1 skips these tests)");
    let env = std::fs::read_to_string(String::from_utf8(ran.stdout).unwrap().trim()).unwrap();
    env.split('\'').nth(1).expect("the file names the server").to_owned()
}

/// Makes a test for each database of an async function that takes a [`Lab`].
macro_rules! on_both {
    ($($name:ident)*) => { $(
        mod $name {
            #[tokio::test]
            async fn on_sqlite() {
                let Some(lab) = crate::support::sqlite().await else { return };
                super::$name(lab).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                let Some(lab) = crate::support::postgres().await else { return };
                super::$name(lab).await;
            }
        }
    )* };
}
pub(crate) use on_both;
