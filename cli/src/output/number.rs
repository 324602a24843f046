//! Numbers for people.

use std::time::Duration;

pub(crate) use sluice_server::figures::{bytes, span};

/// A count with its noun: `1 point`, `2 points`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// How many times `small` fits into `large`; a dash when that says nothing.
pub(crate) fn ratio(large: u64, small: u64) -> String {
    if small == 0 { "-".into() } else { format!("{:.1}x", large as f64 / small as f64) }
}

/// A duration: `0.4 s`, `12 s`, `3:05`, `2:03:05`.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    match whole {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_shares_and_durations_read_well() {
        assert_eq!((count(1, "point"), count(0, "point")), ("1 point".into(), "0 points".into()));
        assert_eq!((ratio(10, 0), ratio(10, 4)), ("-".into(), "2.5x".into()));
        let of = |secs| seconds(Duration::from_secs(secs));
        assert_eq!([of(5), of(59), of(185), of(7385)], ["5.0 s", "59 s", "3:05", "2:03:05"]);
    }
}
