//! The Azurite the tests speak to, when it runs.
//!
//! `tests/lab/azure/azure-up` starts it. It is found by the variables that prints, or by the file
//! it leaves; without either the tests say that they were skipped.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use sluice_destination::azblob::{AzblobConfig, AzblobDestination};
use sluice_destination::{Destination, list_all};
use tempfile::TempDir;

use crate::settings::settings;

/// The container of all tests.
pub const CONTAINER: &str = "sluice-test";

/// A prefix of a test's own, and a file with credentials.
pub struct Lab {
    settings: HashMap<String, String>,
    folder: TempDir,
    name: String,
}

impl Lab {
    /// Finds the server; none, and a word about it, when it does not run.
    pub fn find() -> Option<Self> {
        let mut settings: HashMap<_, _> = std::env::vars().collect();
        if !settings.contains_key("SLUICE_TEST_AZURE") {
            let Some(started) = started() else {
                eprintln!("skipped: no Azurite runs; start it with tests/lab/azure/azure-up");
                return None;
            };
            settings = started;
        }
        let folder = tempfile::tempdir().unwrap();
        let name = format!("test-{:016x}", rand::random::<u64>());
        let lab = Self { settings, folder, name };
        lab.write_credentials(&format!("AZURE_STORAGE_KEY={}\n", lab.setting("AZURE_STORAGE_KEY")));
        Some(lab)
    }

    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).unwrap_or_else(|| panic!("{name} is not set"))
    }

    fn credentials(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    pub fn write_credentials(&self, text: &str) {
        std::fs::write(self.credentials(), text).unwrap();
    }

    /// `host:port` of the server.
    pub fn server(&self) -> String {
        let endpoint = self.setting("SLUICE_TEST_AZURE").strip_prefix("http://").unwrap();
        endpoint.split('/').next().unwrap().to_owned()
    }

    /// The URL of this test's own prefix and a part below it.
    pub fn url(&self, part: &str) -> String {
        self.url_at(part, &format!("http://{}", self.server()))
    }

    /// The same through another address.
    pub fn url_at(&self, part: &str, server: &str) -> String {
        let account = self.setting("AZURE_STORAGE_ACCOUNT");
        format!(
            "azblob://{CONTAINER}/{}/{part}?account={account}&endpoint={server}/{account}\
             &credentials={}",
            self.name,
            self.credentials().display()
        )
    }

    /// The bare destination behind a URL, without retries; makes the container.
    pub fn open(&self, url: &str) -> Arc<dyn Destination> {
        let mut config = AzblobConfig::from_url(&url.parse().unwrap()).unwrap();
        config.create = true;
        Arc::new(AzblobDestination::open(config).unwrap())
    }

    /// Removes what the test stored.
    pub async fn clean_up(&self) {
        let store = &*self.open(&self.url("").replace("/?", "?"));
        let all = list_all(store, "").await.unwrap();
        let keys: Vec<_> = all.into_iter().map(|object| object.key).collect();
        store.delete_many(&keys).await.unwrap();
    }
}

/// The settings of a lab that runs.
fn started() -> Option<HashMap<String, String>> {
    let root = std::env::var("SLUICE_LAB_AZURE_ROOT");
    let root = root.unwrap_or_else(|_| "/var/lib/sluice-lab/azure".into());
    let text = std::fs::read_to_string(PathBuf::from(root).join("env")).ok()?;
    let settings = settings(&text);
    let server = settings.get("SLUICE_TEST_AZURE")?.strip_prefix("http://")?.split('/').next()?;
    std::net::TcpStream::connect(server).ok()?;
    Some(settings)
}
