//! A switch: which frame goes to which port.
//!
//! Port 0 is the gateway, behind which is this machine's loopback; the others are guests. Questions
//! for addresses are answered here and go nowhere, so that each guest has the address that the
//! gateway reaches it by.

use std::collections::BTreeMap;

use super::dhcp::{self, Offer};

/// The port of the gateway.
pub(super) const GATEWAY: usize = 0;
/// Addresses that are remembered: guests may make them up.
const MOST_KNOWN: usize = 256;

/// Where frames go.
pub(super) struct Switch {
    /// What guests are told, by port.
    offers: Vec<Option<Offer>>,
    /// Behind which port an address was seen.
    known: BTreeMap<[u8; 6], usize>,
}

fn mac(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.get(..6)?.try_into().ok()
}

impl Switch {
    /// A switch for guests that get these.
    pub(super) fn new(offers: impl IntoIterator<Item = Offer>) -> Self {
        let guests = offers.into_iter().map(Some);
        Self { offers: std::iter::once(None).chain(guests).collect(), known: BTreeMap::new() }
    }

    /// What follows from a frame that has come in: frames and their ports.
    pub(super) fn take(&mut self, from: usize, frame: &[u8]) -> Vec<(usize, Vec<u8>)> {
        let (Some(to), Some(by)) = (mac(frame), frame.get(6..).and_then(mac)) else {
            return Vec::new();
        };
        let one = |mac: [u8; 6]| mac[0] & 1 == 0;
        if one(by) && (self.known.len() < MOST_KNOWN || self.known.contains_key(&by)) {
            self.known.insert(by, from);
        }
        if dhcp::is_about_addresses(frame) {
            let offer = self.offers.get(from).copied().flatten();
            let answer = offer.and_then(|offer| dhcp::answer(frame, &offer));
            return answer.map(|answer| (from, answer)).into_iter().collect();
        }
        match self.known.get(&to).filter(|_| one(to)) {
            Some(port) if *port == from => Vec::new(),
            Some(port) => vec![(*port, frame.to_vec())],
            None => {
                let others = (0..self.offers.len()).filter(|port| *port != from);
                others.map(|port| (port, frame.to_vec())).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dhcp::tests::question;
    use super::*;

    fn switch() -> Switch {
        let offer = |last| Offer {
            address: [10, 1, 2, last].into(),
            mask: [255, 255, 255, 0].into(),
            gateway: [10, 1, 2, 254].into(),
            gateway_mac: [2, 0, 0, 0, 0, 1],
        };
        Switch::new([offer(15), offer(16)])
    }

    fn frame(to: u8, by: u8) -> Vec<u8> {
        let to = if to == 255 { [255; 6] } else { [2, 0, 0, 0, 0, to] };
        [&to[..], &[2, 0, 0, 0, 0, by], &[8, 6, 1, 2, 3]].concat()
    }

    fn ports(taken: Vec<(usize, Vec<u8>)>) -> Vec<usize> {
        taken.into_iter().map(|(port, _)| port).collect()
    }

    #[test]
    fn a_frame_goes_to_whom_it_is_for() {
        let mut switch = switch();
        assert_eq!(ports(switch.take(1, &frame(255, 11))), [0, 2]);
        assert_eq!(ports(switch.take(2, &frame(11, 12))), [1]);
        assert_eq!(ports(switch.take(1, &frame(12, 11))), [2]);
        assert_eq!(ports(switch.take(1, &frame(99, 11))), [0, 2], "nobody knows where that is");
        assert!(switch.take(1, &frame(11, 11)).is_empty(), "it is on its own port");
        assert!(switch.take(1, &[1, 2, 3]).is_empty());
        // Whoever makes addresses up fills no memory.
        for number in 0..10_000_u32 {
            let by = [&[2, 0][..], &number.to_be_bytes()].concat();
            switch.take(1, &[&[255; 6], by.as_slice(), &[8, 6]].concat());
        }
        assert!(switch.known.len() <= MOST_KNOWN);
    }

    #[test]
    fn who_asks_for_an_address_is_answered_here() {
        let mut switch = switch();
        let answered = switch.take(2, &question(1, &[]));
        let [(2, answer)] = &answered[..] else { panic!("{answered:?}") };
        // Your address is the guest's of that port.
        assert_eq!(answer[14 + 20 + 8 + 16..][..4], [10, 1, 2, 16]);
        assert!(switch.take(GATEWAY, &question(1, &[])).is_empty(), "nobody else gives any");
    }
}
