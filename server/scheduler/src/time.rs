//! Spans, times of day and moments as people write them in configuration files.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const UNITS: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// A length of time in whole seconds, written as `90s`, `15m`, `1h30m`, `2d` or `1w`. A day is
/// 24 hours here.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, example = "1h30m"))]
pub struct Span(u64);

impl Span {
    /// The longest span: about a thousand years, so that adding one to a time cannot overflow.
    pub const MAX: Self = Self(1000 * 366 * 86_400);

    /// So many seconds, or [`Span::MAX`] when there are more.
    pub const fn seconds(seconds: u64) -> Self {
        if seconds > Self::MAX.0 { Self::MAX } else { Self(seconds) }
    }

    /// So many minutes.
    pub const fn minutes(minutes: u64) -> Self {
        Self::seconds(minutes.saturating_mul(60))
    }

    /// So many hours.
    pub const fn hours(hours: u64) -> Self {
        Self::seconds(hours.saturating_mul(3_600))
    }

    /// So many times 24 hours.
    pub const fn days(days: u64) -> Self {
        Self::seconds(days.saturating_mul(86_400))
    }

    /// In seconds.
    pub const fn as_seconds(self) -> u64 {
        self.0
    }

    /// From `earlier` to `later`; nothing when they are the other way round.
    pub fn between(earlier: Timestamp, later: Timestamp) -> Self {
        let seconds = later.as_second().saturating_sub(earlier.as_second());
        Self::seconds(u64::try_from(seconds).unwrap_or(0))
    }

    /// This long after `time`; the last moment there is when that lies beyond it.
    pub fn after(self, time: Timestamp) -> Timestamp {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
    }

    /// This long before `time`; the first moment there is when that lies before it.
    pub fn before(self, time: Timestamp) -> Timestamp {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        time.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, seconds) in UNITS {
            // Weeks only when nothing else is left: `8d` reads better than `1w1d`.
            if unit == 'w' && !rest.is_multiple_of(seconds) {
                continue;
            }
            if rest >= seconds {
                write!(f, "{}{unit}", rest / seconds)?;
                rest %= seconds;
            }
        }
        Ok(())
    }
}

/// Text that is no span, time of day or date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotATime {
    text: String,
    expected: &'static str,
}

impl fmt::Display for NotATime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not {}", self.text, self.expected)
    }
}

impl std::error::Error for NotATime {}

impl FromStr for Span {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let wrong = || NotATime {
            text: text.to_owned(),
            expected: "a length of time; write a number with s, m, h, d or w, such as 15m or 1h30m",
        };
        let mut total = 0_u64;
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail.chars().next().ok_or_else(wrong)?;
            let (_, seconds) =
                UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let part = number.checked_mul(seconds).ok_or_else(wrong)?;
            total = total.checked_add(part).filter(|all| *all <= Self::MAX.0).ok_or_else(wrong)?;
            rest = &tail[unit.len_utf8()..];
        }
        Ok(Self(total))
    }
}

impl TryFrom<String> for Span {
    type Error = NotATime;

    fn try_from(text: String) -> Result<Self, NotATime> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// A minute of the day on the clock of some time zone, written as `02:30`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, example = "02:30"))]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    /// 00:00.
    pub const MIDNIGHT: Self = Self(0);

    /// The time with this hour and minute, if there is one.
    pub const fn new(hour: u8, minute: u8) -> Option<Self> {
        if hour < 24 && minute < 60 { Some(Self(hour as u16 * 60 + minute as u16)) } else { None }
    }

    /// Minutes since 00:00, below 1440.
    pub const fn minute_of_day(self) -> u16 {
        self.0
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl FromStr for TimeOfDay {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let part = |text: &str| {
            let digits = matches!(text.len(), 1 | 2) && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u8>().ok()).flatten()
        };
        text.trim()
            .split_once(':')
            .and_then(|(hour, minute)| Self::new(part(hour)?, part(minute)?))
            .ok_or_else(|| NotATime {
                text: text.to_owned(),
                expected: "a time of day; write hour and minute from 00:00 to 23:59, such as 02:30",
            })
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = NotATime;

    fn try_from(text: String) -> Result<Self, NotATime> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

/// For `#[serde(with = "moment")]`: a moment as RFC 3339 text.
pub mod moment {
    use super::{Deserialize, Deserializer, Serializer, Timestamp};
    use serde::de::Error as _;

    /// Writes `time` as text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(time)
    }

    /// Reads a moment from text.
    ///
    /// # Errors
    /// When the text is no moment with its offset, such as `2026-11-21T03:00:00Z`.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// For `#[serde(with = "maybe_moment")]`: a moment as RFC 3339 text, or null.
pub mod maybe_moment {
    use super::{Deserialize, Deserializer, Serializer, Timestamp};
    use serde::de::Error as _;

    /// Writes `time` as text, or null.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => to.collect_str(time),
            None => to.serialize_none(),
        }
    }

    /// Reads a moment from text, or none from null.
    ///
    /// # Errors
    /// When the text is no moment with its offset.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        let text: Option<String> = Option::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A day of the calendar, written as `2026-11-21`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, format = "date"))]
pub struct Day(pub Date);

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(|_| {
            let expected = "a day; write year, month and day, such as 2026-11-21";
            D::Error::custom(NotATime { text, expected })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{Span, TimeOfDay};

    #[test]
    fn spans_are_written_as_people_write_them() {
        let pairs = [("90s", "1m30s"), ("15m", "15m"), ("1h30m", "1h30m"), ("36h", "1d12h")];
        for (text, shown) in pairs.into_iter().chain([("14d", "2w"), ("8d", "8d"), ("0s", "0s")]) {
            assert_eq!(text.parse::<Span>().map(|span| span.to_string()).as_deref(), Ok(shown));
        }
    }

    #[test]
    fn what_is_no_span_is_refused_with_an_example() {
        for text in ["", "15", "m", "1x", "-1m", "1.5h", "99999999999999999999s", "9999999w"] {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains("such as 15m"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_time_of_day_is_refused_with_an_example() {
        for text in ["24:00", "2", "02:60", "+2:00", "02:000", ":", "noon"] {
            let error = text.parse::<TimeOfDay>().unwrap_err().to_string();
            assert!(error.contains("such as 02:30"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn spans_and_times_survive_their_text(seconds in any::<u32>(), minute in 0_u16..1440) {
            let span = Span::seconds(seconds.into());
            assert_eq!(span.to_string().parse(), Ok(span));
            let time = TimeOfDay(minute);
            assert_eq!(time.to_string().parse(), Ok(time));
        }
    }
}
