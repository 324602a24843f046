use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;

use crate::{BlockRead, BlockWrite, Extent, ExtentList, MAX_EXTENTS, Result, check_range};

/// Bytes a [`MemoryDisk`] allocates at a time.
const CELL: u64 = 4096;

/// A sparse disk in memory: the in-memory twin of every other device, for tests.
///
/// Only cells that were written take memory, so a disk of many TiB is cheap.
#[derive(Debug)]
pub struct MemoryDisk {
    size: u64,
    cells: RwLock<BTreeMap<u64, Box<[u8]>>>,
}

impl MemoryDisk {
    /// A disk of `size` bytes, all hole.
    pub fn new(size: u64) -> Self {
        Self { size, cells: RwLock::default() }
    }

    /// A disk that holds `bytes`; cells of zeroes stay holes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let disk = Self::new(bytes.len() as u64);
        for (index, part) in bytes.chunks(CELL as usize).enumerate() {
            if part.iter().any(|byte| *byte != 0) {
                disk.fill(index as u64 * CELL, part);
            }
        }
        disk
    }

    fn fill(&self, mut offset: u64, mut data: &[u8]) {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        while !data.is_empty() {
            let within = (offset % CELL) as usize;
            let take = data.len().min(CELL as usize - within);
            let cell = cells
                .entry(offset / CELL)
                .or_insert_with(|| vec![0; CELL as usize].into_boxed_slice());
            cell[within..within + take].copy_from_slice(&data[..take]);
            offset += take as u64;
            data = &data[take..];
        }
    }

    fn copy(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let within = (at % CELL) as usize;
            let take = (buf.len() - done).min(CELL as usize - within);
            match cells.get(&(at / CELL)) {
                Some(cell) => {
                    buf[done..done + take].copy_from_slice(&cell[within..within + take]);
                }
                None => buf[done..done + take].fill(0),
            }
            done += take;
        }
        Ok(())
    }
}

#[async_trait]
impl BlockRead for MemoryDisk {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.copy(offset, buf)
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.copy(offset, buf).is_ok()
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(self.size, offset, length)?;
        let end = offset + length;
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        let mut list = ExtentList::default();
        let mut at = offset;
        for index in cells.range(offset / CELL..end.div_ceil(CELL)).map(|(index, _)| *index) {
            let (from, to) = ((index * CELL).max(at), ((index + 1) * CELL).min(end));
            list.push(Extent::hole(at, from - at));
            list.push(Extent::data(from, to - from));
            at = to;
            if list.len() >= MAX_EXTENTS - 1 {
                return Ok(list.into_vec());
            }
        }
        list.push(Extent::hole(at, end - at));
        Ok(list.into_vec())
    }
}

#[async_trait]
impl BlockWrite for MemoryDisk {
    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(self.size, offset, data.len() as u64)?;
        self.fill(offset, data);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        check_range(self.size, offset, length)?;
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        let end = offset + length;
        let touched: Vec<u64> =
            cells.range(offset / CELL..end.div_ceil(CELL)).map(|(index, _)| *index).collect();
        for index in touched {
            let (from, to) = ((index * CELL).max(offset), ((index + 1) * CELL).min(end));
            if to - from == CELL {
                cells.remove(&index);
            } else if let Some(cell) = cells.get_mut(&index) {
                cell[(from - index * CELL) as usize..(to - index * CELL) as usize].fill(0);
            }
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[tokio::test]
    async fn memory_disk_keeps_the_contract() {
        let mut bytes = vec![0u8; 3 * 65536 + 17];
        bytes[70_000..90_000].fill(7);
        let disk = MemoryDisk::from_bytes(&bytes);
        conformance::read(&disk, &bytes).await;
        conformance::write(&MemoryDisk::new(1 << 20)).await;
    }

    #[tokio::test]
    async fn a_huge_sparse_disk_is_one_hole() {
        let disk = MemoryDisk::new(16 << 40);
        assert_eq!(disk.extents(0, 16 << 40).await.unwrap(), vec![Extent::hole(0, 16 << 40)]);
    }
}
