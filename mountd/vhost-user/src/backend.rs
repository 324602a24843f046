//! Rings: popping requests, running them, telling the guest.

use std::io;
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

use crate::config::{self, QUEUE_SIZE};
use crate::perform::{Disk, IDENTITY, perform};
use crate::request::parse;

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
        Self(Arc::new(Inner { disk, identity, queues, memory, runtime, permits, busy }))
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
            let Inner { disk, identity, .. } = &*backend.0;
            let written = match request {
                Some(request) => perform(disk, identity, &memory, request).await,
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
