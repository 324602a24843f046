//! What strangers send to an HTTP export: `Range`, conditions, escaped paths and queries.

#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use http::header::{
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE,
};
use libfuzzer_sys::fuzz_target;

use condition::{Validators, judge, range_counts};
use path::{escape, query, unescape};
use range::{Asked, parse};

// The parsers alone: the server around them comes with cryptography that takes long to build.
#[path = "../../mountd/http/src/condition.rs"]
mod condition;
#[path = "../../mountd/http/src/path.rs"]
mod path;
#[path = "../../mountd/http/src/range.rs"]
mod range;

const CONDITIONS: [HeaderName; 5] =
    [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];

fuzz_target!(|input: (u64, &str, [&[u8]; 5])| {
    let (size, text, conditions) = input;
    for size in [0, 1, size % 4096, size] {
        if let Asked::Parts(parts) = parse(text, size) {
            assert!(!parts.is_empty() && parts.len() <= 64);
            // Inside the disk, not empty, and no byte twice.
            assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
            let mut sorted = parts.clone();
            sorted.sort_by_key(|part| part.start);
            assert!(sorted.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
    assert_eq!(unescape(&escape(text)).as_deref(), Some(text));
    if let Some(plain) = unescape(text) {
        assert!(plain.len() <= text.len());
    }
    let _ = query(text, "extents");
    let mut headers = HeaderMap::new();
    for (name, bytes) in CONDITIONS.into_iter().zip(conditions) {
        if let Ok(value) = HeaderValue::from_bytes(bytes) {
            headers.insert(name, value);
        }
    }
    let modified = UNIX_EPOCH + Duration::from_secs(1_763_700_000);
    let has = Validators { etag: "\"0011223344556677\"", modified };
    let _ = (judge(&headers, has), range_counts(&headers, has));
});
