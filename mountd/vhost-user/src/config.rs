//! What the guest can ask the device about itself: features, and the configuration space
//! (Virtual I/O Device 1.2, section 5.2).

/// Bytes of a sector, in which everything is counted.
pub(crate) const SECTOR: u64 = 512;
/// Segments of a request: with header and status, half of a ring.
pub(crate) const SEGMENTS: u32 = 126;
/// Places in a ring.
pub(crate) const QUEUE_SIZE: usize = 256;
/// Sectors that one range to discard or to zero may have: 2 GiB.
pub(crate) const MOST_SECTORS: u32 = 1 << 22;
/// Ranges in one request to discard or to zero.
pub(crate) const MOST_RANGES: u32 = 16;
/// Physical blocks are 2 to this power of logical ones: 4 KiB, to which guests align.
const PHYSICAL_EXPONENT: u8 = 3;
/// Bytes of a physical block.
pub(crate) const PHYSICAL: u64 = SECTOR << PHYSICAL_EXPONENT;
/// Logical blocks that reads are best multiples of: 128 KiB, the block of an image.
const OPTIMAL_BLOCKS: u32 = 256;

/// Bits of features.
pub(crate) mod feature {
    /// SEG_MAX: segments of a request are limited.
    pub(crate) const SEG_MAX: u64 = 1 << 2;
    /// RO: read-only.
    pub(crate) const RO: u64 = 1 << 5;
    /// BLK_SIZE: the size of a logical block is told.
    pub(crate) const BLK_SIZE: u64 = 1 << 6;
    /// FLUSH: what was written can be made durable.
    pub(crate) const FLUSH: u64 = 1 << 9;
    /// TOPOLOGY: physical blocks are told.
    pub(crate) const TOPOLOGY: u64 = 1 << 10;
    /// MQ: several queues.
    pub(crate) const MQ: u64 = 1 << 12;
    /// DISCARD.
    pub(crate) const DISCARD: u64 = 1 << 13;
    /// WRITE_ZEROES.
    pub(crate) const WRITE_ZEROES: u64 = 1 << 14;
    /// Descriptors may be in a table of their own.
    pub(crate) const INDIRECT: u64 = 1 << 28;
    /// Interrupts and kicks can be asked for at a place of the ring.
    pub(crate) const EVENT_IDX: u64 = 1 << 29;
    /// vhost-user has optional messages.
    pub(crate) const PROTOCOL: u64 = 1 << 30;
    /// A device of virtio 1.
    pub(crate) const VERSION_1: u64 = 1 << 32;
}

/// The features of a device.
pub(crate) fn features(writable: bool) -> u64 {
    use feature::{
        BLK_SIZE, DISCARD, EVENT_IDX, FLUSH, INDIRECT, MQ, PROTOCOL, RO, SEG_MAX, TOPOLOGY,
        VERSION_1, WRITE_ZEROES,
    };
    let all = SEG_MAX | BLK_SIZE | TOPOLOGY | MQ | INDIRECT | EVENT_IDX | PROTOCOL | VERSION_1;
    all | if writable { FLUSH | DISCARD | WRITE_ZEROES } else { RO }
}

/// The configuration space.
pub(crate) fn space(sectors: u64, queues: u16, writable: bool) -> [u8; 60] {
    let mut space = [0; 60];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    put(12, &SEGMENTS.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(24, &[PHYSICAL_EXPONENT]);
    put(26, &(1_u16 << PHYSICAL_EXPONENT).to_le_bytes());
    put(28, &OPTIMAL_BLOCKS.to_le_bytes());
    put(34, &queues.to_le_bytes());
    if writable {
        // A cache that needs flushing.
        put(32, &[1]);
        put(36, &MOST_SECTORS.to_le_bytes());
        put(40, &MOST_RANGES.to_le_bytes());
        put(44, &(1_u32 << PHYSICAL_EXPONENT).to_le_bytes());
        put(48, &MOST_SECTORS.to_le_bytes());
        put(52, &MOST_RANGES.to_le_bytes());
        put(56, &[1]);
    }
    space
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_has_its_fields_where_drivers_look() {
        let space = space(0x0102_0304_0506, 4, true);
        assert_eq!(space[..8], [6, 5, 4, 3, 2, 1, 0, 0]);
        assert_eq!(space[12..16], [126, 0, 0, 0]);
        assert_eq!(space[20..24], [0, 2, 0, 0]);
        assert_eq!(space[34..36], [4, 0]);
        assert_eq!(space[36..40], [0, 0, 64, 0]);
        assert_eq!(space[56], 1);
    }

    #[test]
    fn only_a_read_only_device_says_so_and_it_offers_no_writes() {
        assert_eq!(features(false) & feature::RO, feature::RO);
        assert_eq!(features(true) & feature::RO, 0);
        let writes = feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES;
        assert_eq!(features(true) & writes, writes);
        assert_eq!(features(false) & writes, 0);
    }
}
