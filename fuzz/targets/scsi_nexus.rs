//! SCSI commands as they are done: several initiators at two disks, with reservations, notices,
//! resets, devices that fail, and whatever else an input makes of it.
//!
//! What must hold for every answer is in `judge`; besides, nothing is held when nothing goes on.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sluice_block::BlockRead;
use sluice_fuzz::{Input, Watched, content, run};
use sluice_iscsi::{Answered, Carried, Identity, Limits, Lun, Nexus, ServeError, Server, Target};
use sluice_iscsi_wire::{Residual, ScsiCommand, Serial, TaskAttribute, TaskFunction, TaskRequest};
use sluice_scsi::{Command, lun_to_wire};
use tokio_util::sync::CancellationToken;

const WRITABLE: usize = 32 << 10;
/// The last block is not whole.
const READ_ONLY: usize = (16 << 10) + 100;
const BLOCK: usize = 512;
const INITIATORS: usize = 4;
/// Notices that are kept for an initiator.
const MOST_NOTICES: usize = 8;
/// Steps of one input: the state is bounded, so that more of them show nothing new.
const MOST_STEPS: usize = 200;

fuzz_target!(|input: &[u8]| run(play(Input::new(input))));

struct Bench {
    target: Carried,
    writable: Arc<Watched>,
    read_only: Arc<Watched>,
    nexuses: [Option<Nexus>; INITIATORS],
}

fn bench() -> Result<Bench, ServeError> {
    let (writable, read_only) = (Watched::new(WRITABLE), Watched::new(READ_ONLY));
    let (writable, read_only) = (Arc::new(writable), Arc::new(read_only));
    let luns = vec![
        Lun::writable(writable.clone(), Identity::from_digest([1; 32])),
        Lun::read_only(read_only.clone(), Identity::from_digest([2; 32])),
    ];
    let server = Server::new(Target::new("iqn.2026-01.test:disks", luns), Limits::default())?;
    let target = Carried::new(server, CancellationToken::new());
    Ok(Bench { target, writable, read_only, nexuses: Default::default() })
}

async fn play(mut input: Input<'_>) {
    let mut bench = bench().expect("a target");
    for step in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        bench.step(step as u32, &mut input).await;
    }
    bench.rest().await;
}

impl Bench {
    async fn nexus(&mut self, who: usize) -> &mut Nexus {
        if self.nexuses[who].is_none() {
            let port = format!("iqn.2026-01.test:host-{who},i,0x0123456789ab");
            let begun = Nexus::begin(&self.target, &port).await;
            self.nexuses[who] = Some(begun.expect("nothing goes on that could not end"));
        }
        self.nexuses[who].as_mut().expect("it was just begun")
    }

    async fn step(&mut self, step: u32, input: &mut Input<'_>) {
        let head = input.byte();
        let who = usize::from(head & 3);
        match head >> 2 & 7 {
            7 => {
                let [function, lun, task] = input.array();
                self.manage(who, step, function, lun, task).await;
            }
            6 => self.nexuses[who] = None,
            5 => self.writable.fail_after(u64::from(input.byte() & 0x0f)),
            _ => {
                let [flags, lun] = input.array();
                let length = u32::from_le_bytes(input.array());
                let cdb = input.array();
                let count = input.byte();
                let data = input.take(count.into());
                let command = ScsiCommand {
                    immediate: false,
                    last: true,
                    read: flags & 1 != 0,
                    write: flags & 2 != 0,
                    attribute: attribute(flags >> 2),
                    lun: lun_to_wire(u16::from(lun & 3)),
                    tag: step,
                    length,
                    number: Serial(step),
                    expected: Serial(0),
                    cdb,
                };
                self.command(who, command, data).await;
            }
        }
    }

    async fn manage(&mut self, who: usize, tag: u32, function: u8, lun: u8, task: u8) {
        let function = match function & 7 {
            1 => TaskFunction::AbortTask,
            2 => TaskFunction::AbortTaskSet,
            3 => TaskFunction::ClearTaskSet,
            4 => TaskFunction::LogicalUnitReset,
            5 => TaskFunction::TargetWarmReset,
            6 => TaskFunction::TargetColdReset,
            other => TaskFunction::Other(other),
        };
        let (lun, task) = (lun_to_wire(u16::from(lun & 3)), u32::from(task));
        let (number, task_number) = (Serial(tag), Serial(task));
        let expected = Serial(0);
        let request = TaskRequest {
            immediate: true,
            function,
            lun,
            tag,
            task,
            number,
            expected,
            task_number,
        };
        let nexus = self.nexus(who).await;
        let answer = nexus.manage(request).await;
        assert!(answer.is_some(), "a request for task management is always answered");
        assert!(nexus.is_idle());
        if function == TaskFunction::TargetColdReset {
            // All sessions are over now.
            self.nexuses = Default::default();
        }
    }

    async fn command(&mut self, who: usize, command: ScsiCommand, data: &[u8]) {
        let before = self.writable.changes();
        let nexus = self.nexus(who).await;
        let mut given = None;
        let answered = nexus.command(command, |place| {
            given = Some(place.len());
            let source = if data.is_empty() { &[0] } else { data };
            place.iter_mut().zip(source.iter().cycle()).for_each(|(to, from)| *to = *from);
        });
        let answered = answered.await.expect("a command is always answered");
        assert!(nexus.is_idle());
        let given = given.expect("the place for its data was made");
        assert!(given <= if command.write { command.length as usize } else { 0 });
        judge(&command, &answered, self.writable.changes() - before);
    }

    /// What must hold when everything has been done.
    async fn rest(&mut self) {
        assert_eq!(self.read_only.changes(), 0, "a disk that cannot be written was");
        let mut after = vec![0; READ_ONLY];
        self.read_only.read_at(0, &mut after).await.expect("a disk in memory");
        assert!(after == content(READ_ONLY));
        for who in 0..INITIATORS {
            let mut left = 0;
            while !self.quiet(who).await {
                left += 1;
                assert!(left <= MOST_NOTICES, "more to be told than is kept");
            }
        }
        self.nexuses = Default::default();
        assert_eq!(self.target.sessions(), 0, "a session outlived its initiator");
    }

    /// Asks an initiator's first unit for a notice; whether there is none.
    async fn quiet(&mut self, who: usize) -> bool {
        let mut cdb = [0; 16];
        (cdb[0], cdb[4]) = (0x03, 252);
        let command = ScsiCommand {
            immediate: false,
            last: true,
            read: true,
            write: false,
            attribute: TaskAttribute::Simple,
            lun: 0,
            tag: u32::MAX - 1,
            length: 252,
            number: Serial(0),
            expected: Serial(0),
            cdb,
        };
        let answered = self.nexus(who).await.command(command, |_| {}).await;
        let data = answered.expect("a command is always answered").data;
        sense_key(&data) == 0
    }
}

fn attribute(code: u8) -> TaskAttribute {
    match code & 3 {
        0 => TaskAttribute::Simple,
        1 => TaskAttribute::Ordered,
        2 => TaskAttribute::HeadOfQueue,
        _ => TaskAttribute::Untagged,
    }
}

/// What holds for the answer to any command.
fn judge(command: &ScsiCommand, answered: &Answered, changes: u64) {
    let room = if command.read { command.length as usize } else { 0 };
    assert!(answered.data.len() <= room, "more than there is room for");
    let parsed = Command::parse(&command.cdb);
    match answered.status {
        0x00 => assert!(answered.sense.is_empty()),
        0x02 => {
            let key = sense_key(&answered.sense);
            assert_ne!(key, 0, "trouble of no kind");
            // INQUIRY and REPORT LUNS never tell notices.
            assert!(key != 6 || !matches!(command.cdb[0], 0x12 | 0xa0 | 0x03));
            assert!(key != 6 || changes == 0, "who must be told something first did something");
        }
        0x18 => assert_eq!(changes, 0, "who is kept out did something"),
        other => panic!("status {other:#x}"),
    }
    let expected = if command.read || command.write { command.length } else { 0 };
    match answered.residual {
        Residual::Under(missing) => {
            assert!(missing > 0 && missing <= expected);
            if answered.status == 0 && room > 0 && !command.write {
                assert_eq!(answered.data.len() as u32, expected - missing);
            }
        }
        Residual::Over(beyond) => {
            assert!(beyond > 0);
            // Data that ends with a block of which not all bytes are there is still whole.
            assert!(answered.status != 0 || command.write || answered.data.len() == room);
        }
        Residual::None if answered.status == 0 && !command.write => {
            assert_eq!(answered.data.len(), room);
        }
        Residual::None => {}
    }
    if !parsed.is_ok_and(|parsed| parsed.changes_medium()) {
        assert_eq!(changes, 0, "a command that does not change the medium did");
    }
    assert!(answered.data.len() <= READ_ONLY.next_multiple_of(BLOCK).max(WRITABLE));
}

/// The key of sense data that is well formed.
fn sense_key(sense: &[u8]) -> u8 {
    let length = usize::from(sense[7]) + 8;
    assert_eq!(sense.len(), length, "the length that it says");
    match sense[0] & 0x7f {
        0x70 => {
            assert!(length >= 18);
            sense[2] & 0x0f
        }
        0x72 => {
            let mut rest = &sense[8..];
            while let [_, more, ..] = rest {
                rest = &rest[2 + usize::from(*more)..];
            }
            assert!(rest.is_empty(), "descriptors one after another");
            sense[1] & 0x0f
        }
        other => panic!("sense data of the format {other:#x}"),
    }
}
