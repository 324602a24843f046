//! The real OpenSSH server the tests speak to.
//!
//! `tests/lab/sftp/sftp-up` starts it, or finds the one it started before.
//! `SLUICE_SKIP_SFTP=1` skips these tests.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_destination::Destination;
use sluice_destination::sftp::{SftpConfig, SftpDestination};

use crate::start::start;

/// The server, and a folder of a test's own; removed when dropped.
pub struct Lab {
    settings: HashMap<String, String>,
    name: String,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.folder());
    }
}

impl Lab {
    /// Finds or starts the server; none when these tests are to be skipped.
    pub fn find() -> Option<Self> {
        if std::env::var_os("SLUICE_SKIP_SFTP").is_some_and(|value| value == "1") {
            eprintln!("skipped: SLUICE_SKIP_SFTP=1");
            return None;
        }
        let otherwise = "set SLUICE_SKIP_SFTP=1 to do without these tests";
        let settings = start("sftp/sftp-up", otherwise);
        let lab = Self { settings, name: format!("test-{:016x}", rand::random::<u64>()) };
        std::fs::create_dir(lab.folder()).unwrap();
        Some(lab)
    }

    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).unwrap_or_else(|| panic!("{name} is not set"))
    }

    /// Where the server keeps this test's files.
    pub fn folder(&self) -> PathBuf {
        let url = self.setting("SLUICE_TEST_SFTP").strip_prefix("sftp://").unwrap();
        Path::new(&url[url.find('/').unwrap()..]).join(&self.name)
    }

    /// The URL of a part of this test's folder, at one of the servers.
    pub fn url_at(&self, server: &str, part: &str) -> String {
        let key = self.setting("SLUICE_SFTP_KEY_FILE");
        let hosts = self.setting("SLUICE_SFTP_KNOWN_HOSTS");
        let url = self.setting(server);
        format!("{url}/{}/{part}?key-file={key}&known-hosts={hosts}", self.name)
    }

    pub fn url(&self, part: &str) -> String {
        self.url_at("SLUICE_TEST_SFTP", part)
    }

    /// The bare destination behind a URL, without retries; makes the folder.
    pub async fn open(&self, url: &str) -> Arc<dyn Destination> {
        let mut config = SftpConfig::from_url(&url.parse().unwrap()).unwrap();
        config.create = true;
        Arc::new(SftpDestination::open(config).await.unwrap())
    }
}
