//! Fields of byte strings. Callers check lengths first.

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u24_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(bytes[at]) << 16 | u32::from(u16_at(bytes, at + 1))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// `text` in a field of `width` bytes, filled with spaces. What is not printable ASCII becomes a
/// question mark, as the standard allows nothing else.
pub(crate) fn ascii(text: &str, width: usize) -> Vec<u8> {
    let printable = |c: char| if (' '..='~').contains(&c) { c as u8 } else { b'?' };
    text.chars().map(printable).chain(std::iter::repeat(b' ')).take(width).collect()
}
