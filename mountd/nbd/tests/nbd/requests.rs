//! Single requests and their replies, byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_block::{BlockError, BlockRead, ErrorKind, FaultyRead, MemoryDisk, Piece, Result};
use sluice_nbd::Limits;
use sluice_nbd_wire::{
    Chunk, ChunkType, Command, CommandFlags, Errno, Framing, MetaRequest, OptionReply,
    OptionRequest, ReplyCode, ReplyFlags, StatusExtent,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::support::{Fixture, Raw, sample};

const FRAMINGS: [Framing; 3] = [Framing::Simple, Framing::Structured, Framing::Extended];

#[tokio::test]
async fn zero_runs_travel_as_hole_chunks_unless_fragments_are_refused() {
    let server = Fixture::sample().await;
    for framing in [Framing::Structured, Framing::Extended] {
        let mut raw = Raw::ready(server.address, framing).await;
        raw.read(7, 0, 1 << 20).await;
        let (first, data) = raw.chunk().await;
        assert_eq!((first.kind, first.cookie), (ChunkType::OffsetData, 7));
        assert_eq!(data[8..], sample()[..8192]);
        let (second, hole) = raw.chunk().await;
        assert_eq!((second.kind, second.flags), (ChunkType::OffsetHole, ReplyFlags::DONE));
        let hole = Chunk::decode(second.kind, &hole).unwrap();
        assert_eq!(hole, Chunk::OffsetHole { offset: 8192, length: (1 << 20) - 8192 });

        raw.send_flagged(CommandFlags::DF, Command::Read, 8, 0, 1 << 20).await;
        let (only, data) = raw.chunk().await;
        assert_eq!((only.kind, only.flags), (ChunkType::OffsetData, ReplyFlags::DONE));
        assert!(data[8..] == sample()[..1 << 20]);
    }
    server.stop().await;
}

/// Has everything in memory, in pieces, and counts what it is read.
#[derive(Default)]
struct Lender {
    reads: AtomicU64,
}

impl Lender {
    const PIECE: u64 = 16 << 10;
}

#[async_trait::async_trait]
impl BlockRead for Lender {
    fn size(&self) -> u64 {
        sample().len() as u64
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        buf.copy_from_slice(&sample()[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }

    fn read_shared(&self, offset: u64, length: u64) -> Option<Vec<Piece>> {
        let (whole, mut at, end) = (bytes::Bytes::from(sample()), offset, offset + length);
        let mut pieces = Vec::new();
        while at < end {
            let to = ((at / Self::PIECE + 1) * Self::PIECE).min(end);
            let piece = whole.slice(at as usize..to as usize);
            let zero = piece.iter().all(|byte| *byte == 0);
            pieces.push(if zero { Piece::Zero(to - at) } else { Piece::Bytes(piece) });
            at = to;
        }
        Some(pieces)
    }
}

#[tokio::test]
async fn what_a_device_shares_is_sent_as_it_lies_there() {
    let device = Arc::new(Lender::default());
    let server = Fixture::device(device.clone(), Limits::default()).await;
    let (mib, bytes) = (1 << 20, sample());
    let part = |from: u64, length: u64| &bytes[from as usize..(from + length) as usize];
    let mut raw = Raw::ready(server.address, Framing::Simple).await;
    raw.read(1, mib + 700, mib).await;
    assert_eq!(raw.simple().await, (None, 1));
    let mut content = vec![0; mib as usize];
    raw.stream.read_exact(&mut content).await.unwrap();
    assert!(content == part(mib + 700, mib));
    for framing in [Framing::Structured, Framing::Extended] {
        let mut raw = Raw::ready(server.address, framing).await;
        // Content of many pieces, a hole, and content once more.
        raw.read(2, 2 * mib, 8 * mib).await;
        for (from, length) in [(2 * mib, mib), (9 * mib, 5 * Lender::PIECE)] {
            let (head, data) = raw.chunk().await;
            assert_eq!((head.kind, head.cookie), (ChunkType::OffsetData, 2));
            assert!(data[..8] == from.to_be_bytes() && &data[8..] == part(from, length));
            let (head, hole) = raw.chunk().await;
            let Chunk::OffsetHole { offset, length: zeroes } =
                Chunk::decode(head.kind, &hole).unwrap()
            else {
                panic!("{head:?}");
            };
            assert_eq!(offset, from + length);
            assert!(part(offset, u64::from(zeroes)).iter().all(|byte| *byte == 0));
            assert_eq!(head.flags == ReplyFlags::DONE, from == 9 * mib);
        }
    }
    assert_eq!(device.reads.load(Ordering::Relaxed), 0, "nothing of that was copied");
    // Zeroes are no part of one piece, nor is a hole of a few bytes worth a chunk of its own.
    let mut raw = Raw::ready(server.address, Framing::Structured).await;
    raw.send_flagged(CommandFlags::DF, Command::Read, 3, 2 * mib, 2 * mib).await;
    let (only, data) = raw.chunk().await;
    assert_eq!((only.kind, only.flags), (ChunkType::OffsetData, ReplyFlags::DONE));
    assert!(&data[8..] == part(2 * mib, 2 * mib));
    raw.read(4, mib - 512, mib).await;
    let (only, data) = raw.chunk().await;
    assert_eq!((only.kind, only.flags), (ChunkType::OffsetData, ReplyFlags::DONE));
    assert!(&data[8..] == part(mib - 512, mib));
    assert_eq!(device.reads.load(Ordering::Relaxed), 2);
    server.stop().await;
}

#[tokio::test]
async fn extended_block_status_describes_a_whole_huge_disk_at_once() {
    let disk = MemoryDisk::new(16 << 40);
    let server = Fixture::device(Arc::new(disk), Limits::default()).await;
    let mut raw = Raw::ready(server.address, Framing::Extended).await;
    for flags in [CommandFlags::empty(), CommandFlags::REQ_ONE] {
        raw.send_flagged(flags, Command::BlockStatus, 1, 0, 16 << 40).await;
        let (header, payload) = raw.chunk().await;
        assert_eq!(header.kind, ChunkType::BlockStatusExt);
        let extents = vec![StatusExtent { length: 16 << 40, flags: 3 }];
        let expected = Chunk::BlockStatus { context: 1, extents };
        assert_eq!(Chunk::decode(header.kind, &payload).unwrap(), expected);
    }
    server.stop().await;
}

#[tokio::test]
async fn broken_requests_are_refused_and_the_connection_goes_on() {
    let server = Fixture::sample().await;
    let size = sample().len() as u64;
    for framing in FRAMINGS {
        let mut raw = Raw::ready(server.address, framing).await;
        let fua = CommandFlags::FUA;
        for (flags, command, offset, length, error) in [
            (CommandFlags::empty(), Command::Read, 0, 0xffff_ffff, Errno::Invalid),
            (CommandFlags::empty(), Command::Read, size, 1, Errno::Invalid),
            (CommandFlags::empty(), Command::Read, u64::MAX, 2, Errno::Invalid),
            (fua, Command::Read, 0, 1, Errno::Invalid),
            (CommandFlags::empty(), Command::Other(99), 0, 0, Errno::Invalid),
            (CommandFlags::empty(), Command::Trim, 0, 512, Errno::Permission),
            (CommandFlags::empty(), Command::WriteZeroes, 0, 512, Errno::Permission),
            (CommandFlags::empty(), Command::BlockStatus, 0, 0, Errno::Invalid),
            (CommandFlags::empty(), Command::BlockStatus, size, 1, Errno::Invalid),
        ] {
            raw.send_flagged(flags, command, 1, offset, length).await;
            assert_eq!(raw.error().await, Some(error), "{command:?} in {framing:?}");
        }
        raw.read(2, 0, 0).await;
        assert_eq!(raw.error().await, None, "a read of nothing succeeds");
        raw.send(Command::Flush, 3, 0, 0).await;
        assert_eq!(raw.error().await, None, "a flush has nothing to do");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_read_over_the_maximum_size_is_refused() {
    let server = Fixture::device(Arc::new(MemoryDisk::new(1 << 30)), Limits::default()).await;
    let mut raw = Raw::ready(server.address, Framing::Structured).await;
    raw.read(1, 0, (32 << 20) + 1).await;
    assert_eq!(raw.error().await, Some(Errno::Invalid));
    raw.read(2, 0, 32 << 20).await;
    assert_eq!(raw.error().await, None);
    server.stop().await;
}

#[tokio::test]
async fn the_payload_of_a_refused_write_is_not_taken_for_requests() {
    let server = Fixture::sample().await;
    for framing in FRAMINGS {
        let mut raw = Raw::ready(server.address, framing).await;
        raw.send(Command::Write, 1, 0, 100_000).await;
        raw.stream.write_all(&vec![0x25; 100_000]).await.unwrap();
        assert_eq!(raw.error().await, Some(Errno::Permission));
        raw.send(Command::Flush, 2, 0, 0).await;
        assert_eq!(raw.error().await, None);
    }
    server.stop().await;
}

#[tokio::test]
async fn failures_of_the_device_reach_the_client_as_numbers() {
    for (kind, error) in [
        (ErrorKind::Io, Errno::Io),
        (ErrorKind::Damaged, Errno::Io),
        (ErrorKind::Unavailable, Errno::Io),
        (ErrorKind::NoSpace, Errno::NoSpace),
        (ErrorKind::OutOfRange, Errno::Invalid),
        (ErrorKind::ReadOnly, Errno::Permission),
    ] {
        let device = FaultyRead::new(MemoryDisk::from_bytes(&sample()), 4096, kind);
        let server = Fixture::device(Arc::new(device), Limits::default()).await;
        for framing in FRAMINGS {
            let mut raw = Raw::ready(server.address, framing).await;
            raw.read(1, 0, 65536).await;
            assert_eq!(raw.error().await, Some(error), "{kind:?}");
            raw.read(2, 0, 0).await;
            assert_eq!(raw.error().await, None, "the connection goes on");
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn negotiation_rules_are_kept() {
    let server = Fixture::sample().await;
    let mut raw = Raw::connect(server.address).await;
    let code = |replies: Vec<OptionReply>| replies.last().map(OptionReply::code);
    let meta = |export: &str, queries: &[&str]| MetaRequest {
        export: export.into(),
        queries: queries.iter().map(|query| (*query).to_owned()).collect(),
    };
    let set = |export: &str, queries: &[&str]| OptionRequest::SetMetaContext(meta(export, queries));
    let list = |queries: &[&str]| OptionRequest::ListMetaContext(meta("disk", queries));

    assert_eq!(code(raw.option(OptionRequest::StartTls).await), Some(ReplyCode::ErrUnsupported));
    assert_eq!(code(raw.option(OptionRequest::Other(77)).await), Some(ReplyCode::ErrUnsupported));
    let early = raw.option(set("disk", &["base:allocation"])).await;
    assert_eq!(code(early), Some(ReplyCode::ErrInvalid), "structured replies come first");
    raw.acknowledged(OptionRequest::StructuredReply).await;
    let again = raw.option(OptionRequest::StructuredReply).await;
    assert_eq!(code(again), Some(ReplyCode::ErrInvalid));
    raw.acknowledged(OptionRequest::ExtendedHeaders).await;
    let back = raw.option(OptionRequest::StructuredReply).await;
    assert_eq!(code(back), Some(ReplyCode::ErrExtendedHeadersRequired));

    assert_eq!(code(raw.option(set("nothing", &[])).await), Some(ReplyCode::ErrUnknown));
    assert_eq!(code(raw.option(set("disk", &["nocolon"])).await), Some(ReplyCode::ErrInvalid));
    raw.acknowledged(set("disk", &["qemu:dirty-bitmap:b"])).await;
    let context = OptionReply::MetaContext { id: 0, name: "base:allocation".into() };
    for queries in [&[][..], &["base:"], &["base:allocation", "other:x"]] {
        let found = raw.option(list(queries)).await;
        assert_eq!(found, [context.clone(), OptionReply::Ack], "{queries:?}");
    }
    raw.acknowledged(list(&["base:other"])).await;
    raw.acknowledged(OptionRequest::Abort).await;
    raw.closed().await;
    server.stop().await;
}

/// Reads of even offsets wait for a permit; counts the bytes being read at a time.
struct Gated {
    inner: MemoryDisk,
    gate: Semaphore,
    now: AtomicU64,
    most: AtomicU64,
}

impl Gated {
    fn new() -> Arc<Self> {
        let inner = MemoryDisk::from_bytes(&sample());
        let (now, most) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { inner, gate: Semaphore::new(0), now, most })
    }
}

#[async_trait::async_trait]
impl BlockRead for Gated {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let length = buf.len() as u64;
        let now = self.now.fetch_add(length, Ordering::SeqCst) + length;
        self.most.fetch_max(now, Ordering::SeqCst);
        if offset.is_multiple_of(2) {
            let closed = |_| BlockError::new(ErrorKind::Io, "the gate is gone");
            self.gate.acquire().await.map_err(closed)?.forget();
        }
        self.now.fetch_sub(length, Ordering::SeqCst);
        self.inner.read_at(offset, buf).await
    }
}

#[tokio::test]
async fn a_slow_request_does_not_hold_up_the_next() {
    let device = Gated::new();
    let server = Fixture::device(Arc::clone(&device) as _, Limits::default()).await;
    let mut raw = Raw::ready(server.address, Framing::Simple).await;
    raw.read(1, 0, 4).await;
    raw.read(2, 1, 4).await;
    assert_eq!(raw.simple().await, (None, 2));
    raw.stream.read_exact(&mut [0; 4]).await.unwrap();
    device.gate.add_permits(1);
    assert_eq!(raw.simple().await, (None, 1));
    raw.stream.read_exact(&mut [0; 4]).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn bytes_in_flight_are_bounded() {
    let device = Gated::new();
    let mut limits = Limits::default();
    limits.bytes_in_flight = 64 << 10;
    let server = Fixture::device(Arc::clone(&device) as _, limits).await;
    let mut raw = Raw::ready(server.address, Framing::Simple).await;
    for cookie in 0..16 {
        raw.read(cookie, 0, 32 << 10).await;
    }
    // More than the budget is read all the same, alone.
    raw.read(99, 0, 128 << 10).await;
    device.gate.add_permits(17);
    let mut answered = 0;
    for _ in 0..17 {
        let (error, cookie) = raw.simple().await;
        assert_eq!(error, None);
        let mut content = vec![0; if cookie == 99 { 128 << 10 } else { 32 << 10 }];
        raw.stream.read_exact(&mut content).await.unwrap();
        assert!(content[..] == sample()[..content.len()]);
        answered += 1;
    }
    assert_eq!(answered, 17);
    assert_eq!(device.most.load(Ordering::SeqCst), 128 << 10);
    server.stop().await;
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_refuses_new_ones() {
    let device = Gated::new();
    let server = Fixture::device(Arc::clone(&device) as _, Limits::default()).await;
    let mut raw = Raw::ready(server.address, Framing::Structured).await;
    raw.read(1, 0, 512).await;
    // A reply to a later request shows that the first one is under way.
    raw.read(2, 1, 512).await;
    assert_eq!(raw.chunk().await.0.cookie, 2);
    server.shutdown.cancel();
    raw.read(3, 1, 512).await;
    let (header, payload) = raw.chunk().await;
    let refused = Chunk::decode(header.kind, &payload).unwrap();
    assert!(matches!(refused, Chunk::Error { error: Errno::Shutdown, .. }));
    device.gate.add_permits(1);
    let (header, payload) = raw.chunk().await;
    assert_eq!(header.cookie, 1);
    assert_eq!(payload[8..], sample()[..512]);
    raw.closed().await;
    server.served.await.unwrap();
}
