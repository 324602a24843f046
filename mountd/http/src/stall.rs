//! A socket whose peer must take what it is sent.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes that count as progress: a peer that takes one byte a minute makes none.
const PROGRESS: usize = 16 << 10;

/// Fails writes when the peer took next to nothing for some time.
pub(crate) struct Watched<S> {
    inner: S,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// Set since a write had to wait, until there was progress or nothing is left to write.
    waiting: bool,
    taken: usize,
}

impl<S> Watched<S> {
    pub(crate) fn new(inner: S, timeout: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(timeout));
        Self { inner, timeout, timer, waiting: false, taken: 0 }
    }

    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Ok(count)) => {
                self.taken += count;
                self.waiting &= self.taken < PROGRESS;
                wrote
            }
            Poll::Ready(Err(_)) => wrote,
            Poll::Pending => {
                if !self.waiting {
                    (self.waiting, self.taken) = (true, 0);
                    let deadline = Instant::now() + self.timeout;
                    self.timer.as_mut().reset(deadline);
                }
                std::task::ready!(self.timer.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Only called with nothing left to write.
        self.waiting = false;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(1000);
        let failed = Watched::new(ours, SHORT).write_all(&[1; 5000]).await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_takes_next_to_nothing_is_given_up() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let reader = tokio::spawn(async move {
            while theirs.read_u8().await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
        });
        let failed = Watched::new(ours, SHORT).write_all(&[1; 500_000]).await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        reader.await.unwrap();
    }

    #[tokio::test]
    async fn progress_and_an_empty_buffer_end_the_wait() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let mut ours = Watched::new(ours, Duration::from_secs(1000));
        let reader = tokio::spawn(async move {
            let mut bytes = vec![0; 1000 + PROGRESS];
            theirs.read_exact(&mut bytes).await.map(|_| theirs)
        });
        // The first 1000 bytes fit without a wait.
        ours.write_all(&vec![1; 1000 + PROGRESS]).await.unwrap();
        assert_eq!((ours.taken, ours.waiting), (PROGRESS, false), "enough was taken");
        let _theirs = reader.await.unwrap().unwrap();
        let stuck = tokio::time::timeout(SHORT, ours.write_all(&[1; 5000])).await;
        assert!(stuck.is_err() && ours.waiting, "the peer takes no more");
        ours.flush().await.unwrap();
        assert!(!ours.waiting);
    }
}
