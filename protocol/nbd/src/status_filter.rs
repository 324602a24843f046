//! The payload by which a block status request names its contexts ("Request types").

use bytes::BufMut;

use crate::cursor::Cursor;
use crate::{WireError, limits};

/// Which contexts a block status request asks about, and for how many bytes.
///
/// With [`CommandFlags::PAYLOAD_LEN`](crate::CommandFlags::PAYLOAD_LEN) the length in the header
/// counts these bytes, and the range's own length is in here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusFilter {
    /// Bytes on the export that are asked about.
    pub length: u64,
    /// Numbers of the contexts, from the handshake; at least one, and none twice.
    pub contexts: Vec<u32>,
}

impl StatusFilter {
    /// The longest payload, in bytes.
    pub const MAX_LEN: usize = 8 + 4 * limits::STATUS_IDS;

    /// Appends the payload to `out`.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.length);
        self.contexts.iter().for_each(|id| out.put_u32(*id));
    }

    /// Reads a whole payload.
    ///
    /// # Errors
    /// [`WireError::Truncated`], or [`WireError::Invalid`] when it names no context, one twice, or
    /// more than [`limits::STATUS_IDS`].
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(payload, "the payload of a block status request");
        let length = cursor.u64()?;
        let count = cursor.remaining() / 4;
        if count == 0 || count > limits::STATUS_IDS {
            return Err(WireError::Invalid { what: "the number of contexts to ask about" });
        }
        let mut contexts = Vec::with_capacity(count);
        for _ in 0..count {
            let id = cursor.u32()?;
            if contexts.contains(&id) {
                return Err(WireError::Invalid { what: "a context that is asked about twice" });
            }
            contexts.push(id);
        }
        cursor.end()?;
        Ok(Self { length, contexts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_has_the_bytes_of_the_specification() {
        let wire = b"\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x01";
        let filter = StatusFilter { length: (1 << 32) + 2, contexts: vec![3, 1] };
        let mut out = vec![];
        filter.encode(&mut out);
        assert_eq!(out, wire);
        assert_eq!(StatusFilter::decode(wire), Ok(filter));
    }

    #[test]
    fn nonsense_is_refused() {
        let length = 7u64.to_be_bytes();
        let with = |ids: &[u8]| StatusFilter::decode(&[&length[..], ids].concat());
        assert!(matches!(StatusFilter::decode(b"\0\0\0"), Err(WireError::Truncated { .. })));
        assert!(matches!(with(b""), Err(WireError::Invalid { .. })), "no context");
        assert!(matches!(with(b"\0\0\0\x01\0\0\0\x01"), Err(WireError::Invalid { .. })));
        assert!(matches!(with(b"\0\0\0\x01\0"), Err(WireError::Trailing { extra: 1, .. })));
        let many: Vec<u8> = (0..=limits::STATUS_IDS as u32).flat_map(u32::to_be_bytes).collect();
        assert!(matches!(with(&many), Err(WireError::Invalid { .. })));
        assert!(with(&many[4..]).is_ok());
    }
}
