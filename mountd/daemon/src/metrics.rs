//! What mounts have done, and the same as text for Prometheus.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::protocol::Shown;
use crate::table::State;

/// What one sort of request did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Requests that have ended, failed ones too.
    pub requests: u64,
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Time that all requests took together, in microseconds.
    pub micros: u64,
    /// How many requests took so long: an upper bound in microseconds and the number of requests
    /// that took at most this, and more than the bound before. Those above all bounds are missing.
    pub latency: Vec<(u64, u64)>,
}

/// What was done with one export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportStatistics {
    /// The export's name.
    pub name: String,
    /// Reads.
    pub read: Operation,
    /// Writes, and ranges made zero.
    pub write: Operation,
    /// Flushes.
    pub flush: Operation,
}

/// What a mount has done since it was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Its exports.
    pub exports: Vec<ExportStatistics>,
    /// Blocks found in the cache of decoded blocks, and those that were not.
    pub cache: Option<Cache>,
}

/// Hits of a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// Found.
    pub hits: u64,
    /// Not found.
    pub misses: u64,
}

/// A mount and what sort it is.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// The mount.
    pub shown: Shown,
    /// Its sort, in a word.
    pub kind: String,
}

/// The word for a state.
pub fn state_name(state: &State) -> &'static str {
    match state {
        State::Starting { .. } => "starting",
        State::Running => "running",
        State::Waiting { .. } => "waiting",
        State::Failed { .. } => "failed",
        State::Stopping => "stopping",
    }
}

/// Everything as the text format of Prometheus, version 0.0.4.
pub fn encode(mounts: &[Mounted], now_ms: u64) -> String {
    let mut text = Text::default();
    text.family("sluice_mounts", "gauge", "Mounts by state.");
    for state in ["starting", "running", "waiting", "failed", "stopping"] {
        let of_state = |mount: &&Mounted| state_name(&mount.shown.state) == state;
        let number = mounts.iter().filter(of_state).count();
        text.sample("sluice_mounts", &[("state", state)], number);
    }
    text.family("sluice_mount_up", "gauge", "Whether a mount serves.");
    for mount in mounts {
        let up = u8::from(mount.shown.state == State::Running);
        text.sample("sluice_mount_up", &mount.labels(), up);
    }
    text.family("sluice_mount_lease_seconds", "gauge", "Time until a mount's lease ends.");
    for mount in mounts {
        if let Some(end) = mount.shown.lease_end_ms {
            let left = seconds(end.saturating_sub(now_ms).saturating_mul(1000));
            text.sample("sluice_mount_lease_seconds", &mount.labels(), left);
        }
    }
    caches(&mut text, mounts);
    operations(&mut text, mounts);
    text.0
}

impl Mounted {
    fn labels(&self) -> [(&str, &str); 2] {
        [("id", &self.shown.id), ("kind", &self.kind)]
    }
}

/// Reads one value of a cache.
type Count = fn(&Cache) -> u64;

fn caches(text: &mut Text, mounts: &[Mounted]) {
    let families: [(&str, &str, Count); 2] = [
        ("sluice_mount_cache_hits_total", "Blocks found in memory.", |cache| cache.hits),
        ("sluice_mount_cache_misses_total", "Blocks not in memory.", |cache| cache.misses),
    ];
    for (name, help, value) in families {
        text.family(name, "counter", help);
        for mount in mounts {
            let cache = mount.shown.statistics.as_ref().and_then(|all| all.cache.as_ref());
            if let Some(cache) = cache {
                text.sample(name, &mount.labels(), value(cache));
            }
        }
    }
}

/// Reads one value of an operation.
type Figure = fn(&Operation) -> u64;

fn operations(text: &mut Text, mounts: &[Mounted]) {
    let families: [(&str, &str, Figure); 3] = [
        ("sluice_mount_requests_total", "Requests that ended.", |of| of.requests),
        ("sluice_mount_bytes_total", "Bytes read or written.", |of| of.bytes),
        ("sluice_mount_errors_total", "Requests that failed.", |of| of.errors),
    ];
    for (name, help, value) in families {
        text.family(name, "counter", help);
        each(mounts, |labels, operation| text.sample(name, labels, value(operation)));
    }
    let name = "sluice_mount_request_seconds";
    text.family(name, "histogram", "Time that requests took.");
    each(mounts, |labels, operation| text.histogram(name, labels, operation));
}

fn each(mounts: &[Mounted], mut of: impl FnMut(&[(&str, &str)], &Operation)) {
    for mount in mounts {
        for export in mount.shown.statistics.iter().flat_map(|all| &all.exports) {
            let operations =
                [("read", &export.read), ("write", &export.write), ("flush", &export.flush)];
            for (operation, figures) in operations {
                let [id, kind] = mount.labels();
                let more = [("export", export.name.as_str()), ("operation", operation)];
                of(&[id, kind, more[0], more[1]], figures);
            }
        }
    }
}

/// Microseconds as seconds.
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[derive(Default)]
struct Text(String);

// Writing to a string cannot fail.
impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
        let labels: Vec<String> = labels.collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], of: &Operation) {
        let bucket = format!("{name}_bucket");
        let mut up_to = 0u64;
        for (bound, count) in &of.latency {
            up_to = up_to.saturating_add(*count);
            let bound = seconds(*bound).to_string();
            self.sample(&bucket, &[labels, &[("le", &bound)]].concat(), up_to);
        }
        // Figures that are read while requests end may be one apart; a histogram must not shrink.
        let all = of.requests.max(up_to);
        self.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), all);
        self.sample(&format!("{name}_sum"), labels, seconds(of.micros));
        self.sample(&format!("{name}_count"), labels, all);
    }
}

/// A label's value: three characters have a meaning in it.
fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn mounted(id: &str, export: &str) -> Mounted {
        let read = Operation {
            requests: 6,
            bytes: 4096,
            errors: 1,
            micros: 1_500_000,
            latency: vec![(100, 2), (1_000_000, 3)],
        };
        let export = ExportStatistics { name: export.into(), read, ..Default::default() };
        let cache = Some(Cache { hits: 3, misses: 4 });
        Mounted {
            shown: Shown {
                id: id.into(),
                spec: Value::Null,
                identity: Value::Null,
                created_ms: 0,
                lease_end_ms: Some(2_500),
                state: State::Running,
                secret_names: vec![],
                statistics: Some(Statistics { exports: vec![export], cache }),
            },
            kind: "nbd".into(),
        }
    }

    #[test]
    fn every_figure_has_its_line() {
        let text = encode(&[mounted("m1", "vda")], 1_000);
        let labels = r#"id="m1",kind="nbd",export="vda",operation="read""#;
        for line in [
            r#"sluice_mounts{state="running"} 1"#,
            r#"sluice_mounts{state="failed"} 0"#,
            r#"sluice_mount_up{id="m1",kind="nbd"} 1"#,
            r#"sluice_mount_lease_seconds{id="m1",kind="nbd"} 1.5"#,
            r#"sluice_mount_cache_hits_total{id="m1",kind="nbd"} 3"#,
            &format!("sluice_mount_requests_total{{{labels}}} 6"),
            &format!("sluice_mount_bytes_total{{{labels}}} 4096"),
            &format!("sluice_mount_errors_total{{{labels}}} 1"),
            &format!("sluice_mount_request_seconds_bucket{{{labels},le=\"0.0001\"}} 2"),
            &format!("sluice_mount_request_seconds_bucket{{{labels},le=\"1\"}} 5"),
            &format!("sluice_mount_request_seconds_bucket{{{labels},le=\"+Inf\"}} 6"),
            &format!("sluice_mount_request_seconds_sum{{{labels}}} 1.5"),
            &format!("sluice_mount_request_seconds_count{{{labels}}} 6"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn families_are_told_once_and_hostile_names_stay_in_their_label() {
        let text = encode(&[mounted("m1", "a\"} 1\nb\\"), mounted("m2", "vda")], 0);
        assert!(text.contains(r#"export="a\"} 1\nb\\""#), "{text}");
        let mut types: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let number = types.len();
        types.dedup();
        assert_eq!(types.len(), number);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit_once(' ').unwrap().1;
            assert!(line.starts_with("sluice_") && value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
