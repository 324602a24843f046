//! Who is let in: how many connections there are, of whom, and who has not logged in yet.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::Limits;

/// The part of an IPv6 address that one customer of a provider has for himself.
const V6_NETWORK: u128 = !0 << 64;

/// Counts connections. Those that have not logged in make room for newer ones.
pub(crate) struct Door {
    most: usize,
    most_per_address: usize,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    connections: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Those that have not logged in, the oldest first.
    strangers: VecDeque<(u64, CancellationToken)>,
    next: u64,
}

/// Why a connection is not let in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// There are too many.
    All(usize),
    /// There are too many from this address.
    Address(usize),
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All(limit) => write!(f, "the limit of {limit} sessions is reached"),
            Self::Address(limit) => {
                write!(f, "the limit of {limit} sessions from one address is reached")
            }
        }
    }
}

impl Door {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            most: limits.max_sessions,
            most_per_address: limits.max_sessions_per_address,
            inside: Mutex::default(),
        })
    }

    /// Lets a connection in.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Ticket, Full> {
        let address = network(address);
        let mut inside = self.inside();
        if inside.by_address.get(&address).is_some_and(|count| *count >= self.most_per_address) {
            return Err(Full::Address(self.most_per_address));
        }
        if inside.connections >= self.most {
            // One that has not logged in gives way; it is counted until it has noticed.
            match inside.strangers.pop_front() {
                Some((_, oldest)) => oldest.cancel(),
                None => return Err(Full::All(self.most)),
            }
        }
        let (id, crowded_out) = (inside.next, CancellationToken::new());
        inside.next += 1;
        inside.connections += 1;
        inside.strangers.push_back((id, crowded_out.clone()));
        *inside.by_address.entry(address).or_default() += 1;
        Ok(Ticket { door: Arc::clone(self), address, id, crowded_out })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is counted as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & V6_NETWORK).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// A connection that was let in, until it is dropped.
pub(crate) struct Ticket {
    door: Arc<Door>,
    address: IpAddr,
    id: u64,
    /// Cancelled when the connection must make room for another.
    pub(crate) crowded_out: CancellationToken,
}

impl Ticket {
    /// The login is over: the connection does not have to make room any more.
    pub(crate) fn logged_in(&self) {
        self.door.inside().strangers.retain(|(id, _)| *id != self.id);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.door.inside();
        inside.connections -= 1;
        inside.strangers.retain(|(id, _)| *id != self.id);
        if let Some(count) = inside.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                inside.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(all: usize, per_address: usize) -> Arc<Door> {
        Door::new(&Limits {
            max_sessions: all,
            max_sessions_per_address: per_address,
            ..Limits::default()
        })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn sessions_keep_their_places_and_give_them_back() {
        let door = door(2, 9);
        let tickets =
            ["192.0.2.1", "192.0.2.2"].map(|text| door.enter(address(text)).ok().unwrap());
        tickets.iter().for_each(Ticket::logged_in);
        assert_eq!(door.enter(address("192.0.2.3")).err(), Some(Full::All(2)));
        assert!(tickets.iter().all(|ticket| !ticket.crowded_out.is_cancelled()));
        drop(tickets);
        assert!(door.enter(address("192.0.2.3")).is_ok());
        assert_eq!(door.inside().connections, 0);
    }

    #[test]
    fn one_address_does_not_take_all_places() {
        let door = door(9, 1);
        let one = door.enter(address("192.0.2.1")).ok().unwrap();
        assert_eq!(door.enter(address("::ffff:192.0.2.1")).err(), Some(Full::Address(1)));
        assert!(door.enter(address("192.0.2.2")).is_ok());
        drop(one);
        assert!(door.enter(address("192.0.2.1")).is_ok());
        let network = door.enter(address("2001:db8::1")).ok().unwrap();
        assert_eq!(door.enter(address("2001:db8::ffff:1")).err(), Some(Full::Address(1)));
        assert!(door.enter(address("2001:db8:0:1::1")).is_ok());
        drop(network);
        assert!(door.inside().by_address.is_empty());
    }

    #[test]
    fn the_oldest_that_has_not_logged_in_makes_room() {
        let door = door(2, 9);
        let [initiator, stranger] = [1, 2].map(|_| door.enter(address("192.0.2.1")).ok().unwrap());
        initiator.logged_in();
        let next = door.enter(address("192.0.2.1")).ok().unwrap();
        assert!(stranger.crowded_out.is_cancelled());
        assert!(!initiator.crowded_out.is_cancelled() && !next.crowded_out.is_cancelled());
        next.logged_in();
        assert_eq!(door.enter(address("192.0.2.1")).err(), Some(Full::All(2)));
    }
}
