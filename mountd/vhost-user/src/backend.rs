//! Rings: popping requests, running them, telling the guest.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT};
use virtio_queue::QueueT;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use crate::config::{self, QUEUE_SIZE, feature};
use crate::perform::{Disk, IDENTITY, perform};
use crate::request::{Request, parse};

/// Requests under way, of all rings together: each holds up to 1 MiB.
const UNDER_WAY: usize = 64;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// The device of one connection.
#[derive(Clone)]
pub(crate) struct Backend(Arc<Inner>);

struct Inner {
    disk: Disk,
    identity: [u8; IDENTITY],
    queues: u16,
    memory: Memory,
    runtime: Handle,
    permits: Arc<Semaphore>,
    busy: Vec<Arc<Busy>>,
    /// The driver does not flush, so what it is told is written must be durable ("Device
    /// Requirements: Device Operation" of a block device).
    write_through: AtomicBool,
}

impl Backend {
    pub(crate) fn new(
        disk: Disk,
        identity: [u8; IDENTITY],
        queues: u16,
        memory: Memory,
        runtime: Handle,
    ) -> Self {
        let busy = (0..queues).map(|_| Arc::default()).collect();
        let permits = Arc::new(Semaphore::new(UNDER_WAY));
        let write_through = AtomicBool::new(true);
        let inner = Inner { disk, identity, queues, memory, runtime, permits, busy, write_through };
        Self(Arc::new(inner))
    }

    /// Does what a request asks; the bytes written to the guest's memory.
    async fn perform(&self, memory: &GuestMemoryMmap, request: Request) -> u32 {
        let Inner { disk, identity, write_through, .. } = &*self.0;
        perform(disk, identity, memory, request, write_through.load(Ordering::Relaxed)).await
    }

    /// Starts what is in a ring, until it is empty.
    fn drain(&self, vring: &VringMutex, busy: &Arc<Busy>) -> io::Result<()> {
        loop {
            vring.disable_notification().map_err(io::Error::other)?;
            while self.start_next(vring, busy)? {}
            if !vring.enable_notification().map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }

    /// Starts the next request of a ring, once there is a permit; whether there was one.
    fn start_next(&self, vring: &VringMutex, busy: &Arc<Busy>) -> io::Result<bool> {
        let inner = &self.0;
        let permit = inner.runtime.block_on(Arc::clone(&inner.permits).acquire_owned());
        let permit = permit.map_err(io::Error::other)?;
        let memory = inner.memory.memory();
        // The lock is held for the pop only.
        let popped = vring.get_mut().get_queue_mut().pop_descriptor_chain(memory.clone());
        let Some(chain) = popped else { return Ok(false) };
        let head = chain.head_index();
        let descriptors = chain.map(|descriptor: Descriptor| {
            ((descriptor.addr(), descriptor.len()), descriptor.is_write_only())
        });
        let request = parse(&memory, descriptors);
        let ticket = Busy::enter(busy);
        let (backend, vring) = (self.clone(), vring.clone());
        inner.runtime.spawn(async move {
            let written = match request {
                Some(request) => backend.perform(&memory, request).await,
                None => {
                    tracing::warn!("a guest sent a chain that is no request");
                    0
                }
            };
            if let Err(error) = finish(&vring, head, written) {
                tracing::warn!("a guest could not be told of a request's end: {error}");
            }
            drop((permit, ticket));
        });
        Ok(true)
    }
}

/// Gives a chain back to the guest.
fn finish(vring: &VringMutex, head: u16, written: u32) -> io::Result<()> {
    vring.add_used(head, written).map_err(io::Error::other)?;
    if vring.needs_notification().map_err(io::Error::other)? {
        vring.signal_used_queue()?;
    }
    Ok(())
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        self.0.queues.into()
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        config::features(self.0.disk.is_writable())
    }

    fn acked_features(&self, features: u64) {
        self.0.write_through.store(features & feature::FLUSH == 0, Ordering::Relaxed);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The rings keep it themselves.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let disk = &self.0.disk;
        let space = config::space(disk.sectors(), self.0.queues, disk.is_writable());
        let end = u64::from(offset) + u64::from(size);
        // What is asked beyond the space reads as zeroes; the protocol bounds it by 256 bytes.
        let mut asked = vec![0; size.min(256) as usize];
        let from = space.len().min(offset as usize);
        let known = &space[from..space.len().min(end as usize)];
        asked[..known.len()].copy_from_slice(known);
        asked
    }

    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        // The same object was given at the start, and has new content.
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        if let Some(busy) = self.0.busy.get(queue as usize) {
            busy.wait();
        }
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        vrings: &[VringMutex],
        _thread: usize,
    ) -> io::Result<()> {
        // One thread has all rings, so events are numbers of rings.
        let ring = usize::from(event);
        let (Some(vring), Some(busy)) = (vrings.get(ring), self.0.busy.get(ring)) else {
            return Ok(());
        };
        // From before the first is popped: a ring is not stopped in between.
        let ticket = Busy::enter(busy);
        // A ring that a guest broke is its own trouble: an error here would end all of them.
        if let Err(error) = self.drain(vring, busy) {
            tracing::warn!(ring, "a ring is broken: {error}");
        }
        drop(ticket);
        Ok(())
    }
}

/// How much is under way of a ring.
#[derive(Default)]
struct Busy {
    count: Mutex<usize>,
    none: Condvar,
}

struct Ticket(Arc<Busy>);

impl Busy {
    fn enter(busy: &Arc<Self>) -> Ticket {
        *busy.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Ticket(Arc::clone(busy))
    }

    fn wait(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 {
            count = self.none.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut count = self.0.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        if *count == 0 {
            self.0.none.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use async_trait::async_trait;
    use sluice_block::{BlockRead, BlockWrite, Extent, MemoryDisk, Result};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    /// A disk that knows how much of what was written to it was flushed.
    struct Cached {
        disk: MemoryDisk,
        changes: AtomicU64,
        durable: AtomicU64,
    }

    #[async_trait]
    impl BlockRead for Cached {
        fn size(&self) -> u64 {
            self.disk.size()
        }

        async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            self.disk.read_at(offset, buf).await
        }

        async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
            self.disk.extents(offset, length).await
        }
    }

    #[async_trait]
    impl BlockWrite for Cached {
        async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
            self.changes.fetch_add(1, Ordering::Relaxed);
            self.disk.write_at(offset, data).await
        }

        async fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
            self.changes.fetch_add(1, Ordering::Relaxed);
            self.disk.write_zeroes(offset, length).await
        }

        async fn flush(&self) -> Result<()> {
            self.durable.store(self.changes.load(Ordering::Relaxed), Ordering::Relaxed);
            Ok(())
        }
    }

    /// Does a request of this kind with this content; whether it went well.
    async fn ask(backend: &Backend, memory: &GuestMemoryMmap, kind: u32, sent: &[u8]) -> bool {
        memory.write_obj(kind, GuestAddress(0)).unwrap();
        memory.write_obj(0_u64, GuestAddress(8)).unwrap();
        memory.write_slice(sent, GuestAddress(0x1000)).unwrap();
        let chain = [
            ((GuestAddress(0), 16), false),
            ((GuestAddress(0x1000), sent.len() as u32), false),
            ((GuestAddress(0x800), 1), true),
        ];
        let request = parse(memory, chain.into_iter()).unwrap();
        backend.perform(memory, request).await;
        memory.read_obj::<u8>(GuestAddress(0x800)).unwrap() == 0
    }

    #[tokio::test]
    async fn what_a_driver_without_flushes_was_told_is_written_is_durable() {
        let (changes, durable) = (AtomicU64::new(0), AtomicU64::new(0));
        let disk = Arc::new(Cached { disk: MemoryDisk::new(1 << 20), changes, durable });
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let shared = GuestMemoryAtomic::new(memory.clone());
        let served = Disk::Writable(disk.clone());
        let backend = Backend::new(served, [0; IDENTITY], 1, shared, Handle::current());
        let offered = backend.features();
        let range = [&0_u64.to_le_bytes()[..], &8_u32.to_le_bytes(), &[0; 4]].concat();
        let requests = [(1, vec![7; 512]), (11, range.clone()), (13, range)];
        for (accepted, through) in [(offered & !feature::FLUSH, true), (offered, false)] {
            backend.acked_features(accepted);
            for (kind, sent) in &requests {
                assert!(ask(&backend, &memory, *kind, sent).await);
                let [changed, durable] =
                    [&disk.changes, &disk.durable].map(|number| number.load(Ordering::Relaxed));
                assert_eq!(changed == durable, through, "{kind} {changed} {durable}");
            }
        }
        assert!(ask(&backend, &memory, 4, &[]).await);
        let changed = disk.changes.load(Ordering::Relaxed);
        assert_eq!((changed, disk.durable.load(Ordering::Relaxed)), (6, 6));
    }
}
