//! What a command asked of its destinations, and what that costs.
//!
//! Every destination that is opened is counted here, so that a command need not know of it:
//! [`crate::output`] adds the counts to each document, and [`finish`] tells people.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use serde::Serialize;
use sluice_destination::wrap::{Counters, Snapshot};

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

/// The prices, when costs are asked for.
pub(crate) fn prices() -> Option<Prices> {
    meter().prices.clone()
}

/// Requests by kind and bytes of bodies, of all destinations together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Requests {
    put: u64,
    get: u64,
    list: u64,
    delete: u64,
    head: u64,
    /// Received from destinations.
    bytes_in: u64,
    /// Sent to destinations.
    bytes_out: u64,
}

impl Requests {
    fn add(&mut self, now: Snapshot) {
        self.put += now.put.requests;
        self.get += now.get.requests;
        self.list += now.list.requests;
        self.delete += now.delete.requests;
        self.head += now.head.requests;
        self.bytes_in += now.get.bytes;
        self.bytes_out += now.put.bytes;
    }
}

impl From<Snapshot> for Requests {
    fn from(now: Snapshot) -> Self {
        let mut requests = Self::default();
        requests.add(now);
        requests
    }
}

/// An estimate, in the currency of the prices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Costs {
    requests: f64,
    received: f64,
    /// Keeping what was sent for a month.
    stored_month: f64,
}

/// What is added to a document: nothing when no destination was opened.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Stamp {
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<Requests>,
    #[serde(skip_serializing_if = "Option::is_none")]
    costs: Option<Costs>,
}

/// The counts so far, for a document that is about to be written.
pub(crate) fn stamp() -> Stamp {
    let mut meter = meter();
    if meter.opened.is_empty() {
        return Stamp::default();
    }
    let mut requests = Requests::default();
    for (_, counters) in &meter.opened {
        requests.add(counters.snapshot());
    }
    let costs = meter.prices.as_ref().map(|prices| prices.of(&requests));
    meter.told |= costs.is_some();
    Stamp { requests: Some(requests), costs }
}

/// Tells people what the command came to, on stderr: with `-v` the requests, with `--costs` an
/// estimate, unless a document holds it.
pub(crate) fn finish(verbose: bool) {
    let meter = meter();
    for (location, counters) in &meter.opened {
        let requests = Requests::from(counters.snapshot());
        if verbose {
            note(line(location, &requests));
        }
        if let Some(prices) = meter.prices.as_ref().filter(|_| !meter.told) {
            note(estimate(location, &requests, prices).trim_end());
        }
    }
}

fn line(location: &str, all: &Requests) -> String {
    let Requests { put, get, list, delete, head, bytes_in, bytes_out } = *all;
    format!(
        "{location}: {} ({put} put, {get} get, {list} list, {delete} delete, {head} head), \
         {} sent, {} received",
        count(put + get + list + delete + head, "request"),
        bytes(bytes_out),
        bytes(bytes_in)
    )
}

fn estimate(location: &str, all: &Requests, prices: &Prices) -> String {
    let costs = prices.of(all);
    let row = |what: &str, requests: Option<u64>, moved: Option<u64>, cost: f64| {
        let requests = requests.map(|number| number.to_string()).unwrap_or_default();
        vec![what.into(), requests, moved.map(bytes).unwrap_or_default(), money(cost)]
    };
    let each = |number: u64, price: f64| number as f64 / 1e6 * price;
    let rows = vec![
        row("put", Some(all.put), Some(all.bytes_out), each(all.put, prices.put)),
        row("list", Some(all.list), None, each(all.list, prices.list)),
        row("get", Some(all.get), Some(all.bytes_in), each(all.get, prices.get)),
        row("head", Some(all.head), None, each(all.head, prices.head)),
        row("delete", Some(all.delete), None, each(all.delete, prices.delete)),
        row("receiving", None, Some(all.bytes_in), costs.received),
        row("in all", None, None, costs.requests + costs.received),
        row("keeping it a month", None, Some(all.bytes_out), costs.stored_month),
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

    const ALL: Requests = Requests {
        put: 2_000_000,
        get: 500_000,
        list: 1_000_000,
        delete: 7,
        head: 0,
        bytes_in: 1 << 30,
        bytes_out: 10 << 30,
    };

    #[test]
    fn the_estimate_adds_up() {
        let prices = Prices { received_gib: 0.5, ..Prices::default() };
        let costs = prices.of(&ALL);
        assert_eq!((costs.requests, costs.received, costs.stored_month), (15.2, 0.5, 0.23));
        let text = estimate("/r", &ALL, &prices);
        for (what, cost) in [("put", "10.000000"), ("in all", "15.700000"), ("keeping", "0.230000")]
        {
            let row = text.lines().find(|line| line.starts_with(what)).unwrap();
            assert!(row.ends_with(cost), "{row}");
        }
    }

    #[test]
    fn a_line_names_every_kind() {
        let text = line("/r", &Requests { put: 1, get: 2, bytes_in: 1024, ..Requests::default() });
        assert_eq!(
            text,
            "/r: 3 requests (1 put, 2 get, 0 list, 0 delete, 0 head), 0 B sent, 1 KiB received"
        );
    }
}
