use std::time::Duration;

use sluice_door::Places;

/// What clients may take of the server, each and together.
///
/// Nothing one client does may keep the others from being served: what it holds is bounded, and it
/// gives everything back within a bounded time. Memory for content is bounded by
/// [`total_bytes_in_flight`](Self::total_bytes_in_flight), or one request of the largest size.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time; further ones are closed at once.
    pub max_connections: usize,
    /// Connections at a time from one IP address; further ones are closed at once. Unix sockets are
    /// not counted: only their owner can connect.
    pub max_connections_per_peer: usize,
    /// Connections that may be negotiating at a time. When one more comes, the one that has been
    /// at it for longest is closed, so that idle strangers keep nobody out.
    pub max_handshakes: usize,
    /// Requests a connection may have unanswered before its next one is read.
    pub requests_in_flight: usize,
    /// Bytes of content a connection may have unanswered. At least one request of the largest
    /// size is always let through.
    pub bytes_in_flight: usize,
    /// Bytes of content that all connections together may have unanswered.
    pub total_bytes_in_flight: usize,
    /// Time from connecting to the end of the negotiation.
    pub handshake_timeout: Duration,
    /// Time without any progress in the middle of a request or a reply.
    pub stall_timeout: Duration,
    /// Bytes per second below which the content of a write counts as stalled, when more than
    /// [`stall_timeout`](Self::stall_timeout) has passed; likewise replies.
    pub slowest_transfer: u64,
    /// Time that requests under way get to finish when the server shuts down.
    pub shutdown_grace: Duration,
}

impl Limits {
    pub(crate) fn places(&self) -> Places {
        let (all, per_address) = (self.max_connections, self.max_connections_per_peer);
        Places { all, per_address, strangers: self.max_handshakes }
    }

    /// The time that `bytes` of content may take on the wire.
    pub(crate) fn patience(&self, bytes: u64) -> Duration {
        let seconds = bytes / self.slowest_transfer.max(1);
        self.stall_timeout.saturating_add(Duration::from_secs(seconds))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // nbdcopy opens 4 connections, a Linux client one per core. An idle one costs 20 KiB.
            max_connections: 1024,
            max_connections_per_peer: 256,
            max_handshakes: 256,
            // Twice the depth nbdcopy uses per connection.
            requests_in_flight: 128,
            bytes_in_flight: 32 << 20,
            total_bytes_in_flight: 512 << 20,
            handshake_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            // The slowest line over which one would use a disk.
            slowest_transfer: 128 << 10,
            shutdown_grace: Duration::from_secs(30),
        }
    }
}
