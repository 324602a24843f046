//! Clients that guess, stall, talk nonsense or stay; and disks that break.

use std::sync::Arc;
use std::time::Duration;

use sluice_block::{ErrorKind, FaultyRead, MemoryDisk};
use sluice_http::{Limits, Tls, self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{TOKEN, answer, content, plain, sample, send, serve};

/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// Waits until the server closes a connection; what came before that.
async fn closed(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut rest = vec![];
    // A reset closes it as well.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed");
    rest
}

#[tokio::test]
async fn bytes_that_cannot_be_read_cut_the_answer_off() {
    let disk = MemoryDisk::from_bytes(&content());
    let faulty = Arc::new(FaultyRead::new(disk, 2_600_000, ErrorKind::Damaged));
    let serving = serve(faulty, Limits::default(), None).await;
    let cut = serving.get(&[]).await;
    assert_eq!((cut.status, cut.header("content-length")), (200, Some("3000000")));
    assert!(cut.body.len() <= 2_600_000, "{}", cut.body.len());
    assert!(cut.body == content()[..cut.body.len()], "what came is what was written");
    // Nothing was sent yet: the client is told.
    assert_eq!(serving.get(&["Range: bytes=2600000-2600009"]).await.status, 500);
    assert_eq!(serving.get(&["Range: bytes=2700000-2700009,2900000-"]).await.status, 500);
    // And the rest of the disk can be read as before.
    assert_eq!(serving.get(&["Range: bytes=0-9"]).await.body, content()[..10]);
}

#[tokio::test]
async fn whoever_guesses_must_wait() {
    let serving = plain().await;
    let guess =
        async |number: u32| serving.ask("GET", &format!("/guess-{number:020}/disk.raw"), &[]).await;
    let mut refused = 0;
    for number in 0..40 {
        let got = guess(number).await;
        match got.status {
            401 => {}
            429 => {
                refused += 1;
                let wait: u64 = got.header("retry-after").unwrap().parse().unwrap();
                assert!((1..=3).contains(&wait), "{wait}");
            }
            other => panic!("{other}"),
        }
    }
    assert!(refused > 0, "40 guesses at once were judged");
}

#[tokio::test]
async fn nonsense_ends_its_connection_only() {
    let serving = plain().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000));
    for bytes in [&b"\0\xff\r\n\r\n"[..], b"GET\r\n\r\n", long.as_bytes(), many.as_bytes()] {
        let mut stream = serving.connect().await;
        // The server may close before it has read all of it.
        let _ = stream.write_all(bytes).await;
        let said = closed(&mut stream).await;
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4"), "{said:?}");
    }
    assert_eq!(serving.get(&[]).await.status, 200);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let short = limits(|limits| limits.header_timeout = Duration::from_millis(200));
    let serving = serve(sample().await, short.clone(), None).await;
    let mut slow = serving.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    closed(&mut slow).await;
    // Nor is a handshake.
    let made = self_signed(vec!["localhost".to_owned()]).unwrap();
    let tls = Tls::from_pem(made.certificate.as_bytes(), made.key.as_bytes()).unwrap();
    let serving = serve(sample().await, short, Some(tls)).await;
    let mut silent = serving.connect().await;
    closed(&mut silent).await;
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_given_up() {
    let short = limits(|limits| limits.stall_timeout = Duration::from_millis(200));
    let serving = serve(Arc::new(MemoryDisk::new(1 << 40)), short, None).await;
    let mut stream = serving.connect().await;
    send(&mut stream, "GET", &format!("/{TOKEN}/disk.raw"), &[]).await;
    // Only a look at the head, then nothing is read; the shutdown has nothing to wait for.
    answer(&mut stream, false).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let rest = closed(&mut stream).await;
    assert!((rest.len() as u64) < 1 << 30, "{}", rest.len());
}

#[tokio::test]
async fn connections_are_counted_and_places_come_back() {
    let few = limits(|limits| limits.max_connections_per_address = 2);
    let serving = serve(sample().await, few, None).await;
    let mut first = serving.connect().await;
    let mut second = serving.connect().await;
    for stream in [&mut first, &mut second] {
        send(stream, "GET", &format!("/{TOKEN}/disk.raw"), &["Range: bytes=0-1"]).await;
        assert_eq!(answer(stream, true).await.status, 206);
    }
    let mut third = serving.connect().await;
    assert!(closed(&mut third).await.is_empty());
    drop(first);
    // The place is free once the server has seen the end.
    let freed = async {
        loop {
            let mut stream = serving.connect().await;
            let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            if asked.is_ok() && !closed_at_once(&mut stream).await {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("a place");
}

#[tokio::test]
async fn who_does_not_show_the_token_makes_room_and_who_did_does_not() {
    let few = limits(|limits| limits.max_connections = 2);
    let serving = serve(sample().await, few, None).await;
    let mut known = serving.connect().await;
    let ask = async |stream: &mut tokio::net::TcpStream| {
        send(stream, "GET", &format!("/{TOKEN}/disk.raw"), &["Range: bytes=0-1"]).await;
        answer(stream, true).await.status
    };
    assert_eq!(ask(&mut known).await, 206);
    // One that is silent, then one that is wrong, then one that only asks what there may be.
    let mut silent = serving.connect().await;
    let mut wrong = serving.connect().await;
    assert!(closed(&mut silent).await.is_empty());
    send(&mut wrong, "GET", "/wrong-wrong-wrong-wrong/disk.raw", &[]).await;
    assert_eq!(answer(&mut wrong, true).await.status, 401);
    let mut second = serving.connect().await;
    assert!(closed(&mut wrong).await.is_empty());
    assert_eq!(ask(&mut second).await, 206);
    // Now all are known, and nobody has to go.
    let mut late = serving.connect().await;
    assert!(closed(&mut late).await.is_empty());
    for stream in [&mut known, &mut second] {
        assert_eq!(ask(stream).await, 206);
    }
}

async fn closed_at_once(stream: &mut tokio::net::TcpStream) -> bool {
    !matches!(stream.read(&mut [0; 1]).await, Ok(1))
}

#[tokio::test]
async fn a_shutdown_lets_answers_finish_and_idle_clients_go() {
    let serving = plain().await;
    let mut idle = serving.connect().await;
    send(&mut idle, "GET", &format!("/{TOKEN}/disk.raw"), &["Range: bytes=0-1"]).await;
    answer(&mut idle, true).await;
    let mut busy = serving.connect().await;
    send(&mut busy, "GET", &format!("/{TOKEN}/disk.raw"), &[]).await;
    // The answer is under way once its first byte is there.
    busy.peek(&mut [0]).await.unwrap();
    serving.shutdown.cancel();
    let got = answer(&mut busy, true).await;
    assert!(got.body == content());
    closed(&mut idle).await;
    tokio::time::timeout(PATIENCE, serving.task).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let short = limits(|limits| limits.shutdown_grace = Duration::from_millis(200));
    let serving = serve(Arc::new(MemoryDisk::new(1 << 40)), short, None).await;
    let mut stream = serving.connect().await;
    send(&mut stream, "GET", &format!("/{TOKEN}/disk.raw"), &[]).await;
    answer(&mut stream, false).await;
    serving.shutdown.cancel();
    tokio::time::timeout(PATIENCE, serving.task).await.expect("the server ends").unwrap();
}
