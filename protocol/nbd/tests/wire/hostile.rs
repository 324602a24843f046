//! No bytes make a decoder panic, and whatever is encoded decodes to itself.

use proptest::collection::vec;
use proptest::prelude::*;
use sluice_nbd_wire::{
    Chunk, ChunkHeader, ChunkType, ClientFlags, Command, CommandFlags, Errno, ExportNameReply,
    Framing, Greeting, InfoRequest, InfoType, MetaRequest, OptionCode, OptionHeader, OptionReply,
    OptionReplyHeader, OptionRequest, ReplyCode, ReplyFlags, ReplyHeader, Request, StatusExtent,
};

const FRAMINGS: [Framing; 3] = [Framing::Simple, Framing::Structured, Framing::Extended];

/// Magic numbers of every message, so that random bytes get past the first check.
const MAGICS: [&[u8]; 8] = [
    b"",
    b"NBDMAGICIHAVEOPT",
    b"IHAVEOPT",
    b"\x00\x03\xe8\x89\x04\x55\x65\xa9",
    b"\x25\x60\x95\x13",
    b"\x21\xe4\x1c\x71",
    b"\x66\x8e\x33\xef",
    b"\x6e\x8a\x27\x8c",
];

fn decode_everything(bytes: &[u8]) {
    let _ = Greeting::decode(bytes);
    let _ = ClientFlags::decode(bytes);
    let _ = ExportNameReply::decode(bytes);
    let _ = OptionHeader::decode(bytes);
    let _ = OptionReplyHeader::decode(bytes);
    for code in 0..16 {
        let _ = OptionRequest::decode(OptionCode::from_code(code), bytes);
        let _ = OptionReply::decode(ReplyCode::from_code(code), bytes);
        let _ = OptionReply::decode(ReplyCode::from_code(code | 1 << 31), bytes);
        let _ = Chunk::decode(ChunkType::from_code(code as u16), bytes);
        let _ = Chunk::decode(ChunkType::from_code(code as u16 | 1 << 15), bytes);
    }
    for framing in FRAMINGS {
        let _ = Request::decode(framing, bytes);
        let _ = ReplyHeader::len(framing, bytes);
        let _ = ReplyHeader::decode(framing, bytes);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(magic in 0..MAGICS.len(), tail in vec(any::<u8>(), 0..200)) {
        let mut bytes = MAGICS[magic].to_vec();
        bytes.extend(tail);
        decode_everything(&bytes);
    }

    /// Small numbers make plausible lengths and counts, which random bytes hardly ever are.
    #[test]
    fn plausible_lengths_make_no_decoder_panic(words in vec(0u32..24, 0..40)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        decode_everything(&bytes);
        decode_everything(&bytes[..bytes.len().saturating_sub(1)]);
    }

    #[test]
    fn requests_decode_to_themselves(
        flags: u16, command: u16, cookie: u64, offset: u64, length in 0u64..(32 << 20),
    ) {
        let command = Command::from_code(command);
        let request = Request { flags: CommandFlags(flags), command, cookie, offset, length };
        for framing in FRAMINGS {
            let mut out = vec![];
            request.encode(framing, &mut out);
            prop_assert_eq!(Request::decode(framing, &out), Ok(request));
        }
    }

    #[test]
    fn options_decode_to_themselves(
        name in ".{0,200}", infos in vec(any::<u16>(), 0..20), queries in vec(".{0,60}", 0..20),
    ) {
        let infos = infos.into_iter().map(InfoType::from_code).collect();
        let meta = MetaRequest { export: name.clone(), queries };
        for request in [
            OptionRequest::ExportName(name.clone()),
            OptionRequest::Info(InfoRequest { name, infos }),
            OptionRequest::ListMetaContext(meta.clone()),
            OptionRequest::SetMetaContext(meta),
        ] {
            let mut out = vec![];
            request.encode(&mut out);
            let header = OptionHeader::decode(&out).unwrap();
            prop_assert_eq!(header.length as usize, out.len() - OptionHeader::LEN);
            prop_assert_eq!(OptionRequest::decode(header.code, &out[16..]), Ok(request));
        }
    }

    #[test]
    fn chunks_decode_to_themselves(
        cookie: u64,
        offset: u64,
        data in vec(any::<u8>(), 1..50),
        extents in vec((1u32.., any::<u32>()), 1..50),
        error in 1u32..,
        message in ".{0,50}",
    ) {
        let extents = extents
            .into_iter()
            .map(|(length, flags)| StatusExtent { length: length.into(), flags: flags.into() })
            .collect();
        let error = Errno::from_code(error).unwrap();
        for chunk in [
            Chunk::None,
            Chunk::OffsetData { offset, data: &data },
            Chunk::OffsetHole { offset, length: data.len() as u32 },
            Chunk::BlockStatus { context: 7, extents },
            Chunk::Error { error, message: message.clone(), offset: None },
            Chunk::Error { error, message, offset: Some(offset) },
        ] {
            for framing in [Framing::Structured, Framing::Extended] {
                let mut payload = vec![];
                chunk.encode(framing, &mut payload);
                let header = ChunkHeader {
                    flags: ReplyFlags::DONE,
                    kind: chunk.kind(framing),
                    cookie,
                    offset: if framing == Framing::Extended { offset } else { 0 },
                    length: payload.len() as u32,
                };
                let mut out = vec![];
                header.encode(framing, &mut out);
                prop_assert_eq!(ReplyHeader::decode(framing, &out), Ok(ReplyHeader::Chunk(header)));
                prop_assert_eq!(Chunk::decode(header.kind, &payload), Ok(chunk.clone()));
            }
        }
    }
}
