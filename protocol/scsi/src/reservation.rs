//! Parameters and answers of persistent reservations.

use crate::Sense;
use crate::field::{put, u64_at};
use crate::identity::name_string;

/// What a reservation keeps others from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReservationType {
    /// Only the holder writes.
    WriteExclusive,
    /// Only the holder reads and writes.
    ExclusiveAccess,
    /// Only who is registered writes.
    WriteExclusiveRegistrants,
    /// Only who is registered reads and writes.
    ExclusiveAccessRegistrants,
    /// The same as the third, and all who are registered hold it.
    WriteExclusiveAll,
    /// The same as the fourth, and all who are registered hold it.
    ExclusiveAccessAll,
}

impl ReservationType {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrants,
            6 => Self::ExclusiveAccessRegistrants,
            7 => Self::WriteExclusiveAll,
            8 => Self::ExclusiveAccessAll,
            _ => return None,
        })
    }

    fn code(self) -> u8 {
        match self {
            Self::WriteExclusive => 1,
            Self::ExclusiveAccess => 3,
            Self::WriteExclusiveRegistrants => 5,
            Self::ExclusiveAccessRegistrants => 6,
            Self::WriteExclusiveAll => 7,
            Self::ExclusiveAccessAll => 8,
        }
    }

    /// Whether reading is kept from others too.
    pub fn excludes_reading(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess | Self::ExclusiveAccessRegistrants | Self::ExclusiveAccessAll
        )
    }

    /// Whether everybody who is registered may do what the holder may.
    pub fn admits_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether everybody who is registered holds the reservation.
    pub fn is_held_by_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }
}

/// The parameters of PERSISTENT RESERVE OUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutParameters {
    /// The key that the initiator is registered with.
    pub key: u64,
    /// A key for the action.
    pub action_key: u64,
}

/// Reads the parameters of PERSISTENT RESERVE OUT.
///
/// # Errors
/// [`Sense::PARAMETER_LENGTH`] or [`Sense::INVALID_PARAMETER`].
pub fn out_parameters(bytes: &[u8]) -> Result<OutParameters, Sense> {
    if bytes.len() != 24 {
        return Err(Sense::PARAMETER_LENGTH);
    }
    // Neither for other initiators, nor to outlast the target's process. "All target ports" is
    // well taken: there is one.
    if bytes[20] & 0x09 != 0 {
        return Err(Sense::INVALID_PARAMETER.in_parameters(20));
    }
    Ok(OutParameters { key: u64_at(bytes, 0), action_key: u64_at(bytes, 8) })
}

/// The answer with all keys.
pub fn keys(generation: u32, keys: &[u64]) -> Vec<u8> {
    with_header(generation, keys.iter().flat_map(|key| key.to_be_bytes()).collect())
}

/// The answer with the reservation, and the key of its holder.
pub fn reservation(generation: u32, held: Option<(u64, ReservationType)>) -> Vec<u8> {
    let mut body = Vec::new();
    if let Some((key, kind)) = held {
        body.extend(key.to_be_bytes());
        body.extend([0, 0, 0, 0, 0, kind.code(), 0, 0]);
    }
    with_header(generation, body)
}

/// The answer with what is supported.
pub fn report_capabilities() -> Vec<u8> {
    // All target ports; the mask of types is valid; all six types.
    vec![0, 8, 0x04, 0x80, 0xea, 0x01, 0, 0]
}

/// A registration, for the full status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusEntry {
    /// The key.
    pub key: u64,
    /// The type of the reservation, when this registration holds it.
    pub holds: Option<ReservationType>,
    /// The initiator's port: its iSCSI name and session identifier, as `NAME,i,0xISID`.
    pub initiator: String,
}

/// The answer with all registrations.
pub fn full_status(generation: u32, entries: &[StatusEntry]) -> Vec<u8> {
    let mut body = Vec::new();
    for entry in entries {
        let mut name = name_string(&entry.initiator);
        name.resize(name.len().max(20), 0);
        let mut descriptor = vec![0; 24];
        put(&mut descriptor, 0, &entry.key.to_be_bytes());
        descriptor[12] = 0x02 | u8::from(entry.holds.is_some());
        descriptor[13] = entry.holds.map_or(0, ReservationType::code);
        put(&mut descriptor, 18, &1_u16.to_be_bytes());
        put(&mut descriptor, 20, &(name.len() as u32 + 4).to_be_bytes());
        body.extend(descriptor);
        body.extend([0x45, 0]);
        body.extend((name.len() as u16).to_be_bytes());
        body.extend(name);
    }
    with_header(generation, body)
}

fn with_header(generation: u32, body: Vec<u8>) -> Vec<u8> {
    let mut data = generation.to_be_bytes().to_vec();
    data.extend((body.len() as u32).to_be_bytes());
    data.extend(body);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_one_length_and_no_options() {
        let mut bytes = [0; 24];
        (bytes[7], bytes[15], bytes[20]) = (1, 2, 0x04);
        assert_eq!(out_parameters(&bytes), Ok(OutParameters { key: 1, action_key: 2 }));
        assert_eq!(out_parameters(&bytes[..23]), Err(Sense::PARAMETER_LENGTH));
        for option in [0x01, 0x08] {
            bytes[20] = option;
            assert_eq!(out_parameters(&bytes), Err(Sense::INVALID_PARAMETER.in_parameters(20)));
        }
    }

    #[test]
    fn answers_begin_with_their_generation_and_length() {
        let none = reservation(7, None);
        assert_eq!(none, [0, 0, 0, 7, 0, 0, 0, 0]);
        let held = reservation(7, Some((9, ReservationType::ExclusiveAccessAll)));
        assert_eq!((held[7], held[15], held[21], held.len()), (16, 9, 8, 24));
        assert_eq!(keys(1, &[2, 3])[7..], [16, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
        let entry = StatusEntry { key: 5, holds: None, initiator: "iqn.x,i,0x1".to_owned() };
        let full = full_status(1, &[entry]);
        assert_eq!(usize::from(full[7]), full.len() - 8);
        assert_eq!((full[15], full[20], full[31], full[32]), (5, 2, 24, 0x45));
    }

    #[test]
    fn codes_of_types_go_there_and_back() {
        let known = (0..16).filter_map(|code| Some((code, ReservationType::from_code(code)?)));
        let known: Vec<_> = known.collect();
        assert_eq!(known.len(), 6);
        assert!(known.iter().all(|(code, kind)| kind.code() == *code));
    }
}
