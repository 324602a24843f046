//! Data that initiators send: collected in order, straight into the buffer of its command.

use std::sync::Arc;

use sluice_block::PoolBuffer;
use sluice_iscsi_wire::{DataOut, NO_TAG, Parameters, ReadyToTransfer, ScsiCommand};
use sluice_scsi::Sense;
use tokio::sync::OwnedSemaphorePermit;

use crate::task::Task;
use crate::window::Slot;

/// A command whose data is on the way.
pub(crate) struct Transfer {
    pub(crate) task: Arc<Task>,
    pub(crate) command: ScsiCommand,
    /// As long as the data that the command takes.
    pub(crate) buffer: PoolBuffer,
    pub(crate) slot: Slot,
    /// Memory for what the initiator is asked for.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// Requests to transfer that were sent.
    pub(crate) requests: u32,
    /// Bytes that came, from the beginning and without gaps.
    received: usize,
    sequence: Option<Sequence>,
}

/// A run of data messages that belong together.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    /// Their tag: that of the request, or none for unsolicited ones.
    tag: u32,
    /// The number of the next message.
    next: u32,
    /// Where the run ends at the latest.
    end: usize,
}

/// What a transfer needs next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// More messages of the present run.
    More,
    /// To be asked for the next run.
    Request,
    /// Nothing: all is there.
    Complete,
}

impl Transfer {
    /// A transfer that begins with a command of which `immediate` bytes of data came along.
    pub(crate) fn new(
        task: Arc<Task>,
        command: ScsiCommand,
        buffer: PoolBuffer,
        slot: Slot,
        immediate: usize,
        parameters: &Parameters,
    ) -> Self {
        let end = (parameters.first_burst as usize).min(command.length as usize);
        let sequence = (!command.last).then_some(Sequence { tag: NO_TAG, next: 0, end });
        let (permit, requests) = (None, 0);
        Self { task, command, buffer, slot, permit, requests, received: immediate, sequence }
    }

    pub(crate) fn next(&self) -> Next {
        match self.sequence {
            Some(_) => Next::More,
            None if self.received < self.buffer.len() => Next::Request,
            None => Next::Complete,
        }
    }

    /// Begins the next run, at most `most` bytes long.
    pub(crate) fn request(&mut self, tag: u32, most: u32) -> ReadyToTransfer {
        let length = (self.buffer.len() - self.received).min(most as usize);
        self.sequence = Some(Sequence { tag, next: 0, end: self.received + length });
        let number = self.requests;
        self.requests += 1;
        ReadyToTransfer {
            lun: self.command.lun,
            tag: self.command.tag,
            target_tag: tag,
            number,
            // Both are below the length of the command, which has 32 bits.
            offset: self.received as u32,
            length: length as u32,
        }
    }

    /// The place for the data of a message of `length` bytes; shorter where the command takes no
    /// more.
    ///
    /// # Errors
    /// The sense data that the command ends with, when the message is not the next one.
    pub(crate) fn place(&mut self, message: &DataOut, length: usize) -> Result<&mut [u8], Sense> {
        let Some(sequence) = &mut self.sequence else { return Err(Sense::UNEXPECTED_DATA) };
        let offset = message.offset as usize;
        let in_turn = message.target_tag == sequence.tag && message.number == sequence.next;
        if !in_turn || offset != self.received || length > sequence.end - self.received {
            return Err(Sense::DATA_PHASE);
        }
        sequence.next += 1;
        self.received += length;
        if message.last {
            let short = sequence.tag != NO_TAG && self.received < sequence.end;
            self.sequence = None;
            if short {
                return Err(Sense::NOT_ENOUGH_DATA);
            }
        }
        let end = self.received.min(self.buffer.len());
        Ok(&mut self.buffer[offset.min(end)..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::{Arrivals, Window};
    use sluice_block::Pool;
    use sluice_iscsi_wire::{Serial, TaskAttribute};

    fn transfer(needed: usize, length: u32, last: bool, immediate: usize) -> Transfer {
        let command = ScsiCommand {
            immediate: false,
            last,
            read: false,
            write: true,
            attribute: TaskAttribute::Simple,
            lun: 0,
            tag: 5,
            length,
            number: Serial(0),
            expected: Serial(0),
            cdb: [0; 16],
        };
        let slot = Arrivals::new(&Window::new(Serial(0), 1)).take(Serial(0)).unwrap();
        let buffer = Arc::new(Pool::new(needed, needed)).take(needed);
        let parameters = Parameters { first_burst: 1024, ..Parameters::default() };
        Transfer::new(Task::new(5, 0), command, buffer, slot, immediate, &parameters)
    }

    fn message(target_tag: u32, number: u32, offset: u32, last: bool) -> DataOut {
        DataOut { last, lun: 0, tag: 5, target_tag, expected: Serial(0), number, offset }
    }

    #[test]
    fn unsolicited_data_comes_first_and_the_rest_is_asked_for() {
        let mut t = transfer(3000, 3000, false, 100);
        assert_eq!(t.next(), Next::More);
        assert_eq!(t.place(&message(NO_TAG, 0, 100, true), 924).unwrap().len(), 924);
        assert_eq!(t.next(), Next::Request);
        let request = t.request(9, 1500);
        assert_eq!((request.offset, request.length, request.number), (1024, 1500, 0));
        assert_eq!(t.place(&message(9, 0, 1024, false), 1000).unwrap().len(), 1000);
        assert_eq!(t.place(&message(9, 1, 2024, true), 500).unwrap().len(), 500);
        let request = t.request(10, 1500);
        assert_eq!((request.offset, request.length, request.number), (2524, 476, 1));
        t.place(&message(10, 0, 2524, true), 476).unwrap();
        assert_eq!(t.next(), Next::Complete);
    }

    #[test]
    fn what_the_command_does_not_take_is_dropped() {
        let mut t = transfer(512, 1000, false, 0);
        assert_eq!(t.place(&message(NO_TAG, 0, 0, false), 500).unwrap().len(), 500);
        assert_eq!(t.place(&message(NO_TAG, 1, 500, false), 100).unwrap().len(), 12);
        assert_eq!(t.place(&message(NO_TAG, 2, 600, true), 100).unwrap().len(), 0);
        assert_eq!(t.next(), Next::Complete);
    }

    #[test]
    fn messages_out_of_turn_are_refused() {
        for bad in
            [message(NO_TAG, 1, 0, false), message(NO_TAG, 0, 10, false), message(7, 0, 0, false)]
        {
            let mut t = transfer(2048, 2048, false, 0);
            assert_eq!(t.place(&bad, 10), Err(Sense::DATA_PHASE));
        }
        let mut t = transfer(2048, 2048, false, 0);
        assert_eq!(t.place(&message(NO_TAG, 0, 0, true), 1025), Err(Sense::DATA_PHASE));
        let mut t = transfer(2048, 2048, true, 0);
        assert_eq!(t.place(&message(NO_TAG, 0, 0, true), 10), Err(Sense::UNEXPECTED_DATA));
        t.request(3, 4096);
        assert_eq!(t.place(&message(3, 0, 0, true), 10), Err(Sense::NOT_ENOUGH_DATA));
    }
}
