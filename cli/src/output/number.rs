//! Numbers for people.

use std::time::Duration;

/// Bytes with a binary unit and three digits or so: `0 B`, `1.5 KiB`, `16 TiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.96 would round to 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let number = if value >= 99.95 { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{} {}", number.strip_suffix(".0").unwrap_or(&number), UNITS[unit])
}

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
    fn bytes_read_well_at_every_size() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (150 << 20, "150 MiB"),
            (16 << 40, "16 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn counts_shares_and_durations_read_well() {
        assert_eq!((count(1, "point"), count(0, "point")), ("1 point".into(), "0 points".into()));
        assert_eq!((ratio(10, 0), ratio(10, 4)), ("-".into(), "2.5x".into()));
        let of = |secs| seconds(Duration::from_secs(secs));
        assert_eq!([of(5), of(59), of(185), of(7385)], ["5.0 s", "59 s", "3:05", "2:03:05"]);
    }
}
