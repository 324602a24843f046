//! The source: connections that come and go behind one [`BlockRead`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use sluice_block::{
    BlockError, BlockRead, Extent, ExtentKind, ExtentList, MAX_EXTENTS, check_range,
};
use sluice_nbd_wire::{
    AllocationFlags, BASE_ALLOCATION, BlockSizes, Command, CommandFlags, TransmissionFlags,
};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};

use crate::connection::{Connection, open};
use crate::pending::{Answer, Ask};
use crate::{NbdError, NbdUri};

/// Connections to a server that allows several: past four, copying gains nothing.
const CONNECTIONS: usize = 4;
/// Bytes of one read request; longer reads are split so that connections share them.
const PIECE: u64 = 1 << 20;
/// Read requests under way, which bounds the memory of a source to as many pieces.
const PIECES_IN_FLIGHT: usize = 32;
/// Time to connect and negotiate.
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Time for one request; a disk array that fails over may take a while.
pub(crate) const REQUEST_PATIENCE: Duration = Duration::from_secs(60);
/// Pauses before the second, third, ... attempt.
pub(crate) const PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
/// The longest range of one status request with 32-bit lengths: whole blocks around it still fit.
pub(crate) const LONGEST_STATUS: u64 = 1 << 31;

/// An export of an NBD server, read as a block device.
pub struct NbdSource {
    uri: NbdUri,
    size: u64,
    sizes: BlockSizes,
    allocation: bool,
    slots: Vec<Mutex<Option<Arc<Connection>>>>,
    /// How many of `slots` the server lets us use.
    usable: AtomicUsize,
    turn: AtomicUsize,
    pieces: Semaphore,
}

impl NbdSource {
    /// Connects to `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`.
    ///
    /// # Errors
    /// [`NbdError::Uri`], [`NbdError::Connect`], [`NbdError::Timeout`],
    /// [`NbdError::NoSuchExport`] and others of the negotiation.
    pub async fn connect(uri: &str) -> Result<Self, NbdError> {
        let uri: NbdUri = uri.parse()?;
        let first = establish(&uri).await?;
        let agreement = &first.agreement;
        let several = agreement.flags.contains(TransmissionFlags::CAN_MULTI_CONN);
        let count = if several { CONNECTIONS } else { 1 };
        let (size, sizes) = (agreement.size, agreement.sizes);
        let allocation = agreement.context(BASE_ALLOCATION).is_some();
        tracing::info!(
            server = %uri.target, export = uri.export, size, framing = ?agreement.framing,
            connections = count, allocation, "NBD source opened"
        );
        let mut slots = vec![Mutex::new(Some(Arc::new(first)))];
        slots.resize_with(count, Mutex::default);
        Ok(Self {
            uri,
            size,
            sizes,
            allocation,
            slots,
            usable: AtomicUsize::new(count),
            turn: AtomicUsize::new(0),
            pieces: Semaphore::new(PIECES_IN_FLIGHT),
        })
    }

    /// The export's address.
    pub fn uri(&self) -> &NbdUri {
        &self.uri
    }

    /// Whether the server tells data from holes; without, everything counts as data.
    pub fn knows_allocation(&self) -> bool {
        self.allocation
    }

    /// The ranges that the dirty bitmap `name` of a QEMU server marks as changed, in order and
    /// merged, over the whole export.
    ///
    /// # Errors
    /// [`NbdError::NoSuchBitmap`] with the bitmaps there are; otherwise as reading.
    pub async fn dirty_bitmap(&self, name: &str) -> Result<Vec<Range<u64>>, NbdError> {
        crate::bitmap::dirty(&self.uri, self.size, name).await
    }

    /// The names of the dirty bitmaps the export offers.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn bitmaps(&self) -> Result<Vec<String>, NbdError> {
        crate::bitmap::offered(&self.uri).await
    }

    /// Asks on some connection, again on a fresh one when it breaks.
    async fn ask(&self, ask: Ask) -> Result<(Answer, Arc<Connection>), NbdError> {
        let mut pauses = PAUSES.iter();
        loop {
            let attempt = match self.connection().await {
                Ok(connection) => {
                    connection.ask(ask, REQUEST_PATIENCE).await.map(|answer| (answer, connection))
                }
                Err(error) => Err(error),
            };
            match (attempt, pauses.next()) {
                (Err(error), Some(pause)) if error.is_retryable() => {
                    tracing::warn!(server = %self.uri.target, "{error}; trying again");
                    sleep(*pause).await;
                }
                (attempt, _) => return attempt,
            }
        }
    }

    /// The next connection in turn, opened if need be.
    async fn connection(&self) -> Result<Arc<Connection>, NbdError> {
        let usable = self.usable.load(Ordering::Relaxed);
        let index = self.turn.fetch_add(1, Ordering::Relaxed) % usable;
        match self.slot(index).await {
            // The server announced several connections but takes fewer: make do with those.
            Err(error) if index > 0 && error.is_retryable() => {
                tracing::info!(server = %self.uri.target, "using {index} connections: {error}");
                self.usable.fetch_min(index, Ordering::Relaxed);
                self.slot(0).await
            }
            other => other,
        }
    }

    async fn slot(&self, index: usize) -> Result<Arc<Connection>, NbdError> {
        let mut slot = self.slots[index].lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_lost()) {
            return Ok(Arc::clone(connection));
        }
        *slot = None;
        let connection = Arc::new(establish(&self.uri).await?);
        let now = connection.agreement.size;
        if now != self.size {
            return Err(NbdError::SizeChanged { before: self.size, now });
        }
        *slot = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Reads one piece.
    async fn piece(&self, offset: u64, buf: &mut [u8]) -> Result<(), NbdError> {
        // The semaphore lives as long as the source and is never closed.
        let _permit = self.pieces.acquire().await;
        let blocks = self.whole_blocks(offset, offset + buf.len() as u64);
        let ask = Ask { command: Command::Read, ..status_of(&blocks) };
        let (answer, _) = self.ask(ask).await?;
        let skip = (offset - blocks.start) as usize;
        buf.copy_from_slice(&answer.content[skip..skip + buf.len()]);
        Ok(())
    }

    /// Bytes between the offsets at which reads are cut, a multiple of the minimum.
    fn stride(&self) -> u64 {
        let (minimum, maximum) = (u64::from(self.sizes.minimum), u64::from(self.sizes.maximum));
        (PIECE.min(maximum) / minimum * minimum).max(minimum)
    }

    /// The smallest range of whole blocks around `from..to`.
    fn whole_blocks(&self, from: u64, to: u64) -> Range<u64> {
        let minimum = u64::from(self.sizes.minimum);
        from / minimum * minimum..to.next_multiple_of(minimum).min(self.size)
    }

    /// What the server says of a prefix of the range.
    async fn status(&self, offset: u64, length: u64) -> Result<Vec<Extent>, NbdError> {
        let end = offset + length.min(LONGEST_STATUS);
        let blocks = self.whole_blocks(offset, end);
        let (answer, connection) = self.ask(status_of(&blocks)).await?;
        let context = connection.agreement.context(BASE_ALLOCATION);
        let mut list = ExtentList::default();
        for (run, flags) in runs(answer, context, &(offset..end), blocks.start) {
            if list.len() == MAX_EXTENTS - 1 {
                break;
            }
            let kind = kind_of(AllocationFlags(flags));
            list.push(Extent { offset: run.start, length: run.end - run.start, kind });
        }
        if list.is_empty() {
            return Err(NbdError::Protocol("the block status describes nothing"));
        }
        Ok(list.into_vec())
    }
}

/// A request for the status of a range.
pub(crate) fn status_of(range: &Range<u64>) -> Ask {
    Ask {
        command: Command::BlockStatus,
        flags: CommandFlags::empty(),
        offset: range.start,
        length: range.end - range.start,
    }
}

/// The runs that a status reply describes in one context from `start` on, clipped to `within`,
/// without gaps; their flags come along.
pub(crate) fn runs(
    answer: Answer,
    context: Option<u32>,
    within: &Range<u64>,
    start: u64,
) -> impl Iterator<Item = (Range<u64>, u64)> {
    let described = answer.status.into_iter().find(|(id, _)| Some(*id) == context);
    let extents = described.map(|(_, extents)| extents).unwrap_or_default();
    let within = within.clone();
    let mut at = start;
    extents.into_iter().filter_map(move |extent| {
        let from = at.max(within.start);
        // A server may describe more than it was asked about.
        at = at.saturating_add(extent.length);
        let to = at.min(within.end);
        (from < to).then_some((from..to, extent.flags))
    })
}

/// A hole that does not promise zeroes must be read like data.
fn kind_of(flags: AllocationFlags) -> ExtentKind {
    if !flags.contains(AllocationFlags::ZERO) {
        ExtentKind::Data
    } else if flags.contains(AllocationFlags::HOLE) {
        ExtentKind::Hole
    } else {
        ExtentKind::Zero
    }
}

#[async_trait]
impl BlockRead for NbdSource {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(self.size, offset, buf.len() as u64)?;
        let stride = self.stride();
        let (mut at, mut rest, mut pieces) = (offset, buf, vec![]);
        while !rest.is_empty() {
            let to_cut = (stride - at % stride) as usize;
            let (this, next) = rest.split_at_mut(to_cut.min(rest.len()));
            let length = this.len() as u64;
            pieces.push(self.piece(at, this));
            (at, rest) = (at + length, next);
        }
        try_join_all(pieces).await?;
        Ok(())
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, BlockError> {
        check_range(self.size, offset, length)?;
        if length == 0 {
            return Ok(vec![]);
        }
        if !self.allocation {
            return Ok(vec![Extent::data(offset, length)]);
        }
        match self.status(offset, length).await {
            // Reading will tell whether there is real trouble; data is always a safe answer.
            Err(error @ NbdError::Remote { .. }) if !error.is_retryable() => {
                tracing::warn!(server = %self.uri.target, "no block status: {error}");
                Ok(vec![Extent::data(offset, length)])
            }
            other => Ok(other?),
        }
    }
}

impl fmt::Debug for NbdSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NbdSource")
            .field("uri", &self.uri)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// A connection in transmission, with the map of holes if there is one.
async fn establish(uri: &NbdUri) -> Result<Connection, NbdError> {
    let connecting = async {
        let mut negotiation = open(uri).await?;
        let wanted = [BASE_ALLOCATION.to_owned()];
        let contexts = negotiation.select(&uri.export, &wanted).await?;
        Connection::start(negotiation, &uri.export, contexts).await
    };
    let after = CONNECT_PATIENCE;
    timeout(after, connecting).await.map_err(|_| NbdError::Timeout { after })?
}
