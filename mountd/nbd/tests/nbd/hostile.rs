//! Clients that mean harm, or break.

use std::sync::Arc;
use std::time::Duration;

use sluice_block::{BlockRead, MemoryDisk, Result};
use sluice_nbd::Limits;
use sluice_nbd_wire::{Command, Errno, Framing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Fixture, Raw, sample};

/// Shows that the server still serves others.
async fn still_serves(server: &Fixture) {
    let mut raw = Raw::ready(server.address, Framing::Simple).await;
    raw.read(1, 0, 5000).await;
    assert_eq!(raw.simple().await, (None, 1));
    let mut content = vec![0; 5000];
    raw.stream.read_exact(&mut content).await.unwrap();
    assert!(content[..] == sample()[..5000]);
}

#[tokio::test]
async fn garbage_ends_only_its_own_connection() {
    let server = Fixture::sample().await;
    let mut bystander = Raw::ready(server.address, Framing::Structured).await;
    let huge_option = b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff";
    let huge_name = b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\x20\0";
    let name = [&huge_name[..], &[b'x'; 8192]].concat();
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"\xff\xff\xff\xff",
        b"\0\0\0\x03GARBAGE!GARBAGE!",
        huge_option,
        &name,
        b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x07nothing",
        &[0; 4096],
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut rest = vec![];
        let _ = stream.read_to_end(&mut rest).await;
    }
    let mut raw = Raw::ready(server.address, Framing::Extended).await;
    raw.stream.write_all(&[0xee; 64]).await.unwrap();
    raw.closed().await;
    bystander.read(1, 0, 512).await;
    assert_eq!(bystander.chunk().await.1[8..], sample()[..512]);
    server.stop().await;
}

#[tokio::test]
async fn an_option_that_lies_about_its_lengths_is_answered() {
    let server = Fixture::sample().await;
    let mut raw = Raw::connect(server.address).await;
    // A GO whose export name claims four gigabytes, and one with a name that is not UTF-8.
    for data in [&b"\xff\xff\xff\xffdisk\0\0"[..], b"\0\0\0\x04\xff\xfe\xfd\xfc\0\0"] {
        raw.stream.write_all(b"IHAVEOPT\0\0\0\x07\0\0\0\x0a").await.unwrap();
        raw.stream.write_all(data).await.unwrap();
        let mut head = [0; 20];
        raw.stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[12..16], [0x80, 0, 0, 3], "NBD_REP_ERR_INVALID");
        let length = u32::from_be_bytes([head[16], head[17], head[18], head[19]]);
        raw.stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
    }
    raw.go("disk").await;
    server.stop().await;
}

#[tokio::test]
async fn a_write_of_gigabytes_ends_the_connection() {
    let server = Fixture::sample().await;
    let mut raw = Raw::ready(server.address, Framing::Simple).await;
    raw.send(Command::Write, 1, 0, 0xffff_ffff).await;
    raw.closed().await;
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn clients_that_vanish_with_requests_in_flight_are_forgotten() {
    let server = Fixture::sample().await;
    for _ in 0..20 {
        let mut raw = Raw::ready(server.address, Framing::Structured).await;
        for cookie in 0..50 {
            raw.read(cookie, 1 << 20, 1 << 20).await;
        }
        drop(raw);
    }
    let mut half = Raw::ready(server.address, Framing::Simple).await;
    half.stream.write_all(b"\x25\x60\x95\x13\0").await.unwrap();
    drop(half);
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_places_come_back() {
    let mut limits = Limits::default();
    limits.max_connections = 64;
    let device = Arc::new(MemoryDisk::from_bytes(&sample()));
    let server = Fixture::device(device, limits).await;
    let mut served = vec![];
    for _ in 0..64 {
        served.push(Raw::ready(server.address, Framing::Simple).await);
    }
    for _ in 0..100 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        assert!(stream.read_exact(&mut [0; 18]).await.is_err(), "one more was served");
    }
    served.clear();
    // The places come back as the server notices; a refused connection just tries again.
    loop {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        if stream.read_exact(&mut [0; 18]).await.is_ok() {
            break;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_thousand_strangers_keep_nobody_out_and_nobody_waiting() {
    // Both ends of each connection are here, and many systems allow a process 1,024 files.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let mut limits = Limits::default();
    limits.max_connections = 100;
    let device = Arc::new(MemoryDisk::from_bytes(&sample()));
    let server = Fixture::device(device, limits).await;
    let mut client = Raw::ready(server.address, Framing::Structured).await;
    let mut strangers = vec![];
    for number in 0..1000 {
        strangers.push(TcpStream::connect(server.address).await.unwrap());
        if number % 100 == 99 {
            // One who was there, and one who comes, are served in the midst of them.
            client.read(number, 0, 512).await;
            assert_eq!(client.chunk().await.1[8..], sample()[..512]);
            still_serves(&server).await;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn one_address_has_its_share_of_connections() {
    let mut limits = Limits::default();
    limits.max_connections_per_peer = 3;
    let device = Arc::new(MemoryDisk::from_bytes(&sample()));
    let server = Fixture::device(device, limits).await;
    let mut clients = vec![];
    for _ in 0..3 {
        clients.push(Raw::ready(server.address, Framing::Simple).await);
    }
    let mut fourth = TcpStream::connect(server.address).await.unwrap();
    assert!(fourth.read_exact(&mut [0; 18]).await.is_err(), "one more was served");
    // A Unix socket has no address: its clients are this user's own.
    let mut own = tokio::net::UnixStream::connect(&server.socket).await.unwrap();
    own.read_exact(&mut [0; 18]).await.unwrap();
    server.stop().await;
}

/// Others hold all the memory there is for content, and do not read what they asked for.
#[tokio::test]
async fn small_requests_go_on_while_others_hold_all_the_memory() {
    let mut limits = Limits::default();
    limits.total_bytes_in_flight = 4 << 20;
    let device = Arc::new(MemoryDisk::from_bytes(&sample()));
    let server = Fixture::device(device, limits).await;
    let mut deaf = vec![];
    for _ in 0..3 {
        let mut raw = Raw::ready(server.address, Framing::Simple).await;
        for cookie in 0..8 {
            raw.read(cookie, 0, 16 << 20).await;
        }
        deaf.push(raw);
    }
    for _ in 0..10 {
        still_serves(&server).await;
    }
    drop(deaf);
    // What they held comes back.
    let mut raw = Raw::ready(server.address, Framing::Simple).await;
    raw.read(1, 0, 16 << 20).await;
    assert_eq!(raw.simple().await, (None, 1));
    drop(raw);
    server.stop().await;
}

#[tokio::test]
async fn two_hundred_connections_are_served_side_by_side() {
    let mut limits = Limits::default();
    limits.max_connections = 200;
    let device = Arc::new(MemoryDisk::from_bytes(&sample()));
    let server = Fixture::device(device, limits).await;
    let mut clients = vec![];
    for _ in 0..200 {
        clients.push(Raw::ready(server.address, Framing::Structured).await);
    }
    for (cookie, raw) in clients.iter_mut().enumerate() {
        raw.read(cookie as u64, 0, 65536).await;
    }
    for (cookie, raw) in clients.iter_mut().enumerate() {
        let (header, payload) = raw.chunk().await;
        assert_eq!(header.cookie, cookie as u64);
        assert!(payload[8..] == sample()[..payload.len() - 8]);
    }
    server.stop().await;
}

#[tokio::test]
async fn clients_that_stall_are_dropped() {
    let mut limits = Limits::default();
    limits.handshake_timeout = Duration::from_millis(50);
    let device = Arc::new(MemoryDisk::from_bytes(&sample()));
    let server = Fixture::device(Arc::clone(&device) as _, limits).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut greeting = vec![];
    silent.read_to_end(&mut greeting).await.unwrap();
    assert_eq!(greeting.len(), 18, "dropped in the negotiation");
    server.stop().await;

    let mut limits = Limits::default();
    limits.stall_timeout = Duration::from_millis(50);
    let server = Fixture::device(device, limits).await;
    let mut half = Raw::ready(server.address, Framing::Simple).await;
    half.stream.write_all(b"\x25\x60\x95\x13\0").await.unwrap();
    half.closed().await;
    // A client that never reads: its replies do not fit the socket's buffers.
    let mut deaf = Raw::ready(server.address, Framing::Simple).await;
    for cookie in 0..64 {
        deaf.read(cookie, 0, 16 << 20).await;
    }
    still_serves(&server).await;
    while deaf.stream.write_all(&[0; 1]).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_no_replies_does_not_hold_up_the_shutdown_for_ever() {
    let mut limits = Limits::default();
    limits.shutdown_grace = Duration::from_millis(50);
    limits.stall_timeout = Duration::from_secs(24 * 3600);
    let device = Arc::new(MemoryDisk::from_bytes(&sample()));
    let server = Fixture::device(device, limits).await;
    let mut deaf = Raw::ready(server.address, Framing::Simple).await;
    for cookie in 0..64 {
        deaf.read(cookie, 0, 16 << 20).await;
    }
    server.stop().await;
    deaf.closed().await;
}

/// Crashes on every read.
struct Crashing;

#[async_trait::async_trait]
impl BlockRead for Crashing {
    fn size(&self) -> u64 {
        1 << 20
    }

    async fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
        tokio::task::yield_now().await;
        panic!("a device that crashes, as the test wants it to")
    }

    fn read_cached(&self, offset: u64, _: &mut [u8]) -> bool {
        assert!(offset > 0, "a device that crashes, as the test wants it to");
        false
    }
}

#[tokio::test]
async fn a_crash_in_the_device_is_one_failed_request() {
    let exports = vec![
        sluice_nbd::Export::new("disk", Arc::new(MemoryDisk::from_bytes(&sample()))),
        sluice_nbd::Export::new("crashing", Arc::new(Crashing)),
    ];
    let server = Fixture::exports(exports, Limits::default()).await;
    let mut raw = Raw::connect(server.address).await;
    raw.go("crashing").await;
    for cookie in 1..4 {
        raw.read(cookie, (cookie - 1) * 512, 512).await;
        assert_eq!(raw.simple().await, (Some(Errno::Io), cookie));
    }
    still_serves(&server).await;
    server.stop().await;
}
