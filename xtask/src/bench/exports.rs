//! Benchmarks of exports: Sluice and other servers of disks, side by side.
//!
//! The same disk is served by each of them in turn, to the same client over the same kind of
//! socket; every server is started anew for each measurement. *Warm*: the image is in the page
//! cache, and what a server caches itself is there too, because all of it was read before. *Cold*:
//! the server has just been started, and each block comes from the repository, where it is
//! compressed and encrypted, or from a qcow2 with zstd, which is only compressed. Their files are
//! in the page cache, for all.

mod clients;
mod servers;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::data::{self, MIB};
use super::machine::{self, Machine};
use super::sluice::Sluice;
use super::tool::Place;
use clients::{Load, Outcome};
use servers::{Disk, Server};

pub const USAGE: &str = "\
usage: cargo xtask bench exports [OPTION...]

  --rounds N     how often each is measured; the best counts [default: 3]
  --seconds N    how long each takes [default: 4]
  --no-build     measure what was built before
  --json         print one JSON document instead of Markdown
  --write        put the result into docs/benchmarks.md too
";
/// Where `--write` puts the tables.
pub const BEGIN: &str = "<!-- exports: written by cargo xtask bench exports --write -->";
pub const END: &str = "<!-- exports: end -->";
/// Programs and the Debian packages they come in.
pub const PROGRAMS: &[(&str, &str)] = &[
    ("fio", "fio"),
    ("nbdkit", "nbdkit"),
    ("nbdcopy", "libnbd-bin"),
    ("qemu-nbd", "qemu-utils"),
    ("iscsi-perf", "libiscsi-bin"),
    ("tgtd", "tgt"),
];
/// Size of the disk: what lies in it fits the cache of an export.
const SIZE: u64 = 128 * MIB;
/// Size of the disk that is read cold.
const COLD_SIZE: u64 = 1024 * MIB;
/// Random reads from a server that was just started: few enough that most find a block that
/// nobody read before.
const COLD_READS: u64 = 4000;

/// A run as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub rounds: usize,
    pub seconds: u32,
    pub build: bool,
    pub json: bool,
    pub write: bool,
}

impl Options {
    /// Reads the words after `bench exports`.
    ///
    /// # Errors
    /// When they make no sense.
    pub fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self { rounds: 3, seconds: 4, build: true, json: false, write: false };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let mut number = || -> Result<u32> {
                let value = words.next().with_context(|| format!("{word} needs a number"))?;
                value.parse().ok().filter(|number| *number > 0).context("not a number above 0")
            };
            match *word {
                "--rounds" => options.rounds = number()? as usize,
                "--seconds" => options.seconds = number()?,
                "--no-build" => options.build = false,
                "--json" => options.json = true,
                "--write" => options.write = true,
                other => bail!("no option {other}\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

/// Servers that are compared under the same loads.
struct Contest {
    title: &'static str,
    cold: bool,
    servers: &'static [Server],
    loads: Vec<Load>,
}

fn contests() -> Vec<Contest> {
    let load = |kind, block, depth| Load { kind, block, depth, count: None };
    let (small, large) = (4096, MIB);
    let reads = vec![
        load("randread", small, 1),
        load("randread", small, 32),
        load("read", large, 1),
        load("read", large, 4),
    ];
    let cold = |kind, block, depth, count| Load { kind, block, depth, count: Some(count) };
    vec![
        Contest {
            title: "NBD over a Unix socket, warm",
            cold: false,
            servers: &[Server::Sluice, Server::Nbdkit, Server::QemuRaw],
            loads: reads.clone(),
        },
        Contest {
            title: "iSCSI over TCP, warm",
            cold: false,
            servers: &[Server::SluiceIscsi, Server::Tgt],
            loads: reads,
        },
        Contest {
            title: "NBD over a Unix socket, cold, of what is compressed",
            cold: true,
            servers: &[Server::Sluice, Server::SluiceFine, Server::QemuZstd],
            loads: vec![
                cold("randread", small, 1, COLD_READS),
                cold("randread", small, 32, COLD_READS),
                cold("read", large, 1, COLD_SIZE / MIB),
                cold("read", large, 4, COLD_SIZE / MIB),
            ],
        },
        Contest {
            title: "Writes to an overlay, NBD over a Unix socket",
            cold: false,
            servers: &[Server::SluiceOverlay, Server::QemuOverlay],
            loads: vec![
                load("randwrite", small, 1),
                load("randwrite", small, 32),
                load("write", large, 4),
            ],
        },
    ]
}

/// The best of each server under each load.
type Results = BTreeMap<(usize, Server), Outcome>;

/// All measurements, as Markdown and JSON.
pub fn run(
    options: &Options,
    sluice: &Sluice,
    folder: &std::path::Path,
) -> Result<(String, Value)> {
    let place = |name: &str| Place::new(folder.join(format!("exports-{name}")));
    let warm = Disk::prepare(sluice, &data::generated(folder, SIZE)?.image, place("warm")?)?;
    let cold = data::generated(folder, COLD_SIZE)?.image;
    let cold = Disk::prepare(sluice, &cold, place("cold")?)?;
    let mut loads = (f64::MAX, 0.0_f64);
    let contests = contests();
    let mut results = vec![Results::new(); contests.len()];
    for round in 1..=options.rounds {
        let load = machine::load();
        loads = (loads.0.min(load), loads.1.max(load));
        eprintln!("bench: exports, round {round}, load average {load:.1}");
        for (contest, results) in contests.iter().zip(&mut results) {
            let disk = if contest.cold { &cold } else { &warm };
            measure(contest, disk, options.seconds, results)?;
        }
    }
    cold.place.remove()?;
    warm.place.remove()?;
    let machine = Machine::facts(folder, &[])?;
    let mut text = machine.markdown();
    writeln!(
        text,
        "Rounds: {}; the best of each. Load average before the rounds: {:.1} to {:.1}.",
        options.rounds, loads.0, loads.1
    )?;
    for (contest, results) in contests.iter().zip(&results) {
        text.push_str(&table(contest, results));
    }
    let documents: Vec<Value> = contests
        .iter()
        .zip(&results)
        .map(|(contest, results)| document(contest, results))
        .collect();
    let document = json!({ "machine": machine.json(), "load": loads, "contests": documents });
    Ok((text, document))
}

/// One round of one contest: the servers take turns under each load.
fn measure(contest: &Contest, disk: &Disk, seconds: u32, results: &mut Results) -> Result<()> {
    for (number, load) in contest.loads.iter().enumerate() {
        for server in contest.servers {
            if contest.cold {
                // What is cold is the server, and not the disk that it reads.
                data::read_all(&disk.place.folder)?;
            }
            let serving = disk.serve(*server)?;
            if !contest.cold {
                clients::warm(&serving)?;
            }
            let outcome = clients::run(&serving, *load, seconds)
                .with_context(|| format!("{} under {}", server.name(), load.label()))?;
            let (name, label) = (server.name(), load.label());
            eprintln!("bench:   {name:<22} {label:<34} {:>10.0}/s", outcome.rate);
            let best = results.entry((number, *server)).or_insert(outcome);
            if best.rate < outcome.rate {
                *best = outcome;
            }
        }
    }
    Ok(())
}

/// How many times the rate of one of ours is that of the fastest other.
fn ratio(contest: &Contest, results: &Results, load: usize, own: Server) -> Option<f64> {
    let rate = |server: &Server| results.get(&(load, *server)).map(|outcome| outcome.rate);
    let others = contest.servers.iter().filter(|server| !server.is_ours());
    let best = others.filter_map(rate).fold(0.0, f64::max);
    own.is_ours().then(|| rate(&own))?.map(|rate| rate / best)
}

fn table(contest: &Contest, results: &Results) -> String {
    let mut text = format!("\n### {}\n\n| load | server | requests/s | MiB/s |", contest.title);
    text.push_str(
        " CPU µs each | peak MiB | sluice / fastest other |\n|---|---|---|---|---|---|---|\n",
    );
    for (number, load) in contest.loads.iter().enumerate() {
        for (place, server) in contest.servers.iter().enumerate() {
            let Some(outcome) = results.get(&(number, *server)) else { continue };
            let label = if place == 0 { load.label() } else { String::new() };
            let ratio = ratio(contest, results, number, *server);
            let _ = writeln!(
                text,
                "| {label} | {} | {:.0} | {:.0} | {:.1} | {} | {} |",
                server.name(),
                outcome.rate,
                outcome.rate * load.block as f64 / MIB as f64,
                outcome.cpu.as_secs_f64() * 1e6,
                outcome.memory_kib / 1024,
                ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            );
        }
    }
    text
}

fn document(contest: &Contest, results: &Results) -> Value {
    let rows = results.iter().map(|((load, server), outcome)| {
        json!({
            "load": contest.loads[*load].label(),
            "server": server.name(),
            "requests_per_s": outcome.rate,
            "cpu_s_per_request": outcome.cpu.as_secs_f64(),
            "peak_kib": outcome.memory_kib,
        })
    });
    json!({ "title": contest.title, "results": rows.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn we_are_compared_with_the_fastest_of_the_others() {
        let contest = &contests()[0];
        let outcome = |rate| Outcome { rate, cpu: Duration::ZERO, memory_kib: 2048 };
        let rates = [(Server::Sluice, 30.0), (Server::Nbdkit, 20.0), (Server::QemuRaw, 10.0)];
        let results: Results =
            rates.into_iter().map(|(server, rate)| ((0, server), outcome(rate))).collect();
        assert_eq!(ratio(contest, &results, 0, Server::Sluice), Some(1.5));
        assert_eq!(ratio(contest, &results, 1, Server::Sluice), None);
        assert_eq!(ratio(contest, &results, 0, Server::Nbdkit), None);
        let text = table(contest, &results);
        assert!(text.contains("| 4 KiB random reads, depth 1 | sluice | 30 |"), "{text}");
        assert!(text.contains("|  | nbdkit file | 20 |"), "{text}");
    }

    #[test]
    fn options_are_understood_or_refused() {
        let parsed = Options::parse(&["--rounds", "1", "--no-build"]).unwrap();
        assert_eq!((parsed.rounds, parsed.build, parsed.seconds), (1, false, 4));
        assert!(Options::parse(&["--rounds", "0"]).is_err());
        assert!(Options::parse(&["--what"]).is_err());
    }
}
