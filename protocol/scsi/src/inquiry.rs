//! INQUIRY: what a disk says of itself.

use crate::field::{ascii, put};
use crate::identity::VENDOR;
use crate::{Names, Sense};

/// What one command to a disk may ask for, in blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Blocks of one read or write.
    pub transfer: u32,
    /// Blocks that are best transferred at a time.
    pub optimal: u32,
    /// Blocks that one UNMAP may name, over all its ranges.
    pub unmap: u32,
    /// Ranges of one UNMAP.
    pub unmap_ranges: u32,
    /// Blocks that are best unmapped at a time, and from a multiple of which.
    pub unmap_granularity: u32,
    /// Blocks of one WRITE SAME.
    pub write_same: u64,
    /// Blocks of one COMPARE AND WRITE.
    pub compare_and_write: u8,
}

/// Standard inquiry data of a disk. `connected` is false for a number without a logical unit.
pub fn inquiry(names: &Names, connected: bool) -> Vec<u8> {
    let mut data = vec![0; 96];
    // "Not connected, and cannot be" or "connected"; a disk in the latter case.
    data[0] = if connected { 0x00 } else { 0x7f };
    // SPC-4, hierarchical addressing, standard format.
    (data[2], data[3], data[4]) = (6, 0x12, 96 - 5);
    // Commands are queued.
    data[7] = 0x02;
    put(&mut data, 8, &ascii(VENDOR, 8));
    put(&mut data, 16, &ascii(&names.product, 16));
    put(&mut data, 32, &ascii(&names.revision, 4));
    // SAM-5, iSCSI, SPC-4, SBC-3; none with its revision.
    for (index, version) in [0x00a0_u16, 0x0960, 0x0460, 0x04c0].into_iter().enumerate() {
        put(&mut data, 58 + 2 * index, &version.to_be_bytes());
    }
    data
}

const PAGES: [u8; 7] = [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2];

/// A page of vital product data.
///
/// # Errors
/// [`Sense::INVALID_FIELD`] for a page that is not offered.
pub fn vital_page(page: u8, names: &Names, limits: &Limits) -> Result<Vec<u8>, Sense> {
    let content = match page {
        0x00 => PAGES.to_vec(),
        0x80 => names.identity.serial().as_bytes().to_vec(),
        0x83 => names.descriptors(),
        0x86 => extended(),
        0xb0 => block_limits(limits),
        0xb1 => characteristics(),
        0xb2 => provisioning(),
        _ => return Err(Sense::INVALID_FIELD.at(2, None)),
    };
    let mut data = vec![0, page];
    data.extend((content.len() as u16).to_be_bytes());
    data.extend(content);
    Ok(data)
}

fn extended() -> Vec<u8> {
    let mut page = vec![0; 60];
    // Head of queue, ordered and simple tasks.
    page[1] = 0x07;
    // A volatile write cache.
    page[2] = 0x01;
    page
}

fn block_limits(limits: &Limits) -> Vec<u8> {
    let mut page = vec![0; 60];
    page[1] = limits.compare_and_write;
    put(&mut page, 4, &limits.transfer.to_be_bytes());
    put(&mut page, 8, &limits.optimal.to_be_bytes());
    put(&mut page, 16, &limits.unmap.to_be_bytes());
    put(&mut page, 20, &limits.unmap_ranges.to_be_bytes());
    put(&mut page, 24, &limits.unmap_granularity.to_be_bytes());
    // The alignment is valid, and is zero.
    put(&mut page, 28, &0x8000_0000_u32.to_be_bytes());
    put(&mut page, 32, &limits.write_same.to_be_bytes());
    page
}

fn characteristics() -> Vec<u8> {
    let mut page = vec![0; 60];
    // Does not rotate.
    put(&mut page, 0, &1_u16.to_be_bytes());
    page
}

fn provisioning() -> Vec<u8> {
    // UNMAP, WRITE SAME (16) and (10) unmap, what is unmapped reads as zeroes; thin.
    vec![0, 0xe4, 0x02, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn names() -> Names {
        Names {
            identity: Identity::from_digest([0xab; 32]),
            product: "disk".to_owned(),
            revision: "1.0.0".to_owned(),
            target: "iqn.2026-01.test:one".to_owned(),
            portal_group: 1,
        }
    }

    fn limits() -> Limits {
        Limits {
            transfer: 1,
            optimal: 2,
            unmap: 3,
            unmap_ranges: 4,
            unmap_granularity: 5,
            write_same: 6,
            compare_and_write: 7,
        }
    }

    #[test]
    fn a_disk_says_what_it_is() {
        let data = inquiry(&names(), true);
        assert_eq!(data[..8], [0, 0, 6, 0x12, 91, 0, 0, 2]);
        assert_eq!(&data[8..36], b"SLUICE  disk            1.0.");
        assert_eq!(inquiry(&names(), false)[0], 0x7f);
    }

    #[test]
    fn every_page_that_is_listed_is_there_and_has_its_length() {
        let list = vital_page(0, &names(), &limits()).unwrap();
        assert_eq!(list[..4], [0, 0, 0, 7]);
        for page in &list[4..] {
            let data = vital_page(*page, &names(), &limits()).unwrap();
            assert_eq!(data[1], *page);
            assert_eq!(usize::from(crate::field::u16_at(&data, 2)), data.len() - 4);
        }
        assert!(vital_page(0xb3, &names(), &limits()).is_err());
    }

    #[test]
    fn the_limits_are_where_initiators_look_for_them() {
        let page = vital_page(0xb0, &names(), &limits()).unwrap();
        assert_eq!((page[5], page[11], page[15]), (7, 1, 2));
        assert_eq!((page[23], page[27], page[31], page[32]), (3, 4, 5, 0x80));
        assert_eq!(page[43], 6);
    }

    #[test]
    fn the_identification_page_is_made_of_whole_descriptors() {
        let page = vital_page(0x83, &names(), &limits()).unwrap();
        let (mut rest, mut kinds) = (&page[4..], Vec::new());
        while !rest.is_empty() {
            kinds.push(rest[1]);
            rest = &rest[4 + usize::from(rest[3])..];
        }
        assert_eq!(kinds, [3, 2, 1, 0x94, 0x95, 0x98, 0xa8]);
    }
}
