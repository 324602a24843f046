//! How often an address may be wrong about a secret.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::network;

/// Wrong secrets an address may send at once: a person who mistypes is not locked out.
const BURST: u32 = 10;
/// After that, one for each of these.
const REFILL: Duration = Duration::from_secs(2);
/// Addresses remembered at a time. Beyond, those not yet known share one account, so that a
/// crowd cannot make the server forget, nor make it remember without end.
const REMEMBERED: usize = 4096;

/// Accounts of wrong secrets by address (of IPv6, by /64 network).
///
/// An account is the moment at which all of its failures are forgiven: each adds `REFILL`.
#[derive(Debug, Default)]
pub struct Guard {
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    forgiven: HashMap<IpAddr, Instant>,
    crowd: Option<Instant>,
}

impl Guard {
    /// How long an address must wait until it may try again; `None` when it may now.
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let forgiven = accounts.find(network(address), now)?;
        // One more failure fits as long as it does not go beyond the burst.
        let most = now + REFILL * (BURST - 1);
        (forgiven > most).then(|| forgiven - most)
    }

    /// Counts a wrong secret.
    pub fn failed(&self, address: IpAddr, now: Instant) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        let before = accounts.find(address, now).unwrap_or(now).max(now);
        // Capped, so that requests already under way do not add up to a long wait.
        let until = (before + REFILL).min(now + REFILL * BURST);
        let known = accounts.forgiven.contains_key(&address);
        if known || accounts.forgiven.len() < REMEMBERED {
            accounts.forgiven.insert(address, until);
        } else {
            accounts.crowd = Some(until);
        }
    }
}

impl Accounts {
    fn find(&mut self, address: IpAddr, now: Instant) -> Option<Instant> {
        if self.forgiven.len() >= REMEMBERED {
            self.forgiven.retain(|_, until| *until > now);
        }
        let full = self.forgiven.len() >= REMEMBERED;
        self.forgiven.get(&address).copied().or(if full { self.crowd } else { None })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(number))
    }

    #[test]
    fn failures_use_up_an_account_that_fills_again() {
        let (guard, start) = (Guard::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(guard.wait(address(1), start), None);
            guard.failed(address(1), start);
        }
        assert_eq!(guard.wait(address(1), start), Some(REFILL));
        assert_eq!(guard.wait(address(2), start), None, "another address is not punished");
        let later = start + REFILL;
        assert_eq!(guard.wait(address(1), later), None);
        guard.failed(address(1), later);
        assert_eq!(guard.wait(address(1), later), Some(REFILL));
        assert_eq!(guard.wait(address(1), later + REFILL * BURST), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_a_crowd_is_punished_together() {
        let (guard, now) = (Guard::default(), Instant::now());
        let many = REMEMBERED as u32 + 100;
        for number in 0..many {
            guard.failed(address(number), now);
        }
        assert_eq!(guard.accounts.lock().unwrap().forgiven.len(), REMEMBERED);
        assert_eq!(guard.wait(address(many + 1), now), Some(REFILL));
        assert_eq!(guard.wait(address(1), now), None, "known ones have accounts of their own");
        assert_eq!(guard.wait(address(many + 1), now + REFILL * BURST), None);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let at = |text: &str| network(IpAddr::V6(text.parse::<Ipv6Addr>().unwrap()));
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), "192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
