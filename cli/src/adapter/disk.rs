//! Disk image files as sources.

use std::path::Path;

use anyhow::Result;
use sluice_connector_disk::{DiskError, DiskSource, Format, Within};

use crate::args::SourceFormat;
use crate::error::usage_error;

/// Opens an image file or device, of which all files lie where they may.
pub(crate) async fn open(path: &Path, format: SourceFormat, within: &Within) -> Result<DiskSource> {
    let format = match format {
        SourceFormat::Auto => None,
        SourceFormat::Raw => Some(Format::Raw),
        SourceFormat::Qcow2 => Some(Format::Qcow2),
        SourceFormat::Vmdk => Some(Format::Vmdk),
        SourceFormat::Vhd => Some(Format::Vhd),
        SourceFormat::Vhdx => Some(Format::Vhdx),
    };
    match sluice_connector_disk::open_within(path, format, within).await {
        // It stays so until somebody changes something.
        Err(error @ DiskError::Outside(..)) => Err(usage_error(error.to_string())),
        other => Ok(other?),
    }
}
