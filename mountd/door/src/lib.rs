//! Who is let in: how many connections there are, of whom, and who has not shown yet that they may
//! be there. And the way in itself ([`Entrance`]), which is the same for all servers; and how often
//! one may guess at a secret ([`Guard`]).
//!
//! Every server of disks has a door. Each connection takes a place, from one address only so many.
//! Until it has shown who it is (it has negotiated, logged in, or known the token) it is a
//! stranger, and the oldest stranger makes room for who comes next: so a crowd that only connects
//! keeps nobody out, and those who are known are never sent away.

mod entrance;
mod guard;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

pub use entrance::{Clients, Entrance, Portal, is_hangup};
pub use guard::Guard;

/// The part of an IPv6 address that one customer of a provider has to itself (RFC 6177).
const V6_NETWORK: u128 = !0 << 64;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// At a time.
    pub all: usize,
    /// At a time from one address (of IPv6, from one /64 network).
    pub per_address: usize,
    /// At a time of strangers; no fewer than one.
    pub strangers: usize,
}

/// Counts connections. Strangers make room for newer ones.
#[derive(Debug)]
pub struct Door {
    places: Places,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    connections: usize,
    by_address: HashMap<IpAddr, usize>,
    /// The oldest first.
    strangers: VecDeque<(u64, CancellationToken)>,
    next: u64,
}

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// This many are there, none of them a stranger.
    All(usize),
    /// This many are there from its address.
    Address(usize),
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All(limit) => write!(f, "the limit of {limit} connections is reached"),
            Self::Address(limit) => {
                write!(f, "the limit of {limit} connections from one address is reached")
            }
        }
    }
}

impl Door {
    /// A door to so many places, all of them free.
    pub fn new(places: Places) -> Arc<Self> {
        let places = Places { strangers: places.strangers.max(1), ..places };
        Arc::new(Self { places, inside: Mutex::default() })
    }

    /// Lets a connection in; `address` is where it comes from, if that is known.
    ///
    /// # Errors
    /// When there are too many.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Ticket, Full> {
        let Places { all, per_address, strangers } = self.places;
        let address = address.map(network);
        let mut inside = self.inside();
        if let Some(address) = address
            && inside.by_address.get(&address).is_some_and(|count| *count >= per_address)
        {
            return Err(Full::Address(per_address));
        }
        // A stranger gives way; it is counted until it has noticed.
        if inside.connections >= all || inside.strangers.len() >= strangers {
            match inside.strangers.pop_front() {
                Some((_, oldest)) => oldest.cancel(),
                None => return Err(Full::All(all)),
            }
        }
        let (id, crowded_out) = (inside.next, CancellationToken::new());
        inside.next += 1;
        inside.connections += 1;
        inside.strangers.push_back((id, crowded_out.clone()));
        if let Some(address) = address {
            *inside.by_address.entry(address).or_default() += 1;
        }
        Ok(Ticket { door: Arc::clone(self), address, id, crowded_out })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is counted as one address: an IPv4 address, or a /64 network of IPv6.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & V6_NETWORK).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// A connection that was let in, until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    door: Arc<Door>,
    address: Option<IpAddr>,
    id: u64,
    crowded_out: CancellationToken,
}

impl Ticket {
    /// The connection is no stranger any more: it does not have to make room.
    pub fn known(&self) {
        self.door.inside().strangers.retain(|(id, _)| *id != self.id);
    }

    /// Returns when the connection must make room for another.
    pub async fn crowded_out(&self) {
        self.crowded_out.cancelled().await;
    }

    /// Whether the connection must make room for another.
    pub fn is_crowded_out(&self) -> bool {
        self.crowded_out.is_cancelled()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.door.inside();
        inside.connections -= 1;
        inside.strangers.retain(|(id, _)| *id != self.id);
        if let Some(address) = self.address
            && let Some(count) = inside.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                inside.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(all: usize, per_address: usize, strangers: usize) -> Arc<Door> {
        Door::new(Places { all, per_address, strangers })
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn places_are_given_back() {
        let door = door(2, 9, 9);
        let (first, second) = (door.enter(None).ok().unwrap(), door.enter(None).ok().unwrap());
        first.known();
        second.known();
        assert_eq!(door.enter(None).err(), Some(Full::All(2)));
        drop(first);
        assert!(door.enter(None).is_ok());
    }

    #[test]
    fn one_address_does_not_take_all_places() {
        let door = door(9, 1, 9);
        let one = door.enter(address("192.0.2.1")).ok().unwrap();
        assert_eq!(door.enter(address("::ffff:192.0.2.1")).err(), Some(Full::Address(1)));
        assert!(door.enter(address("192.0.2.2")).is_ok());
        assert!(door.enter(None).is_ok());
        drop(one);
        assert!(door.enter(address("192.0.2.1")).is_ok());
        let network = door.enter(address("2001:db8::1")).ok().unwrap();
        assert_eq!(door.enter(address("2001:db8::ffff:1")).err(), Some(Full::Address(1)));
        assert!(door.enter(address("2001:db8:0:1::1")).is_ok());
        drop(network);
        assert!(door.inside().by_address.is_empty());
        assert_eq!(door.inside().connections, 0);
    }

    #[test]
    fn the_oldest_stranger_makes_room_and_who_is_known_does_not() {
        let door = door(9, 9, 2);
        let tickets: Vec<_> = (0..3).map(|_| door.enter(None).ok().unwrap()).collect();
        let out: Vec<_> = tickets.iter().map(|ticket| ticket.is_crowded_out()).collect();
        assert_eq!(out, [true, false, false]);
        tickets[1].known();
        let fourth = door.enter(None).ok().unwrap();
        assert!(!tickets[1].is_crowded_out() && !tickets[2].is_crowded_out());
        drop(fourth);
        // Also where there is no place at all.
        let small = self::door(1, 9, 9);
        let stranger = small.enter(None).ok().unwrap();
        let client = small.enter(None).ok().unwrap();
        client.known();
        assert!(stranger.is_crowded_out());
        assert_eq!(small.enter(None).err(), Some(Full::All(1)));
    }
}
