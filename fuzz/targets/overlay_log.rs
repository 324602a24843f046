//! The log of an overlay's layer, and its notes. A crash leaves any bytes at its end, and a failing
//! disk anywhere.

#![no_main]

use sluice_overlay::log::{HEADER, Header, replay};
use sluice_overlay::note::{self, NotesHeader};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let header = Header { overlay: [7; 16], disk: 0, layer: 1, size: 1 << 30 };
    notes(header, input);
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

/// What is read of notes is what makes these bytes again, as far as they are whole.
fn notes(layer: Header, input: &[u8]) {
    let header = NotesHeader { layer, boot: [9; 16], turn: 3 };
    let _ = note::read(&layer, &header.boot, input);
    let mut bytes = header.encode().to_vec();
    bytes.extend(input);
    let Some((turn, notes)) = note::read(&layer, &header.boot, &bytes) else {
        panic!("the header is one");
    };
    assert_eq!(turn, header.turn);
    let mut again = header.encode().to_vec();
    (0..).zip(&notes).for_each(|(index, note)| again.extend(header.note(index, note)));
    assert!(bytes.starts_with(&again));
}
