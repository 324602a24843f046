//! Who is let in: how many connections there are, of whom, and how far they are.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::Limits;

/// The part of an IPv6 address that one customer of a provider has for himself.
const V6_NETWORK: u128 = !0 << 64;

/// Counts connections. Those that still negotiate make room for newer ones.
pub(crate) struct Door {
    most: usize,
    most_per_peer: usize,
    most_handshakes: usize,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    connections: usize,
    by_peer: HashMap<IpAddr, usize>,
    /// Those that negotiate, the oldest first.
    handshakes: VecDeque<(u64, CancellationToken)>,
    next: u64,
}

/// Why a connection is not let in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// There are too many.
    All(usize),
    /// There are too many from this address.
    Peer(usize),
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All(limit) => write!(f, "the limit of {limit} connections is reached"),
            Self::Peer(limit) => {
                write!(f, "the limit of {limit} connections from one address is reached")
            }
        }
    }
}

impl Door {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            most: limits.max_connections,
            most_per_peer: limits.max_connections_per_peer,
            most_handshakes: limits.max_handshakes.max(1),
            inside: Mutex::default(),
        })
    }

    /// Lets a connection in; `peer` is its address, where it has one.
    pub(crate) fn enter(self: &Arc<Self>, peer: Option<IpAddr>) -> Result<Ticket, Full> {
        let peer = peer.map(network);
        let mut inside = self.inside();
        if let Some(peer) = peer
            && inside.by_peer.get(&peer).is_some_and(|count| *count >= self.most_per_peer)
        {
            return Err(Full::Peer(self.most_per_peer));
        }
        // One that only negotiates gives way; it is counted until it has noticed.
        let crowded = inside.connections >= self.most;
        if crowded || inside.handshakes.len() >= self.most_handshakes {
            match inside.handshakes.pop_front() {
                Some((_, oldest)) => oldest.cancel(),
                None => return Err(Full::All(self.most)),
            }
        }
        let (id, crowded_out) = (inside.next, CancellationToken::new());
        inside.next += 1;
        inside.connections += 1;
        inside.handshakes.push_back((id, crowded_out.clone()));
        if let Some(peer) = peer {
            *inside.by_peer.entry(peer).or_default() += 1;
        }
        Ok(Ticket { door: Arc::clone(self), peer, id, crowded_out })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is counted as one.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & V6_NETWORK).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// A connection that was let in, until it is dropped.
pub(crate) struct Ticket {
    door: Arc<Door>,
    peer: Option<IpAddr>,
    id: u64,
    /// Cancelled when the connection must make room for another.
    pub(crate) crowded_out: CancellationToken,
}

impl Ticket {
    /// The negotiation is over: the connection does not have to make room any more.
    pub(crate) fn negotiated(&self) {
        self.door.inside().handshakes.retain(|(id, _)| *id != self.id);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.door.inside();
        inside.connections -= 1;
        inside.handshakes.retain(|(id, _)| *id != self.id);
        if let Some(peer) = self.peer
            && let Some(count) = inside.by_peer.get_mut(&peer)
        {
            *count -= 1;
            if *count == 0 {
                inside.by_peer.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(all: usize, per_peer: usize, handshakes: usize) -> Arc<Door> {
        Door::new(&Limits {
            max_connections: all,
            max_connections_per_peer: per_peer,
            max_handshakes: handshakes,
            ..Limits::default()
        })
    }

    fn peer(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn places_are_given_back() {
        let door = door(2, 9, 9);
        let (first, second) = (door.enter(None).ok().unwrap(), door.enter(None).ok().unwrap());
        first.negotiated();
        second.negotiated();
        assert_eq!(door.enter(None).err(), Some(Full::All(2)));
        drop(first);
        assert!(door.enter(None).is_ok());
    }

    #[test]
    fn one_address_does_not_take_all_places() {
        let door = door(9, 1, 9);
        let one = door.enter(peer("192.0.2.1")).ok().unwrap();
        assert_eq!(door.enter(peer("::ffff:192.0.2.1")).err(), Some(Full::Peer(1)));
        assert!(door.enter(peer("192.0.2.2")).is_ok());
        assert!(door.enter(None).is_ok());
        drop(one);
        assert!(door.enter(peer("192.0.2.1")).is_ok());
        let network = door.enter(peer("2001:db8::1")).ok().unwrap();
        assert_eq!(door.enter(peer("2001:db8::ffff:1")).err(), Some(Full::Peer(1)));
        assert!(door.enter(peer("2001:db8:0:1::1")).is_ok());
        drop(network);
        assert!(door.inside().by_peer.is_empty());
        assert_eq!(door.inside().connections, 0);
    }

    #[test]
    fn the_oldest_negotiation_makes_room_and_a_finished_one_does_not() {
        let door = door(9, 9, 2);
        let tickets: Vec<_> = (0..3).map(|_| door.enter(None).ok().unwrap()).collect();
        let out: Vec<_> = tickets.iter().map(|ticket| ticket.crowded_out.is_cancelled()).collect();
        assert_eq!(out, [true, false, false]);
        tickets[1].negotiated();
        let fourth = door.enter(None).ok().unwrap();
        assert!(!tickets[1].crowded_out.is_cancelled() && !tickets[2].crowded_out.is_cancelled());
        drop(fourth);
        // Also where there is no place at all.
        let small = self::door(1, 9, 9);
        let stranger = small.enter(None).ok().unwrap();
        let client = small.enter(None).ok().unwrap();
        client.negotiated();
        assert!(stranger.crowded_out.is_cancelled());
        assert_eq!(small.enter(None).err(), Some(Full::All(1)));
    }
}
