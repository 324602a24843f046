//! Facts about the machine and the day, without which figures mean nothing.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::data::MIB;
use super::tool::{Tool, command};
use crate::host;

/// What the report says about where it was made.
#[derive(Debug)]
pub struct Machine {
    pub date: String,
    pub commit: String,
    pub processor: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub system: String,
    /// Type and device of the file system that images and repositories lie on.
    pub file_system: String,
    /// Name and version of each tool.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// Asks the machine.
    pub fn facts(folder: &Path, tools: &[Box<dyn Tool>]) -> Result<Self> {
        let text = |program: &str, args: &[&str]| -> Result<String> {
            Ok(host::output(&mut command(program, args))?.trim().to_owned())
        };
        let mut df = command("df", ["--output=fstype,source"]);
        let df = host::output(df.arg(folder))?;
        let file_system: Vec<&str> = df.lines().last().unwrap_or("").split_whitespace().collect();
        let changed = text("git", &["status", "--porcelain", "--untracked-files=no"])?;
        let dirty = if changed.is_empty() { "" } else { " with changes" };
        let system = format!(
            "{}, Linux {}",
            field("/etc/os-release", "PRETTY_NAME", '=').trim_matches('"'),
            text("uname", &["-r"])?
        );
        let memory = field("/proc/meminfo", "MemTotal", ':');
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        Ok(Self {
            date: text("date", &["--utc", "+%Y-%m-%d"])?,
            commit: format!("{}{dirty}", text("git", &["rev-parse", "--short=12", "HEAD"])?),
            processor: field("/proc/cpuinfo", "model name", ':'),
            cores: std::thread::available_parallelism()?.get(),
            memory_mib: kib * 1024 / MIB,
            system,
            file_system: file_system.join(" on "),
            versions: tools.iter().filter_map(|tool| version(tool.as_ref())).collect(),
        })
    }

    pub fn markdown(&self) -> String {
        let versions: Vec<String> =
            self.versions.iter().map(|(name, version)| format!(" {name} {version}")).collect();
        let end = if versions.is_empty() { "" } else { "." };
        format!(
            "Made on {}, commit {}: {}, {} cores, {} MiB of memory; {}; images and repositories \
             on {}.{}{end}\n",
            self.date,
            self.commit,
            self.processor,
            self.cores,
            self.memory_mib,
            self.system,
            self.file_system,
            versions.join(",")
        )
    }

    pub fn json(&self) -> Value {
        json!({
            "date": self.date,
            "commit": self.commit,
            "processor": self.processor,
            "cores": self.cores,
            "memory_mib": self.memory_mib,
            "system": self.system,
            "file_system": self.file_system,
            "versions": self.versions.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        })
    }
}

/// The load average of the last minute.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// The value after the first `name` in a file of names and values.
fn field(file: &str, name: &str, separator: char) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(separator).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// The version of a tool: the first word of its answer that starts with a digit.
fn version(tool: &dyn Tool) -> Option<(String, String)> {
    let text = host::output(&mut tool.version()?).ok()?;
    let version = version_in(&text)?;
    Some((tool.name().to_owned(), version.to_owned()))
}

fn version_in(text: &str) -> Option<&str> {
    let clean =
        |word: &'_ str| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
    let words = text.split_whitespace().map(|word| word.trim_end_matches([',', ')']));
    words.filter(|word| clean(word)).map(|word| word.trim_start_matches('v')).next()
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn versions_are_found_in_what_tools_say() {
        for (text, version) in [
            ("restic 0.14.0 compiled with go1.19.8 on linux/amd64\n", "0.14.0"),
            ("*** Zstandard CLI (64-bit) v1.5.4, by Yann Collet ***\n", "1.5.4"),
            ("qemu-img version 10.0.2 (Debian 1:10.0.2)\n", "10.0.2"),
            ("cp (GNU coreutils) 9.1\nCopyright (C) 2022", "9.1"),
            ("casync 2\n+ACL", "2"),
        ] {
            assert_eq!(version_in(text), Some(version), "{text}");
        }
        assert_eq!(version_in("no idea"), None);
    }
}
