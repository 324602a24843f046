//! Bytes scattered over the guest's memory.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The most bytes of a request that are held at once.
pub(crate) const BUFFER: usize = 1 << 20;

/// A part of the guest's memory, as a descriptor claims it: not checked yet.
pub(crate) type Segment = (GuestAddress, u32);

/// An address that is not in the guest's memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadAddress;

/// A list of segments, passed through from the front.
#[derive(Debug, Clone, Default)]
pub(crate) struct Segments {
    list: Vec<Segment>,
    next: usize,
    offset: u32,
}

impl Segments {
    pub(crate) fn new(list: Vec<Segment>) -> Self {
        Self { list, next: 0, offset: 0 }
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> u64 {
        let rest = self.list.get(self.next..).unwrap_or_default();
        rest.iter().map(|(_, length)| u64::from(*length)).sum::<u64>() - u64::from(self.offset)
    }

    /// Takes the last byte away, and says where it is.
    pub(crate) fn pop_last(&mut self) -> Option<GuestAddress> {
        while let Some((address, length)) = self.list.last_mut() {
            if *length > 0 {
                *length -= 1;
                return address.0.checked_add(u64::from(*length)).map(GuestAddress);
            }
            self.list.pop();
        }
        None
    }

    /// Fills `buf` from the segments, which must have enough left.
    pub(crate) fn read(
        &mut self,
        memory: &GuestMemoryMmap,
        buf: &mut [u8],
    ) -> Result<(), BadAddress> {
        let mut rest = buf;
        while !rest.is_empty() {
            let (address, length) = self.take(rest.len()).ok_or(BadAddress)?;
            let (now, later) = rest.split_at_mut(length);
            memory.read_slice(now, address).map_err(|_| BadAddress)?;
            rest = later;
        }
        Ok(())
    }

    /// Writes `bytes` to the segments, which must have enough left.
    pub(crate) fn write(
        &mut self,
        memory: &GuestMemoryMmap,
        bytes: &[u8],
    ) -> Result<(), BadAddress> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (address, length) = self.take(rest.len()).ok_or(BadAddress)?;
            let (now, later) = rest.split_at(length);
            memory.write_slice(now, address).map_err(|_| BadAddress)?;
            rest = later;
        }
        Ok(())
    }

    /// The next bytes that lie together, at most `most`.
    fn take(&mut self, most: usize) -> Option<(GuestAddress, usize)> {
        loop {
            let (address, length) = *self.list.get(self.next)?;
            let left = length - self.offset;
            if left == 0 {
                (self.next, self.offset) = (self.next + 1, 0);
                continue;
            }
            let taken = left.min(u32::try_from(most).unwrap_or(u32::MAX));
            let start = address.0.checked_add(u64::from(self.offset))?;
            self.offset += taken;
            return Some((GuestAddress(start), taken as usize));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x1000)]).unwrap()
    }

    fn segments(list: &[(u64, u32)]) -> Segments {
        Segments::new(list.iter().map(|(at, length)| (GuestAddress(*at), *length)).collect())
    }

    #[test]
    fn bytes_go_through_segments_and_come_back() {
        let memory = memory();
        let list = [(0x1100, 3), (0x1800, 0), (0x1200, 5)];
        let mut all = segments(&list);
        assert_eq!(all.left(), 8);
        all.write(&memory, b"ab").unwrap();
        all.write(&memory, b"cdefgh").unwrap();
        assert_eq!((all.left(), all.write(&memory, b"x")), (0, Err(BadAddress)));
        let mut back = [0; 8];
        segments(&list).read(&memory, &mut back).unwrap();
        assert_eq!(&back, b"abcdefgh");
        let mut at = [0; 5];
        memory.read_slice(&mut at, GuestAddress(0x1200)).unwrap();
        assert_eq!(&at, b"defgh");
    }

    #[test]
    fn the_last_byte_is_taken_from_the_last_segment_with_one() {
        let mut all = segments(&[(0x1100, 2), (0x1200, 1), (0x1300, 0)]);
        let popped: Vec<_> = std::iter::from_fn(|| all.pop_last()).map(|at| at.0).collect();
        assert_eq!(popped, [0x1200, 0x1101, 0x1100]);
        assert_eq!(all.left(), 0);
    }

    #[test]
    fn addresses_outside_are_refused() {
        let memory = memory();
        for at in [0, 0xffe, 0x1fff, 0x2000, u64::MAX - 1, u64::MAX] {
            assert_eq!(segments(&[(at, 4)]).write(&memory, b"abcd"), Err(BadAddress), "{at:x}");
            assert_eq!(segments(&[(at, 4)]).read(&memory, &mut [0; 4]), Err(BadAddress));
        }
    }
}
