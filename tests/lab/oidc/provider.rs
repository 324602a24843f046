//! A provider of OpenID Connect that ends with the test: `serve.mjs`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A provider that ends with the test.
pub struct Provider {
    process: Child,
    /// Where it is.
    pub issuer: String,
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Provider {
    /// Starts one by the scripts in `lab`, on this port or any (`0`); nothing where that was
    /// switched off.
    pub fn start(lab: &Path, port: &str) -> Option<Self> {
        if std::env::var_os("SLUICE_SKIP_OIDC").is_some() {
            eprintln!("SKIPPED: SLUICE_SKIP_OIDC is set");
            return None;
        }
        let ran = Command::new(lab.join("oidc-install")).output().expect("oidc-install runs");
        let said = String::from_utf8_lossy(&ran.stderr);
        if ran.status.code() == Some(3) {
            eprintln!("SKIPPED: {said}");
            return None;
        }
        assert!(ran.status.success(), "{said} (SLUICE_SKIP_OIDC=1 skips these tests)");
        let root = String::from_utf8(ran.stdout).unwrap();
        let mut process = Command::new("node")
            .arg(lab.join("serve.mjs"))
            .args([root.trim(), port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node runs");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap);
        let issuer = lines.find(|line| line.starts_with("http://")).expect("it listens");
        // What it says besides is read, so that it never waits to say it.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { process, issuer })
    }
}
