//! Servers that vanish, lie or limp.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sluice_block::{BlockRead, ErrorKind};
use sluice_connector_nbd::{NbdError, NbdSource};
use sluice_nbd::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Ours, sample};

#[tokio::test]
async fn an_unknown_export_is_an_error_that_names_those_there_are() {
    let server = Ours::start(Limits::default()).await;
    let uri = format!("nbd://{}/nothing", server.address);
    let error = NbdSource::connect(&uri).await.unwrap_err();
    assert!(error.to_string().contains("it offers \"disk\""), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn nobody_there_is_an_error_that_names_the_address() {
    // Bound, so that nobody else is given it.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = socket.local_addr().unwrap();
    let error = NbdSource::connect(&format!("nbd://{free}/disk")).await.unwrap_err();
    assert!(matches!(error, NbdError::Connect { .. }));
    assert!(error.to_string().contains(&free.to_string()), "{error}");
}

/// Passes connections on to `to`, cutting each after so many bytes of replies.
async fn cutting_proxy(to: SocketAddr, after: u64) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cuts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&cuts);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let server = TcpStream::connect(to).await.unwrap();
                let (client_in, mut client_out) = client.into_split();
                let (server_in, mut server_out) = server.into_split();
                let requests = tokio::spawn(async move {
                    let mut client_in = client_in;
                    let _ = tokio::io::copy(&mut client_in, &mut server_out).await;
                });
                let _ = tokio::io::copy(&mut server_in.take(after), &mut client_out).await;
                counter.fetch_add(1, Ordering::SeqCst);
                requests.abort();
            });
        }
    });
    (address, cuts)
}

#[tokio::test]
async fn lost_connections_are_made_again_and_nothing_is_missed() {
    let server = Ours::start(Limits::default()).await;
    // Enough for the negotiation and one piece of content, never for all of it.
    let (proxy, cuts) = cutting_proxy(server.address, 1_400_000).await;
    let source = NbdSource::connect(&format!("nbd://{proxy}/disk")).await.unwrap();
    for _ in 0..4 {
        let mut buf = vec![0xaa; 2 << 20];
        source.read_at(1 << 20, &mut buf).await.unwrap();
        assert!(buf[..] == sample()[1 << 20..3 << 20]);
    }
    assert!(cuts.load(Ordering::SeqCst) > 0, "the proxy never cut anything");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_is_gone_makes_reads_unavailable_in_the_end() {
    let server = Ours::start(Limits::default()).await;
    let source = NbdSource::connect(&server.tcp()).await.unwrap();
    server.stop().await;
    // Only pauses are left to wait for: a connection to nobody fails at once.
    tokio::time::pause();
    let error = source.read_at(0, &mut [0; 512]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_disk_that_changed_its_size_is_not_the_same_disk() {
    let server = Ours::start(Limits::default()).await;
    let source = NbdSource::connect(&server.unix()).await.unwrap();
    let (socket, dir) = (server.dir.path().join("nbd.sock"), tempfile::tempdir().unwrap());
    let other = Ours::serve(&sample()[..4096], Limits::default()).await;
    std::fs::rename(&socket, dir.path().join("old")).unwrap();
    std::os::unix::fs::symlink(other.dir.path().join("nbd.sock"), &socket).unwrap();
    server.cancel();
    let mut last = None;
    for _ in 0..8 {
        if let Err(error) = source.read_at(0, &mut [0; 512]).await {
            last = Some(error);
            break;
        }
    }
    let error = last.expect("a read noticed");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("changed its size"), "{cause}");
    other.stop().await;
}

#[tokio::test]
async fn a_server_that_takes_fewer_connections_than_announced_is_still_read() {
    let mut limits = Limits::default();
    limits.max_connections = 2;
    let server = Ours::start(limits).await;
    let source = NbdSource::connect(&server.tcp()).await.unwrap();
    let mut buf = vec![0; sample().len()];
    source.read_at(0, &mut buf).await.unwrap();
    assert!(buf == sample());
    server.stop().await;
}

/// A server that sends `script` to whoever connects, then waits for the client to leave.
async fn scripted(script: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let script = script.clone();
            tokio::spawn(async move {
                let _ = client.write_all(&script).await;
                let _ = client.read_to_end(&mut vec![]).await;
            });
        }
    });
    format!("nbd://{address}/disk")
}

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";
const REPLY: &[u8] = b"\0\x03\xe8\x89\x04\x55\x65\xa9";

#[tokio::test]
async fn servers_that_break_the_protocol_are_left() {
    let ack_extended = [GREETING, REPLY, b"\0\0\0\x0b\0\0\0\x01\0\0\0\0"].concat();
    let no_contexts = [&ack_extended[..], REPLY, b"\0\0\0\x0a\0\0\0\x01\0\0\0\0"].concat();
    let go = |data: &[u8]| {
        let head = [&no_contexts[..], REPLY, b"\0\0\0\x07\0\0\0\x03\0\0\0"].concat();
        [&head[..], &[data.len() as u8], data, REPLY, b"\0\0\0\x07\0\0\0\x01\0\0\0\0"].concat()
    };
    for script in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0".to_vec(),
        b"NBDMAGICIHAVEOPT\0\0".to_vec(),
        [GREETING, b"garbage where a reply belongs"].concat(),
        [GREETING, REPLY, b"\0\0\0\x0b\0\0\0\x02\xff\xff\xff\xff"].concat(),
        [GREETING, REPLY, b"\0\0\0\x07\0\0\0\x01\0\0\0\0"].concat(),
        // No size; a size no disk has; blocks of three bytes.
        [&no_contexts[..], REPLY, b"\0\0\0\x07\0\0\0\x01\0\0\0\0"].concat(),
        go(b"\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\x01"),
        go(b"\0\x03\0\0\0\x03\0\0\x10\0\0\x01\0\0"),
    ] {
        let uri = scripted(script.clone()).await;
        let error = NbdSource::connect(&uri).await.unwrap_err();
        assert!(
            matches!(error, NbdError::Wire(_) | NbdError::Protocol(_)),
            "{error} after {script:?}"
        );
    }
    let opened = scripted(go(b"\0\0\0\0\0\0\0\0\x10\0\0\x01")).await;
    assert_eq!(NbdSource::connect(&opened).await.unwrap().size(), 4096);
}
