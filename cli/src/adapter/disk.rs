//! Disk image files as sources.

use std::path::Path;

use anyhow::Result;
use sluice_connector_disk::{DiskSource, Format};

use crate::args::SourceFormat;

/// Opens an image file or device.
pub(crate) async fn open(path: &Path, format: SourceFormat) -> Result<DiskSource> {
    let format = match format {
        SourceFormat::Auto => None,
        SourceFormat::Raw => Some(Format::Raw),
        SourceFormat::Qcow2 => Some(Format::Qcow2),
        SourceFormat::Vmdk => Some(Format::Vmdk),
        SourceFormat::Vhd => Some(Format::Vhd),
        SourceFormat::Vhdx => Some(Format::Vhdx),
    };
    Ok(sluice_connector_disk::open(path, format).await?)
}
