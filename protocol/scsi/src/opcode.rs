//! The commands that are offered, for REPORT SUPPORTED OPERATION CODES.

use crate::Sense;
use crate::command::{field, length};
use crate::field::{u16_at, u32_at};

/// What REPORT SUPPORTED OPERATION CODES asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportOpcodes {
    timeouts: bool,
    which: Which,
    /// Bytes the initiator has room for.
    pub allocation: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// A command that has no service actions.
    Opcode(u8),
    /// A command that has service actions.
    Action(u8, u16),
    /// Either.
    Either(u8, u16),
}

impl ReportOpcodes {
    /// Asks for all commands, with their timeouts or without.
    pub fn all(timeouts: bool, allocation: u32) -> Self {
        Self { timeouts, which: Which::All, allocation }
    }

    pub(crate) fn parse(cdb: &[u8; 16]) -> Result<Self, Sense> {
        let (opcode, action) = (cdb[3], u16_at(cdb, 4));
        let which = match cdb[2] & 7 {
            0 => Which::All,
            1 => Which::Opcode(opcode),
            2 => Which::Action(opcode, action),
            3 => Which::Either(opcode, action),
            _ => return Err(field(2, Some(2))),
        };
        Ok(Self { timeouts: cdb[2] & 0x80 != 0, which, allocation: u32_at(cdb, 6) })
    }
}

/// A command: its service action, if it has them, and the bits of its block that are looked at.
/// The operation code and the service action are in the bits already.
struct Known {
    action: Option<u8>,
    usage: &'static [u8],
}

const fn plain(usage: &'static [u8]) -> Known {
    Known { action: None, usage }
}

const fn action(action: u8, usage: &'static [u8]) -> Known {
    Known { action: Some(action), usage }
}

/// Control bytes: NACA is looked at, and refused.
const C: u8 = 0x04;
const F: u8 = 0xff;

const KNOWN: &[Known] = &[
    plain(&[0x00, 0, 0, 0, 0, C]),
    plain(&[0x03, 1, 0, 0, F, C]),
    plain(&[0x08, 0x1f, F, F, F, C]),
    plain(&[0x0a, 0x1f, F, F, F, C]),
    plain(&[0x12, 0x03, F, F, F, C]),
    plain(&[0x15, 0x11, 0, 0, F, C]),
    plain(&[0x16, 0x11, 0, 0, 0, C]),
    plain(&[0x17, 0x11, 0, 0, 0, C]),
    plain(&[0x1a, 0x08, F, F, F, C]),
    plain(&[0x1b, 0x01, 0, 0x0f, 0xf7, C]),
    plain(&[0x1d, 0xf7, 0, F, F, C]),
    plain(&[0x1e, 0, 0, 0, 0x03, C]),
    plain(&[0x25, 0, F, F, F, F, 0, 0, 0x01, C]),
    plain(&[0x28, 0xf8, F, F, F, F, 0, F, F, C]),
    plain(&[0x2a, 0xf8, F, F, F, F, 0, F, F, C]),
    plain(&[0x2e, 0xf6, F, F, F, F, 0, F, F, C]),
    plain(&[0x2f, 0xf6, F, F, F, F, 0, F, F, C]),
    plain(&[0x34, 0x02, F, F, F, F, 0, F, F, C]),
    plain(&[0x35, 0x02, F, F, F, F, 0, F, F, C]),
    plain(&[0x41, 0xfe, F, F, F, F, 0, F, F, C]),
    plain(&[0x42, 0x01, 0, 0, 0, 0, 0, F, F, C]),
    plain(&[0x55, 0x11, 0, 0, 0, 0, 0, F, F, C]),
    plain(&[0x56, 0x11, 0, 0, 0, 0, 0, 0, 0, C]),
    plain(&[0x57, 0x11, 0, 0, 0, 0, 0, 0, 0, C]),
    plain(&[0x5a, 0x18, F, F, 0, 0, 0, F, F, C]),
    action(0x00, &[0x5e, 0x00, 0, 0, 0, 0, 0, F, F, C]),
    action(0x01, &[0x5e, 0x01, 0, 0, 0, 0, 0, F, F, C]),
    action(0x02, &[0x5e, 0x02, 0, 0, 0, 0, 0, F, F, C]),
    action(0x03, &[0x5e, 0x03, 0, 0, 0, 0, 0, F, F, C]),
    action(0x00, &[0x5f, 0x00, 0, 0, 0, F, F, F, F, C]),
    action(0x01, &[0x5f, 0x01, F, 0, 0, F, F, F, F, C]),
    action(0x02, &[0x5f, 0x02, F, 0, 0, F, F, F, F, C]),
    action(0x03, &[0x5f, 0x03, 0, 0, 0, F, F, F, F, C]),
    action(0x04, &[0x5f, 0x04, F, 0, 0, F, F, F, F, C]),
    action(0x05, &[0x5f, 0x05, F, 0, 0, F, F, F, F, C]),
    action(0x06, &[0x5f, 0x06, 0, 0, 0, F, F, F, F, C]),
    plain(&[0x88, 0xf8, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    plain(&[0x89, 0xf8, F, F, F, F, F, F, F, F, 0, 0, 0, F, 0, C]),
    plain(&[0x8a, 0xf8, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    plain(&[0x8b, 0xf8, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    plain(&[0x8e, 0xf6, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    plain(&[0x8f, 0xf6, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    plain(&[0x90, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    plain(&[0x91, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    plain(&[0x93, 0xff, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    action(0x10, &[0x9e, 0x10, F, F, F, F, F, F, F, F, F, F, F, F, 0x01, C]),
    action(0x12, &[0x9e, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    plain(&[0xa0, 0, F, 0, 0, 0, F, F, F, F, 0, C]),
    action(0x0c, &[0xa3, 0x0c, 0x87, F, F, F, F, F, F, F, 0, C]),
    action(0x0d, &[0xa3, 0x0d, 0x80, 0, 0, 0, F, F, F, F, 0, C]),
    plain(&[0xa8, 0xf8, F, F, F, F, F, F, F, F, 0, C]),
    plain(&[0xaa, 0xf8, F, F, F, F, F, F, F, F, 0, C]),
    plain(&[0xae, 0xf6, F, F, F, F, F, F, F, F, 0, C]),
    plain(&[0xaf, 0xf6, F, F, F, F, F, F, F, F, 0, C]),
];

/// Bytes of a timeouts descriptor that names no timeouts.
const TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The answer to REPORT SUPPORTED OPERATION CODES.
///
/// # Errors
/// [`Sense::INVALID_FIELD`] for a question about service actions that fits not its command.
pub fn report_opcodes(asked: &ReportOpcodes) -> Result<Vec<u8>, Sense> {
    match asked.which {
        Which::All => Ok(all(asked.timeouts)),
        Which::Opcode(opcode) => {
            if has_actions(opcode) {
                return Err(field(2, Some(2)));
            }
            Ok(one(find(opcode, None), asked.timeouts))
        }
        Which::Action(opcode, action) => {
            if KNOWN.iter().any(|known| known.usage[0] == opcode) && !has_actions(opcode) {
                return Err(field(2, Some(2)));
            }
            Ok(one(find(opcode, Some(action)), asked.timeouts))
        }
        Which::Either(opcode, action) => {
            let action = has_actions(opcode).then_some(action);
            Ok(one(find(opcode, action), asked.timeouts))
        }
    }
}

fn has_actions(opcode: u8) -> bool {
    KNOWN.iter().any(|known| known.usage[0] == opcode && known.action.is_some())
}

fn find(opcode: u8, action: Option<u16>) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.usage[0] == opcode && known.action.map(u16::from) == action)
}

fn all(timeouts: bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    for known in KNOWN {
        let opcode = known.usage[0];
        let flags = u8::from(known.action.is_some()) | if timeouts { 2 } else { 0 };
        data.extend([opcode, 0, 0, known.action.unwrap_or(0), 0, flags, 0]);
        data.push(length(opcode) as u8);
        if timeouts {
            data.extend(TIMEOUTS);
        }
    }
    let length = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&length.to_be_bytes());
    data
}

fn one(known: Option<&Known>, timeouts: bool) -> Vec<u8> {
    // 1 is "not supported", 3 is "as in the standard".
    let Some(known) = known else { return vec![0, 1, 0, 0] };
    let flags = 3 | if timeouts { 0x80 } else { 0 };
    let mut data = vec![0, flags, 0, known.usage.len() as u8];
    data.extend(known.usage);
    if timeouts {
        data.extend(TIMEOUTS);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;

    #[test]
    fn every_command_listed_is_parsed_and_has_its_length() {
        for known in KNOWN {
            assert_eq!(known.usage.len(), length(known.usage[0]));
            let mut cdb = [0; 16];
            cdb[0] = known.usage[0];
            cdb[1] = known.action.unwrap_or(0);
            match cdb[0] {
                0x5f => cdb[2] = 1,
                0x15 | 0x55 => cdb[1] = 0x10,
                _ => {}
            }
            assert!(Command::parse(&cdb).is_ok(), "{:#04x}", known.usage[0]);
        }
    }

    #[test]
    fn one_command_is_described_by_the_bits_it_uses() {
        let ask = |options: u8, opcode: u8, action: u8| {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1], cdb[2], cdb[3], cdb[5]) = (0xa3, 0x0c, options, opcode, action);
            report_opcodes(&ReportOpcodes::parse(&cdb)?)
        };
        assert_eq!(ask(1, 0x28, 0).unwrap()[..6], [0, 3, 0, 10, 0x28, 0xf8]);
        assert_eq!(ask(2, 0x9e, 0x12).unwrap()[..6], [0, 3, 0, 16, 0x9e, 0x12]);
        assert_eq!(ask(3, 0x28, 0).unwrap()[1], 3);
        assert_eq!(ask(1, 0xc0, 0).unwrap(), [0, 1, 0, 0]);
        assert_eq!(ask(0x81, 0x00, 0).unwrap().len(), 4 + 6 + 12);
        assert!(ask(1, 0x9e, 0).is_err() && ask(2, 0x28, 0).is_err() && ask(4, 0, 0).is_err());
    }
}
