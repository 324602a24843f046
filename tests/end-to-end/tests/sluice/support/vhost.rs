//! A guest's side of a virtio disk over vhost-user, as the specification has it: memory that is a
//! file, and rings in it. It shares no code with the executable.

use std::fs::File;
use std::io::{IoSlice, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::run::wait_until;

/// Places in a ring.
const RING: u16 = 16;
/// Guest memory of a queue: ring, headers and data.
const QUEUE: u64 = 4 << 20;
/// Where things are in it.
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const HEADERS: u64 = 0x3000;
const DATA: u64 = 0x1_0000;
/// Bytes of data that a request may have.
const MOST: u64 = 128 << 10;

pub const READ: u32 = 0;
pub const WRITE: u32 = 1;
pub const FLUSH: u32 = 4;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;

/// A request under way.
pub struct Ticket {
    queue: usize,
    slot: u16,
    /// How many requests of the queue were done when it was asked.
    done: u16,
    wanted: usize,
}

struct Queue {
    kick: PipeWriter,
    _interrupt: PipeReader,
    next: u16,
}

/// A guest with a disk.
pub struct Guest {
    memory: File,
    stream: UnixStream,
    queues: Vec<Queue>,
    pub features: u64,
}

impl Guest {
    /// Connects to the socket and starts so many queues.
    pub fn connect(socket: &Path, queues: u32) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(QUEUE * u64::from(queues)).unwrap();
        let mut guest = Self { memory, stream, queues: vec![], features: 0 };
        guest.send(3, &[], None);
        guest.features = guest.ask_number(1);
        // All but places for interrupts, which this guest does not ask for.
        guest.send(2, &(guest.features & !(1 << 29)).to_le_bytes(), None);
        let offered = guest.ask_number(15);
        guest.send(16, &(offered & (1 | 1 << 9)).to_le_bytes(), None);
        let size = QUEUE * u64::from(queues);
        // One region, at the same addresses for both sides.
        let table = [1_u64, 0, size, 0, 0].map(u64::to_le_bytes).concat();
        let memory = guest.memory.try_clone().unwrap();
        guest.send(5, &table, Some(memory.as_fd()));
        (0..queues).for_each(|queue| guest.start(queue));
        guest
    }

    fn start(&mut self, queue: u32) {
        let pair = |number: u32| [queue.to_le_bytes(), number.to_le_bytes()].concat();
        let at = QUEUE * u64::from(queue);
        // No interrupts: what is used is looked at.
        self.memory.write_all_at(&1_u16.to_le_bytes(), at + AVAILABLE).unwrap();
        self.send(8, &pair(RING.into()), None);
        let places = [at, at + USED, at + AVAILABLE, 0].map(u64::to_le_bytes).concat();
        self.send(9, &[pair(0), places].concat(), None);
        self.send(10, &pair(0), None);
        let (interrupt, call) = std::io::pipe().unwrap();
        let (kicked, kick) = std::io::pipe().unwrap();
        let index = u64::from(queue).to_le_bytes();
        self.send(13, &index, Some(call.as_fd()));
        self.send(12, &index, Some(kicked.as_fd()));
        self.send(18, &pair(1), None);
        self.queues.push(Queue { kick, _interrupt: interrupt, next: 0 });
    }

    fn send(&mut self, request: u32, payload: &[u8], fd: Option<BorrowedFd<'_>>) {
        let length = payload.len() as u32;
        let header = [request, 1, length].map(u32::to_le_bytes).concat();
        let bytes = [&header, payload].concat();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fd.into_iter().collect();
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let parts = [IoSlice::new(&bytes)];
        let sent = sendmsg(&self.stream, &parts, &mut ancillary, SendFlags::empty()).unwrap();
        assert_eq!(sent, bytes.len());
    }

    fn answer(&mut self) -> Vec<u8> {
        let mut header = [0; 12];
        self.stream.read_exact(&mut header).unwrap();
        let length = u32::from_le_bytes(header[8..].try_into().unwrap());
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).unwrap();
        payload
    }

    fn ask_number(&mut self, request: u32) -> u64 {
        self.send(request, &[], None);
        u64::from_le_bytes(self.answer().try_into().unwrap())
    }

    /// The configuration space.
    pub fn config(&mut self) -> Vec<u8> {
        let asked = [0_u32, 60, 0].map(u32::to_le_bytes).concat();
        self.send(24, &[asked, vec![0; 60]].concat(), None);
        self.answer()[12..].to_vec()
    }

    /// Puts a request into a queue: its kind and sector, what is sent, and how much is wanted.
    pub fn ask(
        &mut self,
        queue: usize,
        (kind, sector): (u32, u64),
        sent: &[u8],
        wanted: u32,
    ) -> Ticket {
        assert!(sent.len() as u64 <= MOST && u64::from(wanted) <= MOST);
        let memory = &self.memory;
        let put = |at: u64, bytes: &[u8]| memory.write_all_at(bytes, at).unwrap();
        let (at, next) = (QUEUE * queue as u64, self.queues[queue].next);
        // Three descriptors for each request; as many requests as there is room for.
        let slot = next % (RING / 3);
        let (header, data) =
            (at + HEADERS + 64 * u64::from(slot), at + DATA + MOST * u64::from(slot));
        put(
            header,
            &[[kind, 0].map(u32::to_le_bytes).concat(), sector.to_le_bytes().to_vec()].concat(),
        );
        put(header + 32, &[0xff]);
        put(data, sent);
        let first = slot * 3;
        let length = sent.len() as u32 + wanted;
        let mut list = vec![(header, 16, false)];
        if length > 0 {
            list.push((data, length, wanted > 0));
        }
        list.push((header + 32, 1, true));
        let last = list.len() - 1;
        for (number, (place, length, writable)) in list.into_iter().enumerate() {
            let flags = u16::from(number < last) | u16::from(writable) << 1;
            let following = first + number as u16 + 1;
            let descriptor = [
                place.to_le_bytes().to_vec(),
                u32::to_le_bytes(length).to_vec(),
                flags.to_le_bytes().to_vec(),
                following.to_le_bytes().to_vec(),
            ];
            put(at + 16 * u64::from(first + number as u16), &descriptor.concat());
        }
        let done = self.done(queue);
        put(at + AVAILABLE + 4 + 2 * u64::from(next % RING), &first.to_le_bytes());
        put(at + AVAILABLE + 2, &next.wrapping_add(1).to_le_bytes());
        self.queues[queue].next = next.wrapping_add(1);
        self.queues[queue].kick.write_all(&1_u64.to_le_bytes()).unwrap();
        Ticket { queue, slot, done, wanted: wanted as usize }
    }

    /// How many requests of a queue are done: they end in any order.
    fn done(&self, queue: usize) -> u16 {
        let mut done = [0; 2];
        self.memory.read_exact_at(&mut done, QUEUE * queue as u64 + USED + 2).unwrap();
        u16::from_le_bytes(done)
    }

    /// Waits until a request is done; its status and data.
    pub fn wait(&self, ticket: &Ticket) -> (u8, Vec<u8>) {
        let at = QUEUE * ticket.queue as u64;
        let is_it = |number: u16| {
            let mut first = [0; 4];
            let place = at + USED + 4 + 8 * u64::from(number % RING);
            self.memory.read_exact_at(&mut first, place).unwrap();
            u32::from_le_bytes(first) == u32::from(ticket.slot) * 3
        };
        wait_until("the disk has answered", || {
            let more = self.done(ticket.queue).wrapping_sub(ticket.done);
            (0..more).any(|number| is_it(ticket.done.wrapping_add(number)))
        });
        let mut status = [0];
        let header = at + HEADERS + 64 * u64::from(ticket.slot);
        self.memory.read_exact_at(&mut status, header + 32).unwrap();
        let mut data = vec![0; ticket.wanted];
        self.memory.read_exact_at(&mut data, at + DATA + MOST * u64::from(ticket.slot)).unwrap();
        (status[0], data)
    }

    /// The same at once.
    pub fn run(
        &mut self,
        queue: usize,
        what: (u32, u64),
        sent: &[u8],
        wanted: u32,
    ) -> (u8, Vec<u8>) {
        let ticket = self.ask(queue, what, sent, wanted);
        self.wait(&ticket)
    }

    /// Discards, or makes zero, sectors.
    pub fn clear(&mut self, queue: usize, kind: u32, sector: u64, sectors: u32) -> u8 {
        let range = [sector.to_le_bytes().to_vec(), sectors.to_le_bytes().to_vec(), vec![0; 4]];
        self.run(queue, (kind, 0), &range.concat(), 0).0
    }
}
