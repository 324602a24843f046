//! Which partition of a disk a byte lies in, from the disk's first bytes: MBR and GPT.
//!
//! Only for telling people; whatever cannot be read has no partitions.

use std::ops::Range;

/// Bytes of a disk that hold its tables as they are commonly laid out.
pub const HEAD: usize = 48 << 10;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// Its bytes on the disk.
    pub bytes: Range<u64>,
    /// Its name, when the table gives one.
    pub name: Option<String>,
}

fn number<const N: usize>(head: &[u8], at: usize) -> Option<u64> {
    let bytes = head.get(at..at.checked_add(N)?)?;
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(bytes);
    Some(u64::from_le_bytes(wide))
}

/// The partitions that the first bytes of a disk tell of.
pub fn partitions(head: &[u8]) -> Vec<Partition> {
    for sector in [512, 4096] {
        if let Some(found) = gpt(head, sector) {
            return found;
        }
    }
    mbr(head).unwrap_or_default()
}

fn mbr(head: &[u8]) -> Option<Vec<Partition>> {
    if number::<2>(head, 510)? != 0xAA55 {
        return None;
    }
    let mut found = Vec::new();
    for index in 0..4u32 {
        let at = 446 + index as usize * 16;
        let (kind, first, count) =
            (number::<1>(head, at + 4)?, number::<4>(head, at + 8)?, number::<4>(head, at + 12)?);
        if kind != 0 && count != 0 {
            let bytes = first * 512..(first + count) * 512;
            found.push(Partition { number: index + 1, bytes, name: None });
        }
    }
    Some(found)
}

fn gpt(head: &[u8], sector: usize) -> Option<Vec<Partition>> {
    if head.get(sector..sector + 8)? != b"EFI PART" {
        return None;
    }
    let (table, count, length) = (
        number::<8>(head, sector + 72)?,
        number::<4>(head, sector + 80)?,
        number::<4>(head, sector + 84)? as usize,
    );
    if length < 128 {
        return None;
    }
    let table = usize::try_from(table).ok()?.checked_mul(sector)?;
    let mut found = Vec::new();
    for index in 0..count.min(1024) {
        let at = table.checked_add(usize::try_from(index).ok()?.checked_mul(length)?)?;
        let Some(entry) = head.get(at..at.checked_add(128)?) else { break };
        if entry[..16] == [0; 16] {
            continue;
        }
        let (first, last) = (number::<8>(entry, 32)?, number::<8>(entry, 40)?);
        let sector = sector as u64;
        let end = last.checked_add(1).and_then(|end| end.checked_mul(sector));
        let (Some(start), Some(end)) = (first.checked_mul(sector), end) else { continue };
        let units = entry[56..128].chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]]));
        let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        let name = Some(String::from_utf16_lossy(&units)).filter(|name| !name.is_empty());
        found.push(Partition { number: index as u32 + 1, bytes: start..end, name });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mbr_disk() -> Vec<u8> {
        let mut head = vec![0; 512];
        head[510..].copy_from_slice(&[0x55, 0xAA]);
        head[446 + 4] = 0x83;
        head[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
        head[446 + 12..446 + 16].copy_from_slice(&4096u32.to_le_bytes());
        head
    }

    #[test]
    fn partitions_of_both_kinds_are_told() {
        let found = partitions(&mbr_disk());
        let bytes = 1 << 20..3 << 20;
        assert_eq!(found, [Partition { number: 1, bytes: bytes.clone(), name: None }]);

        let mut head = vec![0; HEAD];
        head[..512].copy_from_slice(&mbr_disk());
        head[512..520].copy_from_slice(b"EFI PART");
        head[512 + 72..512 + 80].copy_from_slice(&2u64.to_le_bytes());
        head[512 + 80..512 + 84].copy_from_slice(&128u32.to_le_bytes());
        head[512 + 84..512 + 88].copy_from_slice(&128u32.to_le_bytes());
        let entry = &mut head[1024 + 128..1024 + 256];
        entry[0] = 1;
        entry[32..40].copy_from_slice(&2048u64.to_le_bytes());
        entry[40..48].copy_from_slice(&6143u64.to_le_bytes());
        for (at, unit) in "root".encode_utf16().enumerate() {
            entry[56 + at * 2..58 + at * 2].copy_from_slice(&unit.to_le_bytes());
        }
        let found = partitions(&head);
        assert_eq!(found, [Partition { number: 2, bytes, name: Some("root".into()) }]);
        assert!(partitions(b"nothing").is_empty());
    }

    proptest! {
        #[test]
        fn hostile_tables_never_panic(
            junk in proptest::collection::vec(any::<u8>(), 0..3000), gpt in any::<bool>(),
        ) {
            let mut head = junk;
            if gpt && head.len() > 520 {
                head[512..520].copy_from_slice(b"EFI PART");
            }
            if head.len() > 512 {
                head[510..512].copy_from_slice(&[0x55, 0xAA]);
            }
            let _ = partitions(&head);
        }
    }
}
