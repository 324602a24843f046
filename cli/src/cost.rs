//! What a command asked of its destinations, and what that costs.
//!
//! Every destination that is opened is counted here, so that a command need not know of it:
//! [`crate::output`] adds the counts to each document, and [`finish`] tells people.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use serde::Serialize;
use sluice_destination::wrap::{Counters, OperationCount, Snapshot};

use crate::args::Global;
use crate::output::{bytes, count, note, table};

mod prices;

pub(crate) use prices::Prices;

static METER: Mutex<Meter> = Mutex::new(Meter { opened: Vec::new(), prices: None, told: false });

/// What this process has opened.
struct Meter {
    opened: Vec<(String, Arc<Counters>)>,
    /// There when costs are asked for.
    prices: Option<Prices>,
    /// A document with the costs was written.
    told: bool,
}

fn meter() -> MutexGuard<'static, Meter> {
    METER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the prices when costs are asked for: before anything is done that costs.
pub(crate) fn start(global: &Global) -> Result<()> {
    if global.costs {
        meter().prices = Some(Prices::load(global.prices.as_deref())?);
    }
    Ok(())
}

/// Counts what goes to a destination.
pub(crate) fn watch(location: String, counters: Arc<Counters>) {
    meter().opened.push((location, counters));
}

/// The prices, for a command that tells costs whether asked or not.
pub(crate) fn prices(global: &Global) -> Result<Prices> {
    Prices::load(global.prices.as_deref())
}

/// The requests so far, to all destinations together; nothing when none was opened.
pub(crate) fn so_far() -> Option<Snapshot> {
    let meter = meter();
    let all = meter.opened.iter().map(|(_, counters)| counters.snapshot());
    (!meter.opened.is_empty()).then(|| all.sum())
}

/// An estimate, in the currency of the prices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Costs {
    requests: f64,
    received: f64,
    /// Keeping what was sent for a month.
    stored_month: f64,
}

impl Costs {
    /// What does not depend on how long things are kept.
    pub(crate) fn at_once(&self) -> f64 {
        self.requests + self.received
    }
}

/// What is added to a document: nothing when no destination was opened.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Stamp {
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<Snapshot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    costs: Option<Costs>,
}

/// The counts so far, for a document that is about to be written; without the requests when it
/// tells them itself.
pub(crate) fn stamp(with_requests: bool) -> Stamp {
    let Some(requests) = so_far() else { return Stamp::default() };
    let mut meter = meter();
    let costs = meter.prices.as_ref().map(|prices| prices.of(&requests));
    meter.told |= costs.is_some();
    Stamp { requests: with_requests.then_some(requests), costs }
}

/// Tells people what the command came to, on stderr: with `-v` the requests, with `--costs` an
/// estimate, unless a document holds it.
pub(crate) fn finish(verbose: bool) {
    let meter = meter();
    for (location, counters) in &meter.opened {
        let requests = counters.snapshot();
        if verbose {
            note(line(location, &requests));
        }
        if let Some(prices) = meter.prices.as_ref().filter(|_| !meter.told) {
            note(estimate(location, &requests, prices).trim_end());
        }
    }
}

fn line(location: &str, all: &Snapshot) -> String {
    format!(
        "{location}: {} ({} put, {} get, {} list, {} delete, {} head), {} sent, {} received",
        count(all.requests(), "request"),
        all.put.requests,
        all.get.requests,
        all.list.requests,
        all.delete.requests,
        all.head.requests,
        bytes(all.put.bytes),
        bytes(all.get.bytes)
    )
}

fn estimate(location: &str, all: &Snapshot, prices: &Prices) -> String {
    let costs = prices.of(all);
    let row = |what: &str, kind: OperationCount, moves: bool, price: f64| {
        let moved = if moves { bytes(kind.bytes) } else { String::new() };
        let cost = money(prices::millions(kind, price));
        vec![what.into(), kind.requests.to_string(), moved, cost]
    };
    let sum = |what: &str, moved: Option<u64>, cost: f64| {
        vec![what.into(), String::new(), moved.map(bytes).unwrap_or_default(), money(cost)]
    };
    let rows = vec![
        row("put", all.put, true, prices.put),
        row("list", all.list, false, prices.list),
        row("get", all.get, true, prices.get),
        row("head", all.head, false, prices.head),
        row("delete", all.delete, false, prices.delete),
        sum("receiving", Some(all.get.bytes), costs.received),
        sum("in all", None, costs.at_once()),
        sum("keeping it a month", Some(all.put.bytes), costs.stored_month),
    ];
    let mut text = format!("estimated costs at {location}\n");
    text += &table(&["FOR", ">REQUESTS", ">BYTES", ">COST"], rows);
    text
}

/// An amount; small ones are the rule.
pub(crate) fn money(amount: f64) -> String {
    format!("{amount:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(requests: u64, bytes: u64) -> OperationCount {
        OperationCount { requests, failures: 0, bytes }
    }

    fn all() -> Snapshot {
        Snapshot {
            put: of(2_000_000, 10 << 30),
            get: of(500_000, 1 << 30),
            list: of(1_000_000, 0),
            delete: of(7, 0),
            head: of(0, 0),
        }
    }

    #[test]
    fn the_estimate_adds_up() {
        let prices = Prices { received_gib: 0.5, gib_month: 0.25, ..Prices::default() };
        let costs = prices.of(&all());
        assert_eq!((costs.requests, costs.received, costs.stored_month), (15.2, 0.5, 2.5));
        let text = estimate("/r", &all(), &prices);
        for (what, cost) in [("put", "10.000000"), ("in all", "15.700000"), ("keeping", "2.500000")]
        {
            let row = text.lines().find(|line| line.starts_with(what)).unwrap();
            assert!(row.ends_with(cost), "{row}");
        }
    }

    #[test]
    fn a_line_names_every_kind() {
        let text = line("/r", &Snapshot { put: of(1, 0), get: of(2, 1024), ..Snapshot::default() });
        assert_eq!(
            text,
            "/r: 3 requests (1 put, 2 get, 0 list, 0 delete, 0 head), 0 B sent, 1 KiB received"
        );
    }
}
