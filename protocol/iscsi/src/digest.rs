/// The digest of a header or a data segment ("Digest").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Digest {
    /// No digest.
    #[default]
    None,
    /// CRC-32C, four bytes after the segment and its padding.
    Crc32c,
}

impl Digest {
    /// Bytes of the digest on the wire.
    pub fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32c => 4,
        }
    }

    /// Whether there is no digest.
    pub fn is_empty(self) -> bool {
        self == Self::None
    }
}

/// The CRC-32C of a padded segment as it stands on the wire.
pub fn digest(bytes: &[u8]) -> [u8; 4] {
    // The bit order of the RFC makes it the one field that is little-endian.
    crc32c::crc32c(bytes).to_le_bytes()
}

/// The CRC-32C of a segment and its padding that lie apart.
pub fn digest_parts(segment: &[u8], padding: &[u8]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(segment), padding).to_le_bytes()
}

/// The CRC-32C of what `sum` is the digest of, followed by `more`.
pub fn digest_more(sum: [u8; 4], more: &[u8]) -> [u8; 4] {
    crc32c::crc32c_append(u32::from_le_bytes(sum), more).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_specification_hold() {
        // "CRC Examples".
        assert_eq!(digest(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(digest(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(digest(&rising), [0x4e, 0x79, 0xdd, 0x46]);
        assert_eq!(digest_parts(&rising[..29], &rising[29..]), digest(&rising));
        assert_eq!(digest_more(digest(&rising[..5]), &rising[5..]), digest(&rising));
    }
}
