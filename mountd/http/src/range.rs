//! The `Range` header: which bytes a client asks for (RFC 9110, section 14).

use std::ops::Range;

/// The most ranges one request may name. Copying clients ask for one; download managers for a
/// handful. More is a way to make a server work.
const MOST_RANGES: usize = 64;
/// Ranges closer than this are answered as one: the header of a part costs about as much.
const CLOSE: u64 = 128;

/// What a `Range` header comes to for a disk of some size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// No range, or one that is to be ignored: all of it.
    Whole,
    /// At least one range inside the disk: apart from each other, in the order asked for.
    Parts(Vec<Range<u64>>),
    /// Nothing of what was asked for exists, or it was asked for in too many pieces.
    Unsatisfiable,
}

/// Reads a `Range` header. What is no valid list of byte ranges is ignored, as the standard has
/// it.
pub(crate) fn parse(header: &str, size: u64) -> Asked {
    let Some((unit, list)) = header.split_once('=') else { return Asked::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Asked::Whole;
    }
    let mut parts = Vec::new();
    let mut specs = 0;
    for spec in list.split(',').map(|spec| spec.trim_matches([' ', '\t'])) {
        // Empty elements of a list are allowed.
        if spec.is_empty() {
            continue;
        }
        specs += 1;
        if specs > MOST_RANGES {
            return Asked::Unsatisfiable;
        }
        match one(spec, size) {
            Some(range) if !range.is_empty() => add(&mut parts, range),
            Some(_) => {}
            None => return Asked::Whole,
        }
    }
    match (specs, parts.is_empty()) {
        (0, _) => Asked::Whole,
        (_, true) => Asked::Unsatisfiable,
        _ => Asked::Parts(parts),
    }
}

/// One range, cut at the end of the disk; empty when it lies behind it. `None` for nonsense.
fn one(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let length = number(last)?;
        return Some(size - length.min(size)..size);
    }
    let first = number(first)?;
    let end = match last {
        "" => size,
        last => {
            let last = number(last)?;
            if last < first {
                return None;
            }
            last.saturating_add(1).min(size)
        }
    };
    Some(first.min(end)..end)
}

/// A number of digits only; one too large for 64 bits is beyond any disk, not nonsense.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Adds a range, united with those it touches, at the place of the first of them.
fn add(parts: &mut Vec<Range<u64>>, mut range: Range<u64>) {
    let mut place = parts.len();
    // What it grows to by uniting may touch one that was apart before.
    while let Some(near) = parts.iter().position(|part| touches(part, &range)) {
        let part = parts.remove(near);
        range = part.start.min(range.start)..part.end.max(range.end);
        place = place.min(near);
    }
    parts.insert(place.min(parts.len()), range);
}

fn touches(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start <= b.end.saturating_add(CLOSE) && b.start <= a.end.saturating_add(CLOSE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn the_forms_of_a_range_mean_what_the_standard_says() {
        let parts = |header: &str| match parse(header, 10_000) {
            Asked::Parts(parts) => parts.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>(),
            other => panic!("{header}: {other:?}"),
        };
        assert_eq!(parts("bytes=0-499"), [(0, 500)]);
        assert_eq!(parts("bytes=9500-"), [(9500, 10_000)]);
        assert_eq!(parts("bytes=-500"), [(9500, 10_000)]);
        assert_eq!(parts("bytes=-50000"), [(0, 10_000)]);
        assert_eq!(parts("bytes=9999-99999999999999999999999"), [(9999, 10_000)]);
        assert_eq!(parts("BYTES = 0-0, ,-1"), [(0, 1), (9999, 10_000)]);
        assert_eq!(parts("bytes=500-600,10000-,1-2"), [(500, 601), (1, 3)]);
    }

    #[test]
    fn nonsense_is_ignored_and_what_is_not_there_refused() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "lines=1-2",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=-",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=0-1,x",
        ] {
            assert_eq!(parse(header, 10), Asked::Whole, "{header}");
        }
        for header in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99-,11-12"] {
            assert_eq!(parse(header, 10), Asked::Unsatisfiable, "{header}");
        }
        assert_eq!(parse("bytes=0-", 0), Asked::Unsatisfiable);
        let many = vec!["0-1"; MOST_RANGES + 1].join(",");
        assert_eq!(parse(&format!("bytes={many}"), 10), Asked::Unsatisfiable);
    }

    #[test]
    fn ranges_that_touch_are_one_and_keep_their_place() {
        let united = parse("bytes=5000-5009,0-9,9000-9009,10-20,15-5000", 10_000);
        assert_eq!(united, Asked::Parts(vec![0..5010, 9000..9010]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn every_byte_asked_for_is_sent_once(
            size in 1_u64..5000,
            asked in proptest::collection::vec((0_u64..5000, 0_u64..600), 1..20),
        ) {
            let specs: Vec<_> =
                asked.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
            let header = format!("bytes={}", specs.join(","));
            let within = |byte: u64| {
                asked.iter().any(|(first, more)| (*first..=first + more).contains(&byte))
            };
            let parts = match parse(&header, size) {
                Asked::Parts(parts) => parts,
                Asked::Unsatisfiable => vec![],
                Asked::Whole => panic!("{header} was ignored"),
            };
            for byte in 0..size {
                let times = parts.iter().filter(|part| part.contains(&byte)).count();
                prop_assert!(times <= 1);
                prop_assert!(times == 1 || !within(byte), "{byte} of {header}");
            }
            prop_assert!(parts.iter().all(|part| !part.is_empty() && part.end <= size));
            for (number, part) in parts.iter().enumerate() {
                let apart = parts[number + 1..].iter().all(|other| !touches(part, other));
                prop_assert!(apart, "{parts:?}");
            }
        }

        #[test]
        fn any_text_is_answered(header in any::<String>(), size in any::<u64>()) {
            if let Asked::Parts(parts) = parse(&format!("bytes={header}"), size) {
                prop_assert_eq!(parts.iter().filter(|part| part.end > size).count(), 0);
            }
        }
    }
}
