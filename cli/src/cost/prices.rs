//! Price tables.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use sluice_destination::wrap::{OperationCount, Snapshot};

use super::Costs;
use crate::error::usage_error;

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

/// What a store asks for, in any currency. The defaults are an example of the order of size that
/// object stores ask for; `--prices` names the real ones.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Prices {
    /// A million puts.
    pub(crate) put: f64,
    /// A million pages of listings.
    pub(crate) list: f64,
    /// A million gets.
    pub(crate) get: f64,
    /// A million questions for an object's size.
    pub(crate) head: f64,
    /// A million removals.
    pub(crate) delete: f64,
    /// Keeping a GiB for a month.
    pub(crate) gib_month: f64,
    /// Receiving a GiB.
    pub(crate) received_gib: f64,
    /// Milliseconds that a request takes beside its bytes.
    pub(crate) request_ms: f64,
    /// MiB that go over the line in a second.
    pub(crate) mib_s: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Self {
            put: 5.0,
            list: 5.0,
            get: 0.4,
            head: 0.4,
            delete: 0.0,
            gib_month: 0.023,
            received_gib: 0.0,
            request_ms: 30.0,
            mib_s: 100.0,
        }
    }
}

impl Prices {
    /// Reads a table; the defaults without one.
    pub(super) fn load(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(Self::default());
        };
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the prices in {shown}"))?;
        Self::parse(&text).map_err(|problem| usage_error(format!("prices in {shown}: {problem}")))
    }

    /// A JSON object, or lines of TOML: `put = 5.0`. What is not named keeps its default.
    fn parse(text: &str) -> Result<Self, String> {
        let value = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            let mut named = BTreeMap::new();
            for line in text.lines() {
                let line = line.split('#').next().unwrap_or_default().trim();
                if line.is_empty() {
                    continue;
                }
                let number = |(name, value): (&str, &str)| {
                    Some((name.trim().to_owned(), value.trim().parse::<f64>().ok()?))
                };
                let (name, value) = line
                    .split_once('=')
                    .and_then(number)
                    .ok_or_else(|| format!("{line:?} is not of the form `put = 5.0`"))?;
                named.insert(name, value);
            }
            serde_json::json!(named)
        };
        let prices: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        prices.check()
    }

    fn check(self) -> Result<Self, String> {
        let Self { put, list, get, head, delete, gib_month, received_gib, request_ms, mib_s } =
            self;
        let all = [put, list, get, head, delete, gib_month, received_gib, request_ms, mib_s];
        if !all.iter().all(|price| price.is_finite() && *price >= 0.0) {
            return Err("a price is a number, and not below zero".into());
        }
        if mib_s == 0.0 {
            return Err("mib_s, the speed of the line, must be above zero".into());
        }
        Ok(self)
    }

    /// What these requests cost.
    pub(crate) fn of(&self, all: &Snapshot) -> Costs {
        Costs {
            requests: millions(all.put, self.put)
                + millions(all.list, self.list)
                + millions(all.get, self.get)
                + millions(all.head, self.head)
                + millions(all.delete, self.delete),
            received: all.get.bytes as f64 / GIB * self.received_gib,
            stored_month: self.month(all.put.bytes),
        }
    }

    /// How long these requests take one after another, with no more than `limit` bytes a second.
    pub(crate) fn time(&self, all: &Snapshot, limit: Option<u64>) -> Duration {
        let line = self.mib_s * MIB;
        let rate = limit.map_or(line, |limit| line.min(limit.max(1) as f64));
        let waits = all.requests() as f64 * self.request_ms / 1e3;
        let moves = (all.get.bytes + all.put.bytes) as f64 / rate;
        Duration::try_from_secs_f64(waits + moves).unwrap_or(Duration::MAX)
    }

    /// What keeping so many bytes for a month costs.
    pub(crate) fn month(&self, bytes: u64) -> f64 {
        bytes as f64 / GIB * self.gib_month
    }
}

/// What requests of one kind cost at this price for a million.
pub(super) fn millions(kind: OperationCount, price: f64) -> f64 {
    kind.requests as f64 / 1e6 * price
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_the_rest_keeps_its_default() {
        let expected = Prices { put: 6.5, received_gib: 0.09, ..Prices::default() };
        let toml = "# ours\nput = 6.5\n\nreceived_gib=0.09 # out of the store\n";
        assert_eq!(Prices::parse(toml), Ok(expected.clone()));
        assert_eq!(Prices::parse(r#"{"put": 6.5, "received_gib": 0.09}"#), Ok(expected));
        assert_eq!(Prices::parse(""), Ok(Prices::default()));
    }

    #[test]
    fn what_is_misspelt_or_no_price_is_refused() {
        for bad in [
            "puts = 1",
            "put",
            "put = much",
            "put = -1",
            "put = inf",
            "mib_s = 0",
            "{",
            "{\"x\": 1}",
        ] {
            assert!(Prices::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn time_is_that_of_requests_and_of_bytes_at_the_slower_rate() {
        let prices = Prices { request_ms: 500.0, mib_s: 2.0, ..Prices::default() };
        let get = OperationCount { requests: 4, failures: 0, bytes: 4 << 20 };
        let all = Snapshot { get, ..Snapshot::default() };
        assert_eq!(prices.time(&all, None), Duration::from_secs(4));
        assert_eq!(prices.time(&all, Some(1 << 20)), Duration::from_secs(6));
        assert_eq!(prices.time(&all, Some(1 << 30)), Duration::from_secs(4));
    }
}
