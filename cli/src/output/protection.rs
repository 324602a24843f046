//! What keeps a restore point, for people and for programs.

use jiff::tz::TimeZone;
use serde::Serialize;
use sluice_repository::retention::Keeper;
use sluice_repository::{OverlayId, Protection, rfc3339};

use super::{count, local};

/// What keeps a restore point besides `hold` and `retain_until`.
#[derive(Debug, Serialize)]
pub(crate) struct ProtectionDocument {
    hold_reason: Option<String>,
    /// The overlays that lie over it, as `overlay list` numbers them.
    overlays: Vec<String>,
    event: Option<EventDocument>,
    shorten: Option<ShortenDocument>,
}

#[derive(Debug, Serialize)]
struct EventDocument {
    name: String,
    keep_ms: u64,
    happened: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShortenDocument {
    to: Option<String>,
    effective: String,
    approved_by: Vec<String>,
}

impl From<&Protection> for ProtectionDocument {
    fn from(protection: &Protection) -> Self {
        Self {
            hold_reason: protection.reason.clone(),
            overlays: protection.overlays.iter().flatten().map(hex).collect(),
            event: protection.event.as_ref().map(|event| EventDocument {
                name: event.name.clone(),
                keep_ms: event.keep_ms,
                happened: event.happened_ms.map(rfc3339),
            }),
            shorten: protection.shorten.as_ref().map(|shorten| ShortenDocument {
                to: shorten.to_ms.map(rfc3339),
                effective: rfc3339(shorten.effective_ms),
                approved_by: shorten.approved_by.clone(),
            }),
        }
    }
}

/// An overlay's number, as its own folder writes it.
fn hex(overlay: &OverlayId) -> String {
    format!("{:032x}", u128::from_be_bytes(overlay.0))
}

/// A time people give as a number of units, such as 7y or 30d.
fn span(ms: u64) -> String {
    const UNITS: [(u64, &str); 5] =
        [(366 * 86_400, "y"), (86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let seconds = ms / 1000;
    let unit = UNITS.iter().find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit));
    unit.map_or_else(|| "0s".into(), |(unit, name)| format!("{}{name}", seconds / unit))
}

/// What keeps a point, and what is to come; nothing when nothing does.
pub(crate) fn kept(protection: &Protection, now_ms: u64, zone: &TimeZone) -> Option<String> {
    let told = |keeper: &Keeper| match keeper {
        Keeper::Hold(None) => "on hold".to_owned(),
        Keeper::Hold(Some(reason)) => format!("on hold ({reason})"),
        Keeper::Overlays(overlays) => format!("under {}", count(*overlays as u64, "overlay")),
        Keeper::Until(until) => format!("until {}", local(*until, zone)),
        Keeper::Event(name, keep_ms) => format!("until event {name} and {}", span(*keep_ms)),
    };
    let mut text = told(&protection.keeper(now_ms)?);
    // Holds and overlays hide how long the point is kept without them.
    let mut rest = protection.clone();
    while rest.hold || rest.has_overlays() {
        match rest.hold {
            true => rest.release(),
            false => rest.overlays = None,
        }
        if let Some(beyond) = rest.keeper(now_ms) {
            text += &format!(", then {}", told(&beyond));
        }
    }
    if let Some(shorten) = &protection.shorten {
        let to = match shorten.to_ms {
            Some(to) => format!("until {}", local(to, zone)),
            None => "no longer".into(),
        };
        text += &format!("; from {} on {to}", local(shorten.effective_ms, zone));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_point_is_told_with_what_is_to_come() {
        const YEAR: u64 = 366 * 86_400_000;
        let told = |protection: &Protection| kept(protection, 1000, &TimeZone::UTC);
        let mut protection = Protection::default();
        assert_eq!(told(&protection), None);
        protection.retain_after("sold", 7 * YEAR, 1000).unwrap();
        assert_eq!(told(&protection).unwrap(), "until event sold and 7y");
        assert!(protection.happened("sold", YEAR));
        assert_eq!(told(&protection).unwrap(), "until 1978-01-07 00:00:00");
        protection.shorten(Some(YEAR), 86_400_000, 1000).unwrap();
        let coming = "until 1978-01-07 00:00:00; from 1970-01-02 00:00:00 on until \
                      1971-01-02 00:00:00";
        assert_eq!(told(&protection).unwrap(), coming);
        protection.shorten = None;
        protection.hold(Some("case 7".into()));
        let held = "on hold (case 7), then until 1978-01-07 00:00:00";
        assert_eq!(told(&protection).unwrap(), held);
        protection.set_overlay(OverlayId([0xab; 16]), true);
        let held = "on hold (case 7), then under 1 overlay, then until 1978-01-07 00:00:00";
        assert_eq!(told(&protection).unwrap(), held);
        assert_eq!(hex(&OverlayId([0x0a; 16])), "0a".repeat(16));
        assert_eq!((span(90_000), span(3_600_000)), ("90s".into(), "1h".into()));
    }
}
