//! A disk as its layers and its base make it, at one moment.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::try_join_all;
use sluice_block::{
    BlockError, BlockRead, ErrorKind, Extent, ExtentList, MAX_EXTENTS, Result, check_range,
};

use crate::CELL;
use crate::layer::Layer;
use crate::map::{Entry, State};

/// Bytes between two reads of the base that are read along with them: one request costs more.
const GAP: u64 = 32 << 10;

/// Layers over a base. Nothing in it changes but the top layer's content, and that only as long
/// as the disk is written.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) size: u64,
    /// The lowest first; never empty.
    pub(crate) layers: Vec<Arc<Layer>>,
    /// The lowest layer is a copy of the base, as far as it has come.
    pub(crate) copied: bool,
    pub(crate) base: Arc<dyn BlockRead>,
}

/// Where a run of bytes comes from.
#[derive(Clone, Copy)]
enum Place {
    Layer(usize),
    Zero,
    Base,
}

impl View {
    /// The layers that hold what was written.
    pub(crate) fn written(&self) -> &[Arc<Layer>] {
        &self.layers[usize::from(self.copied)..]
    }

    /// The layer that takes writes.
    pub(crate) fn top(&self) -> &Layer {
        // There is always one: it is made with the overlay.
        &self.layers[self.layers.len() - 1]
    }

    /// Where `at` comes from, and up to where that goes on, at most to `end`.
    fn place(&self, at: u64, end: u64, top: usize) -> (Place, u64) {
        let mut last = end.div_ceil(CELL);
        for (index, layer) in self.layers[..top].iter().enumerate().rev() {
            let (state, stop) = layer.run(at / CELL, last);
            last = stop;
            let place = match state {
                State::Below => continue,
                State::Zero => Place::Zero,
                State::Written => Place::Layer(index),
            };
            return (place, (last * CELL).min(end));
        }
        (Place::Base, (last * CELL).min(end))
    }

    /// Reads what the lowest `top` layers and the base make.
    async fn read(&self, offset: u64, buf: &mut [u8], top: usize) -> Result<()> {
        let end = offset + buf.len() as u64;
        let (mut base, mut local): (Vec<Range<u64>>, _) = (vec![], vec![]);
        let mut at = offset;
        while at < end {
            let (place, stop) = self.place(at, end, top);
            match (place, base.last_mut()) {
                (Place::Base, Some(last)) if at - last.end <= GAP => last.end = stop,
                (Place::Base, _) => base.push(at..stop),
                (Place::Layer(index), _) => local.push((Some(index), at..stop)),
                (Place::Zero, _) => local.push((None, at..stop)),
            }
            at = stop;
        }
        // The base first: what lies between its parts is read along, and then overwritten.
        self.read_base(offset, buf, &base).await?;
        self.read_local(offset, buf, local).await
    }

    async fn read_base(&self, offset: u64, buf: &mut [u8], parts: &[Range<u64>]) -> Result<()> {
        let (mut rest, mut at) = (buf, offset);
        let mut reads = Vec::with_capacity(parts.len());
        for part in parts {
            let (_, behind) = rest.split_at_mut((part.start - at) as usize);
            let (this, behind) = behind.split_at_mut((part.end - part.start) as usize);
            reads.push(self.base.read_at(part.start, this));
            (rest, at) = (behind, part.end);
        }
        match reads.pop() {
            Some(only) if reads.is_empty() => only.await,
            Some(last) => {
                reads.push(last);
                try_join_all(reads).await.map(drop)
            }
            None => Ok(()),
        }
    }

    async fn read_local(
        &self,
        offset: u64,
        buf: &mut [u8],
        parts: Vec<(Option<usize>, Range<u64>)>,
    ) -> Result<()> {
        let within =
            |part: &Range<u64>| (part.start - offset) as usize..(part.end - offset) as usize;
        let mut cold: Vec<(usize, Range<u64>)> = Vec::new();
        for (layer, part) in parts {
            let place = &mut buf[within(&part)];
            match layer {
                None => place.fill(0),
                Some(index) if self.layers[index].read_cached(part.start, place) => {}
                Some(index) => cold.push((index, part)),
            }
        }
        if cold.is_empty() {
            return Ok(());
        }
        let layers = self.layers.clone();
        let read = move || -> std::io::Result<Vec<(Range<u64>, Vec<u8>)>> {
            let parts = cold.into_iter().map(|(index, part)| {
                let mut bytes = vec![0; (part.end - part.start) as usize];
                layers[index].read(part.start, &mut bytes)?;
                Ok((part, bytes))
            });
            parts.collect()
        };
        for (part, bytes) in blocking(read).await?.map_err(cannot_read)? {
            buf[within(&part)].copy_from_slice(&bytes);
        }
        Ok(())
    }

    /// What a cell reads as below the top layer.
    pub(crate) async fn below(&self, cell: u64) -> Result<Vec<u8>> {
        let (start, end) = (cell * CELL, ((cell + 1) * CELL).min(self.size));
        let mut bytes = vec![0; (end - start) as usize];
        self.read(start, &mut bytes, self.layers.len() - 1).await?;
        Ok(bytes)
    }

    /// The bytes that may differ from the base, ascending.
    pub(crate) fn changed(&self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for layer in self.written() {
            for entry in layer.entries() {
                match entry {
                    Entry::Run { start, count, .. } => runs.push(start..start + count),
                    Entry::Bits { chunk, written, zero } => {
                        bits(chunk, &*written, &*zero, &mut runs);
                    }
                }
            }
        }
        runs.sort_unstable_by_key(|run| run.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for run in runs {
            let (start, end) = (run.start * CELL, (run.end * CELL).min(self.size));
            match merged.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ => merged.push(start..end),
            }
        }
        merged
    }
}

fn bits(chunk: u64, written: &[u64], zero: &[u64], runs: &mut Vec<Range<u64>>) {
    for (index, word) in written.iter().zip(zero).map(|(one, other)| one | other).enumerate() {
        let first = chunk * crate::map::CHUNK + index as u64 * 64;
        let cells = (0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| first + bit);
        for cell in cells {
            match runs.last_mut() {
                Some(last) if last.end == cell => last.end += 1,
                _ => runs.push(cell..cell + 1),
            }
        }
    }
}

#[async_trait]
impl BlockRead for View {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.read(offset, buf, self.layers.len()).await
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        if buf.is_empty() || check_range(self.size, offset, buf.len() as u64).is_err() {
            return false;
        }
        let end = offset + buf.len() as u64;
        match self.place(offset, end, self.layers.len()) {
            (_, stop) if stop < end => false,
            (Place::Base, _) => self.base.read_cached(offset, buf),
            (Place::Layer(index), _) => self.layers[index].read_cached(offset, buf),
            (Place::Zero, _) => {
                buf.fill(0);
                true
            }
        }
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(self.size, offset, length)?;
        let (mut at, end) = (offset, offset + length);
        let mut list = ExtentList::default();
        while at < end && list.len() < MAX_EXTENTS {
            let (place, stop) = self.place(at, end, self.layers.len());
            let next = match place {
                Place::Layer(_) => vec![Extent::data(at, stop - at)],
                Place::Zero => vec![Extent::hole(at, stop - at)],
                Place::Base => self.base.extents(at, stop - at).await?,
            };
            let before = at;
            for extent in next.into_iter().take(MAX_EXTENTS - list.len()) {
                at = extent.end();
                list.push(extent);
            }
            if at == before {
                // Who describes nothing breaks a promise; "data" is always a safe answer.
                list.push(Extent::data(at, stop - at));
                at = stop;
            }
        }
        Ok(list.into_vec())
    }
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| BlockError::caused(ErrorKind::Io, "a part of the overlay's work died", e))
}

fn cannot_read(error: std::io::Error) -> BlockError {
    BlockError::io("cannot read the overlay's data", error)
}
