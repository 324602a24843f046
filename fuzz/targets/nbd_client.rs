//! What an NBD client reads from a server it has no reason to trust.
//!
//! Whatever decodes must survive the way back: encoded and decoded again it is the same message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_nbd_wire::{
    Chunk, ChunkHeader, Framing, Greeting, OptionReply, OptionReplyHeader, ReplyHeader,
};

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    match choice % 5 {
        0 => greeting(bytes),
        1 => option_reply(bytes),
        2 => reply(Framing::Simple, bytes),
        3 => reply(Framing::Structured, bytes),
        _ => reply(Framing::Extended, bytes),
    }
});

fn greeting(bytes: &[u8]) {
    let Ok(greeting) = Greeting::decode(bytes) else { return };
    let mut again = Vec::new();
    greeting.encode(&mut again);
    assert_eq!(Greeting::decode(&again), Ok(greeting));
}

fn option_reply(bytes: &[u8]) {
    let Ok(header) = OptionReplyHeader::decode(bytes) else { return };
    let Ok(reply) = OptionReply::decode(header.reply, &bytes[OptionReplyHeader::LEN..]) else {
        return;
    };
    if is_repaired(&format!("{reply:?}")) {
        return;
    }
    let mut again = Vec::new();
    reply.encode(header.option, &mut again);
    let header = OptionReplyHeader::decode(&again).expect("own header");
    let data = &again[OptionReplyHeader::LEN..];
    assert_eq!(header.length as usize, data.len());
    assert_eq!(OptionReply::decode(header.reply, data).as_ref(), Ok(&reply));
}

fn reply(framing: Framing, bytes: &[u8]) {
    let Ok(ReplyHeader::Chunk(header)) = ReplyHeader::decode(framing, bytes) else { return };
    let Ok(chunk) = Chunk::decode(header.kind, &bytes[ChunkHeader::len(framing)..]) else { return };
    // A server that uses the other framing's block status still speaks of the same extents; only
    // the agreed framing's is written, so only that one comes back.
    if chunk.kind(framing) != header.kind || is_repaired(&format!("{chunk:?}")) {
        return;
    }
    let mut again = Vec::new();
    chunk.encode(framing, &mut again);
    assert_eq!(Chunk::decode(header.kind, &again), Ok(chunk));
}

/// Whether a text for people was no UTF-8 and had bytes replaced: such a message is another one on
/// the way back, and may be longer than the protocol allows.
fn is_repaired(shown: &str) -> bool {
    shown.contains(char::REPLACEMENT_CHARACTER)
}
