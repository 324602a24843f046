use std::fmt;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use sluice_block::{BlockError, BlockRead, BlockWrite, ErrorKind, Pool, Result};
use sluice_nbd_wire::{BlockSizes, limits};
use tokio::sync::Mutex;

use crate::ServeError;
use crate::context::ChangeMaps;
use crate::device::{Changes, Device, OpenDevice, Opened};

/// What clients are told of requests unless the export says otherwise.
const SIZES: BlockSizes = BlockSizes { minimum: 1, preferred: 4096, maximum: limits::PAYLOAD };

/// Bytes kept for reuse per export: one full pipeline of a connection.
const KEPT: usize = 32 << 20;

/// A device under the name by which clients ask for it.
#[derive(Clone)]
pub struct Export {
    /// The name; the first export of a server also answers to the empty name.
    pub name: String,
    /// A text for people; may be empty.
    pub description: String,
    source: Arc<dyn OpenDevice>,
    changes: Option<Arc<dyn Changes>>,
    pub(crate) sizes: BlockSizes,
    pub(crate) fast_zeroes: bool,
}

impl Export {
    /// Serves `device` as `name`, without a description. Writes fail.
    pub fn new(name: impl Into<String>, device: Arc<dyn BlockRead>) -> Self {
        Self::lazy(name, Arc::new(Ready(Device::ReadOnly(device))))
    }

    /// Serves `device` as `name`, without a description. Clients may write.
    pub fn writable(name: impl Into<String>, device: Arc<dyn BlockWrite>) -> Self {
        Self::lazy(name, Arc::new(Ready(Device::Writable(device))))
    }

    /// Serves as `name` what `source` opens, once a client asks for it.
    pub fn lazy(name: impl Into<String>, source: Arc<dyn OpenDevice>) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            source,
            changes: None,
            sizes: SIZES,
            fast_zeroes: true,
        }
    }

    /// The same export with a text for people.
    #[must_use]
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// The same export with `sluice:changed-since=` contexts, where its source brings none.
    #[must_use]
    pub fn with_changes(mut self, changes: Arc<dyn Changes>) -> Self {
        self.changes = Some(changes);
        self
    }

    /// The same export for requests of other sizes than any: offsets and lengths that are no
    /// multiples of the minimum are refused, and so are clients that do not ask for the sizes when
    /// the minimum is over 1.
    #[must_use]
    pub fn with_block_sizes(mut self, sizes: BlockSizes) -> Self {
        self.sizes = sizes;
        self
    }

    /// The same export on a device whose `write_zeroes` may be as slow as writing: clients that
    /// want zeroes only if these are fast are refused.
    #[must_use]
    pub fn with_slow_zeroes(mut self) -> Self {
        self.fast_zeroes = false;
        self
    }

    fn check(&self) -> Result<(), ServeError> {
        for (what, text) in [("name", &self.name), ("description", &self.description)] {
            let (length, limit) = (text.len(), limits::STRING as usize);
            if length > limit {
                return Err(ServeError::TooLong { what, length, limit });
            }
        }
        let BlockSizes { minimum, preferred, maximum } = self.sizes;
        let powers = minimum.is_power_of_two() && preferred.is_power_of_two();
        let ordered = minimum <= preferred && preferred <= maximum && maximum <= limits::PAYLOAD;
        // "Block size constraints": the minimum is 64 KiB at most.
        if powers && ordered && minimum <= 64 << 10 && maximum.is_multiple_of(minimum) {
            return Ok(());
        }
        Err(ServeError::BlockSizes { name: self.name.clone() })
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

/// A device that needs no opening.
struct Ready(Device);

#[async_trait]
impl OpenDevice for Ready {
    async fn open(&self) -> Result<Opened> {
        Ok(Opened { device: self.0.clone(), changes: None })
    }
}

/// An export as the server holds it.
pub(crate) struct Served {
    pub(crate) export: Export,
    /// Buffers are shared within an export only, so that no bytes wander between devices even
    /// if one broke its promise to fill what it is given.
    pool: Arc<Pool>,
    open: Mutex<Weak<Open>>,
}

/// An export that is open; sessions hold it.
pub(crate) struct Open {
    pub(crate) name: String,
    pub(crate) sizes: BlockSizes,
    pub(crate) fast_zeroes: bool,
    pub(crate) device: Device,
    pub(crate) maps: ChangeMaps,
    pub(crate) pool: Arc<Pool>,
}

impl Open {
    pub(crate) fn size(&self) -> u64 {
        self.device.reader().size()
    }
}

impl Served {
    fn new(export: Export) -> Self {
        let pool = Arc::new(Pool::new(limits::PAYLOAD as usize, KEPT));
        Self { export, pool, open: Mutex::default() }
    }

    /// The open export: the one that other sessions hold, or opened now.
    pub(crate) async fn open(&self) -> Result<Arc<Open>> {
        // Held across the opening, so that clients who come together cause one.
        let mut slot = self.open.lock().await;
        if let Some(open) = slot.upgrade() {
            return Ok(open);
        }
        let opened = self.export.source.open().await?;
        let export = &self.export;
        let open = Arc::new(Open {
            name: export.name.clone(),
            sizes: export.sizes,
            fast_zeroes: export.fast_zeroes,
            device: opened.device,
            maps: ChangeMaps::new(opened.changes.or_else(|| export.changes.clone())),
            pool: Arc::clone(&self.pool),
        });
        if !open.size().is_multiple_of(u64::from(export.sizes.minimum)) {
            let context = "the size of the disk is no multiple of the minimum block size";
            return Err(BlockError::new(ErrorKind::Io, context));
        }
        *slot = Arc::downgrade(&open);
        Ok(open)
    }
}

/// The exports of a server, in the order given.
pub(crate) struct Exports {
    all: Vec<Arc<Served>>,
}

impl Exports {
    pub(crate) fn new(exports: Vec<Export>) -> Result<Self, ServeError> {
        if exports.is_empty() {
            return Err(ServeError::NoExports);
        }
        let mut names = std::collections::HashSet::new();
        for export in &exports {
            export.check()?;
            if !names.insert(export.name.as_str()) {
                return Err(ServeError::DuplicateName { name: export.name.clone() });
            }
        }
        drop(names);
        let all = exports.into_iter().map(|export| Arc::new(Served::new(export))).collect();
        Ok(Self { all })
    }

    /// The export called `name`; the first one for the empty name.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Served>> {
        let exact = self.all.iter().find(|served| served.export.name == name);
        exact.or_else(|| if name.is_empty() { self.all.first() } else { None })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Export> {
        self.all.iter().map(|served| &served.export)
    }
}
