use std::future::Future;
use std::time::Duration;

use crate::{DestinationError, ErrorKind, Result};

/// The least time for an answer, whatever the caller's patience.
pub const LEAST_ANSWER: Duration = Duration::from_secs(5);

/// How long a request to a server may take.
///
/// A whole request with its body has `answer` plus its length at `rate`; a body that stands
/// still ends the request earlier, after `stall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until the answer to a request without a body is complete.
    pub answer: Duration,
    /// How long a body may stand still.
    pub stall: Duration,
    /// Slowest average that is waited for, in bytes per second.
    pub rate: u64,
}

impl Default for Timeouts {
    /// 64 KiB/s is a 20 Mbit/s line shared by 32 requests.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            stall: Duration::from_secs(20),
            rate: 64 << 10,
        }
    }
}

impl Timeouts {
    /// The same for callers who give up after `total`: no answer is waited for longer. A server
    /// that is alive gets [`LEAST_ANSWER`] at least.
    #[must_use]
    pub fn at_most(self, total: Duration) -> Self {
        let most = total.max(LEAST_ANSWER);
        Self {
            connect: self.connect.min(most),
            answer: self.answer.min(most),
            stall: self.stall.min(most),
            ..self
        }
    }

    /// The time for a request that moves `length` bytes.
    pub(crate) fn whole(&self, length: u64) -> Duration {
        self.answer + Duration::from_secs(length / self.rate.max(1))
    }

    /// Waits for a request that moves `length` bytes as long as it may take.
    pub(crate) fn within<'a, T: 'a>(
        &self,
        subject: &'a str,
        length: u64,
        request: impl Future<Output = Result<T>> + Send + 'a,
    ) -> impl Future<Output = Result<T>> + Send + 'a {
        let time = self.whole(length);
        // Clients' futures are many kilobytes large: keep them off the callers' stacks.
        let request = Box::pin(request);
        async move {
            match tokio::time::timeout(time, request).await {
                Ok(outcome) => outcome,
                Err(elapsed) => {
                    let context = format!("{subject}: not finished within {} s", time.as_secs());
                    Err(DestinationError::caused(ErrorKind::Unavailable, context, elapsed))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_a_request_grows_with_its_body() {
        let timeouts = Timeouts::default();
        assert_eq!(timeouts.whole(0), Duration::from_secs(60));
        assert_eq!(timeouts.whole(32 << 20), Duration::from_secs(60 + 512));
    }

    #[test]
    fn no_answer_is_waited_for_longer_than_the_caller_waits() {
        let timeouts = Timeouts::default();
        let hasty = timeouts.at_most(Duration::from_secs(7));
        assert_eq!((hasty.whole(0), hasty.stall), (Duration::from_secs(7), Duration::from_secs(7)));
        assert_eq!(timeouts.at_most(Duration::ZERO).answer, LEAST_ANSWER);
        assert_eq!(timeouts.at_most(Duration::from_secs(300)), timeouts);
    }
}
