//! Requests that wait for their replies.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sluice_nbd_wire::{Chunk, Command, CommandFlags, Errno, StatusExtent};
use tokio::sync::oneshot;

use crate::NbdError;

/// A request, as callers know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) command: Command,
    pub(crate) flags: CommandFlags,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What a request brought.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Content of a read.
    pub(crate) content: Vec<u8>,
    /// Descriptors by metadata context.
    pub(crate) status: Vec<(u32, Vec<StatusExtent>)>,
}

/// A request on its way, and what has arrived of its reply.
pub(crate) struct Waiting {
    ask: Ask,
    answer: Answer,
    /// Parts of the content that have arrived, as offsets into it.
    covered: Vec<(usize, usize)>,
    failure: Option<(Errno, String)>,
    done: oneshot::Sender<Result<Answer, NbdError>>,
}

impl Waiting {
    pub(crate) fn new(ask: Ask, done: oneshot::Sender<Result<Answer, NbdError>>) -> Self {
        let (answer, covered) = (Answer::default(), vec![]);
        Self { ask, answer, covered, failure: None, done }
    }

    pub(crate) fn is_read(&self) -> bool {
        self.ask.command == Command::Read
    }

    /// The whole content, to be filled by a simple reply.
    pub(crate) fn whole(&mut self) -> &mut [u8] {
        self.covered.push((0, self.ask.length as usize));
        self.content()
    }

    /// The part of the content that a chunk speaks of, to be filled.
    pub(crate) fn part(&mut self, offset: u64, length: u64) -> Result<&mut [u8], NbdError> {
        const OUTSIDE: NbdError = NbdError::Protocol("a chunk lies outside its request");
        let from = offset.checked_sub(self.ask.offset).ok_or(OUTSIDE)?;
        let to = from.checked_add(length).filter(|to| *to <= self.ask.length).ok_or(OUTSIDE)?;
        if !self.is_read() {
            return Err(OUTSIDE);
        }
        // Within the request, whose length was a `usize` to begin with.
        let (from, to) = (from as usize, to as usize);
        self.covered.push((from, to));
        Ok(&mut self.content()[from..to])
    }

    fn content(&mut self) -> &mut [u8] {
        if self.answer.content.is_empty() {
            self.answer.content = vec![0; self.ask.length as usize];
        }
        &mut self.answer.content
    }

    pub(crate) fn fail(&mut self, error: Errno, message: String) {
        self.failure.get_or_insert((error, message));
    }

    /// Takes in a chunk that carries no content.
    pub(crate) fn chunk(&mut self, chunk: Chunk<'_>) -> Result<(), NbdError> {
        match chunk {
            Chunk::None => {}
            // The content starts as zeroes, and no part of it may arrive twice.
            Chunk::OffsetHole { offset, length } => {
                self.part(offset, u64::from(length))?;
            }
            Chunk::OffsetData { offset, data } => {
                self.part(offset, data.len() as u64)?.copy_from_slice(data);
            }
            Chunk::BlockStatus { context, extents } => self.answer.status.push((context, extents)),
            Chunk::Error { error, message, .. } => self.fail(error, message),
            Chunk::Other(_) => return Err(NbdError::Protocol("a chunk of unknown type")),
        }
        Ok(())
    }

    /// Hands over the answer. The caller may have given up, which is its right.
    pub(crate) fn finish(mut self) {
        let Ask { offset, length, .. } = self.ask;
        let result = match self.failure.take() {
            Some((error, message)) => Err(NbdError::Remote { error, message, offset, length }),
            None if self.is_read() && !self.is_complete() => {
                Err(NbdError::Protocol("the chunks of a read do not cover it"))
            }
            None => Ok(self.answer),
        };
        let _ = self.done.send(result);
    }

    /// Whether the parts that arrived are the whole content, each byte once.
    fn is_complete(&mut self) -> bool {
        self.covered.sort_unstable();
        let mut at = 0;
        for (from, to) in &self.covered {
            if *from != at {
                return false;
            }
            at = *to;
        }
        at as u64 == self.ask.length
    }
}

/// All requests of a connection, until it is lost.
pub(crate) struct Pending {
    /// `None` once the connection is lost.
    waiting: Mutex<Option<HashMap<u64, Waiting>>>,
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self { waiting: Mutex::new(Some(HashMap::new())) }
    }

    /// Registers a request; refused once the connection is lost.
    pub(crate) fn insert(&self, cookie: u64, waiting: Waiting) -> Result<(), NbdError> {
        match self.lock().as_mut() {
            Some(map) => {
                map.insert(cookie, waiting);
                Ok(())
            }
            None => Err(NbdError::Lost { why: "it was closed".to_owned() }),
        }
    }

    pub(crate) fn take(&self, cookie: u64) -> Result<Waiting, NbdError> {
        let found = self.lock().as_mut().and_then(|map| map.remove(&cookie));
        found.ok_or(NbdError::Protocol("a reply to a request that was never made"))
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lock().is_none()
    }

    /// Fails everything that waits, and all that comes later.
    pub(crate) fn lose(&self, why: &str) {
        let map = self.lock().take();
        for (_, waiting) in map.into_iter().flatten() {
            let _ = waiting.done.send(Err(NbdError::Lost { why: why.to_owned() }));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HashMap<u64, Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> (Waiting, oneshot::Receiver<Result<Answer, NbdError>>) {
        let (done, answer) = oneshot::channel();
        let flags = CommandFlags::empty();
        let ask = Ask { command: Command::Read, flags, offset: 100, length: 10 };
        (Waiting::new(ask, done), answer)
    }

    #[test]
    fn chunks_in_any_order_make_up_the_content() {
        let (mut waiting, mut answer) = waiting();
        waiting.chunk(Chunk::OffsetHole { offset: 104, length: 6 }).unwrap();
        waiting.chunk(Chunk::OffsetData { offset: 100, data: b"abcd" }).unwrap();
        waiting.finish();
        assert_eq!(answer.try_recv().unwrap().unwrap().content, b"abcd\0\0\0\0\0\0");
    }

    #[test]
    fn gaps_overlaps_and_strays_are_never_taken_for_content() {
        let hole = |offset, length| Chunk::OffsetHole { offset, length };
        for chunks in [&[][..], &[(100, 9)], &[(100, 6), (105, 5)], &[(100, 5), (100, 5)]] {
            let (mut waiting, mut answer) = waiting();
            for (offset, length) in chunks {
                waiting.chunk(hole(*offset, *length)).unwrap();
            }
            waiting.finish();
            assert!(answer.try_recv().unwrap().is_err(), "{chunks:?}");
        }
        let (mut waiting, _answer) = waiting();
        for (offset, length) in [(99, 1), (110, 1), (100, 11), (u64::MAX, 2)] {
            waiting.chunk(hole(offset, length)).unwrap_err();
        }
    }

    #[test]
    fn a_lost_connection_fails_all_that_wait_and_all_that_come() {
        let pending = Pending::new();
        let (first, mut answer) = waiting();
        pending.insert(1, first).unwrap();
        pending.lose("the test says so");
        assert!(answer.try_recv().unwrap().unwrap_err().is_retryable());
        assert!(pending.insert(2, waiting().0).is_err());
        assert!(pending.is_lost());
    }
}
