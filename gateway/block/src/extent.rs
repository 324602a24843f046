use crate::{BlockRead, Result};

/// What a run of bytes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Bytes that must be read to be known.
    Data,
    /// Allocated, and known to read as zeroes.
    Zero,
    /// Not allocated; reads as zeroes.
    Hole,
}

impl ExtentKind {
    /// Whether the run is known to read as zeroes.
    pub fn reads_zero(self) -> bool {
        self != Self::Data
    }
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes, never zero.
    pub length: u64,
    /// What the run holds.
    pub kind: ExtentKind,
}

impl Extent {
    /// A run of data.
    pub fn data(offset: u64, length: u64) -> Self {
        Self { offset, length, kind: ExtentKind::Data }
    }

    /// A run of allocated zeroes.
    pub fn zero(offset: u64, length: u64) -> Self {
        Self { offset, length, kind: ExtentKind::Zero }
    }

    /// A run that is not allocated.
    pub fn hole(offset: u64, length: u64) -> Self {
        Self { offset, length, kind: ExtentKind::Hole }
    }

    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// Builds a list of extents, merging neighbours of one kind as they are pushed.
#[derive(Debug, Default, Clone)]
pub struct ExtentList {
    extents: Vec<Extent>,
}

impl ExtentList {
    /// Appends a run; an empty one is dropped. It must start where the last one ended.
    pub fn push(&mut self, next: Extent) {
        if next.length == 0 {
            return;
        }
        match self.extents.last_mut() {
            Some(last) if last.kind == next.kind && last.end() == next.offset => {
                last.length += next.length;
            }
            _ => self.extents.push(next),
        }
    }

    /// Number of runs so far.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// The finished list.
    pub fn into_vec(self) -> Vec<Extent> {
        self.extents
    }
}

/// All extents of `offset..offset + length`, neighbours of one kind merged.
///
/// # Errors
/// What the device reports.
pub async fn coalesce(disk: &dyn BlockRead, offset: u64, length: u64) -> Result<Vec<Extent>> {
    let mut list = ExtentList::default();
    let mut at = offset;
    let end = offset + length;
    while at < end {
        for extent in disk.extents(at, end - at).await? {
            at = extent.end();
            list.push(extent);
        }
    }
    Ok(list.into_vec())
}
