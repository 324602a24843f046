//! What a session does, message by message.

use sluice_iscsi_wire::{
    AsyncEvent, DataOut, LoginStatus, LogoutReason, LogoutRequest, NO_TAG, Request, Response,
    Serial, TaskAnswer, TaskFunction,
};

use crate::support::{Counted, DISCOVERY, Fixture, Gate, Gated, ISID, Raw, writable};
use sluice_block::{BlockRead, BlockWrite, MemoryDisk};
use sluice_iscsi::Limits;

const OTHER: [u8; 6] = [0x80, 0, 0, 0, 0, 2];

fn data_out(tag: u32, target_tag: u32, number: u32, offset: u32, last: bool) -> Request {
    let (lun, expected) = (0, Serial(0));
    Request::DataOut(DataOut { last, lun, tag, target_tag, expected, number, offset })
}

#[tokio::test]
async fn data_arrives_in_all_three_ways() {
    let fixture = Fixture::memory().await;
    let keys = [
        ("InitialR2T", "No"),
        ("FirstBurstLength", "1024"),
        ("MaxBurstLength", "1024"),
        ("HeaderDigest", "CRC32C"),
        ("DataDigest", "CRC32C"),
    ];
    let mut raw = Raw::login(fixture.addresses[0], ISID, &keys).await;
    let sent: Vec<u8> = (0..6 * 512).map(|byte| (byte / 7) as u8).collect();
    let mut command = raw.command(&[0x2a, 0, 0, 0, 0, 3, 0, 0, 6], false, 6 * 512);
    command.last = false;
    raw.send(&Request::Command(command), &sent[..300]).await;
    raw.send(&data_out(command.tag, NO_TAG, 0, 300, true), &sent[300..1024]).await;
    let mut at = 1024;
    while at < sent.len() {
        let (response, _, _) = raw.receive().await;
        let Response::Ready(ready) = response else { panic!("{response:?}") };
        assert_eq!((ready.offset as usize, ready.length), (at, 1024));
        let half = at + 511;
        let (tag, target_tag) = (ready.tag, ready.target_tag);
        raw.send(&data_out(tag, target_tag, 0, at as u32, false), &sent[at..half]).await;
        let rest = data_out(tag, target_tag, 1, half as u32, true);
        raw.send(&rest, &sent[half..at + 1024]).await;
        at += 1024;
    }
    assert_eq!(raw.answer(command.tag).await.0, 0);
    assert_eq!(raw.read(3, 6).await, sent);
}

#[tokio::test]
async fn an_aborted_read_ends_at_once_and_is_never_answered() {
    let gate = Gate::new();
    let fixture = Fixture::disk(Gated(gate.clone())).await;
    let mut raw = fixture.raw().await;
    let tag = raw.transfer(true, 0, 1, &[]).await;
    gate.reached.notified().await;
    let request = raw.manage(TaskFunction::AbortTask, tag).await;
    let (response, _, _) = raw.receive().await;
    assert_eq!(response, Response::Task { tag: request, answer: TaskAnswer::Complete });
    gate.open.notify_one();
    let numbers = raw.ping().await;
    assert_eq!(numbers.most.since(numbers.expected), 127, "its place is free again");
}

#[tokio::test]
async fn an_aborted_write_is_over_when_that_is_answered() {
    let gate = Gate::new();
    let fixture = Fixture::disk(Gated(gate.clone())).await;
    let mut raw = fixture.raw().await;
    let tag = raw.transfer(false, 0, 1, &[1; 512]).await;
    gate.reached.notified().await;
    let request = raw.manage(TaskFunction::AbortTask, tag).await;
    // The device is at it: nothing is answered before it is done.
    raw.ping().await;
    gate.open.notify_one();
    let (response, _, _) = raw.receive().await;
    assert_eq!(response, Response::Task { tag: request, answer: TaskAnswer::Complete });
    let mut before = [0; 512];
    gate.disk.read_at(0, &mut before).await.unwrap();
    assert_eq!(before, [1; 512], "it was written before, not after");
    raw.ping().await;
}

/// Sends COMPARE AND WRITE of a block of zeroes with one of sevens; its tag.
async fn compare_and_write(raw: &mut Raw, lba: u8) -> u32 {
    let command = raw.command(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, 1], false, 1024);
    let data = [[0; 512], [7; 512]].concat();
    raw.send(&Request::Command(command), &data).await;
    command.tag
}

#[tokio::test]
async fn compare_and_write_waits_for_who_is_at_its_blocks_and_for_nobody_else() {
    let gate = Gate::new();
    let fixture = Fixture::disk(Gated(gate.clone())).await;
    let mut raw = fixture.raw().await;
    raw.transfer(true, 0, 8, &[]).await;
    gate.reached.notified().await;
    let elsewhere = compare_and_write(&mut raw, 8).await;
    gate.reached.notified().await;
    // Both are at the device; the read was there first.
    gate.open.notify_one();
    assert!(matches!(raw.receive().await.0, Response::DataIn(_)));
    gate.open.notify_one();
    gate.reached.notified().await;
    // Between comparing and writing nobody comes to its block.
    let reader = raw.transfer(true, 8, 1, &[]).await;
    raw.transfer(true, 9, 1, &[]).await;
    gate.reached.notified().await;
    gate.open.notify_one();
    assert_eq!(raw.answer(elsewhere).await.0, 0);
    gate.reached.notified().await;
    gate.open.notify_one();
    gate.open.notify_one();
    for _ in 0..2 {
        let (response, _, data) = raw.receive().await;
        let Response::DataIn(message) = response else { panic!("{response:?}") };
        assert_eq!(data, [if message.tag == reader { 7 } else { 0 }; 512]);
    }
}

/// Sends UNMAP of single blocks; its tag.
async fn unmap(raw: &mut Raw, blocks: &[u8]) -> u32 {
    let length = 8 + 16 * blocks.len();
    let mut list = vec![0, length as u8 - 2, 0, length as u8 - 8, 0, 0, 0, 0];
    for lba in blocks {
        list.extend([0, 0, 0, 0, 0, 0, 0, *lba, 0, 0, 0, 1, 0, 0, 0, 0]);
    }
    let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, length as u8];
    let command = raw.command(&cdb, false, length as u32);
    raw.send(&Request::Command(command), &list).await;
    command.tag
}

#[tokio::test]
async fn compare_and_write_is_waited_for_by_what_moves_the_content_of_its_blocks() {
    let gate = Gate::new();
    let fixture = Fixture::disk(Gated(gate.clone())).await;
    gate.disk.write_at(0, &[9; 100 * 512]).await.unwrap();
    gate.disk.write_at(8 * 512, &[0; 512]).await.unwrap();
    let mut raw = fixture.raw().await;
    let swap = compare_and_write(&mut raw, 8).await;
    gate.reached.notified().await;
    // It is between its two steps. These are about other blocks, or move nothing.
    let far = unmap(&mut raw, &[20, 50]).await;
    assert_eq!(raw.answer(far).await.0, 0);
    assert_eq!(raw.status(&[0x34, 0, 0, 0, 0, 8, 0, 0, 1]).await.0, 0, "PREFETCH");
    assert_eq!(raw.status(&[0x35, 0, 0, 0, 0, 8, 0, 0, 1]).await.0, 0, "SYNCHRONIZE CACHE");
    // From the first to the last block that is named, it is among them.
    let around = unmap(&mut raw, &[9, 7]).await;
    raw.ping().await;
    let mut block = [0; 512];
    gate.disk.read_at(7 * 512, &mut block).await.unwrap();
    assert_eq!(block, [9; 512], "it waits");
    gate.open.notify_one();
    gate.reached.notified().await;
    gate.open.notify_one();
    let mut tags = Vec::new();
    for _ in 0..2 {
        let (response, _, _) = raw.receive().await;
        let Response::Command(answer) = response else { panic!("{response:?}") };
        tags.push(answer.tag);
    }
    tags.sort_unstable();
    assert_eq!(tags, [swap, around]);
    for (lba, byte) in [(7, 0), (8, 7), (9, 0), (10, 9), (20, 0), (50, 0)] {
        gate.disk.read_at(lba * 512, &mut block).await.unwrap();
        assert_eq!(block, [byte; 512], "{lba}");
    }
}

#[tokio::test]
async fn an_aborted_command_leaves_its_tag_to_others() {
    let fixture = Fixture::memory().await;
    let mut raw = Raw::login(fixture.addresses[0], ISID, &[("ImmediateData", "No")]).await;
    let tag = raw.transfer(false, 0, 1, &[]).await;
    assert!(matches!(raw.receive().await.0, Response::Ready(_)));
    let request = raw.manage(TaskFunction::AbortTask, tag).await;
    let (response, _, _) = raw.receive().await;
    assert_eq!(response, Response::Task { tag: request, answer: TaskAnswer::Complete });
    raw.tag = tag;
    assert_eq!(raw.read(0, 1).await, [0; 512]);
}

#[tokio::test]
async fn a_reset_ends_what_others_were_sending() {
    let fixture = Fixture::memory().await;
    let keys = [("ImmediateData", "No")];
    let mut one = Raw::login(fixture.addresses[0], ISID, &keys).await;
    let mut other = Raw::login(fixture.addresses[1], OTHER, &keys).await;
    let tag = one.transfer(false, 0, 1, &[]).await;
    let (response, _, _) = one.receive().await;
    let Response::Ready(ready) = response else { panic!("{response:?}") };
    let request = other.manage(TaskFunction::LogicalUnitReset, 0).await;
    let (response, _, _) = other.receive().await;
    assert_eq!(response, Response::Task { tag: request, answer: TaskAnswer::Complete });
    // What comes late is dropped, and the place is free again.
    one.send(&data_out(tag, ready.target_tag, 0, 0, true), &[9; 512]).await;
    let numbers = one.ping().await;
    assert_eq!(numbers.most.since(numbers.expected), 127);
    for raw in [&mut one, &mut other] {
        let (status, sense) = raw.status(&[0]).await;
        assert_eq!((status, sense[2], sense[12], sense[13]), (2, 6, 0x29, 3));
        assert_eq!(raw.status(&[0]).await.0, 0, "told once");
    }
    assert_eq!(one.read(0, 1).await, [0; 512]);
}

#[tokio::test]
async fn a_reset_means_the_unit_however_its_number_is_written() {
    let fixture = Fixture::memory().await;
    let mut raw = Raw::login(fixture.addresses[0], ISID, &[("ImmediateData", "No")]).await;
    // Flat space addressing, and the peripheral one that `manage` has.
    let mut command = raw.command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1], false, 512);
    command.lun = 0x4000 << 48;
    raw.send(&Request::Command(command), &[]).await;
    assert!(matches!(raw.receive().await.0, Response::Ready(_)));
    let request = raw.manage(TaskFunction::AbortTask, command.tag).await;
    let (response, _, _) = raw.receive().await;
    assert_eq!(response, Response::Task { tag: request, answer: TaskAnswer::Complete });
    let mut command = raw.command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1], false, 512);
    command.lun = 0x4000 << 48;
    raw.send(&Request::Command(command), &[]).await;
    let (response, _, _) = raw.receive().await;
    let Response::Ready(ready) = response else { panic!("{response:?}") };
    let request = raw.manage(TaskFunction::LogicalUnitReset, 0).await;
    let (response, _, _) = raw.receive().await;
    assert_eq!(response, Response::Task { tag: request, answer: TaskAnswer::Complete });
    raw.send(&data_out(command.tag, ready.target_tag, 0, 0, true), &[9; 512]).await;
    raw.ping().await;
}

#[tokio::test]
async fn an_aborted_write_that_waits_for_memory_leaves_its_tag_to_others() {
    let mut limits = Limits::default();
    // Memory for one write of 2048 blocks.
    limits.bytes_in_flight = 8 << 20;
    let fixture = Fixture::new(vec![writable(MemoryDisk::new(16 << 20), 1)], limits).await;
    let keys = [("ImmediateData", "No"), ("InitialR2T", "No"), ("MaxBurstLength", "16777215")];
    let mut raw = Raw::login(fixture.addresses[0], ISID, &keys).await;
    let length = 8 << 20;
    let whole = |raw: &mut Raw| raw.command(&[0x2a, 0, 0, 0, 0, 0, 0, 0x40, 0], false, length);
    let (first, second, third) = (whole(&mut raw), whole(&mut raw), whole(&mut raw));
    for command in [first, second, third] {
        raw.send(&Request::Command(command), &[]).await;
    }
    let (response, _, _) = raw.receive().await;
    let Response::Ready(ready) = response else { panic!("{response:?}") };
    assert_eq!(ready.tag, first.tag);
    let request = raw.manage(TaskFunction::AbortTask, third.tag).await;
    let (response, _, _) = raw.receive().await;
    assert_eq!(response, Response::Task { tag: request, answer: TaskAnswer::Complete });
    // Its tag again, for a write whose first data comes without being asked for.
    let mut again = whole(&mut raw);
    (again.tag, again.last) = (third.tag, false);
    raw.send(&Request::Command(again), &[]).await;
    raw.ping().await;
    // Memory is free: it is for the second, and then for nobody who has not asked.
    for tag in [first.tag, second.tag] {
        let request = raw.manage(TaskFunction::AbortTask, tag).await;
        loop {
            match raw.receive().await.0 {
                Response::Task { tag, .. } if tag == request => break,
                Response::Ready(ready) => assert_eq!(ready.tag, second.tag),
                other => panic!("{other:?}"),
            }
        }
    }
    raw.ping().await;
    raw.ping().await;
}

#[tokio::test]
async fn a_session_that_comes_back_takes_the_place_of_its_former_self() {
    let fixture = Counted::memory().await;
    let mut first = fixture.raw().await;
    first.ping().await;
    let mut second = fixture.raw().await;
    second.ping().await;
    first.closed().await;
    let mut other = Raw::login(fixture.addresses[1], OTHER, &[]).await;
    other.ping().await;
    second.ping().await;
    assert_eq!(fixture.target.sessions(), 2);
}

#[tokio::test]
async fn a_session_for_discovery_takes_nobodys_place() {
    let fixture = Counted::memory().await;
    let mut raw = fixture.raw().await;
    assert_eq!(raw.status(&[0x16]).await.0, 0, "RESERVE");
    let asking = Raw::untold(fixture.addresses[1], ISID, &DISCOVERY).await;
    raw.ping().await;
    let mut other = Raw::login(fixture.addresses[1], OTHER, &[]).await;
    for mut asking in [asking, Raw::untold(fixture.addresses[1], ISID, &DISCOVERY).await] {
        // Another one of its own kind ends it no more than it ends others.
        let ping = asking.nop();
        asking.send(&Request::NopOut(ping), &[]).await;
        assert!(matches!(asking.receive().await.0, Response::NopIn { .. }));
    }
    while fixture.target.sessions() > 2 {
        raw.ping().await;
    }
    assert_eq!(other.status(&[0]).await.0, 0x18, "the reservation stands");
    // It ends with the session that has it, though one for discovery is still there.
    let _asking = Raw::untold(fixture.addresses[1], ISID, &DISCOVERY).await;
    drop(raw);
    while other.status(&[0]).await.0 == 0x18 {}
}

#[tokio::test]
async fn a_write_of_the_former_session_never_comes_after_one_of_the_next() {
    let gate = Gate::new();
    let fixture = Counted::disk(Gated(gate.clone())).await;
    let mut first = fixture.raw().await;
    first.transfer(false, 0, 1, &[1; 512]).await;
    gate.reached.notified().await;
    // The device is at it, and cannot be stopped.
    let mut early = Raw::connect(fixture.addresses[0]).await;
    assert_eq!(early.log_in(ISID, &[]).await.status, LoginStatus::Unavailable);
    early.closed().await;
    gate.open.notify_one();
    first.closed().await;
    let mut second = fixture.raw().await;
    let tag = second.transfer(false, 0, 1, &[2; 512]).await;
    gate.reached.notified().await;
    gate.open.notify_one();
    assert_eq!(second.answer(tag).await.0, 0);
    let mut found = [0; 512];
    gate.disk.read_at(0, &mut found).await.unwrap();
    assert_eq!(found, [2; 512]);
    assert_eq!(fixture.target.sessions(), 1);
}

#[tokio::test]
async fn what_the_former_session_was_sending_is_cut_off() {
    let fixture = Fixture::memory().await;
    let mut first = fixture.raw().await;
    let command = first.command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1], false, 512);
    first.bytes(&Request::Command(command).encode(512)).await;
    first.bytes(&[1; 100]).await;
    let mut second = fixture.raw().await;
    let tag = second.transfer(false, 0, 1, &[2; 512]).await;
    assert_eq!(second.answer(tag).await.0, 0);
    let _ = first.try_bytes(&[1; 412]).await;
    first.closed().await;
    assert_eq!(second.read(0, 1).await, [2; 512]);
}

/// What TEST UNIT READY is told, once: the additional sense code of a unit attention.
async fn attention(raw: &mut Raw) -> (u8, u8) {
    let (status, sense) = raw.status(&[0]).await;
    assert_eq!((status, sense[2]), (2, 6));
    assert_eq!(raw.status(&[0]).await.0, 0, "told once");
    (sense[12], sense[13])
}

#[tokio::test]
async fn a_session_is_told_of_a_target_that_was_begun_anew() {
    let units = || vec![writable(MemoryDisk::new(1 << 20), 1), writable(MemoryDisk::new(512), 2)];
    let fixture = Fixture::new(units(), Limits::default()).await;
    let address = fixture.addresses[0];
    let mut raw = Raw::untold(address, ISID, &[]).await;
    // Neither is disturbed by it, nor takes it away.
    let inquiry = raw.command(&[0x12, 0, 0, 0, 36], true, 36);
    raw.send(&Request::Command(inquiry), &[]).await;
    assert!(matches!(raw.receive().await.0, Response::DataIn(_)));
    assert_eq!(attention(&mut raw).await, (0x29, 0), "power on");
    let mut second = raw.command(&[0], true, 0);
    second.lun = 1 << 48;
    raw.send(&Request::Command(second), &[]).await;
    let (status, sense) = raw.answer(second.tag).await;
    assert_eq!((status, sense[12], sense[13]), (2, 0x29, 0), "each unit says so");
    // Another path, and the same one a second time.
    let mut other = Raw::untold(fixture.addresses[1], OTHER, &[]).await;
    assert_eq!(attention(&mut other).await, (0x29, 0), "power on");
    let mut raw = Raw::untold(address, ISID, &[]).await;
    assert_eq!(attention(&mut raw).await, (0x29, 7), "the nexus was lost");
    assert_eq!(other.status(&[0]).await.0, 0, "others notice nothing");
    // Another process in its place knows nobody.
    fixture.stop().await;
    let fixture = Fixture::new(units(), Limits::default()).await;
    let mut raw = Raw::untold(fixture.addresses[0], ISID, &[]).await;
    assert_eq!(attention(&mut raw).await, (0x29, 0), "power on");
}

#[tokio::test]
async fn a_session_for_discovery_is_none_of_the_units_business() {
    let fixture = Fixture::memory().await;
    let asking = Raw::untold(fixture.addresses[0], ISID, &DISCOVERY).await;
    drop(asking);
    let mut raw = Raw::untold(fixture.addresses[0], ISID, &[]).await;
    assert_eq!(attention(&mut raw).await, (0x29, 0), "power on");
}

#[tokio::test]
async fn logical_units_that_are_not_there_say_so() {
    let fixture = Fixture::memory().await;
    let mut raw = fixture.raw().await;
    let absent = |raw: &mut Raw, cdb: &[u8], room: u32| {
        let mut command = raw.command(cdb, true, room);
        command.lun = 9 << 48;
        Request::Command(command)
    };
    let inquiry = absent(&mut raw, &[0x12, 0, 0, 0, 36], 36);
    raw.send(&inquiry, &[]).await;
    assert_eq!(raw.receive().await.2[0], 0x7f);
    let ready = absent(&mut raw, &[0], 0);
    raw.send(&ready, &[]).await;
    let (status, sense) = raw.answer(ready.tag()).await;
    assert_eq!((status, sense[2], sense[12]), (2, 5, 0x25));
    // All logical units, and those with a number for everybody to know.
    for (select, length) in [(0, 8), (1, 0)] {
        let luns = absent(&mut raw, &[0xa0, 0, select, 0, 0, 0, 0, 0, 0, 64], 64);
        raw.send(&luns, &[]).await;
        let data = raw.receive().await.2;
        assert_eq!((usize::from(data[3]), data.len()), (length, 8 + length));
    }
}

#[tokio::test]
async fn commands_run_side_by_side() {
    let gate = Gate::new();
    let fixture = Fixture::disk(Gated(gate.clone())).await;
    let mut raw = fixture.raw().await;
    let slow = raw.transfer(true, 0, 1, &[]).await;
    gate.reached.notified().await;
    assert_eq!(raw.status(&[0]).await.0, 0, "answered before the one that began earlier");
    gate.open.notify_one();
    let (response, _, _) = raw.receive().await;
    assert!(matches!(response, Response::DataIn(data) if data.tag == slow));
}

#[tokio::test]
async fn a_shutdown_is_announced_and_lets_commands_finish() {
    let gate = Gate::new();
    let fixture = Fixture::disk(Gated(gate.clone())).await;
    let mut raw = fixture.raw().await;
    let tag = raw.transfer(false, 0, 1, &[3; 512]).await;
    gate.reached.notified().await;
    fixture.shutdown.cancel();
    let (response, _, _) = raw.receive().await;
    let event = AsyncEvent::DropAll { wait: 2, retain: 0 };
    assert_eq!(response, Response::Async { lun: 0, event });
    gate.open.notify_one();
    assert_eq!(raw.answer(tag).await.0, 0);
    raw.closed().await;
    fixture.stop().await;
}

#[tokio::test]
async fn logout_is_answered_before_the_connection_ends() {
    let fixture = Fixture::memory().await;
    let mut raw = fixture.raw().await;
    let (number, expected) = (raw.number, Serial(0));
    for (reason, connection, code) in [
        (LogoutReason::Recovery, 1, 2),
        (LogoutReason::Connection, 7, 1),
        (LogoutReason::Session, 1, 0),
    ] {
        let tag = 50 + u32::from(connection);
        let logout = LogoutRequest { immediate: true, reason, tag, connection, number, expected };
        raw.send(&Request::Logout(logout), &[]).await;
        assert_eq!(raw.receive().await.0, Response::Logout { tag, response: code });
    }
    raw.closed().await;
}
