//! Answers to guests that ask for an address (RFC 2131): each gets the one that it is known by.
//!
//! Bytes in, bytes out; what is no question of a guest is not answered.

use std::net::Ipv4Addr;

/// What a guest is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) address: Ipv4Addr,
    pub(super) mask: Ipv4Addr,
    /// Who answers, and where everything else would be.
    pub(super) gateway: Ipv4Addr,
    pub(super) gateway_mac: [u8; 6],
}

/// Ethernet, IPv4 without options, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// The fixed part of a message, with its cookie.
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const BROADCAST: [u8; 4] = [255; 4];
/// A test is over before.
const LEASE_SECONDS: u32 = 86_400;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The message in a frame that is of or for DHCP, by ports.
fn message(frame: &[u8]) -> Option<(u16, &[u8])> {
    if word(frame, 12)? != 0x0800 || frame.get(14)? >> 4 != 4 || *frame.get(23)? != 17 {
        return None;
    }
    // What comes in parts is no DHCP.
    if word(frame, 20)? & 0x1fff != 0 {
        return None;
    }
    let udp = 14 + usize::from(frame.get(14)? & 15) * 4;
    Some((word(frame, udp + 2)?, frame.get(udp + 8..)?))
}

/// Whether a frame asks for, or gives, an address.
pub(super) fn is_about_addresses(frame: &[u8]) -> bool {
    message(frame).is_some_and(|(port, _)| [67, 68].contains(&port))
}

/// An option of a message.
fn option(message: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = message.get(FIXED..)?;
    loop {
        match *rest.first()? {
            0 => rest = &rest[1..],
            255 => return None,
            kind => {
                let length = usize::from(*rest.get(1)?);
                let value = rest.get(2..2 + length)?;
                if kind == wanted {
                    return Some(value);
                }
                rest = &rest[2 + length..];
            }
        }
    }
}

/// The answer to a guest's frame, if that is a question.
pub(super) fn answer(frame: &[u8], offer: &Offer) -> Option<Vec<u8>> {
    let (67, asked) = message(frame)? else { return None };
    let is_question = asked.len() >= FIXED
        && asked[..3] == [1, 1, 6]
        && asked[FIXED - COOKIE.len()..FIXED] == COOKIE;
    if !is_question {
        return None;
    }
    let server = offer.gateway.octets();
    // It has chosen another server, which is not here: it asks again.
    if option(asked, 54).is_some_and(|chosen| chosen != server) {
        return None;
    }
    let own = offer.address.octets();
    let known = &asked[12..16];
    let wanted = option(asked, 50).or((known != [0; 4]).then_some(known));
    let wish = *option(asked, 53)?.first()?;
    let informs = wish == INFORM;
    let kind = match wish {
        DISCOVER => OFFER,
        REQUEST if wanted.is_some_and(|wanted| wanted != own) => NAK,
        REQUEST | INFORM => ACK,
        _ => return None,
    };
    let mut told = vec![0; FIXED];
    told[..3].copy_from_slice(&[2, 1, 6]);
    // The number and the flags of the question, and whose it is.
    told[4..8].copy_from_slice(&asked[4..8]);
    told[10..12].copy_from_slice(&asked[10..12]);
    told[28..44].copy_from_slice(&asked[28..44]);
    told[236..240].copy_from_slice(&COOKIE);
    let mut say = |kind: u8, value: &[u8]| {
        told.extend([kind, value.len() as u8]);
        told.extend_from_slice(value);
    };
    say(53, &[kind]);
    say(54, &server);
    if kind != NAK {
        say(1, &offer.mask.octets());
        say(3, &server);
        // Who only informs itself has an address.
        if !informs {
            say(51, &LEASE_SECONDS.to_be_bytes());
            told[16..20].copy_from_slice(&own);
        }
    }
    told.push(255);
    // Old clients throw shorter ones away.
    told.resize(told.len().max(300), 0);
    Some(framed(&told, offer))
}

/// A message in a frame for everybody: whoever asks has no address yet.
fn framed(message: &[u8], offer: &Offer) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut ip = Vec::with_capacity(20);
    ip.extend([0x45, 0]);
    ip.extend(length(20 + 8 + message.len()));
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(offer.gateway.octets());
    ip.extend(BROADCAST);
    let sum = checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let mut frame = Vec::with_capacity(HEADERS + message.len());
    frame.extend([255; 6]);
    frame.extend(offer.gateway_mac);
    frame.extend([0x08, 0x00]);
    frame.extend(ip);
    // No checksum: there is none in the middle that could damage it.
    frame.extend([0, 67, 0, 68]);
    frame.extend(length(8 + message.len()));
    frame.extend([0, 0]);
    frame.extend_from_slice(message);
    frame
}

/// The sum of a header of the internet.
pub(super) fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(high) << 8 | u32::from(low),
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 9];

    fn offer() -> Offer {
        Offer {
            address: [10, 1, 2, 15].into(),
            mask: [255, 255, 255, 0].into(),
            gateway: [10, 1, 2, 254].into(),
            gateway_mac: [0x52, 0x54, 0, 0, 0, 1],
        }
    }

    /// What a guest sends.
    pub(in super::super) fn question(kind: u8, more: &[u8]) -> Vec<u8> {
        let mut asked = vec![0; FIXED];
        asked[..3].copy_from_slice(&[1, 1, 6]);
        asked[4..8].copy_from_slice(&[1, 2, 3, 4]);
        asked[28..34].copy_from_slice(&MAC);
        asked[236..240].copy_from_slice(&COOKIE);
        asked.extend([53, 1, kind]);
        asked.extend_from_slice(more);
        asked.push(255);
        let mut frame = [[255; 6], MAC].concat();
        frame.extend([8, 0, 0x45, 0, 1, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0]);
        frame.extend(BROADCAST);
        frame.extend([0, 68, 0, 67, 0, 0, 0, 0]);
        frame.extend(asked);
        frame
    }

    fn told(frame: &[u8]) -> Option<(u8, [u8; 4])> {
        let answer = answer(frame, &offer())?;
        assert_eq!(checksum(&answer[14..34]), 0, "the header sums up");
        let (port, message) = message(&answer).unwrap();
        assert_eq!((port, &message[4..8], &message[28..34]), (68, &[1, 2, 3, 4][..], &MAC[..]));
        assert_eq!(option(message, 54).unwrap(), [10, 1, 2, 254]);
        Some((option(message, 53).unwrap()[0], message[16..20].try_into().unwrap()))
    }

    #[test]
    fn a_guest_gets_its_own_address_and_no_other() {
        assert_eq!(told(&question(DISCOVER, &[])), Some((OFFER, [10, 1, 2, 15])));
        let own = [50, 4, 10, 1, 2, 15];
        assert_eq!(told(&question(REQUEST, &own)), Some((ACK, [10, 1, 2, 15])));
        // One that it had elsewhere.
        let before = [50, 4, 192, 168, 0, 7];
        assert_eq!(told(&question(REQUEST, &before)), Some((NAK, [0; 4])));
        let other = [50, 4, 10, 1, 2, 15, 54, 4, 10, 1, 2, 1];
        assert_eq!(told(&question(REQUEST, &other)), None, "it has chosen another server");
        assert_eq!(told(&question(INFORM, &[])), Some((ACK, [0; 4])), "it has one");
        let release = 7;
        assert_eq!(told(&question(release, &[])), None);
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let whole = question(DISCOVER, &[]);
        for end in 0..whole.len() - 1 {
            let _ = answer(&whole[..end], &offer());
        }
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut odd = whole.clone();
                odd[at] = byte;
                let _ = answer(&odd, &offer());
            }
        }
        assert!(answer(&whole[..60], &offer()).is_none());
        let mut odd = whole.clone();
        odd[23] = 6;
        assert!(answer(&odd, &offer()).is_none() && !is_about_addresses(&odd));
        assert!(is_about_addresses(&whole));
        // An option that says that it is longer than all.
        assert!(answer(&question(DISCOVER, &[12, 250, 1]), &offer()).is_some());
        assert!(answer(&[255; 2000], &offer()).is_none());
    }
}
