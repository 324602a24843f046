//! What a guest asks for: from a chain of descriptors to a request.

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::config::QUEUE_SIZE;
use crate::segments::{Segment, Segments};

/// Bytes of a request's header: type, reserved, sector.
const HEADER: usize = 16;

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Flush,
    Identify,
    Discard,
    WriteZeroes,
    Unknown,
}

impl From<u32> for Kind {
    fn from(number: u32) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            4 => Self::Flush,
            8 => Self::Identify,
            11 => Self::Discard,
            13 => Self::WriteZeroes,
            _ => Self::Unknown,
        }
    }
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) sector: u64,
    /// What the guest sends, without the header.
    pub(crate) sent: Segments,
    /// What it wants filled, without the status.
    pub(crate) wanted: Segments,
    /// Where the status goes.
    pub(crate) status: GuestAddress,
}

/// A descriptor: its segment, and whether the device writes it.
pub(crate) type Descriptor = (Segment, bool);

/// Reads a chain. How the guest cuts header, data and status into descriptors is its choice.
/// `None` when there is no header, or no place for a status: then there is nobody to tell.
pub(crate) fn parse(
    memory: &GuestMemoryMmap,
    chain: impl Iterator<Item = Descriptor>,
) -> Option<Request> {
    let (mut sent, mut wanted) = (vec![], vec![]);
    // A chain is no longer than its ring or its table; a table may be longer than we offer.
    for (number, (segment, writable)) in chain.enumerate() {
        if number >= QUEUE_SIZE || (!writable && !wanted.is_empty()) {
            return None;
        }
        if writable { wanted.push(segment) } else { sent.push(segment) }
    }
    let (mut sent, mut wanted) = (Segments::new(sent), Segments::new(wanted));
    let mut header = [0; HEADER];
    sent.read(memory, &mut header).ok()?;
    let kind = u32::from_le_bytes(header[..4].try_into().ok()?).into();
    let sector = u64::from_le_bytes(header[8..].try_into().ok()?);
    let status = wanted.pop_last()?;
    Some(Request { kind, sector, sent, wanted, status })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap()
    }

    fn header(memory: &GuestMemoryMmap, kind: u32, sector: u64) {
        memory.write_obj(kind.to_le(), GuestAddress(0x100)).unwrap();
        memory.write_obj(sector.to_le(), GuestAddress(0x108)).unwrap();
    }

    fn chain(list: &[(u64, u32, bool)]) -> impl Iterator<Item = Descriptor> {
        list.iter().map(|(at, length, writable)| ((GuestAddress(*at), *length), *writable))
    }

    #[test]
    fn the_cut_of_a_chain_does_not_matter() {
        let memory = memory();
        header(&memory, 0, 77);
        for list in [
            &[(0x100, 16, false), (0x1000, 512, true), (0x2000, 1, true)][..],
            &[(0x100, 7, false), (0x107, 9, false), (0x1000, 513, true)],
            &[(0x100, 16, false), (0x1000, 100, true), (0x1064, 412, true), (0x2000, 1, true)],
        ] {
            let request = parse(&memory, chain(list)).unwrap();
            assert_eq!((request.kind, request.sector), (Kind::Read, 77));
            assert_eq!((request.sent.left(), request.wanted.left()), (0, 512));
        }
    }

    #[test]
    fn chains_without_header_or_status_are_no_requests() {
        let memory = memory();
        header(&memory, 1, 0);
        for list in [
            &[][..],
            &[(0x100, 16, false)],
            &[(0x100, 15, false), (0x2000, 1, true)],
            &[(0x100, 16, false), (0x2000, 0, true)],
            &[(0x2000, 1, true), (0x100, 16, false)],
            &[(0xffff_0000, 16, false), (0x2000, 1, true)],
        ] {
            assert!(parse(&memory, chain(list)).is_none(), "{list:?}");
        }
        let long = vec![(0x100, 16, false); QUEUE_SIZE + 1];
        assert!(parse(&memory, chain(&long)).is_none());
    }

    #[test]
    fn kinds_have_their_numbers() {
        let kinds = [0, 1, 4, 8, 11, 13].map(Kind::from);
        use Kind::{Discard, Flush, Identify, Read, Unknown, Write, WriteZeroes};
        assert_eq!(kinds, [Read, Write, Flush, Identify, Discard, WriteZeroes]);
        assert_eq!(Kind::from(2), Unknown);
    }
}
