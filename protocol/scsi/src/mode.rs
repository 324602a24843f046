//! Mode pages: how a disk behaves, and what of that can be changed.

use crate::Sense;
use crate::command::field;
use crate::field::{put, u16_at};

/// What initiators can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModeState {
    /// Sense data comes in descriptor format ("D_SENSE").
    pub descriptors: bool,
    /// Writing is refused ("SWP").
    pub write_protect: bool,
}

/// What MODE SENSE asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeSense {
    long: bool,
    long_lba: bool,
    no_blocks: bool,
    which: Values,
    page: u8,
    subpage: u8,
    /// Bytes the initiator has room for.
    pub allocation: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    Current,
    /// Ones where a bit can be changed.
    Changeable,
    Default,
}

impl ModeSense {
    pub(crate) fn parse(cdb: &[u8; 16]) -> Result<Self, Sense> {
        let long = cdb[0] == 0x5a;
        let which = match cdb[2] >> 6 {
            0 => Values::Current,
            1 => Values::Changeable,
            2 => Values::Default,
            _ => return Err(Sense::NO_SAVING.at(2, Some(7))),
        };
        Ok(Self {
            long,
            long_lba: long && cdb[1] & 0x10 != 0,
            no_blocks: cdb[1] & 0x08 != 0,
            which,
            page: cdb[2] & 0x3f,
            subpage: cdb[3],
            allocation: if long { u32::from(u16_at(cdb, 7)) } else { u32::from(cdb[4]) },
        })
    }
}

/// What MODE SELECT announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeSelect {
    long: bool,
    /// Bytes of parameters.
    pub length: u16,
}

impl ModeSelect {
    pub(crate) fn parse(cdb: &[u8; 16]) -> Result<Self, Sense> {
        let long = cdb[0] == 0x55;
        if cdb[1] & 0x01 != 0 {
            return Err(field(1, Some(0)));
        }
        if cdb[1] & 0x10 == 0 {
            // Without the bit, the parameters would be of the vendor's making.
            return Err(field(1, Some(4)));
        }
        Ok(Self { long, length: if long { u16_at(cdb, 7) } else { u16::from(cdb[4]) } })
    }
}

/// Recovery, disconnect, caching, control, exceptions: in the order of their numbers.
const PAGES: [u8; 5] = [0x01, 0x02, 0x08, 0x0a, 0x1c];

/// A page with its two bytes of header.
fn page(number: u8, state: &ModeState) -> Vec<u8> {
    let length = match number {
        0x02 => 14,
        0x08 => 18,
        _ => 10,
    };
    let mut page = vec![0; 2 + length];
    (page[0], page[1]) = (number, length as u8);
    match number {
        // Blocks are reassigned by whoever stores them.
        0x01 => page[2] = 0xc0,
        // A write cache: only what is synchronised, or written with FUA, is durable.
        0x08 => page[2] = 0x04,
        0x0a => {
            page[2] = if state.descriptors { 0x04 } else { 0 };
            // Simple commands run in any order.
            page[3] = 0x10;
            page[4] = if state.write_protect { 0x08 } else { 0 };
            // No limit of the time that commands may be busy.
            put(&mut page, 8, &[0xff, 0xff]);
        }
        _ => {}
    }
    page
}

/// Which bits of a page can be changed.
fn mask(number: u8) -> Vec<u8> {
    let mut mask = page(number, &ModeState::default());
    mask[2..].fill(0);
    if number == 0x0a {
        (mask[2], mask[4]) = (0x04, 0x08);
    }
    mask
}

/// The answer to MODE SENSE, of a disk of `blocks` blocks of `block` bytes.
///
/// # Errors
/// [`Sense::INVALID_FIELD`] for a page that is not offered.
pub fn mode_sense(
    asked: &ModeSense,
    state: &ModeState,
    protected: bool,
    blocks: u64,
    block: u32,
) -> Result<Vec<u8>, Sense> {
    let numbers: Vec<u8> = match asked.page {
        0x3f => PAGES.to_vec(),
        number if PAGES.contains(&number) => vec![number],
        _ => return Err(field(2, Some(5))),
    };
    if asked.subpage != 0 && !(asked.subpage == 0xff && asked.page == 0x3f) {
        return Err(field(3, None));
    }
    let descriptor = match (asked.no_blocks, asked.long_lba) {
        (true, _) => Vec::new(),
        (false, false) => {
            let count = u32::try_from(blocks).unwrap_or(u32::MAX);
            [count.to_be_bytes(), block.to_be_bytes()].concat()
        }
        (false, true) => [&blocks.to_be_bytes()[..], &[0; 4], &block.to_be_bytes()].concat(),
    };
    // Whether it is protected; FUA and DPO are understood.
    let device = 0x10 | if protected || state.write_protect { 0x80 } else { 0 };
    let mut data = if asked.long {
        let [high, low] = (descriptor.len() as u16).to_be_bytes();
        vec![0, 0, 0, device, u8::from(asked.long_lba), 0, high, low]
    } else {
        vec![0, 0, device, descriptor.len() as u8]
    };
    data.extend(descriptor);
    for number in numbers {
        data.extend(match asked.which {
            Values::Current => page(number, state),
            Values::Default => page(number, &ModeState::default()),
            Values::Changeable => mask(number),
        });
    }
    let length = data.len();
    if asked.long {
        put(&mut data, 0, &(length as u16 - 2).to_be_bytes());
    } else {
        data[0] = length as u8 - 1;
    }
    Ok(data)
}

/// The state after MODE SELECT with `parameters`.
///
/// # Errors
/// [`Sense::PARAMETER_LENGTH`], or [`Sense::INVALID_PARAMETER`] when something is to change that
/// cannot.
pub fn mode_select(
    asked: &ModeSelect,
    parameters: &[u8],
    state: &ModeState,
) -> Result<ModeState, Sense> {
    if parameters.is_empty() {
        return Ok(*state);
    }
    let header = if asked.long { 8 } else { 4 };
    if parameters.len() < header {
        return Err(Sense::PARAMETER_LENGTH);
    }
    let blocks =
        if asked.long { usize::from(u16_at(parameters, 6)) } else { usize::from(parameters[3]) };
    let mut at = header + blocks;
    let mut state = *state;
    while at < parameters.len() {
        let wrong = |offset: usize| Sense::INVALID_PARAMETER.in_parameters((at + offset) as u16);
        let rest = &parameters[at..];
        let number = rest[0] & 0x3f;
        if rest[0] & 0x40 != 0 || !PAGES.contains(&number) {
            return Err(wrong(0));
        }
        let (current, mask) = (page(number, &state), mask(number));
        if rest.len() < current.len() {
            return Err(Sense::PARAMETER_LENGTH);
        }
        if rest[1] != current[1] {
            return Err(wrong(1));
        }
        for offset in 2..current.len() {
            if (rest[offset] ^ current[offset]) & !mask[offset] != 0 {
                return Err(wrong(offset));
            }
        }
        if number == 0x0a {
            state.descriptors = rest[2] & 0x04 != 0;
            state.write_protect = rest[4] & 0x08 != 0;
        }
        at += current.len();
    }
    // Only a list that ends before its pages begin is cut short here.
    if at > parameters.len() { Err(Sense::PARAMETER_LENGTH) } else { Ok(state) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sense(bytes: &[u8], state: &ModeState, protected: bool) -> Result<Vec<u8>, Sense> {
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        mode_sense(&ModeSense::parse(&cdb)?, state, protected, 1 << 33, 512)
    }

    const SELECT: ModeSelect = ModeSelect { long: false, length: 0 };

    #[test]
    fn all_pages_come_in_their_order() {
        let data = sense(&[0x1a, 0x08, 0x3f, 0, 255], &ModeState::default(), false).unwrap();
        assert_eq!(data[..4], [data.len() as u8 - 1, 0, 0x10, 0]);
        let (mut rest, mut numbers) = (&data[4..], Vec::new());
        while !rest.is_empty() {
            numbers.push(rest[0]);
            rest = &rest[2 + usize::from(rest[1])..];
        }
        assert_eq!(numbers, PAGES);
    }

    #[test]
    fn block_descriptors_are_long_when_asked_to_be() {
        let short = sense(&[0x1a, 0, 0x0a, 0, 255], &ModeState::default(), true).unwrap();
        assert_eq!(short[2..12], [0x90, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
        let long = sense(&[0x5a, 0x10, 0x0a, 0, 0, 0, 0, 1], &ModeState::default(), false);
        let long = long.unwrap();
        assert_eq!(long[2..12], [0, 0x10, 1, 0, 0, 16, 0, 0, 0, 2]);
        assert_eq!(usize::from(u16_at(&long, 0)), long.len() - 2);
    }

    #[test]
    fn what_can_be_changed_is_changed_and_nothing_else() {
        let state = ModeState::default();
        let mut list = sense(&[0x1a, 0x08, 0x0a, 0, 255], &state, false).unwrap();
        list[0] = 0;
        assert_eq!(mode_select(&SELECT, &list, &state), Ok(state));
        list[4 + 4] |= 0x08;
        list[4 + 2] |= 0x04;
        let changed = mode_select(&SELECT, &list, &state).unwrap();
        assert_eq!(changed, ModeState { descriptors: true, write_protect: true });
        list[4 + 3] = 0;
        let refused = Sense::INVALID_PARAMETER.in_parameters(7);
        assert_eq!(mode_select(&SELECT, &list, &state), Err(refused));
        assert_eq!(mode_select(&SELECT, &list[..10], &state), Err(Sense::PARAMETER_LENGTH));
        assert_eq!(mode_select(&SELECT, &[0, 0, 0, 9], &state), Err(Sense::PARAMETER_LENGTH));
        let protected = sense(&[0x1a, 0x08, 0x0a, 0, 255], &changed, false).unwrap();
        assert_eq!((protected[2], protected[8]), (0x90, 0x08));
    }

    #[test]
    fn what_is_not_offered_is_refused() {
        let state = ModeState::default();
        assert!(sense(&[0x1a, 0, 0x03], &state, false).is_err());
        assert!(sense(&[0x1a, 0, 0x0a, 1], &state, false).is_err());
        assert_eq!(sense(&[0x1a, 0, 0xca], &state, false), Err(Sense::NO_SAVING.at(2, Some(7))));
    }

    proptest::proptest! {
        #[test]
        fn no_list_makes_the_parser_panic(list in proptest::collection::vec(0_u8.., 0..64)) {
            for long in [false, true] {
                let select = ModeSelect { long, length: 0 };
                let _ = mode_select(&select, &list, &ModeState::default());
            }
        }
    }
}
