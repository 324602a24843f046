//! Answers, and the task that writes them.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sluice_iscsi_wire::{
    DataIn, Digest, HEADER, Numbers, Residual, Response, ScsiResponse, Serial, digest,
    digest_parts, padding,
};
use sluice_scsi::Status;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::execute::Data;
use crate::window::{Slot, Window};

/// Answers gathered into one system call.
const BATCH: usize = 64;

/// Something to write.
pub(crate) enum Outgoing {
    /// A message with little data or none.
    Message { response: Response, data: Vec<u8>, slot: Option<Slot> },
    /// The answer to a ping or a text, which says as much as the initiator likes.
    Talk { response: Response, data: Vec<u8>, slot: Option<Slot>, _room: Room },
    /// How a command ended, with its data.
    Command(Box<Reply>),
}

impl Outgoing {
    /// A message without data that answers nothing.
    pub(crate) fn plain(response: Response) -> Self {
        Self::Message { response, data: Vec::new(), slot: None }
    }
}

/// Memory that is free when the answer is on the wire; little data needs none.
pub(crate) struct Room {
    pub(crate) _permit: Option<OwnedSemaphorePermit>,
}

/// How a command ended.
pub(crate) struct Reply {
    pub(crate) tag: u32,
    pub(crate) status: Status,
    pub(crate) sense: Vec<u8>,
    /// No more than the initiator has room for.
    pub(crate) data: Data,
    pub(crate) residual: Residual,
    /// Requests to transfer that were sent for the command.
    pub(crate) transfers: u32,
    pub(crate) slot: Option<Slot>,
    /// Memory that is free when the answer is on the wire.
    pub(crate) _permits: [Option<OwnedSemaphorePermit>; 2],
}

/// Turns answers into bytes.
pub(crate) struct Composer {
    pub(crate) window: Arc<Window>,
    /// The number of the next answer.
    pub(crate) status: Serial,
    pub(crate) header_digest: Digest,
    pub(crate) data_digest: Digest,
    /// Bytes of data that one message may have.
    pub(crate) most: Arc<AtomicU32>,
    pub(crate) max_burst: u32,
}

/// Bytes of headers and small things, and where data of a reply stands between them.
#[derive(Default)]
struct Page {
    heads: Vec<u8>,
    /// Where the heads are cut, the reply, and the range of its data that belongs there.
    cuts: Vec<(usize, usize, std::ops::Range<usize>)>,
}

impl Composer {
    fn numbers(&self) -> Numbers {
        let (expected, most) = (self.window.expected(), self.window.most());
        Numbers { status: self.status, expected, most }
    }

    fn header(&mut self, page: &mut Page, response: &Response, data: usize) {
        let header: [u8; HEADER] = response.encode(self.numbers(), data);
        if response.is_numbered() {
            self.status = self.status.plus(1);
        }
        page.heads.extend_from_slice(&header);
        if self.header_digest == Digest::Crc32c {
            page.heads.extend_from_slice(&digest(&header));
        }
    }

    fn tail(&self, page: &mut Page, data: &[u8]) {
        let pad = &[0; 3][..padding(data.len())];
        page.heads.extend_from_slice(pad);
        if self.data_digest == Digest::Crc32c && !data.is_empty() {
            page.heads.extend_from_slice(&digest_parts(data, pad));
        }
    }

    /// A message whose data is small enough to be copied.
    fn small(&mut self, page: &mut Page, response: &Response, data: &[u8]) {
        self.header(page, response, data.len());
        page.heads.extend_from_slice(data);
        self.tail(page, data);
    }

    fn compose(&mut self, page: &mut Page, index: usize, outgoing: &mut Outgoing) {
        match outgoing {
            Outgoing::Message { response, data, slot }
            | Outgoing::Talk { response, data, slot, .. } => {
                // The answer itself says that there is room for another command.
                drop(slot.take());
                let response = *response;
                self.small(page, &response, &std::mem::take(data));
            }
            Outgoing::Command(reply) => {
                drop(reply.slot.take());
                self.reply(page, index, reply);
            }
        }
    }

    fn reply(&mut self, page: &mut Page, index: usize, reply: &Reply) {
        let data = reply.data.as_slice();
        // Data and a good status need one message; anything else has a message of its own.
        let together = reply.status == Status::Good && !data.is_empty();
        let most = (self.most.load(Ordering::Relaxed) as usize).max(512);
        let burst = (self.max_burst as usize).max(512);
        let (mut at, mut number, mut in_burst) = (0, 0, 0);
        while at < data.len() {
            let length = (data.len() - at).min(most).min(burst - in_burst);
            let (end, ends) = (at + length, at + length == data.len());
            in_burst += length;
            let last = ends || in_burst == burst;
            let status = (ends && together).then_some((reply.status.code(), reply.residual));
            let message = DataIn { last, tag: reply.tag, number, offset: at as u32, status };
            self.header(page, &Response::DataIn(message), length);
            page.cuts.push((page.heads.len(), index, at..end));
            self.tail(page, &data[at..end]);
            if last {
                in_burst = 0;
            }
            (at, number) = (end, number + 1);
        }
        if together {
            return;
        }
        let mut sense = Vec::new();
        if !reply.sense.is_empty() {
            sense.extend((reply.sense.len() as u16).to_be_bytes());
            sense.extend(&reply.sense);
        }
        let response = ScsiResponse {
            tag: reply.tag,
            response: 0,
            status: reply.status.code(),
            data_count: number + reply.transfers,
            residual: reply.residual,
        };
        self.small(page, &Response::Command(response), &sense);
    }
}

impl Page {
    fn slices<'a>(&'a self, batch: &'a [Outgoing]) -> Vec<IoSlice<'a>> {
        let mut slices = Vec::with_capacity(2 * self.cuts.len() + 1);
        let mut from = 0;
        for (cut, index, range) in &self.cuts {
            slices.push(IoSlice::new(&self.heads[from..*cut]));
            from = *cut;
            if let Outgoing::Command(reply) = &batch[*index] {
                slices.push(IoSlice::new(&reply.data.as_slice()[range.clone()]));
            }
        }
        if from < self.heads.len() {
            slices.push(IoSlice::new(&self.heads[from..]));
        }
        slices
    }
}

/// Writes answers as they come, until the queue is closed and empty.
pub(crate) async fn write<W: AsyncWrite + Unpin>(
    mut queue: mpsc::Receiver<Outgoing>,
    mut composer: Composer,
    mut out: W,
    stall: Duration,
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut page = Page::default();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        page.heads.clear();
        page.cuts.clear();
        for (index, outgoing) in batch.iter_mut().enumerate() {
            composer.compose(&mut page, index, outgoing);
        }
        write_all(&mut out, &mut page.slices(&batch), stall).await?;
        // Buffers and permits go back here.
        batch.clear();
    }
    out.shutdown().await
}

/// Writes a message during login, when nothing else is under way.
pub(crate) async fn write_one<W: AsyncWrite + Unpin>(
    composer: &mut Composer,
    outgoing: Outgoing,
    out: &mut W,
    stall: Duration,
) -> io::Result<()> {
    let (mut page, mut batch) = (Page::default(), [outgoing]);
    composer.compose(&mut page, 0, &mut batch[0]);
    write_all(out, &mut page.slices(&batch), stall).await
}

async fn write_all<W: AsyncWrite + Unpin>(
    out: &mut W,
    mut slices: &mut [IoSlice<'_>],
    stall: Duration,
) -> io::Result<()> {
    while !slices.is_empty() {
        let written = timeout(stall, out.write_vectored(slices)).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "the initiator does not take its answers")
        })??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composer() -> Composer {
        Composer {
            window: Window::new(Serial(10), 4),
            status: Serial(100),
            header_digest: Digest::None,
            data_digest: Digest::Crc32c,
            most: Arc::new(AtomicU32::new(1000)),
            max_burst: 2048,
        }
    }

    fn reply(status: Status, data: usize, sense: &[u8]) -> Outgoing {
        Outgoing::Command(Box::new(Reply {
            tag: 7,
            status,
            sense: sense.to_vec(),
            data: Data::Bytes((0..data).map(|byte| byte as u8).collect()),
            residual: Residual::Under(3),
            transfers: 0,
            slot: None,
            _permits: [None, None],
        }))
    }

    /// The messages of one answer: their headers and data.
    async fn messages(outgoing: Outgoing) -> Vec<(Response, Numbers, Vec<u8>)> {
        let mut bytes = Vec::new();
        let stall = Duration::from_secs(5);
        write_one(&mut composer(), outgoing, &mut bytes, stall).await.unwrap();
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
            let length = sluice_iscsi_wire::Lengths::decode(header, 1 << 20).unwrap().data;
            let padded = length + padding(length);
            let (data, after) = after.split_at(padded);
            rest = after;
            if length > 0 {
                assert_eq!(rest[..4], digest(data));
                rest = &rest[4..];
            }
            let (response, numbers) = Response::decode(header).unwrap();
            found.push((response, numbers, data[..length].to_vec()));
        }
        found
    }

    #[tokio::test]
    async fn data_is_cut_into_messages_and_bursts_and_ends_with_the_status() {
        let found = messages(reply(Status::Good, 2500, &[])).await;
        let shape: Vec<_> = found
            .iter()
            .map(|(response, _, data)| {
                let Response::DataIn(m) = response else { panic!("{response:?}") };
                (m.number, m.offset, data.len(), m.last, m.status.is_some())
            })
            .collect();
        assert_eq!(
            shape,
            [
                (0, 0, 1000, false, false),
                (1, 1000, 1000, false, false),
                (2, 2000, 48, true, false),
                (3, 2048, 452, true, true),
            ]
        );
        let all: Vec<u8> = found.iter().flat_map(|(_, _, data)| data.clone()).collect();
        assert!(all.iter().enumerate().all(|(index, byte)| *byte == index as u8));
        assert_eq!(found[3].1.status, Serial(100));
    }

    #[tokio::test]
    async fn bad_news_come_with_their_sense_data() {
        let found = messages(reply(Status::CheckCondition, 0, &[0x70, 1, 2])).await;
        let (Response::Command(response), _, data) = &found[0] else { panic!() };
        assert_eq!((response.status, response.residual), (2, Residual::Under(3)));
        assert_eq!(data[..], [0, 3, 0x70, 1, 2]);
        assert_eq!(found.len(), 1);
    }
}
