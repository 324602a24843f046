//! The real S3 server the tests speak to.
//!
//! `SLUICE_TEST_S3` names a bucket as `s3://BUCKET/PREFIX?endpoint=...`, with its keys in
//! `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. Without it, `tests/lab/s3/s3-up` starts a
//! server, or finds the one it started before.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use sluice_destination::s3::{S3Config, S3Destination};
use sluice_destination::url::DestinationUrl;
use sluice_destination::{Destination, Timeouts, list_all};
use tempfile::TempDir;

use crate::start::start;

/// A bucket, a prefix of its own in it, and a file with the keys.
pub struct Lab {
    url: DestinationUrl,
    folder: TempDir,
    name: String,
}

impl Lab {
    /// Finds or starts the server.
    pub fn find() -> Self {
        Self::named("SLUICE_TEST_S3").expect("SLUICE_TEST_S3 is looked for first")
    }

    /// The same for its bucket whose objects can be locked, if it has one.
    pub fn with_locks() -> Option<Self> {
        Self::named("SLUICE_TEST_S3_LOCK")
    }

    /// Whether the server is known to lack something, as `SLUICE_TEST_S3_LACKS` says: words with
    /// spaces between them. Its capabilities must say the same.
    pub fn lacks(&self, what: &str) -> bool {
        let lacks = std::env::var("SLUICE_TEST_S3_LACKS").unwrap_or_default();
        lacks.split(' ').any(|word| word == what)
    }

    fn named(bucket: &str) -> Option<Self> {
        let known =
            ["SLUICE_TEST_S3", "SLUICE_TEST_S3_LOCK", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        let mut settings: HashMap<String, String> = known
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect();
        if !settings.contains_key("SLUICE_TEST_S3") {
            let otherwise = "set SLUICE_TEST_S3 and the AWS keys to use another one";
            settings = start("s3/s3-up", otherwise);
        }
        let setting = |name: &str| {
            settings.get(name).unwrap_or_else(|| panic!("SLUICE_TEST_S3 is set, {name} is not"))
        };
        let folder = tempfile::tempdir().unwrap();
        let keys = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            setting("AWS_ACCESS_KEY_ID"),
            setting("AWS_SECRET_ACCESS_KEY")
        );
        std::fs::write(folder.path().join("keys"), keys).unwrap();
        let url = settings.get(bucket)?.parse().unwrap();
        Some(Self { url, folder, name: format!("test-{:016x}", rand::random::<u64>()) })
    }

    /// `host:port` of the server.
    pub fn server(&self) -> String {
        let endpoint = self.url.parameter("endpoint").expect("SLUICE_TEST_S3 names an endpoint");
        let host = endpoint.strip_prefix("http://").expect("tests speak to a plain http endpoint");
        host.trim_end_matches('/').to_owned()
    }

    /// Where a file with other keys can be written.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The URL of this test's own prefix and a part below it.
    pub fn url(&self, part: &str) -> String {
        self.url_at(part, &format!("http://{}", self.server()))
    }

    /// The same through another endpoint.
    pub fn url_at(&self, part: &str, endpoint: &str) -> String {
        let keys = self.folder.path().join("keys");
        format!(
            "s3://{}{}/{}/{part}?endpoint={endpoint}&region={}&credentials={}",
            self.url.authority(),
            self.url.path().trim_end_matches('/'),
            self.name,
            self.url.parameter("region").unwrap_or("us-east-1"),
            keys.display()
        )
    }

    /// The bare destination behind a URL, without retries.
    pub async fn open(&self, url: &str) -> Arc<dyn Destination> {
        self.open_with(url, Timeouts::default()).await
    }

    /// The same with other timeouts.
    pub async fn open_with(&self, url: &str, timeouts: Timeouts) -> Arc<dyn Destination> {
        let mut config = S3Config::from_url(&url.parse().unwrap()).unwrap();
        config.timeouts = timeouts;
        Arc::new(S3Destination::open(config).await.unwrap())
    }

    /// Removes what the test stored.
    pub async fn clean_up(&self) {
        let store = &*self.open(&self.url("").replace("/?", "?")).await;
        let all = list_all(store, "").await.unwrap();
        let deletes = all.iter().map(|object| store.delete(&object.key));
        for outcome in stream::iter(deletes).buffer_unordered(16).collect::<Vec<_>>().await {
            outcome.unwrap();
        }
    }
}
