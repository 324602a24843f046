//! Values people write: sizes, durations, shares.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use sluice_connector_disk::Within;

/// Bytes: a number, perhaps with KiB, MiB, GiB, TiB (or K, M, G, T for the same).
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(format!("{text:?} is no size; write bytes, or 64KiB, 1MiB, 10GiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} has no whole number"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// A date or a time, in milliseconds since 1970. A date is its beginning; one that names no zone is
/// meant in that of this machine.
pub(crate) fn moment(text: &str) -> Result<u64, String> {
    moment_in(text, &TimeZone::system())
}

/// The same in another zone.
pub(crate) fn moment_in(text: &str, zone: &TimeZone) -> Result<u64, String> {
    let time = text.parse::<Timestamp>().ok();
    let time = time.or_else(|| zone.to_timestamp(text.parse::<DateTime>().ok()?).ok());
    time.and_then(|time| u64::try_from(time.as_millisecond()).ok()).ok_or_else(|| {
        format!("{text:?} is no time; write 2026-11-21, 2026-11-21T03:00 or 2026-11-21T03:00:00Z")
    })
}

/// Lists of folders, as an array of arrays of JSON.
pub(crate) fn within(text: &str) -> Result<Within, String> {
    let lists: Vec<Vec<String>> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(Within::new(&lists))
}

/// A block size as the format allows it: a power of two from 16 KiB to 1 MiB.
pub(crate) fn block_size(text: &str) -> Result<u32, String> {
    let size = bytes(text)?;
    match u32::try_from(size) {
        Ok(size) if sluice_repository::format::is_block_size(size) => Ok(size),
        _ => Err(format!(
            "{text:?} is no block size; use 16KiB, 32KiB, 64KiB, 128KiB, 256KiB, 512KiB or 1MiB"
        )),
    }
}

/// The word of a block size, as servers take it.
pub(crate) fn block_word(size: u32) -> String {
    match size {
        0x10_0000 => "1MiB".to_owned(),
        _ => format!("{}KiB", size >> 10),
    }
}

/// The name of a project.
pub(crate) fn project(text: &str) -> Result<String, String> {
    if (1..=200).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no project; use 1 to 200 bytes without control characters"))
}

/// A duration: 90s, 15m, 12h, 7d, 4w, 1y (365 days), or several of them, such as 1d12h.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    with_years_of(365, text)
}

/// A time to keep something: like a duration, but a year has 366 days, so that none of the
/// calendar is cut short.
pub(crate) fn keeping(text: &str) -> Result<Duration, String> {
    with_years_of(366, text)
}

fn with_years_of(days: u64, text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write 90s, 15m, 12h, 7d, 4w or 1y");
    let mut seconds: u64 = 0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (number, after) = split(rest);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, tail) = after.split_at(end);
        let each = match unit.trim() {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            "y" => days * 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part = number.checked_mul(each).ok_or_else(wrong)?;
        seconds = seconds.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    if seconds == 0 { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

/// A share such as 5% as a number from 0 to 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no share; write 5%, from 0% up to 100%");
    let number = text.trim().trim_end_matches('%').trim();
    let percent: f64 = number.parse().map_err(|_| wrong())?;
    if percent > 0.0 && percent <= 100.0 { Ok(percent / 100.0) } else { Err(wrong()) }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_or_a_moment_and_meant_where_it_is_written() {
        let here = TimeZone::fixed(jiff::tz::offset(1));
        let moment = |text| moment_in(text, &here);
        assert_eq!(moment("1970-01-02"), Ok(23 * 3_600_000));
        assert_eq!(moment("1970-01-01T02:00"), Ok(3_600_000));
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(1000));
        assert_eq!(moment("1970-01-01T01:00:00+01:00"), Ok(0));
        for bad in ["", "yesterday", "1969-12-31", "2026-13-01"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_of_folders_are_json_and_an_empty_one_is_a_list() {
        assert!(within("[]").unwrap().is_anywhere());
        assert!(!within("[[]]").unwrap().is_anywhere());
        assert_ne!(within(r#"[["/"]]"#).unwrap(), within("[[]]").unwrap());
        assert!(within("/srv").is_err() && within(r#"["/srv"]"#).is_err());
    }

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("512"), Ok(512));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("64 k"), Ok(65_536));
        assert_eq!(bytes("16T"), Ok(16 << 40));
        for bad in ["", "x", "1.5G", "-1", "1 PB", "99999999999T"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn block_sizes_are_those_of_the_format() {
        assert_eq!(block_size("128KiB"), Ok(131_072));
        let words = ["16KiB", "32KiB", "64KiB", "128KiB", "256KiB", "512KiB", "1MiB"];
        assert!(words.iter().all(|word| block_size(word).map(block_word) == Ok((*word).into())));
        for bad in ["4096", "100KiB", "2MiB"] {
            assert!(block_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_add_up() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1d12h"), Ok(Duration::from_secs(36 * 3600)));
        assert_eq!(keeping("2y 1d"), Ok(Duration::from_secs(733 * 86_400)));
        assert_eq!(duration("2w 1d"), Ok(Duration::from_secs(15 * 86_400)));
        for bad in ["", "5", "0d", "d", "1month", "99999999999999999999y", "-1d"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn shares_are_of_a_hundred() {
        assert_eq!(share("5%"), Ok(0.05));
        assert_eq!(share("100"), Ok(1.0));
        for bad in ["0%", "101%", "x", "", "NaN"] {
            assert!(share(bad).is_err(), "{bad:?}");
        }
    }
}
