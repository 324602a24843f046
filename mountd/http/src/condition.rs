//! Requests with conditions: is what the client has still what there is (RFC 9110, section 13)?

use std::time::SystemTime;

use http::header::{
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE,
};

/// What tells one content from another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validators<'a> {
    /// The entity tag with its quotation marks; a strong one.
    pub(crate) etag: &'a str,
    /// In whole seconds.
    pub(crate) modified: SystemTime,
}

/// What the conditions come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answer as if there were none.
    Proceed,
    /// 304: the client has it already.
    NotModified,
    /// 412: the client means something else.
    Failed,
}

/// Judges the conditions of a request, in the order that the standard sets.
pub(crate) fn judge(headers: &HeaderMap, has: Validators<'_>) -> Verdict {
    if headers.contains_key(IF_MATCH) {
        if !any_tag(headers, &IF_MATCH, |tag| tag == has.etag) {
            return Verdict::Failed;
        }
    } else if date(headers, &IF_UNMODIFIED_SINCE).is_some_and(|date| has.modified > date) {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        // Weak comparison: whether a tag says it is weak does not matter.
        let same = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag) == has.etag;
        if any_tag(headers, &IF_NONE_MATCH, same) {
            return Verdict::NotModified;
        }
    } else if date(headers, &IF_MODIFIED_SINCE).is_some_and(|date| has.modified <= date) {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether `Range` counts: `If-Range` is absent, or names exactly what there is.
pub(crate) fn range_counts(headers: &HeaderMap, has: Validators<'_>) -> bool {
    let Some(value) = headers.get(IF_RANGE) else { return true };
    let Ok(text) = value.to_str() else { return false };
    let text = text.trim();
    if text.starts_with('"') || text.starts_with("W/") {
        return text == has.etag;
    }
    httpdate::parse_http_date(text).is_ok_and(|date| date == has.modified)
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

/// Whether one of the tags of a header fits; `*` fits always. The tags are ours to compare with,
/// and have no comma in them.
fn any_tag(headers: &HeaderMap, name: &HeaderName, fits: impl Fn(&str) -> bool) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).any(|tag| tag == "*" || fits(tag))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn has() -> Validators<'static> {
        Validators { etag: "\"abc\"", modified: UNIX_EPOCH + Duration::from_secs(784_111_777) }
    }

    fn headers(all: &[(HeaderName, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn conditions_are_judged_in_order() {
        let cases: &[(&[(HeaderName, &str)], Verdict)] = &[
            (&[], Verdict::Proceed),
            (&[(IF_MATCH, "\"abc\"")], Verdict::Proceed),
            (&[(IF_MATCH, "*")], Verdict::Proceed),
            (&[(IF_MATCH, "\"x\", \"abc\"")], Verdict::Proceed),
            (&[(IF_MATCH, "W/\"abc\"")], Verdict::Failed),
            (&[(IF_MATCH, "\"x\""), (IF_NONE_MATCH, "\"abc\"")], Verdict::Failed),
            (&[(IF_UNMODIFIED_SINCE, EARLIER)], Verdict::Failed),
            (&[(IF_UNMODIFIED_SINCE, DATE)], Verdict::Proceed),
            (&[(IF_MATCH, "\"abc\""), (IF_UNMODIFIED_SINCE, EARLIER)], Verdict::Proceed),
            (&[(IF_NONE_MATCH, "\"abc\"")], Verdict::NotModified),
            (&[(IF_NONE_MATCH, "W/\"abc\"")], Verdict::NotModified),
            (&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, LATER)], Verdict::Proceed),
            (&[(IF_MODIFIED_SINCE, DATE)], Verdict::NotModified),
            (&[(IF_MODIFIED_SINCE, EARLIER)], Verdict::Proceed),
            (&[(IF_MODIFIED_SINCE, "yesterday")], Verdict::Proceed),
        ];
        for (given, verdict) in cases {
            assert_eq!(judge(&headers(given), has()), *verdict, "{given:?}");
        }
    }

    #[test]
    fn a_range_counts_only_for_exactly_what_there_is() {
        assert!(range_counts(&HeaderMap::new(), has()));
        for (value, counts) in [
            ("\"abc\"", true),
            ("\"abd\"", false),
            ("W/\"abc\"", false),
            (DATE, true),
            (EARLIER, false),
            (LATER, false),
            ("abc", false),
        ] {
            assert_eq!(range_counts(&headers(&[(IF_RANGE, value)]), has()), counts, "{value}");
        }
    }
}
