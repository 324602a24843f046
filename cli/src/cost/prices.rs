//! Price tables.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Costs, Requests};
use crate::error::usage_error;

const GIB: f64 = (1u64 << 30) as f64;

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
        let Self { put, list, get, head, delete, gib_month, received_gib } = self;
        let all = [put, list, get, head, delete, gib_month, received_gib];
        if all.iter().all(|price| price.is_finite() && *price >= 0.0) {
            return Ok(self);
        }
        Err("a price is a number, and not below zero".into())
    }

    /// What these requests cost.
    pub(super) fn of(&self, all: &Requests) -> Costs {
        let millions = |number: u64, price: f64| number as f64 / 1e6 * price;
        Costs {
            requests: millions(all.put, self.put)
                + millions(all.list, self.list)
                + millions(all.get, self.get)
                + millions(all.head, self.head)
                + millions(all.delete, self.delete),
            received: all.bytes_in as f64 / GIB * self.received_gib,
            stored_month: self.month(all.bytes_out),
        }
    }

    /// What keeping so many bytes for a month costs.
    pub(crate) fn month(&self, bytes: u64) -> f64 {
        bytes as f64 / GIB * self.gib_month
    }
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
        for bad in ["puts = 1", "put", "put = much", "put = -1", "put = inf", "{", "{\"x\": 1}"] {
            assert!(Prices::parse(bad).is_err(), "{bad}");
        }
    }
}
