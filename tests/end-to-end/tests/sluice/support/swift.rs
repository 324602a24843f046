//! The real OpenStack Swift the tests speak to: `tests/lab/swift/swift-up` starts it, or finds the
//! one it started before.

use std::path::Path;

use serde_json::Value;

use super::run::Cmd;

/// A prefix of a test's own in the container; emptied when dropped.
pub struct Prefix {
    name: String,
    env: Vec<(String, String)>,
}

/// A new prefix; none when these tests are to be skipped.
pub fn prefix() -> Option<Prefix> {
    if std::env::var_os("SLUICE_SKIP_SWIFT").is_some_and(|value| value == "1") {
        eprintln!("skipped: SLUICE_SKIP_SWIFT=1");
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/swift/swift-up");
    let ran = Cmd::new(&script).run();
    assert!(
        ran.code == Some(0),
        "no Swift: {}\nset SLUICE_SKIP_SWIFT=1 to do without these tests",
        ran.err
    );
    let text = std::fs::read_to_string(ran.text().trim()).unwrap();
    let setting = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('\'').to_owned()))
    };
    let unique = tempfile::Builder::new().prefix("e2e-").tempdir().unwrap();
    let name = unique.path().file_name().unwrap().to_str().unwrap().to_owned();
    let env = text.lines().filter_map(setting).collect();
    Some(Prefix { name: format!("{name}-{}", std::process::id()), env })
}

impl Prefix {
    /// The URL of a repository here, whose credentials are in the environment.
    pub fn url(&self) -> String {
        format!("swift://sluice-test/{}", self.name)
    }

    /// Keystone's settings, as programs expect them in their environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let keystone = |(name, _): &&(String, String)| name.starts_with("OS_");
        self.env.iter().filter(keystone).cloned().collect()
    }

    fn setting(&self, name: &str) -> &str {
        let found = self.env.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("the lab does not tell {name}")).1
    }

    /// The token and the account's URL, by an application credential.
    fn log_in(&self) -> (String, String) {
        let credential = serde_json::json!({ "auth": { "identity": {
            "methods": ["application_credential"],
            "application_credential": {
                "id": self.setting("SLUICE_TEST_SWIFT_APPLICATION_ID"),
                "secret": self.setting("SLUICE_TEST_SWIFT_APPLICATION_SECRET"),
            },
        }}});
        let url = format!("{}/auth/tokens", self.setting("OS_AUTH_URL"));
        let curl = curl().args(["--include", "--header", "Content-Type: application/json"]);
        let answer = curl.args(["--data", &credential.to_string(), &url]).ok().text();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let token = |line: &str| line.strip_prefix("X-Subject-Token: ").map(str::to_owned);
        let token = head.lines().find_map(token).unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        let services = body["token"]["catalog"].as_array().unwrap();
        let store = services.iter().find(|service| service["name"] == "swift").unwrap();
        let endpoints = store["endpoints"].as_array().unwrap();
        let region = self.setting("OS_REGION_NAME");
        let ours = |e: &&Value| e["interface"] == "public" && e["region"] == region;
        let endpoint = endpoints.iter().find(ours).unwrap();
        (token, endpoint["url"].as_str().unwrap().to_owned())
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // left for looking at
        }
        let (token, account) = self.log_in();
        let token = format!("X-Auth-Token: {token}");
        let listing = format!("{account}/sluice-test?prefix={}/", self.name);
        let names = curl().args(["--header", &token, &listing]).ok().text();
        let names: String = names.lines().map(|name| format!("sluice-test/{name}\n")).collect();
        let plain = "Content-Type: text/plain";
        let delete = curl().args(["--header", &token, "--header", plain, "--data-binary", &names]);
        delete.arg(format!("{account}?bulk-delete")).ok();
    }
}

fn curl() -> Cmd {
    Cmd::new("curl").args(["--silent", "--show-error", "--max-time", "60"])
}
