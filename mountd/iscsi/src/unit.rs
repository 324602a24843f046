//! A logical unit: a disk, and what it remembers about its initiators.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_block::{BlockError, BlockRead, BlockWrite, ErrorKind, Pool};
use sluice_scsi::{Limits, ModeState, Names, Sense};
use tokio::sync::RwLock;

use crate::config::{Device, Lun};
use crate::ranges::Ranges;
use crate::reservation::{Port, Reservations};

/// Bytes of a logical block.
pub(crate) const BLOCK: u32 = 512;
/// Blocks of one transfer: 8 MiB, so that a transfer fits four times into what is in flight.
pub(crate) const MOST_BLOCKS: u32 = 16 << 10;
/// Blocks that one UNMAP may be about: 512 MiB.
pub(crate) const MOST_UNMAP: u32 = 1 << 20;
/// Blocks that one WRITE SAME may be about: 16 MiB, which may really have to be written.
pub(crate) const MOST_SAME: u32 = 32 << 10;
/// Ranges of one UNMAP.
pub(crate) const MOST_RANGES: u32 = 256;
/// Blocks of one COMPARE AND WRITE.
pub(crate) const MOST_COMPARE: u8 = 255;
/// Notices that wait for one initiator; the oldest goes when there are more.
const MOST_NOTICES: usize = 8;
/// Initiators without a session that are remembered: many times those of any cluster.
const MOST_KNOWN: usize = 1024;

/// Bytes of the longest buffer that is kept for reuse: both halves of the longest transfer.
const LONGEST: usize = 2 * (MOST_BLOCKS * BLOCK) as usize;
/// Bytes kept for reuse: what a session may have under way.
const KEPT: usize = 32 << 20;

/// Buffers for the data of one unit's commands.
pub(crate) fn pool() -> Pool {
    Pool::new(LONGEST, KEPT)
}

/// A logical unit.
pub(crate) struct Unit {
    pub(crate) number: u16,
    pub(crate) device: Device,
    pub(crate) names: Names,
    /// Logical blocks in a physical one, as a power of two.
    pub(crate) physical: u8,
    pub(crate) pool: Arc<Pool>,
    /// Held shared by commands that may run side by side, and alone by ordered ones.
    pub(crate) order: RwLock<()>,
    /// Held after `order`: blocks that commands read and write as one step are held alone.
    pub(crate) ranges: Ranges,
    state: Mutex<State>,
}

/// What a logical unit remembers.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) mode: ModeState,
    pub(crate) reservations: Reservations,
    /// What each initiator must be told with its next command.
    attention: HashMap<Port, VecDeque<Sense>>,
    /// Initiators that had a session since the target was begun.
    known: HashSet<Port>,
}

impl Unit {
    pub(crate) fn new(number: u16, lun: Lun, target: &str, group: u16) -> Self {
        let names = Names {
            identity: lun.identity,
            product: lun.product,
            revision: env!("CARGO_PKG_VERSION").to_owned(),
            target: target.to_owned(),
            portal_group: group,
        };
        Self {
            number,
            device: lun.device,
            names,
            physical: lun.physical,
            pool: Arc::new(pool()),
            order: RwLock::default(),
            ranges: Ranges::default(),
            state: Mutex::default(),
        }
    }

    /// The state, for a moment: never held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reader(&self) -> &dyn BlockRead {
        match &self.device {
            Device::ReadOnly(device) => &**device,
            Device::Writable(device) => &**device,
        }
    }

    /// The device, when it can be written.
    pub(crate) fn writer(&self) -> Result<&dyn BlockWrite, Sense> {
        match &self.device {
            Device::ReadOnly(_) => Err(Sense::WRITE_PROTECTED),
            Device::Writable(device) => Ok(&**device),
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self.device, Device::ReadOnly(_))
    }

    /// Number of blocks. The last one of a disk that cannot be written may be part of one, and
    /// ends with zeroes; a disk that can be written has no room for such.
    pub(crate) fn blocks(&self) -> u64 {
        let size = self.reader().size();
        let block = u64::from(BLOCK);
        if self.is_read_only() { size.div_ceil(block) } else { size / block }
    }

    /// Fills `buffer` from `offset`, with zeroes where the device has ended.
    pub(crate) async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Sense> {
        let device = self.reader();
        let there = device.size().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (data, rest) = buffer.split_at_mut(there);
        rest.fill(0);
        if data.is_empty() {
            return Ok(());
        }
        let read = device.read_at(offset, data).await;
        read.map_err(|error| self.failed(&error, offset, Sense::READ_ERROR))
    }

    /// The sense data for a failure of the device, which is logged with its causes: the initiator
    /// learns only a code.
    pub(crate) fn failed(&self, error: &BlockError, offset: u64, otherwise: Sense) -> Sense {
        let mut causes = String::new();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            causes.push_str(": ");
            causes.push_str(&cause.to_string());
            next = cause.source();
        }
        tracing::warn!(lun = self.number, offset, "command failed: {error}{causes}");
        match error.kind() {
            ErrorKind::OutOfRange => Sense::OUT_OF_RANGE,
            ErrorKind::ReadOnly => Sense::WRITE_PROTECTED,
            ErrorKind::NoSpace => Sense::NO_SPACE,
            ErrorKind::Unavailable => Sense::NOT_READY,
            _ => otherwise.about(offset / u64::from(BLOCK)),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            transfer: MOST_BLOCKS,
            optimal: 256,
            unmap: MOST_UNMAP,
            unmap_ranges: MOST_RANGES,
            unmap_granularity: 1 << self.physical,
            write_same: u64::from(MOST_SAME),
            compare_and_write: MOST_COMPARE,
        }
    }

    /// Begins to keep notices for an initiator that has begun a session; the first says why what
    /// it knows of the unit may no longer be so (SAM-5, "Unit attention condition").
    pub(crate) fn attach(&self, port: &Port) {
        self.state().attach(port);
    }

    /// Forgets an initiator whose session has ended. Its registrations stay.
    pub(crate) fn detach(&self, port: &Port) {
        self.state().detach(port);
    }

    /// Puts everything back that a reset puts back, and lets every initiator know.
    pub(crate) fn reset(&self) {
        let mut state = self.state();
        state.mode = ModeState::default();
        state.reservations.reset();
        state.raise(Sense::RESET, None);
    }
}

impl State {
    fn attach(&mut self, port: &Port) {
        if self.known.len() >= MOST_KNOWN {
            // One that comes back is told more than has happened, which does no harm.
            self.known.retain(|known| self.attention.contains_key(known));
        }
        let first = self.known.insert(Arc::clone(port));
        let notices = self.attention.entry(Arc::clone(port)).or_default();
        // One that was not yet told of the beginning need not be told what came after it.
        if first {
            leave(notices, Sense::POWER_ON);
        } else {
            if !notices.contains(&Sense::POWER_ON) {
                leave(notices, Sense::NEXUS_LOST);
            }
            // What the session before had reserved went with it (SAM-5, "I_T nexus loss").
            self.reservations.release_unit(port);
        }
    }

    fn detach(&mut self, port: &Port) {
        let notices = self.attention.remove(port).unwrap_or_default();
        if notices.contains(&Sense::POWER_ON) {
            // It was not told of the beginning, and is to be when it comes back.
            self.known.remove(port);
        }
        self.reservations.release_unit(port);
    }

    /// Leaves a notice for all initiators but one.
    pub(crate) fn raise(&mut self, sense: Sense, except: Option<&Port>) {
        for (_, notices) in self.attention.iter_mut().filter(|(port, _)| Some(*port) != except) {
            leave(notices, sense);
        }
    }

    /// Leaves a notice for one initiator, if it is there.
    pub(crate) fn tell(&mut self, port: &Port, sense: Sense) {
        if let Some(notices) = self.attention.get_mut(port) {
            leave(notices, sense);
        }
    }

    /// Takes the notice that an initiator must be told of first.
    pub(crate) fn next_notice(&mut self, port: &Port) -> Option<Sense> {
        self.attention.get_mut(port)?.pop_front()
    }
}

fn leave(notices: &mut VecDeque<Sense>, sense: Sense) {
    if notices.contains(&sense) {
        return;
    }
    if notices.len() == MOST_NOTICES {
        notices.pop_front();
    }
    notices.push_back(sense);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: usize) -> Port {
        format!("iqn.2026-01.test:{name},i,0x1").into()
    }

    fn told(state: &mut State, port: &Port) -> Vec<Sense> {
        std::iter::from_fn(|| state.next_notice(port)).collect()
    }

    #[test]
    fn a_session_is_told_why_it_must_not_rely_on_the_one_before() {
        let (mut state, one) = (State::default(), port(1));
        state.attach(&one);
        assert_eq!(told(&mut state, &one), [Sense::POWER_ON]);
        state.reservations.reserve_unit(&one);
        state.attach(&port(3));
        let reserved = |state: &State| format!("{:?}", state.reservations);
        let none = format!("{:?}", Reservations::default());
        assert_ne!(reserved(&state), none, "another session has nothing to do with it");
        // Taken over by another session.
        state.detach(&one);
        state.attach(&one);
        assert_eq!(reserved(&state), none, "it went with that session");
        state.raise(Sense::RESET, None);
        assert_eq!(told(&mut state, &one), [Sense::NEXUS_LOST, Sense::RESET]);
        state.attach(&port(2));
        state.detach(&port(2));
        state.attach(&port(2));
        assert_eq!(told(&mut state, &port(2)), [Sense::POWER_ON]);
        state.detach(&port(2));
        state.attach(&port(2));
        assert_eq!(told(&mut state, &port(2)), [Sense::NEXUS_LOST]);
        assert!(told(&mut state, &one).is_empty());
    }

    #[test]
    fn initiators_without_a_session_take_bounded_room() {
        let mut state = State::default();
        state.attach(&port(0));
        for number in 1..3 * MOST_KNOWN {
            state.attach(&port(number));
            state.attention.remove(&port(number));
        }
        assert!(state.known.len() <= MOST_KNOWN && state.known.contains(&port(0)));
    }
}
