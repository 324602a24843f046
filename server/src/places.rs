//! Who may hold connections: so many at a time, and of them so many from one network.
//!
//! ```text
//!   accept ──► a stranger of its network ──► shows that it is a node ──► counts for the whole only
//!                     │
//!                     └─► its network has enough of them: closed
//! ```
//!
//! Without the second number, one machine that opens sockets and says nothing would shut out
//! everybody else, nodes with their tasks included. Nodes hold a connection for each slot that
//! waits, and many may come through one address: they are counted only until they have shown what
//! they are.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at a time. A node holds one for each slot that waits, and a few more.
const CONNECTIONS: usize = 8192;
/// Those of them that strangers from one network hold: an office behind one address has room, and
/// no network comes near the whole.
const OF_ONE_NETWORK: usize = 1024;

/// From where somebody comes: who has an address of the sixth version has all of its network.
pub(crate) fn network(peer: SocketAddr) -> String {
    match peer.ip().to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

type Networks = Arc<Mutex<HashMap<String, usize>>>;

/// All places.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    networks: Networks,
    of_one: usize,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// All are taken.
    #[error("there are too many")]
    All,
    /// Strangers from there have enough.
    #[error("there are too many from its network")]
    Network,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _one: OwnedSemaphorePermit,
    stranger: Stranger,
}

/// That a connection counts for its network, until it is known whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Stranger(Arc<Mutex<Option<String>>>, Networks);

impl Default for Places {
    fn default() -> Self {
        Self::new(CONNECTIONS, OF_ONE_NETWORK)
    }
}

impl Places {
    fn new(all: usize, of_one: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), networks: Networks::default(), of_one }
    }

    /// A place for somebody who comes from there.
    pub(crate) fn take(&self, peer: SocketAddr) -> Result<Place, Full> {
        let one = Arc::clone(&self.all).try_acquire_owned().map_err(|_| Full::All)?;
        let network = network(peer);
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let held = networks.entry(network.clone()).or_default();
        if *held >= self.of_one {
            return Err(Full::Network);
        }
        *held += 1;
        let counted = Arc::new(Mutex::new(Some(network)));
        Ok(Place { _one: one, stranger: Stranger(counted, Arc::clone(&self.networks)) })
    }
}

impl Place {
    /// For what learns later whose connection it is.
    pub(crate) fn stranger(&self) -> Stranger {
        self.stranger.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stranger.is_known();
    }
}

impl Stranger {
    /// It counts for no network any more.
    pub(crate) fn is_known(&self) {
        let network = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(network) = network else { return };
        let mut networks = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = networks.get_mut(&network) {
            *held -= 1;
            if *held == 0 {
                networks.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_of_the_sixth_version_is_one_neighbour() {
        let of = |text: &str| network(at(text));
        assert_eq!(of("192.0.2.7:9"), "192.0.2.7");
        assert_eq!(of("[::ffff:192.0.2.7]:9"), "192.0.2.7");
        assert_eq!(of("[2001:db8:1:2:3::4]:9"), of("[2001:db8:1:2:ff::1]:8"));
        assert_ne!(of("[2001:db8:1:2::1]:9"), of("[2001:db8:1:3::1]:9"));
    }

    #[test]
    fn strangers_of_one_network_leave_room_for_others_and_nodes_are_no_strangers() {
        let places = Places::new(4, 2);
        let take = |peer| places.take(at(peer));
        let first = take("[2001:db8::1]:1").unwrap();
        let second = take("[2001:db8::2]:1").unwrap();
        assert_eq!(take("[2001:db8::3]:1").unwrap_err(), Full::Network);
        let other = take("192.0.2.7:1").unwrap();
        first.stranger().is_known();
        let third = take("[2001:db8::3]:1").unwrap();
        assert_eq!(take("198.51.100.1:1").unwrap_err(), Full::All);
        drop((second, first));
        assert_eq!(places.networks.lock().unwrap().len(), 2, "told twice counts once");
        let again = take("[2001:db8::4]:1").unwrap();
        drop((third, other, again));
        assert!(places.networks.lock().unwrap().is_empty());
    }
}
