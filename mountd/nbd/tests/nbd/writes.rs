//! Exports that can be written.

use std::fs;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sluice_block::{BlockError, BlockRead, BlockWrite, ErrorKind, Extent, MemoryDisk, Result};
use sluice_nbd::{BlockSizes, Export, Limits};
use sluice_nbd_wire::{
    Command, CommandFlags, Errno, Framing, InfoRequest, InfoType, OptionReply, OptionRequest,
    ReplyCode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Fixture, Raw, run, sample, succeed};

const QEMU: &str = "qemu-utils";
const LIBNBD: &str = "libnbd-bin";
const PYTHON: &str = "python3-libnbd";
const FRAMINGS: [Framing; 3] = [Framing::Simple, Framing::Structured, Framing::Extended];

/// What a device was told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Write(u64, u64),
    Zeroes(u64, u64),
    Flush,
}

/// A disk that remembers what it was told, and fails on request.
struct Recorder {
    inner: MemoryDisk,
    told: Mutex<Vec<Told>>,
    fail: Mutex<Option<ErrorKind>>,
}

impl Recorder {
    fn new(size: u64) -> Arc<Self> {
        let (inner, told) = (MemoryDisk::new(size), Mutex::default());
        Arc::new(Self { inner, told, fail: Mutex::default() })
    }

    fn note(&self, told: Told) -> Result<()> {
        self.told.lock().unwrap().push(told);
        match *self.fail.lock().unwrap() {
            Some(kind) => Err(BlockError::new(kind, "told to fail")),
            None => Ok(()),
        }
    }

    fn told(&self) -> Vec<Told> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

#[async_trait]
impl BlockRead for Recorder {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buf).await
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.inner.extents(offset, length).await
    }
}

#[async_trait]
impl BlockWrite for Recorder {
    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.note(Told::Write(offset, data.len() as u64))?;
        self.inner.write_at(offset, data).await
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.note(Told::Zeroes(offset, length))?;
        self.inner.write_zeroes(offset, length).await
    }

    async fn flush(&self) -> Result<()> {
        self.note(Told::Flush)
    }
}

async fn served(device: Arc<dyn BlockWrite>) -> Fixture {
    Fixture::exports(vec![Export::writable("disk", device)], Limits::default()).await
}

impl Raw {
    async fn write(&mut self, flags: CommandFlags, cookie: u64, offset: u64, data: &[u8]) {
        let length = data.len() as u64;
        // "With extended headers, the flag MUST be set" on writes.
        let extended = self.framing == Framing::Extended;
        let flags = if extended { flags | CommandFlags::PAYLOAD_LEN } else { flags };
        self.send_flagged(flags, Command::Write, cookie, offset, length).await;
        self.stream.write_all(data).await.unwrap();
    }

    /// Reads with one reply and checks its content.
    async fn expect(&mut self, offset: u64, expected: &[u8]) {
        let simple = self.framing == Framing::Simple;
        let flags = if simple { CommandFlags::empty() } else { CommandFlags::DF };
        self.send_flagged(flags, Command::Read, 77, offset, expected.len() as u64).await;
        let content = if simple {
            assert_eq!(self.simple().await, (None, 77));
            let mut content = vec![0; expected.len()];
            self.stream.read_exact(&mut content).await.unwrap();
            content
        } else {
            self.chunk().await.1.split_off(8)
        };
        assert!(content == expected, "{} bytes at {offset} differ", expected.len());
    }
}

#[tokio::test]
async fn commands_reach_the_device_and_are_durable_when_asked_for() {
    let (none, fua) = (CommandFlags::empty(), CommandFlags::FUA);
    for framing in FRAMINGS {
        let device = Recorder::new(8 << 20);
        let server = served(Arc::clone(&device) as _).await;
        let mut raw = Raw::ready(server.address, framing).await;
        raw.write(none, 1, 4096, &[7; 5000]).await;
        assert_eq!(raw.error().await, None);
        assert_eq!(device.told(), [Told::Write(4096, 5000)]);
        raw.write(fua, 2, 10, &[8; 20]).await;
        assert_eq!(raw.error().await, None);
        assert_eq!(device.told(), [Told::Write(10, 20), Told::Flush]);
        for (flags, command, expected) in [
            (none, Command::Trim, vec![]),
            (fua, Command::Trim, vec![Told::Flush]),
            (none, Command::WriteZeroes, vec![Told::Zeroes(4096, 512)]),
            (CommandFlags::FAST_ZERO, Command::WriteZeroes, vec![Told::Zeroes(4096, 512)]),
            (
                fua | CommandFlags::NO_HOLE,
                Command::WriteZeroes,
                vec![Told::Write(4096, 512), Told::Flush],
            ),
        ] {
            raw.send_flagged(flags, command, 3, 4096, 512).await;
            assert_eq!(raw.error().await, None, "{command:?} {flags:?}");
            assert_eq!(device.told(), expected, "{command:?} {flags:?}");
        }
        raw.expect(4096 + 512, &[7; 5000 - 512]).await;
        raw.send(Command::Flush, 4, 0, 0).await;
        assert_eq!(raw.error().await, None);
        // It may be set on every command, and means something on those that write.
        raw.send_flagged(fua, Command::Cache, 5, 0, 4096).await;
        assert_eq!(raw.error().await, None);
        assert_eq!(device.told(), [Told::Flush]);
        server.stop().await;
        assert_eq!(device.told(), [], "everything was flushed already");
    }
}

#[tokio::test]
async fn zeroes_that_stay_allocated_are_written_in_steps_and_never_fast() {
    let device = Recorder::new(8 << 20);
    let server = served(Arc::clone(&device) as _).await;
    let mut raw = Raw::ready(server.address, Framing::Extended).await;
    let (allocate, fast) = (CommandFlags::NO_HOLE, CommandFlags::FAST_ZERO);
    raw.send_flagged(allocate, Command::WriteZeroes, 1, 100, 5 << 19).await;
    assert_eq!(raw.error().await, None);
    let mib = 1 << 20;
    let steps = [(100, mib), (100 + mib, mib), (100 + 2 * mib, mib / 2)];
    assert_eq!(device.told(), steps.map(|(at, length)| Told::Write(at, length)));
    raw.send_flagged(allocate | fast, Command::WriteZeroes, 2, 0, 512).await;
    assert_eq!(raw.error().await, Some(Errno::NotSupported));
    assert_eq!(device.told(), []);
    server.stop().await;

    let export = Export::writable("disk", Arc::new(MemoryDisk::new(8 << 20))).with_slow_zeroes();
    let server = Fixture::exports(vec![export], Limits::default()).await;
    let mut raw = Raw::ready(server.address, Framing::Structured).await;
    raw.send_flagged(fast, Command::WriteZeroes, 1, 0, 512).await;
    assert_eq!(raw.error().await, Some(Errno::NotSupported));
    raw.send(Command::WriteZeroes, 2, 0, 512).await;
    assert_eq!(raw.error().await, None);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_without_a_flush_has_its_writes_flushed() {
    let device = Recorder::new(1 << 20);
    let server = served(Arc::clone(&device) as _).await;
    let mut polite = Raw::ready(server.address, Framing::Simple).await;
    polite.write(CommandFlags::empty(), 1, 0, &[1; 512]).await;
    assert_eq!(polite.error().await, None);
    polite.send(Command::Disconnect, 0, 0, 0).await;
    polite.closed().await;
    assert_eq!(device.told(), [Told::Write(0, 512), Told::Flush]);
    let mut rude = Raw::ready(server.address, Framing::Structured).await;
    rude.write(CommandFlags::empty(), 1, 0, &[2; 512]).await;
    assert_eq!(rude.error().await, None);
    // And one that is still there when the server goes.
    let mut late = Raw::ready(server.address, Framing::Structured).await;
    late.send(Command::WriteZeroes, 1, 0, 512).await;
    assert_eq!(late.error().await, None);
    drop(rude);
    server.stop().await;
    let told = device.told();
    assert_eq!(told.iter().filter(|told| **told == Told::Flush).count(), 2, "{told:?}");
    assert_eq!(told.last(), Some(&Told::Flush));
}

#[tokio::test]
async fn requests_are_refused_with_the_numbers_of_the_specification() {
    let none = CommandFlags::empty();
    for framing in FRAMINGS {
        let device = Recorder::new(1 << 20);
        let server = served(Arc::clone(&device) as _).await;
        let mut raw = Raw::ready(server.address, framing).await;
        for (flags, command, offset, length, error) in [
            (none, Command::Trim, 1 << 20, 1, Errno::Invalid),
            (none, Command::WriteZeroes, 1 << 20, 1, Errno::NoSpace),
            (none, Command::WriteZeroes, u64::MAX, 2, Errno::NoSpace),
            (CommandFlags::NO_HOLE, Command::Trim, 0, 512, Errno::Invalid),
            (CommandFlags::FAST_ZERO, Command::Trim, 0, 512, Errno::Invalid),
            (CommandFlags::REQ_ONE, Command::WriteZeroes, 0, 512, Errno::Invalid),
            (CommandFlags::DF, Command::Flush, 0, 0, Errno::Invalid),
        ] {
            raw.send_flagged(flags, command, 1, offset, length).await;
            assert_eq!(raw.error().await, Some(error), "{command:?} {flags:?}");
        }
        raw.write(none, 1, (1 << 20) - 100, &[0x25; 101]).await;
        assert_eq!(raw.error().await, Some(Errno::NoSpace));
        raw.write(CommandFlags::DF, 2, 0, &[0x25; 100]).await;
        assert_eq!(raw.error().await, Some(Errno::Invalid));
        for command in [Command::Trim, Command::WriteZeroes] {
            raw.send(command, 3, 0, 0).await;
            assert_eq!(raw.error().await, None, "{command:?} of nothing");
        }
        raw.write(none, 4, 0, &[]).await;
        assert_eq!(raw.error().await, None);
        assert_eq!(device.told(), [], "something got through");
        for (kind, error) in [
            (ErrorKind::NoSpace, Errno::NoSpace),
            (ErrorKind::ReadOnly, Errno::Permission),
            (ErrorKind::Io, Errno::Io),
        ] {
            *device.fail.lock().unwrap() = Some(kind);
            raw.write(none, 5, 0, &[1; 512]).await;
            assert_eq!(raw.error().await, Some(error));
            for command in [Command::Trim, Command::WriteZeroes, Command::Flush] {
                raw.send(command, 6, 0, 0x1000 * u64::from(command != Command::Flush)).await;
                assert_eq!(raw.error().await, Some(error), "{command:?}");
            }
        }
        *device.fail.lock().unwrap() = None;
        raw.expect(0, &[0; 512]).await;
        server.stop().await;
    }
}

/// Payloads where none belong are skipped, so that what follows is still understood.
#[tokio::test]
async fn an_announced_payload_is_skipped_on_any_command() {
    let server = served(Recorder::new(1 << 20)).await;
    let mut raw = Raw::ready(server.address, Framing::Extended).await;
    for command in [Command::Read, Command::Trim, Command::Flush, Command::Other(99)] {
        raw.send_flagged(CommandFlags::PAYLOAD_LEN, command, 1, 0, 600).await;
        raw.stream.write_all(&[0x21; 600]).await.unwrap();
        assert_eq!(raw.error().await, Some(Errno::Invalid), "{command:?}");
    }
    // A write that does not announce it is understood all the same.
    raw.send(Command::Write, 2, 0, 16).await;
    raw.stream.write_all(&[9; 16]).await.unwrap();
    assert_eq!(raw.error().await, None);
    raw.expect(0, &[9; 16]).await;
    server.stop().await;
}

/// Half a block cannot be given back. To write zeroes there would take room where trimming is what
/// makes room.
#[tokio::test]
async fn trimming_gives_back_whole_blocks_and_writes_nothing_else() {
    let size = (64 << 10) + 100;
    let device = Recorder::new(size);
    let server = served(Arc::clone(&device) as _).await;
    let mut raw = Raw::ready(server.address, Framing::Structured).await;
    for (offset, length, expected) in [
        (100, 3000, None),
        (100, 4000, None),
        (4095, 4097, Some((4096, 4096))),
        (4096, 12_287, Some((4096, 8192))),
        (1, 20_000, Some((4096, 12_288))),
        (64 << 10, 99, None),
        (64 << 10, 100, Some((64 << 10, 100))),
        ((64 << 10) + 1, 99, None),
        (0, size, Some((0, size))),
    ] {
        raw.send(Command::Trim, 1, offset, length).await;
        assert_eq!(raw.error().await, None);
        let expected: Vec<_> = expected.into_iter().map(|(at, of)| Told::Zeroes(at, of)).collect();
        assert_eq!(device.told(), expected, "{length} bytes at {offset}");
    }
    *device.fail.lock().unwrap() = Some(ErrorKind::NoSpace);
    raw.send(Command::Trim, 1, 100, 3000).await;
    assert_eq!(raw.error().await, None);
    server.stop().await;
}

#[tokio::test]
async fn a_terabyte_is_trimmed_and_zeroed_in_one_request() {
    let disk = Arc::new(MemoryDisk::new(16 << 40));
    disk.write_at(9 << 40, b"something").await.unwrap();
    let server = served(Arc::clone(&disk) as _).await;
    let mut raw = Raw::ready(server.address, Framing::Extended).await;
    for command in [Command::WriteZeroes, Command::Trim] {
        raw.send(command, 1, 0, 16 << 40).await;
        assert_eq!(raw.error().await, None);
    }
    raw.expect(9 << 40, &[0; 9]).await;
    server.stop().await;
}

/// Random requests, and a vector that says what must be there.
#[tokio::test]
async fn any_mix_of_requests_leaves_what_a_simple_disk_would_hold() {
    const SIZE: u64 = 300_000;
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for framing in FRAMINGS {
        let server = served(Arc::new(MemoryDisk::new(SIZE))).await;
        let mut raws =
            [Raw::ready(server.address, framing).await, Raw::ready(server.address, framing).await];
        let mut model = vec![0u8; SIZE as usize];
        for round in 0..400 {
            let (offset, kind) = (random(SIZE), random(6));
            let length = random(SIZE - offset).min(50_000) + 1;
            let range = offset as usize..((offset + length).min(SIZE)) as usize;
            let length = range.len() as u64;
            let raw = &mut raws[random(2) as usize];
            match kind {
                0 | 1 => {
                    let data = vec![round as u8 | 1; range.len()];
                    raw.write(CommandFlags::empty(), round, offset, &data).await;
                    assert_eq!(raw.error().await, None);
                    model[range].fill(round as u8 | 1);
                }
                2 | 3 => {
                    let flags =
                        if kind == 2 { CommandFlags::NO_HOLE } else { CommandFlags::empty() };
                    raw.send_flagged(flags, Command::WriteZeroes, round, offset, length).await;
                    assert_eq!(raw.error().await, None);
                    model[range].fill(0);
                }
                _ => raw.expect(offset, &model[range]).await,
            }
        }
        raws[0].expect(0, &model).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn block_sizes_are_told_and_held() {
    let sizes = BlockSizes { minimum: 4096, preferred: 8192, maximum: 1 << 20 };
    let mut bytes = vec![0; 2 << 20];
    bytes[5000..9000].fill(1);
    let disk = Arc::new(MemoryDisk::from_bytes(&bytes));
    let export = Export::writable("disk", disk).with_block_sizes(sizes);
    let server = Fixture::exports(vec![export], Limits::default()).await;
    let mut raw = Raw::connect(server.address).await;
    let go = |infos: &[InfoType]| {
        OptionRequest::Go(InfoRequest { name: "disk".into(), infos: infos.to_vec() })
    };
    let refused = raw.option(go(&[])).await;
    assert_eq!(refused[0].code(), ReplyCode::ErrBlockSizeRequired);
    let replies = raw.option(go(&[InfoType::BlockSize])).await;
    assert!(replies.contains(&OptionReply::Info(sluice_nbd_wire::Info::BlockSize(sizes))));
    for (command, offset, length, error) in [
        (Command::Read, 1, 4096, Some(Errno::Invalid)),
        (Command::Read, 0, 512, Some(Errno::Invalid)),
        (Command::Read, 0, 2 << 20, Some(Errno::Invalid)),
        (Command::WriteZeroes, 4096, 100, Some(Errno::Invalid)),
        (Command::WriteZeroes, 0, 2 << 20, None),
        (Command::Trim, 4096, 4096, None),
    ] {
        raw.send(command, 1, offset, length).await;
        assert_eq!(raw.error().await, error, "{command:?} {offset} {length}");
    }
    let mut old = Raw::connect(server.address).await;
    old.stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk").await.unwrap();
    old.closed().await;
    let out = succeed(LIBNBD, "nbdinfo", &["--json", &server.tcp("disk")]).await;
    let info: serde_json::Value = serde_json::from_str(&out).unwrap();
    let sizes = ["minimum", "preferred", "maximum"]
        .map(|size| info["exports"][0][format!("block_size_{size}")].clone());
    assert_eq!(sizes, [4096, 8192, 1 << 20]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdinfo_sees_what_a_writable_export_can() {
    let server = served(Recorder::new(1 << 20)).await;
    let out = succeed(LIBNBD, "nbdinfo", &["--json", &server.unix("disk")]).await;
    let info: serde_json::Value = serde_json::from_str(&out).unwrap();
    let export = &info["exports"][0];
    assert_eq!(export["is_read_only"], false);
    for can in ["multi_conn", "flush", "fua", "trim", "zero", "fast_zero", "cache", "df"] {
        assert_eq!(export[format!("can_{can}")], true, "{can}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdcopy_and_qemu_img_fill_a_disk() {
    let server = served(Arc::new(MemoryDisk::new(sample().len() as u64))).await;
    let raw = server.file("disk.raw", &sample());
    for uri in server.uris("disk") {
        for args in [&["--connections=4", "--flush"][..], &["--synchronous"], &["--allocated"]] {
            let mut raw_connection = Raw::ready(server.address, Framing::Extended).await;
            raw_connection.send(Command::Trim, 1, 0, sample().len() as u64).await;
            assert_eq!(raw_connection.error().await, None);
            succeed(LIBNBD, "nbdcopy", &[args, &[&raw, &uri]].concat()).await;
            let compare = ["compare", "-f", "raw", "-F", "raw", &raw, &uri];
            succeed(QEMU, "qemu-img", &compare).await;
        }
        let convert = ["convert", "-n", "-f", "raw", "-O", "raw", &raw, &uri];
        succeed(QEMU, "qemu-img", &convert).await;
        let back = server.path("back.raw");
        succeed(LIBNBD, "nbdcopy", &[&uri, &back]).await;
        assert!(fs::read(&back).unwrap() == sample());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_io_writes_discards_and_zeroes() {
    let server = served(Arc::new(MemoryDisk::new(8 << 20))).await;
    for uri in server.uris("disk") {
        let mut args = vec!["-f", "raw", "-d", "unmap"];
        for command in [
            "write -P 0x5a 100001 5555",
            "read -P 0x5a 100001 5555",
            "write -f -P 0x11 1M 1M",
            "write -z 1M 512k",
            "write -z -u 1536k 64k",
            "read -P 0 1M 576k",
            "read -P 0x11 1600k 448k",
            "aio_write -P 0x22 3M 2M",
            "aio_flush",
            "read -P 0x22 3M 2M",
            "discard 3M 1M",
            "read -P 0 3M 1M",
            "flush",
            "discard 0 8M",
            "read -P 0 0 8M",
        ] {
            args.extend(["-c", command]);
        }
        args.push(&uri);
        let ran = run(QEMU, "qemu-io", &args).await;
        let failed = ran.out.contains("failed") || ran.err.contains("failed");
        assert!(ran.ok && !failed, "{}{}", ran.out, ran.err);
    }
    server.stop().await;
}

/// Every command with every flag, and every error, as libnbd sees them.
#[tokio::test(flavor = "multi_thread")]
async fn libnbd_uses_every_command() {
    let script = r#"
import errno, nbd, sys
uri, size = sys.argv[1], 4 << 20

def fails(code, action):
    try:
        action()
    except nbd.Error as error:
        assert error.errnum == getattr(errno, code), error
        return
    raise SystemExit("a broken command succeeded")

FUA, NO_HOLE, FAST = nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO
for structured in True, False:
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.connect_uri(uri)
    assert h.get_size() == size and not h.is_read_only()
    assert h.can_flush() and h.can_fua() and h.can_trim() and h.can_zero()
    assert h.can_fast_zero() and h.can_cache() and h.can_multi_conn()
    for flags in 0, FUA:
        h.pwrite(b"\x77" * 70000, 5, flags)
        assert h.pread(70002, 4) == b"\0" + b"\x77" * 70000 + b"\0"
        h.zero(1000, 100, flags)
        assert h.pread(1002, 99) == b"\x77" + b"\0" * 1000 + b"\x77"
        h.zero(1000, 2000, flags | NO_HOLE)
        h.zero(1000, 4000, flags | FAST)
        h.trim(10000, 6000, flags)
        assert h.pread(1000, 2000) == h.pread(1000, 4000) == b"\0" * 1000
        assert h.pread(2194, 6000) == b"\x77" * 2192 + b"\0\0"
        assert h.pread(4098, 8192) == b"\0" * 4096 + b"\x77\x77"
        h.zero(size, 0, flags)
        h.flush()
    fails("ENOTSUP", lambda: h.zero(512, 0, FAST | NO_HOLE))
    h.set_strict_mode(0)
    fails("ENOSPC", lambda: h.pwrite(b"x" * 512, size - 511))
    fails("ENOSPC", lambda: h.zero(512, size))
    fails("EINVAL", lambda: h.trim(512, size))
    fails("EINVAL", lambda: h.pread(512, size))
    fails("EINVAL", lambda: h.cache(512, size))
    fails("EINVAL", lambda: h.trim(512, 0, FAST))
    fails("EINVAL", lambda: h.pwrite(b"x", 0, nbd.CMD_FLAG_REQ_ONE))
    fails("EINVAL", lambda: h.block_status(512, 0, lambda *args: 0))
    # Many at a time, and a hundred connections that see each other's writes.
    cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i]) * 512), i * 512)
               for i in range(60)]
    while h.aio_in_flight():
        h.poll(-1)
    assert all(h.aio_command_completed(cookie) for cookie in cookies)
    others = []
    for i in range(20):
        other = nbd.NBD()
        other.connect_uri(uri)
        assert other.pread(512, i * 512) == bytes([i]) * 512
        other.pwrite(bytes([i + 100]) * 512, i * 512, FUA)
        others.append(other)
    for i in range(20):
        assert h.pread(512, i * 512) == bytes([i + 100]) * 512
    h.zero(size, 0)
    for other in others:
        other.shutdown()
    h.shutdown()
"#;
    let server = served(Arc::new(MemoryDisk::new(4 << 20))).await;
    for uri in server.uris("disk") {
        succeed(PYTHON, "/usr/bin/python3", &["-c", script, &uri]).await;
    }
    server.stop().await;
}
