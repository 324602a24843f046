use crate::{HEADER, WireError, limits};

/// Bytes that follow a header: additional headers, then data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lengths {
    /// Bytes of additional header segments, a multiple of four.
    pub ahs: usize,
    /// Bytes of the data segment, without padding.
    pub data: usize,
}

impl Lengths {
    /// What follows `header`, when data may have at most `most_data` bytes.
    ///
    /// # Errors
    /// [`WireError::TooLong`].
    pub fn decode(header: &[u8; HEADER], most_data: usize) -> Result<Self, WireError> {
        let ahs = usize::from(header[4]) * 4;
        let data = get32(header, 4) & 0x00ff_ffff;
        check("additional headers", ahs as u64, limits::AHS)?;
        check("a data segment", u64::from(data), most_data)?;
        Ok(Self { ahs, data: data as usize })
    }

    /// Writes the length of the data segment into `header`. Nothing here sends additional headers.
    pub(crate) fn encode_data(header: &mut [u8; HEADER], data: usize) {
        debug_assert!(data < 1 << 24, "a data segment has 24 bits of length");
        put32(header, 4, data as u32 & 0x00ff_ffff);
    }
}

fn check(what: &'static str, length: u64, limit: usize) -> Result<(), WireError> {
    if length > limit as u64 {
        return Err(WireError::TooLong { what, length, limit: limit as u64 });
    }
    Ok(())
}

/// Zero bytes that follow a segment of `length` bytes, so that the next starts at a multiple of
/// four.
pub fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

pub(crate) fn get16(header: &[u8; HEADER], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

pub(crate) fn get32(header: &[u8; HEADER], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

pub(crate) fn get64(header: &[u8; HEADER], at: usize) -> u64 {
    u64::from(get32(header, at)) << 32 | u64::from(get32(header, at + 4))
}

pub(crate) fn put16(header: &mut [u8; HEADER], at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn put32(header: &mut [u8; HEADER], at: usize, value: u32) {
    header[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn put64(header: &mut [u8; HEADER], at: usize, value: u64) {
    header[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_and_held_to_their_limits() {
        let mut header = [0; HEADER];
        header[4..8].copy_from_slice(&[3, 1, 2, 3]);
        let lengths = Lengths::decode(&header, 1 << 20).unwrap();
        assert_eq!(lengths, Lengths { ahs: 12, data: 0x010203 });
        assert!(Lengths::decode(&header, 0x010202).unwrap_err().is_fatal());
        header[4] = 255;
        assert!(Lengths::decode(&header, 1 << 20).unwrap_err().is_fatal());
    }

    #[test]
    fn segments_are_padded_to_four() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    }
}
