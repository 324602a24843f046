//! A server beside a test, and a client that says exactly what it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use sluice_block::{BlockRead, BlockWrite, MemoryDisk};
use sluice_http::{Export, Limits, Server, Tls, Token};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const TOKEN: &str = "token-of-the-tests";
pub const TAG: &str = "\"tag1\"";
/// When every export was modified.
pub const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
pub const SIZE: usize = 3_000_000;

pub struct Serving {
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
}

/// The content of the sample disk: data, a hole, data, and an odd end.
pub fn content() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    for (at, byte) in bytes.iter_mut().enumerate() {
        if !(500_000..2_500_000).contains(&at) {
            *byte = (at % 251) as u8 + 1;
        }
    }
    bytes
}

pub async fn sample() -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new(SIZE as u64);
    let content = content();
    disk.write_at(0, &content[..500_000]).await.unwrap();
    disk.write_at(2_500_000, &content[2_500_000..]).await.unwrap();
    Arc::new(disk)
}

pub fn export(name: &str, device: Arc<dyn BlockRead>) -> Export {
    let modified = UNIX_EPOCH + Duration::from_secs(784_111_777);
    let (tag, description) = ("tag1".to_owned(), "a disk".to_owned());
    Export { name: name.to_owned(), description, tag, modified, device }
}

/// Serves a device as `disk`.
pub async fn serve(device: Arc<dyn BlockRead>, limits: Limits, tls: Option<Tls>) -> Serving {
    let token = Token::new(TOKEN).unwrap();
    let server = Server::new(vec![export("disk", device)], token, tls, limits).unwrap();
    let bound = server.bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let address = bound.addresses()[0];
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(bound.serve(shutdown.clone()));
    Serving { address, shutdown, task }
}

/// The sample disk under the usual limits.
pub async fn plain() -> Serving {
    serve(sample().await, Limits::default(), None).await
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header; its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// Reads a head, and the body that its length announces; a body cut off is as long as it came.
pub async fn answer(stream: &mut (impl AsyncRead + Unpin), body: bool) -> Answer {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer { status, head, body: vec![] };
    let length = answer.header("content-length").map_or(0, |text| text.parse().unwrap());
    if body {
        let mut content = vec![];
        let _ = stream.take(length).read_to_end(&mut content).await;
        answer.body = content;
    }
    answer
}

impl Serving {
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// One request on a connection of its own. `lines` are more header lines.
    pub async fn ask(&self, method: &str, path: &str, lines: &[&str]) -> Answer {
        let mut stream = self.connect().await;
        send(&mut stream, method, path, lines).await;
        answer(&mut stream, method != "HEAD").await
    }

    /// A GET of the disk.
    pub async fn get(&self, lines: &[&str]) -> Answer {
        self.ask("GET", &format!("/{TOKEN}/disk.raw"), lines).await
    }
}

pub async fn send(stream: &mut TcpStream, method: &str, path: &str, lines: &[&str]) {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n");
    for line in lines {
        text += &format!("{line}\r\n");
    }
    stream.write_all(format!("{text}\r\n").as_bytes()).await.unwrap();
}
