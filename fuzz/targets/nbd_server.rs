//! What an NBD server reads from a client it has no reason to trust.
//!
//! Whatever decodes must survive the way back: encoded and decoded again it is the same message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_nbd_wire::{Framing, OptionHeader, OptionRequest, Request, StatusFilter};

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    match choice % 5 {
        0 => option(bytes),
        1 => request(Framing::Simple, bytes),
        2 => request(Framing::Structured, bytes),
        3 => request(Framing::Extended, bytes),
        _ => status_filter(bytes),
    }
});

fn option(bytes: &[u8]) {
    let Ok(header) = OptionHeader::decode(bytes) else { return };
    let data = &bytes[OptionHeader::LEN..];
    let Ok(option) = OptionRequest::decode(header.code, data) else { return };
    let mut again = Vec::new();
    option.encode(&mut again);
    let header = OptionHeader::decode(&again).expect("own header");
    let data = &again[OptionHeader::LEN..];
    assert_eq!(header.length as usize, data.len());
    assert_eq!(OptionRequest::decode(header.code, data).as_ref(), Ok(&option));
}

fn request(framing: Framing, bytes: &[u8]) {
    let Ok(request) = Request::decode(framing, bytes) else { return };
    let mut again = Vec::new();
    request.encode(framing, &mut again);
    assert_eq!(again, bytes[..Request::len(framing)]);
}

fn status_filter(bytes: &[u8]) {
    let Ok(filter) = StatusFilter::decode(bytes) else { return };
    let mut again = Vec::new();
    filter.encode(&mut again);
    assert_eq!(again, bytes);
}
