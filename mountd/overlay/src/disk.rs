//! A disk of an overlay, as exports serve it.

use std::sync::Arc;

use async_trait::async_trait;
use sluice_block::{
    BlockError, BlockRead, BlockWrite, ErrorKind, Extent, PoolBuffer, Result, check_range,
};

use crate::CELL;
use crate::map::State;
use crate::overlay::Overlay;
use crate::view::{View, blocking};

/// Bytes of zeroes in one step of making a range zero: how long a freeze may have to wait.
const ZERO_STEP: u64 = 1 << 30;
/// Bytes from which on writes go side by side: measured, such are slower one after the other.
const LARGE: u64 = 64 << 10;

/// A disk that can be written, whatever lies under it.
#[derive(Debug, Clone)]
pub struct OverlayDisk {
    overlay: Arc<Overlay>,
    index: usize,
    size: u64,
}

/// Part of a write: whole cells, or bytes of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Where it begins in the data.
    at: usize,
    length: usize,
    partial: bool,
}

/// Cuts a write at the first and the last cell that it covers in part.
fn pieces(offset: u64, length: usize, size: u64) -> Vec<Piece> {
    let end = offset + length as u64;
    let mut pieces = Vec::with_capacity(3);
    let mut push = |from: u64, to: u64, partial: bool| {
        if from < to {
            let (at, length) = ((from - offset) as usize, (to - from) as usize);
            pieces.push(Piece { at, length, partial });
        }
    };
    let first_end = ((offset / CELL + 1) * CELL).min(size);
    if end <= first_end {
        push(offset, end, !offset.is_multiple_of(CELL) || end < first_end);
        return pieces;
    }
    let first_whole = offset.next_multiple_of(CELL);
    let last_whole = if end == size { end } else { end / CELL * CELL };
    push(offset, first_whole, true);
    push(first_whole, last_whole, false);
    push(last_whole, end, true);
    pieces
}

impl OverlayDisk {
    pub(crate) fn new(overlay: Arc<Overlay>, index: usize, size: u64) -> Self {
        Self { overlay, index, size }
    }

    /// The disk as it is now.
    fn view(&self) -> Arc<View> {
        Arc::clone(&self.overlay.views.read()[self.index])
    }

    /// Does something to `length` bytes of the top layer that `view` shows, unless another one has
    /// come on top. Returns what was done, or nothing when it must be tried again.
    async fn change<T: Send + 'static>(
        &self,
        view: &Arc<View>,
        length: u64,
        work: impl FnOnce(&View, &Overlay) -> std::io::Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let (overlay, view, index) = (self.overlay.clone(), Arc::clone(view), self.index);
        let work = move || {
            // Held until the bytes are where they belong: a freeze waits for it.
            let _writing = overlay.writing.read();
            if !Arc::ptr_eq(&overlay.views.read()[index], &view) {
                return Ok(None);
            }
            work(&view, &overlay).map(Some)
        };
        let done = match length {
            ..LARGE => self.overlay.lanes[index].run(work).await,
            LARGE.. => blocking(work).await,
        };
        done?.map_err(|error| cannot_write(&self.overlay, error))
    }

    /// Bounds what is noted since the last flush.
    async fn flush_if_due(&self, view: &View) -> Result<()> {
        if view.top().needs_flush() { self.flush().await } else { Ok(()) }
    }

    /// Writes data that can be kept until it is written, in pieces, with what fills up the partial
    /// ones.
    async fn write<D>(&self, offset: u64, data: Arc<D>) -> Result<()>
    where
        D: AsRef<[u8]> + Send + Sync + ?Sized + 'static,
    {
        let length = (*data).as_ref().len();
        check_range(self.size, offset, length as u64)?;
        self.overlay.healthy()?;
        let pieces: Arc<[Piece]> = pieces(offset, length, self.size).into();
        if pieces.is_empty() {
            return Ok(());
        }
        loop {
            let view = self.view();
            let mut below = Vec::with_capacity(pieces.len());
            for piece in &*pieces {
                let cell = (offset + piece.at as u64) / CELL;
                let known = !piece.partial || view.top().run(cell, cell + 1).0 != State::Below;
                below.push(if known { None } else { Some(view.below(cell).await?) });
            }
            let (data, pieces) = (data.clone(), pieces.clone());
            let written = self.change(&view, length as u64, move |view, overlay| {
                let data = (*data).as_ref();
                for (piece, below) in pieces.iter().zip(below) {
                    let from = offset + piece.at as u64;
                    let part = &data[piece.at..piece.at + piece.length];
                    if !piece.partial {
                        view.top().write_cells(from, part, &overlay.space)?;
                    } else if view.top().write_part(from, part, below.as_deref(), &overlay.space)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            });
            if written.await? == Some(true) {
                return self.flush_if_due(&view).await;
            }
        }
    }
}

#[async_trait]
impl BlockRead for OverlayDisk {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.view().read_at(offset, buf).await
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.view().read_cached(offset, buf)
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.view().extents(offset, length).await
    }
}

#[async_trait]
impl BlockWrite for OverlayDisk {
    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write(offset, Arc::<[u8]>::from(data)).await
    }

    async fn write_buffer(&self, offset: u64, data: PoolBuffer) -> Result<()> {
        self.write(offset, Arc::new(data)).await
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        check_range(self.size, offset, length)?;
        self.overlay.healthy()?;
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let step = (end - at).min(ZERO_STEP - at % ZERO_STEP) as usize;
            for piece in pieces(at, step, self.size) {
                let from = at + piece.at as u64;
                if piece.partial {
                    self.write_at(from, &vec![0; piece.length]).await?;
                    continue;
                }
                let cells = from / CELL..(from + piece.length as u64).div_ceil(CELL);
                loop {
                    let (cells, view) = (cells.clone(), self.view());
                    let done = self.change(&view, piece.length as u64, move |view, overlay| {
                        view.top().zero_cells(cells, &overlay.space)
                    });
                    if done.await?.is_some() {
                        self.flush_if_due(&view).await?;
                        break;
                    }
                }
            }
            at += step as u64;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let (overlay, view) = (self.overlay.clone(), self.view());
        blocking(move || overlay.flush_layers(&view.layers)).await?
    }
}

fn cannot_write(overlay: &Overlay, error: std::io::Error) -> BlockError {
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    if full && error.raw_os_error().is_none() {
        return BlockError::new(ErrorKind::NoSpace, "the overlay has reached its limit");
    }
    let text = format!("cannot write to the overlay in {}", overlay.path().display());
    BlockError::io(text, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_cut_where_cells_are_covered_in_part() {
        let size = 10 * CELL + 100;
        let cut = |offset: u64, length: usize| -> Vec<(u64, usize, bool)> {
            let pieces = pieces(offset, length, size).into_iter();
            pieces.map(|p| (offset + p.at as u64, p.length, p.partial)).collect()
        };
        assert_eq!(cut(0, 0), []);
        assert_eq!(cut(0, 4096), [(0, 4096, false)]);
        assert_eq!(cut(0, 10), [(0, 10, true)]);
        assert_eq!(cut(10, 4086), [(10, 4086, true)]);
        assert_eq!(cut(4000, 200), [(4000, 96, true), (4096, 104, true)]);
        assert_eq!(cut(4000, 9000), [(4000, 96, true), (4096, 8192, false), (12_288, 712, true)]);
        let last = 10 * CELL;
        assert_eq!(cut(last, 100), [(last, 100, false)]);
        assert_eq!(cut(last, 99), [(last, 99, true)]);
        assert_eq!(cut(last + 1, 99), [(last + 1, 99, true)]);
        assert_eq!(cut(last - 4096, 4196), [(last - 4096, 4196, false)]);
        assert_eq!(cut(last - 1, 101), [(last - 1, 1, true), (last, 100, false)]);
    }
}
