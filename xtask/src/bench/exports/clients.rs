//! Clients that put load on a server of disks: fio for NBD, libiscsi's for iSCSI.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::servers::Serving;
use crate::bench::tool::command;
use crate::host;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// What fio calls it: `randread`, `read`, `randwrite`, or `write`.
    pub kind: &'static str,
    /// Bytes of one request.
    pub block: u64,
    /// Requests at a time.
    pub depth: u32,
    /// Requests in all; for some time when there is none.
    pub count: Option<u64>,
}

impl Load {
    pub fn label(&self) -> String {
        let kind = match self.kind {
            "randread" => "random reads",
            "read" => "sequential reads",
            "randwrite" => "random writes",
            _ => "sequential writes",
        };
        let (size, unit) = if self.block >= 1 << 20 {
            (self.block >> 20, "MiB")
        } else {
            (self.block >> 10, "KiB")
        };
        format!("{size} {unit} {kind}, depth {}", self.depth)
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Requests each second.
    pub rate: f64,
    /// Processor time of the server for a request.
    pub cpu: Duration,
    /// Largest resident set of the server, in KiB.
    pub memory_kib: u64,
}

/// Puts a load on the server for about this many seconds.
pub fn run(serving: &Serving, load: Load, seconds: u32) -> Result<Outcome> {
    let before = serving.cpu();
    let (rate, requests) = if serving.uri.starts_with("iscsi:") {
        iscsi(&serving.uri, load, seconds)?
    } else {
        fio(&serving.uri, load, seconds)?
    };
    let cpu = serving.cpu().saturating_sub(before).div_f64(requests.max(1.0));
    Ok(Outcome { rate, cpu, memory_kib: serving.memory_kib() })
}

/// Reads everything once.
pub fn warm(serving: &Serving) -> Result<()> {
    let copy = if serving.uri.starts_with("iscsi:") {
        command("iscsi-perf", ["-m", "8", "-b", "2048", "-t", "2", &serving.uri])
    } else {
        command("nbdcopy", [serving.uri.as_str(), "null:"])
    };
    host::output(&mut { copy }).map(drop)
}

/// The rate and the number of requests.
fn fio(uri: &str, load: Load, seconds: u32) -> Result<(f64, f64)> {
    let mut fio = command("fio", ["--name=bench", "--ioengine=nbd", "--output-format=json"]);
    fio.arg(format!("--uri={uri}"));
    fio.arg(format!("--rw={}", load.kind)).arg(format!("--bs={}", load.block));
    fio.arg(format!("--iodepth={}", load.depth)).arg("--randrepeat=1");
    match load.count {
        Some(count) => fio.arg(format!("--number_ios={count}")),
        None => fio.arg("--time_based").arg(format!("--runtime={seconds}")),
    };
    let text = host::output(&mut fio)?;
    // What engines have to say comes before the document.
    let start = text.find('{').context("fio printed no JSON")?;
    let report: Value = serde_json::from_str(&text[start..]).context("fio printed other JSON")?;
    let side = if load.kind.ends_with("read") { "read" } else { "write" };
    let figure = |name: &str| report["jobs"][0][side][name].as_f64();
    figure("iops").zip(figure("total_ios")).context("fio printed no rate")
}

fn iscsi(uri: &str, load: Load, seconds: u32) -> Result<(f64, f64)> {
    let mut perf = command("iscsi-perf", ["-m", &load.depth.to_string(), "-t"]);
    perf.arg(seconds.to_string()).arg("-b").arg((load.block / 512).to_string());
    if load.kind == "randread" {
        perf.arg("--random");
    }
    let text = host::output(perf.arg(uri))?;
    let rate = average(&text).with_context(|| format!("iscsi-perf printed no rate: {text}"))?;
    Ok((rate, rate * f64::from(seconds)))
}

/// The number in `iops average 12345 (48 MB/s)`, the last there is.
fn average(text: &str) -> Option<f64> {
    let (_, rest) = text.rsplit_once("iops average ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_average_of_iscsi_perf_is_read() {
        let text = "iops average 10 (0 MB/s)  \r\niops average 2500 (9 MB/s)\nfinished.\n";
        assert_eq!(average(text), Some(2500.0));
        assert_eq!(average("nothing"), None);
    }

    #[test]
    fn loads_are_told_in_words() {
        let load = Load { kind: "randread", block: 4096, depth: 32, count: None };
        assert_eq!(load.label(), "4 KiB random reads, depth 32");
    }
}
