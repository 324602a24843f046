//! Text in the full feature phase: questions for targets; and how much of that, and of pings, may
//! be on its way to an initiator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sluice_iscsi_wire::{NO_TAG, Response, TextRequest, WireError, limits, text};
use tokio::sync::Semaphore;

use crate::login::send_targets;
use crate::outgoing::Room;
use crate::session::Ends;
use crate::target::Shared;

/// The tag of an exchange that goes on: there is one at a time.
const TAG: u32 = 1;
/// Bytes of an answer that is not counted: there are only so many of them at a time.
const LITTLE: usize = 4 << 10;
/// Bytes of all longer answers that are not on the wire yet.
const MUCH: usize = 1 << 20;
/// Lengths that an initiator may state.
const LENGTHS: std::ops::RangeInclusive<u32> = 512..=(1 << 24) - 1;

/// The exchange of texts in one session.
pub(crate) struct Conversation {
    shared: Arc<Shared>,
    initiator: String,
    local: SocketAddr,
    listening: Arc<[SocketAddr]>,
    most_to_peer: Arc<AtomicU32>,
    /// Text of the initiator that goes on in its next request.
    unfinished: Vec<u8>,
    /// Text of ours that does not fit into one answer.
    rest: Vec<u8>,
    /// Bytes that longer answers may still take.
    room: Arc<Semaphore>,
}

impl Conversation {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        initiator: &str,
        ends: Ends,
        most_to_peer: Arc<AtomicU32>,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            initiator: initiator.to_owned(),
            local: ends.local,
            listening: ends.listening,
            most_to_peer,
            unfinished: Vec::new(),
            rest: Vec::new(),
            room: Arc::new(Semaphore::new(MUCH)),
        }
    }

    /// Memory for an answer with so many bytes, if there is any. An initiator that does not take
    /// its answers gets none: what it says to us would be kept here without end.
    pub(crate) fn room(&self, length: usize) -> Option<Room> {
        if length <= LITTLE {
            return Some(Room { _permit: None });
        }
        // At most all of it, which has 32 bits.
        let taken = Arc::clone(&self.room).try_acquire_many_owned(length.min(MUCH) as u32);
        taken.ok().map(|permit| Room { _permit: Some(permit) })
    }

    /// Bytes of data that one message to the initiator may have.
    pub(crate) fn most_to_peer(&self) -> usize {
        self.most_to_peer.load(Ordering::Relaxed) as usize
    }

    /// Takes a request; returns the answer.
    pub(crate) fn step(
        &mut self,
        request: &TextRequest,
        said: &[u8],
    ) -> Result<(Response, Vec<u8>), WireError> {
        if self.unfinished.len() + said.len() > limits::TEXT {
            let length = (self.unfinished.len() + said.len()) as u64;
            let limit = limits::TEXT as u64;
            return Err(WireError::TooLong { what: "a text", length, limit });
        }
        if request.target_tag == NO_TAG {
            // A new exchange; one that was going on is over.
            self.rest.clear();
            self.unfinished.clear();
        }
        self.unfinished.extend(said);
        if request.more {
            let target_tag = TAG;
            let response =
                Response::Text { last: false, more: false, tag: request.tag, target_tag };
            return Ok((response, Vec::new()));
        }
        let said = std::mem::take(&mut self.unfinished);
        if self.rest.is_empty() {
            self.rest = self.answer(&text::decode(&said)?);
        }
        let after = self.rest.split_off(self.rest.len().min(self.most_to_peer()));
        let data = std::mem::replace(&mut self.rest, after);
        let more = !self.rest.is_empty();
        let target_tag = if more { TAG } else { NO_TAG };
        Ok((Response::Text { last: !more, more, tag: request.tag, target_tag }, data))
    }

    fn answer(&self, keys: &[(&str, &str)]) -> Vec<u8> {
        let mut answer = Vec::new();
        for (key, value) in keys {
            match *key {
                "SendTargets" => answer.extend(send_targets(
                    &self.shared,
                    value,
                    &self.initiator,
                    self.local,
                    &self.listening,
                )),
                "MaxRecvDataSegmentLength" => match value.parse() {
                    Ok(length) if LENGTHS.contains(&length) => {
                        self.most_to_peer.store(length, Ordering::Relaxed);
                    }
                    _ => text::encode(&mut answer, key, "Reject"),
                },
                key => text::encode(&mut answer, key, "NotUnderstood"),
            }
        }
        answer
    }
}
