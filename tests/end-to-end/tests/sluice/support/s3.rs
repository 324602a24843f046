//! The real S3 server the tests speak to.
//!
//! `SLUICE_TEST_S3` names a bucket as `s3://BUCKET/PREFIX?endpoint=...`, with its keys in
//! `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. Without it, `tests/lab/s3/s3-up` starts a
//! server, or finds the one it started before.

use std::collections::HashMap;
use std::path::Path;

use super::run::Cmd;

/// A prefix of a test's own in the bucket; emptied when dropped.
pub struct Prefix {
    server: Server,
    name: String,
    /// Whether its bucket keeps versions and locks.
    locks: bool,
}

/// The server, its bucket and the keys.
#[derive(Clone)]
pub struct Server {
    pub bucket: String,
    /// What stands before each test's prefix, with a slash at its end when there is any.
    folder: String,
    pub endpoint: String,
    pub region: String,
    pub key: String,
    pub secret: String,
}

/// A new prefix.
pub fn prefix() -> Prefix {
    prefix_in(server(), false)
}

/// A new prefix in the bucket whose objects can be locked; nothing where there is no such bucket.
pub fn locked_prefix() -> Option<Prefix> {
    let settings = settings();
    if !settings.contains_key("SLUICE_TEST_S3_LOCK") {
        eprintln!("SLUICE_TEST_S3_LOCK names no bucket with object lock: not tried");
        return None;
    }
    Some(prefix_in(server_of(&settings, "SLUICE_TEST_S3_LOCK"), true))
}

fn prefix_in(server: Server, locks: bool) -> Prefix {
    let unique = tempfile::Builder::new().prefix("e2e-").tempdir().unwrap();
    let name = unique.path().file_name().unwrap().to_str().unwrap().to_owned();
    let name = format!("{name}-{}", std::process::id());
    Prefix { name: format!("{}{name}", server.folder), server, locks }
}

/// The server, started when it does not run yet.
pub fn server() -> Server {
    server_of(&settings(), "SLUICE_TEST_S3")
}

fn settings() -> HashMap<String, String> {
    let known =
        ["SLUICE_TEST_S3", "SLUICE_TEST_S3_LOCK", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    let given = known.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?)));
    let mut settings: HashMap<String, String> =
        given.map(|(name, value)| (name.to_owned(), value)).collect();
    if !settings.contains_key("SLUICE_TEST_S3") {
        settings = start();
    }
    settings
}

fn server_of(settings: &HashMap<String, String>, variable: &str) -> Server {
    let setting = |name: &str| -> String {
        let value = settings.get(name);
        value.unwrap_or_else(|| panic!("SLUICE_TEST_S3 is set, {name} is not")).clone()
    };
    let url = setting(variable);
    let (place, parameters) = url.split_once('?').expect("SLUICE_TEST_S3 names an endpoint");
    let place = place.strip_prefix("s3://").expect("SLUICE_TEST_S3 is an s3:// URL");
    let (bucket, folder) = place.split_once('/').unwrap_or((place, ""));
    let folder = folder.trim_matches('/');
    let parameter = |name: &str| {
        let value =
            parameters.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        value.map(str::to_owned)
    };
    Server {
        bucket: bucket.to_owned(),
        folder: if folder.is_empty() { String::new() } else { format!("{folder}/") },
        endpoint: parameter("endpoint").expect("SLUICE_TEST_S3 names an endpoint"),
        region: parameter("region").unwrap_or_else(|| "us-east-1".into()),
        key: setting("AWS_ACCESS_KEY_ID"),
        secret: setting("AWS_SECRET_ACCESS_KEY"),
    }
}

fn start() -> HashMap<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/s3/s3-up");
    let ran = Cmd::new(&script).run();
    assert!(
        ran.code == Some(0),
        "no S3 server: {}\nset SLUICE_TEST_S3 and the AWS keys to use another one",
        ran.err
    );
    let text = std::fs::read_to_string(ran.text().trim()).unwrap();
    let setting = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('\'').to_owned()))
    };
    text.lines().filter_map(setting).collect()
}

impl Server {
    /// A URL in this server's bucket through some endpoint.
    pub fn url(&self, bucket: &str, prefix: &str, endpoint: &str) -> String {
        format!("s3://{bucket}/{prefix}?endpoint={endpoint}&region={}", self.region)
    }

    fn curl(&self) -> Cmd {
        Cmd::new("curl")
            .args(["--silent", "--show-error", "--max-time", "60"])
            .args(["--aws-sigv4", &format!("aws:amz:{}:s3", self.region)])
            .args(["--user", &format!("{}:{}", self.key, self.secret)])
    }

    fn object(&self, key: &str) -> String {
        format!("{}/{}/{key}", self.endpoint, self.bucket)
    }
}

impl Prefix {
    /// The URL of a repository here.
    pub fn url(&self) -> String {
        self.server.url(&self.server.bucket, &self.name, &self.server.endpoint)
    }

    /// The same through another address.
    pub fn url_through(&self, address: &str) -> String {
        self.server.url(&self.server.bucket, &self.name, &format!("http://{address}"))
    }

    /// The server's own address.
    pub fn address(&self) -> &str {
        self.server.endpoint.trim_start_matches("http://").trim_end_matches('/')
    }

    /// The keys, as programs expect them in their environment.
    pub fn env(&self) -> Vec<(String, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID".into(), self.server.key.clone()),
            ("AWS_SECRET_ACCESS_KEY".into(), self.server.secret.clone()),
        ]
    }

    /// Key and size of each object here, the first thousand of them.
    pub fn objects(&self) -> Vec<(String, u64)> {
        // Parameters in ascending order, as signing wants them.
        let query = format!("?list-type=2&prefix={}%2F", self.name.replace('/', "%2F"));
        let text = self.list(&query);
        let entries = text.split("<Contents>").skip(1);
        let object = |entry| Some((field(entry, "Key")?, field(entry, "Size")?.parse().ok()?));
        entries.filter_map(object).collect()
    }

    fn list(&self, query: &str) -> String {
        let url = self.server.object("").trim_end_matches('/').to_owned() + query;
        self.server.curl().arg(url).ok().text()
    }

    /// Key and version of everything that was ever put here and is still kept, the first thousand.
    pub fn versions(&self) -> Vec<(String, String)> {
        let query = format!("?prefix={}%2F&versions=", self.name.replace('/', "%2F"));
        let text = self.list(&query);
        let version = |entry| Some((field(entry, "Key")?, field(entry, "VersionId")?));
        let (versions, markers) = (text.split("<Version>"), text.split("<DeleteMarker>"));
        versions.skip(1).chain(markers.skip(1)).filter_map(version).collect()
    }

    /// Puts an object's own bytes in its place once more, as somebody with the keys may: the new
    /// version has no lock, and hides the one that has.
    pub fn put_again(&self, key: &str) {
        let url = self.server.object(key);
        let bytes = self.server.curl().arg("--fail").arg(&url).ok().out;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let body = format!("@{}", file.path().display());
        let curl = self.server.curl().args(["--request", "PUT", "--fail", "--data-binary", &body]);
        // Older curl signs no body of its own accord.
        curl.args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]).arg(url).ok();
    }

    /// Removes a version for good, as somebody with the keys would; whether that was done.
    pub fn remove_version(&self, (key, version): &(String, String), bypass: bool) -> bool {
        let url = format!("{}?versionId={version}", self.server.object(key));
        let mut curl = self.server.curl().args(["--request", "DELETE", "--fail"]);
        if bypass {
            curl = curl.args(["--header", "x-amz-bypass-governance-retention: true"]);
        }
        curl.arg(url).run().code == Some(0)
    }
}

/// What stands in the first element of this name.
fn field(entry: &str, name: &str) -> Option<String> {
    let rest = entry.split_once(&format!("<{name}>"))?.1;
    Some(rest.split_once('<')?.0.to_owned())
}

impl Drop for Prefix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // left for looking at
        }
        if self.locks {
            for version in self.versions() {
                self.remove_version(&version, true);
            }
            return;
        }
        loop {
            let objects = self.objects();
            if objects.is_empty() {
                break;
            }
            for some in objects.chunks(200) {
                let urls = some.iter().map(|(key, _)| self.server.object(key));
                self.server.curl().args(["--request", "DELETE"]).args(urls).ok();
            }
        }
    }
}
