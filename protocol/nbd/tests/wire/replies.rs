//! Replies against bytes written by hand from the specification ("Simple reply message",
//! "Structured reply chunk message", "Structured reply types").

use sluice_nbd_wire::{
    Chunk, ChunkHeader, ChunkType, Errno, Framing, ReplyFlags, ReplyHeader, SimpleReply,
    StatusExtent, WireError,
};

#[test]
fn simple_replies_have_the_bytes_of_the_specification() {
    let wire = b"\x67\x44\x66\x98\0\0\0\x01\0\0\0\0\0\0\0\x2a";
    let reply = SimpleReply { error: Some(Errno::Permission), cookie: 42 };
    let mut out = vec![];
    reply.encode(&mut out);
    assert_eq!(out, wire);
    for framing in [Framing::Simple, Framing::Structured] {
        assert_eq!(ReplyHeader::len(framing, wire), Ok(16));
        assert_eq!(ReplyHeader::decode(framing, wire), Ok(ReplyHeader::Simple(reply)));
    }
    let refused = ReplyHeader::decode(Framing::Extended, wire);
    assert!(matches!(refused, Err(WireError::Magic { .. })));
}

#[test]
fn chunk_headers_have_the_bytes_of_the_specification() {
    let compact = b"\x66\x8e\x33\xef\0\x01\0\x02\0\0\0\0\0\0\0\x2a\0\0\0\x0c";
    let extended =
        b"\x6e\x8a\x27\x8c\0\x01\0\x02\0\0\0\0\0\0\0\x2a\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\x0c";
    for (framing, offset, wire) in
        [(Framing::Structured, 0, &compact[..]), (Framing::Extended, 4096, extended)]
    {
        let header = ChunkHeader {
            flags: ReplyFlags::DONE,
            kind: ChunkType::OffsetHole,
            cookie: 42,
            offset,
            length: 12,
        };
        let mut out = vec![];
        header.encode(framing, &mut out);
        assert_eq!(out, wire);
        assert_eq!(ReplyHeader::len(framing, wire), Ok(wire.len()));
        assert_eq!(ReplyHeader::decode(framing, wire), Ok(ReplyHeader::Chunk(header)));
        assert!(ReplyHeader::decode(Framing::Simple, wire).is_err());
    }
}

#[test]
fn huge_chunks_are_refused_from_the_header_alone() {
    let mut compact = *b"\x66\x8e\x33\xef\0\x01\0\x01\0\0\0\0\0\0\0\x2a\x02\0\0\x09";
    assert!(ReplyHeader::decode(Framing::Structured, &compact).unwrap_err().is_fatal());
    compact[19] = 8;
    assert!(ReplyHeader::decode(Framing::Structured, &compact).is_ok());
    let extended =
        b"\x6e\x8a\x27\x8c\0\x01\0\x01\0\0\0\0\0\0\0\x2a\0\0\0\0\0\0\x10\0\0\0\0\x01\0\0\0\0";
    assert!(ReplyHeader::decode(Framing::Extended, extended).unwrap_err().is_fatal());
}

/// Encodes, compares with the fixture, decodes back.
fn payload(framing: Framing, chunk: Chunk<'_>, kind: ChunkType, wire: &[u8]) {
    let mut out = vec![];
    chunk.encode(framing, &mut out);
    assert_eq!(out, wire);
    assert_eq!(chunk.kind(framing), kind);
    assert_eq!(Chunk::decode(kind, wire), Ok(chunk));
}

#[test]
fn payloads_have_the_bytes_of_the_specification() {
    payload(Framing::Structured, Chunk::None, ChunkType::None, b"");
    payload(
        Framing::Structured,
        Chunk::OffsetData { offset: 256, data: b"abc" },
        ChunkType::OffsetData,
        b"\0\0\0\0\0\0\x01\0abc",
    );
    payload(
        Framing::Extended,
        Chunk::OffsetHole { offset: 256, length: 65536 },
        ChunkType::OffsetHole,
        b"\0\0\0\0\0\0\x01\0\0\x01\0\0",
    );
    let extents =
        vec![StatusExtent { length: 4096, flags: 0 }, StatusExtent { length: 8192, flags: 3 }];
    payload(
        Framing::Structured,
        Chunk::BlockStatus { context: 1, extents: extents.clone() },
        ChunkType::BlockStatus,
        b"\0\0\0\x01\0\0\x10\0\0\0\0\0\0\0\x20\0\0\0\0\x03",
    );
    payload(
        Framing::Extended,
        Chunk::BlockStatus { context: 1, extents },
        ChunkType::BlockStatusExt,
        b"\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0\
          \0\0\0\0\0\0\x20\0\0\0\0\0\0\0\0\x03",
    );
    payload(
        Framing::Structured,
        Chunk::Error { error: Errno::Io, message: "bad".into(), offset: None },
        ChunkType::Error,
        b"\0\0\0\x05\0\x03bad",
    );
    payload(
        Framing::Structured,
        Chunk::Error { error: Errno::Io, message: "".into(), offset: Some(512) },
        ChunkType::ErrorOffset,
        b"\0\0\0\x05\0\0\0\0\0\0\0\0\x02\0",
    );
}

#[test]
fn broken_payloads_are_refused() {
    use ChunkType::{BlockStatus, BlockStatusExt, Error, OffsetData, OffsetHole};
    let cases: [(ChunkType, &[u8]); 10] = [
        (ChunkType::None, b"x"),
        (OffsetData, b"\0\0\0\0\0\0\x01\0"),
        (OffsetHole, b"\0\0\0\0\0\0\x01\0\0\0\0\0"),
        (OffsetHole, b"\0\0\0\0\0\0\x01\0\0\0\0\x01x"),
        (BlockStatus, b"\0\0\0\x01"),
        (BlockStatus, b"\0\0\0\x01\0\0\0\0\0\0\0\0"),
        (BlockStatus, b"\0\0\0\x01\0\0\0\x01\0\0\0\0x"),
        (BlockStatusExt, b"\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0"),
        (Error, b"\0\0\0\0\0\0"),
        (Error, b"\0\0\0\x05\0\x04bad"),
    ];
    for (kind, wire) in cases {
        assert!(Chunk::decode(kind, wire).is_err(), "{kind:?} {wire:?}");
    }
}

#[test]
fn unknown_error_chunks_are_errors_and_unknown_others_are_left_to_the_caller() {
    let wire = b"\0\0\0\x1c\0\x01!rest";
    let chunk = Chunk::decode(ChunkType::from_code(0x8123), wire).unwrap();
    assert_eq!(chunk, Chunk::Error { error: Errno::NoSpace, message: "!".into(), offset: None });
    assert_eq!(Chunk::decode(ChunkType::Other(99), wire), Ok(Chunk::Other(99)));
}
