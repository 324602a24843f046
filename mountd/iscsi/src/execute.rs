//! What each SCSI command does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use sluice_block::PoolBuffer;
use sluice_iscsi_wire::{ScsiCommand, TaskAttribute};
use sluice_scsi::{
    ByteCheck, Command, PersistentOut, Power, Range, Sense, Status, capacity_10, capacity_16, cut,
    inquiry, mode_select, mode_sense, out_parameters, report_luns, report_opcodes, task_functions,
    vital_page,
};
use tokio::sync::{OwnedSemaphorePermit, RwLockReadGuard, RwLockWriteGuard, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::medium::{Medium, fits};
use crate::ranges::Held;
use crate::reservation::{Port, Refusal};
use crate::task::Task;
use crate::unit::{BLOCK, MOST_BLOCKS, MOST_COMPARE, MOST_SAME, Unit};

/// Bytes that one permit stands for: permits are counted in 32 bits.
pub(crate) const GRAIN: u64 = 4096;

/// Why a command does not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    Sense(Sense),
    Conflict,
    /// Task management ended it: nobody waits for an answer.
    Ended,
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

/// Data for the initiator.
pub(crate) enum Data {
    None,
    Bytes(Vec<u8>),
    Blocks(PoolBuffer),
}

impl Data {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Bytes(bytes) => bytes,
            Self::Blocks(buffer) => buffer,
        }
    }
}

/// How a command ended.
pub(crate) struct Outcome {
    pub(crate) status: Status,
    pub(crate) sense: Vec<u8>,
    pub(crate) data: Data,
    /// Bytes the command would have liked to send or receive.
    pub(crate) wanted: u64,
    /// Memory that is free again when the data is on the wire.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// A command and its data.
pub(crate) struct Work {
    pub(crate) cdb: [u8; 16],
    /// What the initiator sent: no more than the command takes.
    pub(crate) data: Option<PoolBuffer>,
    /// Bytes that the initiator announced to send.
    pub(crate) announced: u32,
    /// Bytes the initiator has room for.
    pub(crate) room: u32,
    /// Whether no other command may run meanwhile.
    pub(crate) ordered: bool,
    pub(crate) cancel: CancellationToken,
}

impl Work {
    /// A command whose data has come.
    pub(crate) fn new(command: &ScsiCommand, data: PoolBuffer, task: &Task) -> Self {
        Self {
            cdb: command.cdb,
            data: Some(data),
            announced: if command.write { command.length } else { 0 },
            room: if command.read { command.length } else { 0 },
            ordered: command.attribute == TaskAttribute::Ordered,
            cancel: task.cancel.clone(),
        }
    }
}

/// Where commands of one initiator are done.
#[derive(Clone)]
pub(crate) struct Place {
    /// None for a number that no logical unit has.
    pub(crate) unit: Option<Arc<Unit>>,
    pub(crate) units: Arc<[Arc<Unit>]>,
    pub(crate) port: Port,
    /// Memory for data to the initiator.
    pub(crate) bytes: Arc<Semaphore>,
    pub(crate) bytes_total: u32,
}

/// Runs a command to its end, even when the device crashes: a command without an answer would
/// leave its initiator waiting. None when task management ended it. Also tells whose commands are
/// to be ended with it.
pub(crate) async fn run(place: Place, work: Work) -> Option<(Outcome, Vec<Port>)> {
    let cdb = work.cdb;
    let mut removed = Vec::new();
    let descriptors = place.unit.as_ref().is_some_and(|unit| unit.state().mode.descriptors);
    let ran = AssertUnwindSafe(execute(&place, work, &mut removed)).catch_unwind().await;
    let failed = match ran {
        Ok(Ok(outcome)) => return Some((outcome, removed)),
        Ok(Err(Failure::Ended)) => return None,
        Ok(Err(Failure::Conflict)) => (Status::ReservationConflict, Vec::new()),
        Ok(Err(Failure::Sense(sense))) => {
            tracing::debug!(cdb = ?cdb, ?sense, "command refused");
            (Status::CheckCondition, sense.encode(descriptors))
        }
        Err(_) => {
            tracing::error!(cdb = ?cdb, "the device crashed");
            (Status::CheckCondition, Sense::FAILURE.encode(descriptors))
        }
    };
    // What a refused command would have taken is what its block says.
    let wanted = Command::parse(&cdb).map_or(0, |command| command.data_out(BLOCK));
    let (status, sense) = failed;
    Some((Outcome { status, sense, data: Data::None, wanted, permit: None }, removed))
}

fn done(data: Data, wanted: u64) -> Outcome {
    Outcome { status: Status::Good, sense: Vec::new(), data, wanted, permit: None }
}

/// An answer, cut to the length that the command allows.
fn answer(bytes: Vec<u8>, allocation: u32) -> Outcome {
    let bytes = cut(bytes, allocation);
    let wanted = bytes.len() as u64;
    done(Data::Bytes(bytes), wanted)
}

async fn execute(place: &Place, work: Work, removed: &mut Vec<Port>) -> Result<Outcome, Failure> {
    let Some(unit) = &place.unit else { return no_unit(place, &work.cdb) };
    // INQUIRY, REPORT LUNS and REQUEST SENSE do not disturb what waits to be told.
    if !matches!(work.cdb[0], 0x12 | 0xa0 | 0x03)
        && let Some(notice) = unit.state().next_notice(&place.port)
    {
        return Err(notice.into());
    }
    let command = Command::parse(&work.cdb)?;
    if !unit.state().reservations.allow(&place.port, &command) {
        return Err(Failure::Conflict);
    }
    check(unit, &command)?;
    if other_way(&command, &work) {
        return Err(Sense::WRONG_DIRECTION.into());
    }
    if let Some(range) = command.range() {
        return on_medium(place, unit, work, command, range).await;
    }
    let data = work.data.as_deref().unwrap_or_default();
    match command {
        Command::Unmap { .. } => {
            complete(&command, data)?;
            let medium = Medium { unit, cancel: &work.cancel };
            let ranges = medium.to_unmap(data)?;
            let _turn = turn(unit, &work, hull(&ranges)).await?;
            medium.unmap(&ranges).await?;
            Ok(done(Data::None, command.data_out(BLOCK)))
        }
        Command::GetLbaStatus { lba, allocation } => {
            let medium = Medium { unit, cancel: &work.cancel };
            Ok(answer(medium.status(lba, allocation).await?, allocation))
        }
        Command::StartStop(Power::Stop { flush: true }) => {
            Medium { unit, cancel: &work.cancel }.flush().await?;
            Ok(done(Data::None, 0))
        }
        command => at_once(place, unit, &command, data, removed),
    }
}

/// Commands that need no waiting.
fn at_once(
    place: &Place,
    unit: &Unit,
    command: &Command,
    data: &[u8],
    removed: &mut Vec<Port>,
) -> Result<Outcome, Failure> {
    let port = &place.port;
    Ok(match command {
        Command::Inquiry { page: None, allocation } => {
            answer(inquiry(&unit.names, true), *allocation)
        }
        Command::Inquiry { page: Some(page), allocation } => {
            answer(vital_page(*page, &unit.names, &unit.limits())?, *allocation)
        }
        Command::RequestSense { descriptors, allocation } => {
            let sense = unit.state().next_notice(port).unwrap_or(Sense::NONE);
            answer(sense.encode(*descriptors), *allocation)
        }
        Command::ReportLuns { well_known, allocation } => luns(place, *well_known, *allocation)?,
        Command::ReadCapacity10 => answer(capacity_10(unit.blocks(), BLOCK), 8),
        Command::ReadCapacity16 { allocation } => {
            answer(capacity_16(unit.blocks(), BLOCK, unit.physical), *allocation)
        }
        Command::ModeSense(asked) => {
            let mode = unit.state().mode;
            let protected = unit.is_read_only();
            let bytes = mode_sense(asked, &mode, protected, unit.blocks(), BLOCK)?;
            answer(bytes, asked.allocation)
        }
        Command::ModeSelect(asked) => {
            complete(command, data)?;
            let mut state = unit.state();
            let mode = mode_select(asked, data, &state.mode)?;
            if mode != state.mode {
                state.mode = mode;
                state.raise(Sense::MODE_CHANGED, Some(port));
            }
            done(Data::None, command.data_out(BLOCK))
        }
        Command::Reserve => {
            unit.state().reservations.reserve_unit(port);
            done(Data::None, 0)
        }
        Command::Release => {
            unit.state().reservations.release_unit(port);
            done(Data::None, 0)
        }
        Command::PersistentIn { action, allocation } => {
            answer(unit.state().reservations.report(*action), *allocation)
        }
        Command::PersistentOut { action, .. } => {
            complete(command, data)?;
            let parameters = out_parameters(data)?;
            let mut state = unit.state();
            let effects = match state.reservations.change(port, *action, parameters) {
                Ok(effects) => effects,
                Err(Refusal::Conflict) => return Err(Failure::Conflict),
                Err(Refusal::Sense(sense)) => return Err(sense.into()),
            };
            for (port, sense) in effects.notices {
                state.tell(&port, sense);
            }
            if matches!(action, PersistentOut::PreemptAndAbort(_)) {
                *removed = effects.removed;
            }
            done(Data::None, command.data_out(BLOCK))
        }
        Command::ReportOpcodes(asked) => answer(report_opcodes(asked)?, asked.allocation),
        Command::ReportFunctions { extended, allocation } => {
            answer(task_functions(*extended), *allocation)
        }
        // A disk that cannot be taken out: it is ready, stays in, and is well.
        _ => done(Data::None, 0),
    })
}

/// Commands about a range of blocks.
async fn on_medium(
    place: &Place,
    unit: &Arc<Unit>,
    work: Work,
    command: Command,
    range: Range,
) -> Result<Outcome, Failure> {
    let medium = Medium { unit, cancel: &work.cancel };
    let data = work.data.as_deref().unwrap_or_default();
    let wanted = command.data_out(BLOCK);
    let mut outcome = done(Data::None, wanted);
    // Memory before order: who waits for memory must not keep others waiting.
    if let Command::Read { .. } = command {
        outcome.wanted = u64::from(range.blocks) * u64::from(BLOCK);
        outcome.permit = admit(place, &work, outcome.wanted).await?;
    }
    let turn = turn(unit, &work, blocks_of(&command, range)).await?;
    match command {
        Command::Read { .. } => {
            let length = outcome.wanted.min(u64::from(work.room)) as usize;
            outcome.data = Data::Blocks(medium.read(range, length).await?);
        }
        Command::Write { fua, .. } => medium.write(range, whole_blocks(data), fua).await?,
        Command::WriteAndVerify { check, .. } => {
            medium.write(range, whole_blocks(data), true).await?;
            medium.verify(range, check, whole_blocks(data)).await?;
        }
        Command::Verify { check, .. } => {
            if check == ByteCheck::OneBlock {
                complete(&command, data)?;
            }
            medium.verify(range, check, data).await?;
        }
        Command::WriteSame { data: given, .. } => {
            exact(&command, &work)?;
            let zeroes = [0; BLOCK as usize];
            let block = if given { data } else { &zeroes };
            medium.write_same(rest_of_medium(unit, range)?, block).await?;
        }
        Command::CompareAndWrite { fua, .. } => {
            exact(&command, &work)?;
            medium.compare_and_write(range, data, fua).await?;
        }
        Command::OrWrite { fua, .. } => medium.or_write(range, whole_blocks(data), fua).await?,
        Command::Synchronize { .. } => medium.flush().await?,
        // PREFETCH: blocks come fast enough when they are asked for.
        _ => {}
    }
    drop(turn);
    Ok(outcome)
}

/// A command's turn at a unit, until it is dropped.
struct Turn<'a> {
    _blocks: Option<Held<'a>>,
    _alone: Option<RwLockWriteGuard<'a, ()>>,
    _beside: Option<RwLockReadGuard<'a, ()>>,
}

/// Waits for a command's turn: its place in the order, then its blocks, which nobody else has
/// anyway when it is ordered.
async fn turn<'a>(
    unit: &'a Unit,
    work: &Work,
    blocks: Option<Blocks>,
) -> Result<Turn<'a>, Failure> {
    let taken = async {
        if work.ordered {
            let alone = Some(unit.order.write().await);
            return Turn { _blocks: None, _alone: alone, _beside: None };
        }
        let beside = Some(unit.order.read().await);
        let held = match blocks {
            Some(Blocks { blocks, alone }) => Some(unit.ranges.take(blocks, alone).await),
            None => None,
        };
        Turn { _blocks: held, _alone: None, _beside: beside }
    };
    tokio::select! {
        biased;
        () = work.cancel.cancelled() => Err(Failure::Ended),
        turn = taken => Ok(turn),
    }
}

/// Blocks whose content a command reads or writes, and whether it does both as one step.
struct Blocks {
    blocks: std::ops::Range<u64>,
    alone: bool,
}

/// The blocks that a command waits for; nothing where it moves none of their content.
fn blocks_of(command: &Command, range: Range) -> Option<Blocks> {
    let end = match (command, range.blocks) {
        (
            Command::Prefetch { .. }
            | Command::Synchronize { .. }
            | Command::Verify { check: ByteCheck::Readable, .. },
            _,
        ) => return None,
        // None means all that follow.
        (Command::WriteSame { .. }, 0) => u64::MAX,
        // Within the medium, which was checked.
        (_, blocks) => range.lba + u64::from(blocks),
    };
    let alone = matches!(command, Command::CompareAndWrite { .. } | Command::OrWrite { .. });
    Some(Blocks { blocks: range.lba..end, alone })
}

/// The blocks from the first to the last of some ranges on the medium; nothing for no blocks.
fn hull(ranges: &[Range]) -> Option<Blocks> {
    let some = ranges.iter().filter(|range| range.blocks > 0);
    let start = some.clone().map(|range| range.lba).min()?;
    let end = some.map(|range| range.lba + u64::from(range.blocks)).max()?;
    Some(Blocks { blocks: start..end, alone: false })
}

/// Blocks of which all bytes came: parts of one are not written.
fn whole_blocks(data: &[u8]) -> &[u8] {
    &data[..data.len() / BLOCK as usize * BLOCK as usize]
}

/// Refuses a command that makes sense only with all of its data.
fn complete(command: &Command, data: &[u8]) -> Result<(), Sense> {
    if data.len() as u64 == command.data_out(BLOCK) { Ok(()) } else { Err(Sense::PARAMETER_LENGTH) }
}

/// Refuses a command whose data is another length than its blocks: the two must have been meant for
/// different commands.
fn exact(command: &Command, work: &Work) -> Result<(), Sense> {
    let wanted = command.data_out(BLOCK);
    if u64::from(work.announced) == wanted { Ok(()) } else { Err(Sense::INVALID_FIELD) }
}

/// The blocks that WRITE SAME is about: none means all that follow.
fn rest_of_medium(unit: &Unit, range: Range) -> Result<Range, Sense> {
    let rest = match range.blocks {
        0 => unit.blocks().saturating_sub(range.lba),
        blocks => u64::from(blocks),
    };
    match u32::try_from(rest) {
        Ok(blocks) if blocks <= MOST_SAME => Ok(Range { lba: range.lba, blocks }),
        _ => Err(Sense::INVALID_FIELD.at(if range.blocks == 0 { 7 } else { 10 }, None)),
    }
}

/// Waits for memory.
async fn admit(
    place: &Place,
    work: &Work,
    wanted: u64,
) -> Result<Option<OwnedSemaphorePermit>, Failure> {
    let grains = wanted.min(u64::from(work.room)).div_ceil(GRAIN).min(place.bytes_total.into());
    if grains == 0 {
        return Ok(None);
    }
    tokio::select! {
        biased;
        // At most the total, which has 32 bits.
        permit = Arc::clone(&place.bytes).acquire_many_owned(grains as u32) => {
            Ok(Some(permit.map_err(|_| Failure::Ended)?))
        }
        () = work.cancel.cancelled() => Err(Failure::Ended),
    }
}

/// Whether the initiator is to send data, and has announced to receive some: nothing would be
/// written, and it might take that for done.
fn other_way(command: &Command, work: &Work) -> bool {
    command.data_out(BLOCK) > 0 && work.announced == 0 && work.room > 0
}

/// Refuses what needs no look at the medium.
fn check(unit: &Unit, command: &Command) -> Result<(), Sense> {
    if command.changes_medium() {
        if unit.is_read_only() {
            return Err(Sense::WRITE_PROTECTED);
        }
        if unit.state().mode.write_protect {
            return Err(Sense::SOFTWARE_WRITE_PROTECTED);
        }
    }
    let Some(range) = command.range() else { return Ok(()) };
    let most = match command {
        Command::Read { .. }
        | Command::Write { .. }
        | Command::WriteAndVerify { .. }
        | Command::OrWrite { .. }
        | Command::Verify { check: ByteCheck::Data, .. } => MOST_BLOCKS,
        Command::CompareAndWrite { .. } => u32::from(MOST_COMPARE),
        _ => u32::MAX,
    };
    if !fits(range, unit.blocks()) {
        return Err(Sense::OUT_OF_RANGE);
    }
    // Nothing may begin where the medium has ended, even if it is nothing.
    if range.lba == unit.blocks() && matches!(command, Command::WriteSame { .. }) {
        return Err(Sense::OUT_OF_RANGE);
    }
    if range.blocks > most {
        return Err(Sense::INVALID_FIELD);
    }
    Ok(())
}

/// Commands to a number that no logical unit has.
fn no_unit(place: &Place, cdb: &[u8; 16]) -> Result<Outcome, Failure> {
    match Command::parse(cdb) {
        Ok(Command::Inquiry { page: None, allocation }) => {
            let names = place.units.first().map(|unit| inquiry(&unit.names, false));
            Ok(answer(names.unwrap_or_default(), allocation))
        }
        Ok(Command::RequestSense { descriptors, allocation }) => {
            Ok(answer(Sense::NO_UNIT.encode(descriptors), allocation))
        }
        Ok(Command::ReportLuns { well_known, allocation }) => luns(place, well_known, allocation),
        _ => Err(Sense::NO_UNIT.into()),
    }
}

fn luns(place: &Place, well_known: bool, allocation: u32) -> Result<Outcome, Failure> {
    if allocation < 16 {
        return Err(Sense::INVALID_FIELD.at(6, None).into());
    }
    // None is of the kind that has a number for everybody to know.
    let all = place.units.iter().filter(|_| !well_known);
    Ok(answer(report_luns(all.map(|unit| unit.number)), allocation))
}
