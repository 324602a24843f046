//! What an iSCSI target reads from an initiator it has no reason to trust: headers, text keys and
//! binary values.
//!
//! Whatever decodes must survive the way back: encoded and decoded again it is the same message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_iscsi_wire::{
    HEADER, Lengths, Negotiation, Parameters, Request, Response, decode_binary, encode_binary, text,
};

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    match choice % 4 {
        0 => request(bytes),
        1 => response(bytes),
        2 => keys(bytes),
        _ => binary(bytes),
    }
});

fn request(bytes: &[u8]) {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return };
    let lengths = Lengths::decode(header, 1 << 20);
    let Ok(request) = Request::decode(header) else { return };
    let data = lengths.map_or(0, |lengths| lengths.data);
    let again = request.encode(data);
    assert_eq!(Request::decode(&again), Ok(request));
    assert_eq!(Lengths::decode(&again, 1 << 20), Ok(Lengths { ahs: 0, data }));
}

fn response(bytes: &[u8]) {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return };
    let Ok((response, numbers)) = Response::decode(header) else { return };
    let (again, _) = Response::decode(&response.encode(numbers, 0)).expect("own header");
    assert_eq!(again, response);
}

fn keys(bytes: &[u8]) {
    let Ok(pairs) = text::decode(bytes) else { return };
    let mut again = Vec::new();
    pairs.iter().for_each(|(key, value)| text::encode(&mut again, key, value));
    assert_eq!(text::decode(&again).as_ref(), Ok(&pairs));
    let mut negotiation = Negotiation::new(Parameters::default(), 1 << 18);
    let mut answer = Vec::new();
    for (key, value) in pairs {
        if negotiation.offer(key, value, &mut answer).is_err() {
            break;
        }
    }
    text::decode(&answer).expect("own text");
    let agreed = negotiation.agreed();
    assert!(agreed.first_burst <= agreed.max_burst);
    assert!((512..1 << 24).contains(&agreed.max_burst));
    assert!((512..1 << 24).contains(&agreed.most_to_peer));
}

fn binary(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(value) = decode_binary(text) else { return };
    assert_eq!(decode_binary(&encode_binary(&value)), Ok(value));
}
