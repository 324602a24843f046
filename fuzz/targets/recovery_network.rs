//! Frames that guests of an isolated network send: the switch between them, and its answers to
//! questions for addresses. Guests are copies of machines that somebody may have taken over.
//!
//! What must hold for every frame: it goes to other ports than the one it came from, unchanged,
//! and nowhere twice; questions for addresses go nowhere, and their answers are well-formed, say
//! nothing but the addresses of the network, and give a guest no address but its own.

#![no_main]

use std::net::Ipv4Addr;

use dhcp::Offer;
use libfuzzer_sys::fuzz_target;
use sluice_fuzz::Input;
use switch::{GATEWAY, Switch};

// The executable has no library to take these from.
#[path = "../../cli/src/command/boot_test/network/dhcp.rs"]
mod dhcp;
#[path = "../../cli/src/command/boot_test/network/switch.rs"]
mod switch;

const GUESTS: usize = 3;
/// Frames of one input: the switch remembers no more than where addresses are.
const MOST_FRAMES: usize = 300;
/// Ethernet, IPv4 without options, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// The fixed part of a message, with its cookie.
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Larger than any answer.
const MOST_ANSWER: usize = 600;

fn offer(guest: usize) -> Offer {
    Offer {
        address: Ipv4Addr::new(10, 1, 2, 15 + guest as u8),
        mask: Ipv4Addr::new(255, 255, 255, 0),
        gateway: Ipv4Addr::new(10, 1, 2, 254),
        gateway_mac: [0x52, 0x54, 0, 0x5c, 1, 0],
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input::new(input);
    let mut switch = Switch::new((0..GUESTS).map(offer));
    for _ in 0..MOST_FRAMES {
        if input.is_empty() {
            break;
        }
        let from = usize::from(input.byte()) % (GUESTS + 1);
        let frame = frame(&mut input);
        let taken = switch.take(from, &frame);
        judge(from, &frame, &taken);
    }
});

/// A card of a guest, of many that are made up, of a group, or of all.
fn mac(input: &mut Input<'_>) -> [u8; 6] {
    match input.byte() {
        number @ 0..=15 => [2, 0, 0, 0, 0, number],
        number @ 16..=127 => [2, 0, 0, 1, input.byte(), number],
        128..=191 => [255; 6],
        192..=223 => [0x33, 0x33, 0, 0, 0, 1],
        _ => input.array(),
    }
}

/// A frame as it is, one of any kind between cards, or a question that was tampered with.
fn frame(input: &mut Input<'_>) -> Vec<u8> {
    match input.byte() % 4 {
        0 => input.counted().to_vec(),
        1 => {
            let (to, by, kind) = (mac(input), mac(input), input.array::<2>());
            [&to[..], &by, &kind, input.counted()].concat()
        }
        2 => question(input),
        _ => {
            let mut question = question(input);
            for _ in 0..input.byte() % 8 {
                let at = usize::from(u16::from_le_bytes(input.array())) % question.len();
                question[at] = input.byte();
            }
            let length = usize::from(u16::from_le_bytes(input.array()));
            question.truncate(length.max(HEADERS));
            question
        }
    }
}

fn question(input: &mut Input<'_>) -> Vec<u8> {
    let mut asked = vec![0; FIXED];
    asked[..3].copy_from_slice(&[1, 1, 6]);
    asked[4..8].copy_from_slice(&input.array::<4>());
    asked[10] = input.byte();
    // The address that it has, or none.
    if input.byte() & 1 == 1 {
        asked[12..16].copy_from_slice(&input.array::<4>());
    }
    let (to, by) = (mac(input), mac(input));
    asked[28..34].copy_from_slice(&by);
    asked[FIXED - 4..].copy_from_slice(&COOKIE);
    asked.extend([53, 1, input.byte() % 10]);
    asked.extend_from_slice(input.counted());
    asked.push(255);
    let mut frame = [to, by].concat();
    frame.extend([8, 0, 0x45, 0, 1, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    frame.extend([0, 68, 0, 67, 0, 0, 0, 0]);
    frame.extend(asked);
    frame
}

fn judge(from: usize, frame: &[u8], taken: &[(usize, Vec<u8>)]) {
    let mut ports: Vec<usize> = taken.iter().map(|(port, _)| *port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), taken.len(), "it goes nowhere twice");
    assert!(ports.iter().all(|port| *port <= GUESTS), "there is no such port");
    if dhcp::is_about_addresses(frame) {
        assert!(taken.len() <= 1);
        for (port, answer) in taken {
            assert!(*port == from && from != GATEWAY, "who asked is answered, and is a guest");
            well_formed(answer, frame, &offer(from - 1));
        }
        return;
    }
    for (port, passed) in taken {
        assert_ne!(*port, from, "what came in does not go back");
        assert_eq!(passed, frame, "it goes as it came");
    }
}

/// What a client believes of an answer, read without the code that made it.
fn well_formed(answer: &[u8], asked: &[u8], offer: &Offer) {
    let (own, gateway) = (offer.address.octets(), offer.gateway.octets());
    assert!((HEADERS + 300..=MOST_ANSWER).contains(&answer.len()));
    assert_eq!((&answer[..6], &answer[6..12]), (&[255; 6][..], &offer.gateway_mac[..]));
    assert_eq!(answer[12..15], [8, 0, 0x45]);
    let word = |at: usize| usize::from(u16::from_be_bytes([answer[at], answer[at + 1]]));
    assert_eq!((word(16), word(38)), (answer.len() - 14, answer.len() - 34), "its lengths");
    assert_eq!(dhcp::checksum(&answer[14..34]), 0);
    assert_eq!((&answer[26..30], &answer[30..34]), (&gateway[..], &[255; 4][..]));
    assert_eq!((answer[23], word(34), word(36)), (17, 67, 68));
    let told = &answer[HEADERS..];
    let question = 14 + usize::from(asked[14] & 15) * 4 + 8;
    assert_eq!(told[..3], [2, 1, 6]);
    assert_eq!(told[4..8], asked[question + 4..question + 8], "the number of the question");
    assert_eq!(told[28..44], asked[question + 28..question + 44], "and whose it is");
    assert_eq!(told[FIXED - 4..FIXED], COOKIE);
    let given = &told[16..20];
    assert!(given == own || given == [0; 4], "an address that is not the guest's");
    assert!(told[20..28].iter().all(|byte| *byte == 0), "no other server");
    assert!(told[44..FIXED - 4].iter().all(|byte| *byte == 0), "no name and no file to boot");
    let mut kind = 0;
    let mut rest = &told[FIXED..];
    while rest[0] != 255 {
        let (value, next) = rest[2..].split_at(rest[1].into());
        match rest[0] {
            53 => kind = value[0],
            54 | 3 => assert_eq!(value, gateway),
            1 => assert_eq!(value, offer.mask.octets()),
            51 => assert_eq!(value.len(), 4),
            other => panic!("option {other} says more than addresses"),
        }
        rest = next;
    }
    assert!(matches!(kind, 2 | 5 | 6), "an offer, or yes, or no");
    assert!(kind == 5 || (given == own) == (kind == 2), "what is offered, and what is refused");
}
