//! A directory that ends with the test: `ldap-serve`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// A directory that ends with the test.
pub struct Directory {
    process: Child,
    /// It ends when this does.
    input: Option<ChildStdin>,
    folder: PathBuf,
    /// Where it speaks without TLS at first.
    pub port: u16,
    /// Where it speaks TLS.
    pub tls_port: u16,
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

impl Directory {
    /// Starts one by the script in `lab`, in a new folder, at ports that nobody is given.
    pub fn start(lab: &Path, folder: PathBuf, [port, tls_port]: [u16; 2]) -> Self {
        std::fs::create_dir(&folder).unwrap();
        let mut process = Command::new(lab.join("ldap-serve"))
            .arg(&folder)
            .args([port.to_string(), tls_port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ldap-serve runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let input = process.stdin.take();
        let directory = Self { process, input, folder, port, tls_port };
        assert_eq!(line.trim(), "ready", "it says why not");
        directory
    }

    /// How it is reached over TLS.
    pub fn tls(&self) -> String {
        format!("ldaps://localhost:{}", self.tls_port)
    }

    /// A certificate: `ca.pem` is whom to trust, `other.pem` somebody else.
    pub fn certificate(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap()
    }
}
