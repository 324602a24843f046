use crate::WireError;

/// Reads fields from the front of a slice; never past its end.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// Reads from `bytes`, which hold the message called `what` in errors.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) =
            self.rest.split_at_checked(length).ok_or(WireError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) =
            self.rest.split_first_chunk().ok_or(WireError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A 32-bit length and as many bytes of UTF-8, at most [`limits::STRING`](crate::limits).
    pub(crate) fn string(&mut self, what: &'static str) -> Result<String, WireError> {
        let length = self.u32()?;
        let bytes = self.take(length as usize)?;
        utf8(bytes, what)
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Checks that the message ends here.
    pub(crate) fn end(&self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(WireError::Trailing { what: self.what, extra }),
        }
    }
}

/// A string of the protocol: UTF-8, at most [`limits::STRING`](crate::limits::STRING) bytes.
pub(crate) fn utf8(bytes: &[u8], what: &'static str) -> Result<String, WireError> {
    if bytes.len() > crate::limits::STRING as usize {
        return Err(WireError::StringTooLong { what, length: bytes.len() });
    }
    str::from_utf8(bytes).map(str::to_owned).map_err(|_| WireError::NotUtf8 { what })
}

/// Checks a magic number.
pub(crate) fn magic(found: u64, wanted: u64, what: &'static str) -> Result<(), WireError> {
    if found == wanted { Ok(()) } else { Err(WireError::Magic { what, found }) }
}
