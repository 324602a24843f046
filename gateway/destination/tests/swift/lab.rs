//! The real OpenStack Swift the tests speak to.
//!
//! `tests/lab/swift/swift-up` starts it, or finds the one it started before, unless the variables
//! it prints are set already: then they name another one. `SLUICE_SKIP_SWIFT=1` skips these tests.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use sluice_destination::swift::{SwiftConfig, SwiftDestination};
use sluice_destination::{Destination, list_all};
use tempfile::TempDir;

use crate::start::start;

/// The container of all tests.
const CONTAINER: &str = "sluice-test";

/// The ways to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Keystone, as a user of a project.
    Password,
    /// Keystone, with an application credential.
    Application,
    /// Version 1.
    Simple,
}

/// A prefix of a test's own, and a file with credentials.
pub struct Lab {
    settings: HashMap<String, String>,
    folder: TempDir,
    name: String,
    way: Way,
}

impl Lab {
    /// Finds or starts the servers; none when these tests are to be skipped.
    pub fn find(way: Way) -> Option<Self> {
        if std::env::var_os("SLUICE_SKIP_SWIFT").is_some_and(|value| value == "1") {
            eprintln!("skipped: SLUICE_SKIP_SWIFT=1");
            return None;
        }
        let settings: HashMap<_, _> = std::env::vars().collect();
        let known = ["OS_AUTH_URL", "ST_AUTH", "SLUICE_TEST_SWIFT_APPLICATION_ID"];
        let given = known.iter().all(|name| settings.contains_key(*name));
        let otherwise = "set SLUICE_SKIP_SWIFT=1 to do without these tests";
        let settings = if given { settings } else { start("swift/swift-up", otherwise) };
        let folder = tempfile::tempdir().unwrap();
        let name = format!("test-{:016x}", rand::random::<u64>());
        let lab = Self { settings, folder, name, way };
        lab.write_credentials(|_, value| value.to_owned());
        Some(lab)
    }

    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).unwrap_or_else(|| panic!("{name} is not set"))
    }

    /// The file with credentials.
    pub fn credentials(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    /// Writes the file with credentials, each of them changed by `change`.
    pub fn write_credentials(&self, change: impl Fn(&str, &str) -> String) {
        let names: &[&str] = match self.way {
            Way::Password => &[
                "OS_AUTH_URL",
                "OS_USERNAME",
                "OS_PASSWORD",
                "OS_USER_DOMAIN_NAME",
                "OS_PROJECT_NAME",
                "OS_PROJECT_DOMAIN_NAME",
                "OS_REGION_NAME",
            ],
            Way::Application => &["OS_AUTH_URL", "OS_REGION_NAME"],
            Way::Simple => &["ST_AUTH", "ST_USER", "ST_KEY"],
        };
        let line = |name: &str| {
            let value = change(name, self.setting(name));
            format!("export {name}='{value}'\n")
        };
        let mut text: String = names.iter().map(|name| line(name)).collect();
        if self.way == Way::Application {
            for part in ["ID", "SECRET"] {
                let value = self.setting(&format!("SLUICE_TEST_SWIFT_APPLICATION_{part}"));
                text.push_str(&format!("OS_APPLICATION_CREDENTIAL_{part}={value}\n"));
            }
        }
        std::fs::write(self.credentials(), text).unwrap();
    }

    /// The URL of this test's own prefix and a part below it, with more parameters.
    pub fn url(&self, part: &str, more: &str) -> String {
        let file = self.credentials();
        format!("swift://{CONTAINER}/{}/{part}?credentials={}{more}", self.name, file.display())
    }

    /// `host:port` of the proxy for version 1.
    pub fn server(&self) -> String {
        let auth = self.setting("ST_AUTH").strip_prefix("http://").expect("a plain http server");
        auth.split('/').next().unwrap().to_owned()
    }

    /// The parameter that leads requests, but not logging in, through a proxy before
    /// [`server`](Self::server).
    pub fn through(&self, endpoint: &str) -> String {
        let account = self.setting("ST_USER").split(':').next().unwrap();
        format!("&storage={endpoint}/v1/V1_{account}")
    }

    /// The bare destination behind a URL, without retries; makes the container.
    pub fn open(&self, url: &str) -> Arc<dyn Destination> {
        self.open_with(url, |config| config.create = true)
    }

    /// The same with another configuration.
    pub fn open_with(
        &self,
        url: &str,
        change: impl FnOnce(&mut SwiftConfig),
    ) -> Arc<dyn Destination> {
        let mut config = SwiftConfig::from_url(&url.parse().unwrap()).unwrap();
        change(&mut config);
        Arc::new(SwiftDestination::open(config).unwrap())
    }

    /// Removes what the test stored.
    pub async fn clean_up(&self) {
        let store = &*self.open(&self.url("", "").replace("/?", "?"));
        let all = list_all(store, "").await.unwrap();
        let keys: Vec<_> = all.into_iter().map(|object| object.key).collect();
        store.delete_many(&keys).await.unwrap();
    }
}
