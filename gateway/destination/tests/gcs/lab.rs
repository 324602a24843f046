//! The fake-gcs-server the tests speak to, when it runs.
//!
//! `tests/lab/gcs/gcs-up` starts it. It is found by the variable that prints, or by the file it
//! leaves; without either the tests say that they were skipped.

use std::path::PathBuf;
use std::sync::Arc;

use sluice_destination::gcs::{GcsConfig, GcsDestination};
use sluice_destination::url::DestinationUrl;
use sluice_destination::{Destination, list_all};
use tempfile::TempDir;

/// A prefix of a test's own, and a folder for credentials.
pub struct Lab {
    url: DestinationUrl,
    pub folder: TempDir,
    name: String,
}

impl Lab {
    /// Finds the server; none, and a word about it, when it does not run.
    pub fn find() -> Option<Self> {
        let Some(url) = std::env::var("SLUICE_TEST_GCS").ok().or_else(started) else {
            eprintln!("skipped: no fake-gcs-server runs; start it with tests/lab/gcs/gcs-up");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let name = format!("test-{:016x}", rand::random::<u64>());
        Some(Self { url: url.parse().unwrap(), folder, name })
    }

    /// The bucket of all tests.
    pub fn bucket(&self) -> &str {
        self.url.authority()
    }

    /// `host:port` of the server.
    pub fn server(&self) -> String {
        server(&self.url)
    }

    /// The URL of this test's own prefix and a part below it.
    pub fn url(&self, part: &str) -> String {
        self.url_at(part, &format!("http://{}", self.server()))
    }

    /// The same through another address.
    pub fn url_at(&self, part: &str, server: &str) -> String {
        format!("{}&anonymous=true", self.url_without_login(part, server))
    }

    /// The same with no word on credentials.
    pub fn url_without_login(&self, part: &str, server: &str) -> String {
        format!("gcs://{}/{}/{part}?endpoint={server}", self.bucket(), self.name)
    }

    /// The bare destination behind a URL, without retries.
    pub fn open(&self, url: &str) -> Arc<dyn Destination> {
        let config = GcsConfig::from_url(&url.parse().unwrap()).unwrap();
        Arc::new(GcsDestination::open(config).unwrap())
    }

    /// Removes what the test stored.
    pub async fn clean_up(&self) {
        let store = &*self.open(&self.url("").replace("/?", "?"));
        let all = list_all(store, "").await.unwrap();
        let keys: Vec<_> = all.into_iter().map(|object| object.key).collect();
        store.delete_many(&keys).await.unwrap();
    }
}

fn server(url: &DestinationUrl) -> String {
    let endpoint = url.parameter("endpoint").expect("SLUICE_TEST_GCS names an endpoint");
    let host = endpoint.strip_prefix("http://").expect("tests speak to a plain http endpoint");
    host.trim_end_matches('/').to_owned()
}

/// The URL of a lab that runs.
fn started() -> Option<String> {
    let root = std::env::var("SLUICE_LAB_GCS_ROOT");
    let root = root.unwrap_or_else(|_| "/var/lib/sluice-lab/gcs".into());
    let text = std::fs::read_to_string(PathBuf::from(root).join("env")).ok()?;
    let value = text.trim().strip_prefix("export SLUICE_TEST_GCS=")?;
    let url = value.trim_matches('\'').to_owned();
    std::net::TcpStream::connect(server(&url.parse().ok()?)).ok()?;
    Some(url)
}
