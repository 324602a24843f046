//! Metrics for Prometheus: a server that answers one GET and closes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::daemon::{Asker, Daemon};
use crate::metrics;

/// Connections served at a time; further ones wait.
const CONNECTIONS: usize = 8;
/// The head of a request is not longer than this, in bytes.
const LONGEST_HEAD: usize = 8 << 10;
/// How long a client may take to ask and to fetch.
const TIME: Duration = Duration::from_secs(10);
/// After a failure to accept, which is lack of descriptors as a rule.
const PAUSE: Duration = Duration::from_millis(100);

/// A bound address for metrics.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
}

impl MetricsServer {
    /// Listens; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system reports.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system reports.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`, beside the daemon.
    pub fn serve(self, daemon: &Daemon, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let asker = daemon.asker();
        tokio::spawn(async move {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let accepted = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = self.listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let asker = asker.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(TIME, converse(stream, &asker)).await;
                    drop(place);
                });
            }
        });
    }
}

async fn converse(mut stream: TcpStream, asker: &Asker) -> io::Result<()> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !is_whole(&head) {
        let length = stream.read(&mut part).await?;
        if length == 0 || head.len() + length > LONGEST_HEAD {
            return respond(&mut stream, "400 Bad Request", "this is no request\n").await;
        }
        head.extend_from_slice(&part[..length]);
    }
    match target(&head) {
        Some("/metrics") => match asker.mounted().await {
            Some((mounts, now)) => {
                respond(&mut stream, "200 OK", &metrics::encode(&mounts, now)).await
            }
            None => respond(&mut stream, "503 Service Unavailable", "mountd is ending\n").await,
        },
        Some(_) => respond(&mut stream, "404 Not Found", "see /metrics\n").await,
        None => respond(&mut stream, "405 Method Not Allowed", "only GET\n").await,
    }
}

fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|part| part == b"\r\n\r\n")
}

/// The path that is asked for by GET.
fn target(head: &[u8]) -> Option<&str> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let ("GET", target, "HTTP/1.0" | "HTTP/1.1") = (words.next()?, words.next()?, words.next()?)
    else {
        return None;
    };
    target.split('?').next()
}

async fn respond(stream: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gets_have_a_target() {
        assert_eq!(target(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), Some("/metrics"));
        for head in ["POST /metrics HTTP/1.1\r\n\r\n", "GET /metrics\r\n\r\n", "\r\n\r\n", "GET"] {
            assert_eq!(target(head.as_bytes()), None, "{head:?}");
        }
        assert_eq!(target(b"GET \xff HTTP/1.1\r\n\r\n"), None);
    }
}
