//! How long the body of a request may take: whoever sends one byte now and then holds a
//! connection, and what waits for the rest, for as long as they like.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// How long a body may take however short it is.
const GRACE: Duration = Duration::from_secs(20);
/// So many bytes more of it give it another second: the slowest of lines are faster.
const BYTES: u64 = 16 << 10;

/// A body that must come in time.
pub(crate) struct Timely<B> {
    body: B,
    begun: Instant,
    grace: Duration,
    received: u64,
    end: Option<Pin<Box<Sleep>>>,
    /// Cancelled when it did not.
    late: CancellationToken,
}

impl<B> Timely<B> {
    /// The same body; `late` is cancelled once it takes too long, and the body says nothing more.
    /// Whoever listens closes the connection: an answer might be taken for a refusal of what was
    /// asked by a node whose line is bad, and which is to ask again.
    pub(crate) fn new(body: B, late: CancellationToken) -> Self {
        Self::within(GRACE, body, late)
    }

    fn within(grace: Duration, body: B, late: CancellationToken) -> Self {
        Self { body, begun: Instant::now(), grace, received: 0, end: None, late }
    }

    fn until(&self) -> Instant {
        self.begun + self.grace + Duration::from_secs(self.received / BYTES)
    }
}

impl<B> HttpBody for Timely<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            let frame = frame.map(|frame| frame.map_err(Into::into));
            if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref))
            {
                this.received += data.map_or(0, |data| data.len() as u64);
            }
            return Poll::Ready(frame);
        }
        let until = this.until();
        let end = this.end.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if end.deadline() != until {
            end.as_mut().reset(until);
        }
        if !this.late.is_cancelled() && end.as_mut().poll(context).is_ready() {
            this.late.cancel();
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use futures::{StreamExt, stream};
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_that_trickles_ends_and_one_that_comes_does_not() {
        let late = CancellationToken::new();
        let whole = Timely::new(Body::from("all of it"), late.clone());
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "all of it");
        // Each byte comes sooner than the end of patience, and there is always another.
        let bytes = stream::repeat(Bytes::from_static(b"x")).then(async |byte| {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok::<_, Infallible>(byte)
        });
        let body = Body::from_stream(bytes);
        let trickles = Timely::within(Duration::from_millis(60), body, late.clone());
        assert!(!late.is_cancelled());
        tokio::select! {
            _ = trickles.collect() => panic!("it never ends by itself"),
            () = late.cancelled() => {}
        }
    }

    #[test]
    fn a_long_body_may_take_longer() {
        let mut body = Timely::new(Body::empty(), CancellationToken::new());
        let short = body.until();
        body.received = 2 << 20;
        assert_eq!(body.until() - short, Duration::from_secs(128));
    }
}
