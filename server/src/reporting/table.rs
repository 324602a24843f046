//! A report for people: lines under a title, and a table.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::figures;

/// In which form people get a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    /// A page for browsers and mail, with nothing it would have to fetch.
    #[default]
    Html,
    /// Pages for printers.
    Pdf,
    /// Comma-separated values (RFC 4180), for spreadsheets.
    Csv,
}

impl Format {
    /// Its media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Pdf => "application/pdf",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }

    /// What names of its files end with.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Pdf => "pdf",
            Self::Csv => "csv",
        }
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Text(String),
    Count(u64),
    Bytes(u64),
    /// Milliseconds since 1970.
    Time(Option<u64>),
    /// Milliseconds.
    Span(Option<u64>),
    Percent(f64),
    /// A number with one digit behind the point.
    Number(f64),
}

impl Cell {
    /// Whether it stands at the right of its column.
    pub(crate) fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_) | Self::Time(_))
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::Bytes(bytes) => figures::bytes(*bytes),
            Self::Time(at) => at.map(|ms| time(ms, "%F %H:%M UTC")).unwrap_or_default(),
            Self::Span(ms) => ms.map(figures::span).unwrap_or_default(),
            // What is not whole must not look so.
            Self::Percent(percent) if *percent > 99.99 && *percent < 100.0 => "99.99 %".to_owned(),
            Self::Percent(percent) => format!("{percent:.2} %"),
            Self::Number(number) => format!("{number:.1}"),
        }
    }

    /// For programs: bytes, seconds and percents without units.
    pub(crate) fn raw(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(number) | Self::Bytes(number) => number.to_string(),
            Self::Time(at) => at.map(|ms| time(ms, "%FT%H:%M:%SZ")).unwrap_or_default(),
            Self::Span(ms) => ms.map(|ms| (ms / 1000).to_string()).unwrap_or_default(),
            Self::Percent(number) | Self::Number(number) => format!("{number:.4}"),
        }
    }
}

/// A moment in UTC.
fn time(ms: u64, form: &str) -> String {
    crate::queue::moment(ms).strftime(form).to_string()
}

/// A report for people.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    pub(crate) title: String,
    /// Lines that stand before the table.
    pub(crate) about: Vec<String>,
    pub(crate) columns: Vec<&'static str>,
    /// As many cells in each as there are columns.
    pub(crate) rows: Vec<Vec<Cell>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_programs_get_the_same_values() {
        for (cell, shown, raw) in [
            (Cell::Bytes(1536), "1.5 KiB", "1536"),
            (Cell::Bytes(1023), "1023 B", "1023"),
            (Cell::Bytes(u64::MAX), "16 EiB", "18446744073709551615"),
            (Cell::Span(Some(90_061_000)), "1 d 1 h", "90061"),
            (Cell::Span(Some(61_000)), "1 min 1 s", "61"),
            (Cell::Span(None), "", ""),
            (Cell::Percent(99.9999), "99.99 %", "99.9999"),
            (Cell::Percent(100.0), "100.00 %", "100.0000"),
            (Cell::Time(Some(86_400_000)), "1970-01-02 00:00 UTC", "1970-01-02T00:00:00Z"),
            (Cell::Time(None), "", ""),
        ] {
            assert_eq!((cell.shown().as_str(), cell.raw().as_str()), (shown, raw));
        }
    }
}
