//! The log of an overlay's layer. A crash leaves any bytes at its end, and a failing disk anywhere.

#![no_main]

use sluice_overlay::log::{HEADER, Header, replay};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let header = Header { overlay: [7; 16], disk: 0, layer: 1, size: 1 << 30 };
    // As it is.
    let _ = replay(&header, input);
    // Behind a header that fits, and inside a record that is whole.
    let mut bytes = header.encode().to_vec();
    bytes.extend(input);
    let _ = replay(&header, &bytes);
    bytes.truncate(HEADER);
    bytes.extend(header.sealed(1, input));
    let Ok(found) = replay(&header, &bytes) else { return };
    assert_eq!(found.valid, bytes.len() as u64);
    // What was understood can be said again.
    let entries = found.entries();
    bytes.truncate(HEADER);
    bytes.extend(header.record(1, &entries));
    assert_eq!(replay(&header, &bytes).map(|again| again.entries()).ok(), Some(entries));
});
