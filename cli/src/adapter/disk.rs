//! Disk image files as sources.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rustix::fs::{SeekFrom, seek};
use sluice_block::{BlockError, BlockRead, Extent, ExtentList, MAX_EXTENTS, check_range};

use crate::args::SourceFormat;
use crate::error::usage_error;

/// Opens an image file or device.
pub(crate) async fn open(path: &Path, format: SourceFormat) -> Result<Arc<dyn BlockRead>> {
    if !matches!(format, SourceFormat::Auto | SourceFormat::Raw) {
        return Err(usage_error("this format is not built in"));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = seek(&file, SeekFrom::End(0)).map_err(std::io::Error::from)?;
    Ok(Arc::new(RawFile { file: Arc::new(file), size }))
}

struct RawFile {
    file: Arc<File>,
    size: u64,
}

#[async_trait]
impl BlockRead for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> sluice_block::Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.file.read_exact_at(buf, offset).map_err(|error| BlockError::io("cannot read", error))
    }

    async fn extents(&self, offset: u64, length: u64) -> sluice_block::Result<Vec<Extent>> {
        check_range(self.size, offset, length)?;
        let end = offset + length;
        let mut list = ExtentList::default();
        let mut at = offset;
        while at < end && list.len() < MAX_EXTENTS - 1 {
            let data = seek(&self.file, SeekFrom::Data(at)).map_or(end, |data| data.min(end));
            list.push(Extent::hole(at, data - at));
            at = data;
            if at < end {
                let hole = seek(&self.file, SeekFrom::Hole(at)).map_or(end, |hole| hole.min(end));
                list.push(Extent::data(at, hole - at));
                at = hole;
            }
        }
        Ok(list.into_vec())
    }
}
