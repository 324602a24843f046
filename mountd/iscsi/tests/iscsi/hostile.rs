//! Initiators that break the protocol: each loses its connection at most, and nobody else notices.

use sluice_iscsi_wire::{
    DataOut, NO_TAG, NopOut, RejectReason, Request, Response, Serial, TaskFunction, text,
};

use crate::support::{Broken, Counted, DISCOVERY, Fixture, ISID, Raw, impatient, writable};
use sluice_block::MemoryDisk;
use sluice_iscsi::{Identity, Limits, Lun};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let fixture = Fixture::memory().await;
    let mut good = fixture.raw().await;
    for garbage in [&[0xff; 48][..], b"GET / HTTP/1.1\r\nHost: disk.example\r\nAccept: */*\r\n\r\n"]
    {
        let mut bad = Raw::connect(fixture.addresses[0]).await;
        bad.bytes(garbage).await;
        bad.closed().await;
    }
    // Text that claims to be longer than any text.
    let mut bad = Raw::connect(fixture.addresses[0]).await;
    let mut header = Raw::first(ISID).encode(0);
    header[5] = 0xff;
    bad.bytes(&header).await;
    bad.closed().await;
    // A command before login.
    let mut bad = Raw::connect(fixture.addresses[0]).await;
    bad.transfer(true, 0, 1, &[]).await;
    bad.closed().await;
    good.ping().await;
}

#[tokio::test]
async fn silence_is_not_waited_for() {
    let fixture = Fixture::new(vec![writable(MemoryDisk::new(1 << 20), 1)], impatient()).await;
    let mut silent = Raw::connect(fixture.addresses[0]).await;
    silent.closed().await;
    // In the middle of a message.
    let mut slow = fixture.raw().await;
    slow.bytes(&[0; 20]).await;
    slow.closed().await;
}

#[tokio::test]
async fn an_initiator_that_takes_no_answers_is_dropped_and_holds_up_nobody() {
    let mut limits = Limits::default();
    limits.stall_timeout = Duration::from_millis(300);
    let fixture = Counted::new(vec![writable(MemoryDisk::new(1 << 20), 1)], limits).await;
    let mut deaf = fixture.raw().await;
    // 16 MiB of answers: far more than is kept on the way.
    // Asked for at once: it may be dropped as soon as it has asked for enough.
    let mut asked = vec![];
    for _ in 0..128 {
        let command = deaf.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 255], true, 255 * 512);
        asked.extend(Request::Command(command).encode(0));
    }
    deaf.bytes(&asked).await;
    let mut other = Raw::login(fixture.addresses[1], [0x80, 0, 0, 0, 0, 2], &[]).await;
    assert_eq!(other.read(0, 1).await, [0; 512]);
    while fixture.target.sessions() > 1 {
        other.ping().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let mut limits = Limits::default();
    limits.max_sessions = 2;
    let fixture = Fixture::new(vec![writable(MemoryDisk::new(1 << 20), 1)], limits).await;
    let mut first = fixture.raw().await;
    let _second = Raw::login(fixture.addresses[1], [0x80, 0, 0, 0, 0, 2], &[]).await;
    let mut third = Raw::connect(fixture.addresses[0]).await;
    third.closed().await;
    first.ping().await;
}

#[tokio::test]
async fn a_thousand_strangers_keep_nobody_out_and_nobody_waiting() {
    // Both ends of each connection are here, and many systems allow a process 1,024 files.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let mut limits = Limits::default();
    limits.max_sessions = 16;
    limits.max_sessions_per_address = 2000;
    limits.login_timeout = Duration::from_secs(600);
    let fixture = Fixture::new(vec![writable(MemoryDisk::new(1 << 20), 1)], limits).await;
    let mut early = fixture.raw().await;
    let mut strangers = vec![];
    for number in 0..1000 {
        let mut stranger = Raw::connect(fixture.addresses[number % 2]).await;
        if number % 3 == 0 {
            stranger.bytes(&Raw::first(ISID).encode(0)[..20]).await;
        }
        strangers.push(stranger);
    }
    strangers.remove(0).closed().await;
    let mut late = Raw::login(fixture.addresses[1], [0x80, 0, 0, 0, 0, 2], &[]).await;
    late.ping().await;
    early.ping().await;
}

#[tokio::test]
async fn who_only_asks_for_names_keeps_nobody_out() {
    let mut limits = Limits::default();
    limits.max_sessions = 4;
    let fixture = Fixture::new(vec![writable(MemoryDisk::new(1 << 20), 1)], limits).await;
    let mut early = fixture.raw().await;
    let mut asking = vec![];
    for number in 0..20 {
        let isid = [0x80, 0, 0, 0, 1, number];
        asking.push(Raw::untold(fixture.addresses[0], isid, &DISCOVERY).await);
    }
    asking.remove(0).closed().await;
    let mut late = Raw::login(fixture.addresses[1], [0x80, 0, 0, 0, 0, 2], &[]).await;
    late.ping().await;
    early.ping().await;
}

#[tokio::test]
async fn who_asks_for_names_does_not_stay() {
    let mut limits = Limits::default();
    limits.discovery_idle = Duration::from_millis(300);
    let fixture = Fixture::new(vec![writable(MemoryDisk::new(1 << 20), 1)], limits).await;
    let mut good = fixture.raw().await;
    let other = [0x80, 0, 0, 0, 0, 2];
    Raw::untold(fixture.addresses[0], other, &DISCOVERY).await.closed().await;
    good.ping().await;
}

#[tokio::test]
async fn pings_to_a_stranger_come_back_empty() {
    let fixture = Fixture::memory().await;
    let mut raw = Raw::untold(fixture.addresses[0], ISID, &DISCOVERY).await;
    let ping = raw.nop();
    raw.send(&Request::NopOut(ping), &[7; 100_000]).await;
    let (response, _, data) = raw.receive().await;
    let (lun, tag, target_tag) = (0, ping.tag, NO_TAG);
    assert_eq!((response, data.len()), (Response::NopIn { lun, tag, target_tag }, 0));
}

#[tokio::test]
async fn pings_that_are_not_taken_back_are_not_kept() {
    let fixture = Fixture::memory().await;
    let keys = [("MaxRecvDataSegmentLength", "16777215")];
    let mut raw = Raw::login(fixture.addresses[0], ISID, &keys).await;
    // 39 MiB: more than the system keeps on the way.
    let data = vec![7; 256 << 10];
    let sent: Vec<u32> = {
        let mut sent = vec![];
        for _ in 0..155 {
            let ping = raw.nop();
            raw.send(&Request::NopOut(ping), &data).await;
            sent.push(ping.tag);
        }
        sent
    };
    let mut refused = 0;
    for tag in sent {
        match raw.receive().await {
            (Response::NopIn { tag: answered, .. }, _, back) => {
                assert!(answered == tag && back == data);
            }
            (Response::Reject { reason: RejectReason::OutOfResources }, _, header) => {
                assert_eq!(header[16..20], tag.to_be_bytes());
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0);
    // Now that they are taken there is room again.
    let ping = raw.nop();
    raw.send(&Request::NopOut(ping), &data).await;
    assert_eq!(raw.receive().await.2, data);
}

#[tokio::test]
async fn one_address_has_its_share_of_sessions() {
    let mut limits = Limits::default();
    limits.max_sessions_per_address = 1;
    let fixture = Fixture::new(vec![writable(MemoryDisk::new(1 << 20), 1)], limits).await;
    let mut first = fixture.raw().await;
    Raw::connect(fixture.addresses[0]).await.closed().await;
    first.ping().await;
}

#[tokio::test]
async fn what_is_not_understood_is_rejected_with_its_header() {
    let fixture = Fixture::memory().await;
    let mut raw = fixture.raw().await;
    for (opcode, reason) in [
        (0x1f, RejectReason::Protocol),
        (0x10, RejectReason::SnackReject),
        (0x43, RejectReason::Protocol),
    ] {
        let mut header = [0; 48];
        header[0] = opcode;
        raw.bytes(&header).await;
        let (response, _, data) = raw.receive().await;
        assert_eq!((response, &data[..]), (Response::Reject { reason }, &header[..]));
    }
    raw.ping().await;
}

#[tokio::test]
async fn commands_outside_the_window_are_dropped() {
    let fixture = Fixture::memory().await;
    let mut raw = fixture.raw().await;
    let numbers = raw.ping().await;
    for number in [numbers.most.plus(1), numbers.expected.plus(u32::MAX)] {
        let (lun, target_tag, expected) = (0, NO_TAG, Serial(0));
        let nop = NopOut { immediate: false, lun, tag: 99, target_tag, number, expected };
        raw.send(&Request::NopOut(nop), &[]).await;
    }
    // The next answer is that of the next ping.
    let after = raw.ping().await;
    assert_eq!((after.expected, after.most), (numbers.expected, numbers.most));
}

#[tokio::test]
async fn wrong_digests_end_the_session() {
    let fixture = Fixture::memory().await;
    let keys = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C,None")];
    let mut raw = Raw::login(fixture.addresses[0], ISID, &keys).await;
    raw.ping().await;
    raw.digests = false;
    raw.transfer(true, 0, 1, &[]).await;
    raw.bytes(&[0; 4]).await;
    raw.closed().await;
}

#[tokio::test]
async fn data_that_was_not_asked_for_ends_its_command_only() {
    let fixture = Fixture::memory().await;
    // Nothing unsolicited was agreed on.
    let keys = [("InitialR2T", "Yes"), ("ImmediateData", "No")];
    let mut raw = Raw::login(fixture.addresses[0], ISID, &keys).await;
    let tag = raw.transfer(false, 0, 1, &[1; 512]).await;
    let (status, sense) = raw.answer(tag).await;
    assert_eq!((status, sense[2], sense[12]), (2, 0xb, 0x0c));
    // Data of a command that nobody knows.
    let (lun, expected, offset) = (0, Serial(0), 0);
    let stray = DataOut { last: true, lun, tag: 77, target_tag: 5, expected, number: 0, offset };
    raw.send(&Request::DataOut(stray), &[1; 512]).await;
    // More than was asked for.
    let tag = raw.transfer(false, 0, 1, &[]).await;
    let (response, _, _) = raw.receive().await;
    let Response::Ready(ready) = response else { panic!("{response:?}") };
    let target_tag = ready.target_tag;
    let long = DataOut { last: true, lun, tag, target_tag, expected, number: 0, offset };
    raw.send(&Request::DataOut(long), &[1; 1024]).await;
    let (status, sense) = raw.answer(tag).await;
    assert_eq!((status, sense[2], sense[12]), (2, 0xb, 0x4b));
    assert_eq!(raw.read(0, 2).await, [0; 1024], "none of it was written");
}

#[tokio::test]
async fn a_read_that_announces_data_is_not_waited_for() {
    let fixture = Fixture::memory().await;
    let mut raw = fixture.raw().await;
    let mut command = raw.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1], true, 512);
    command.last = false;
    raw.send(&Request::Command(command), &[5; 100]).await;
    let (response, _, data) = raw.receive().await;
    assert!(matches!(response, Response::DataIn(message) if message.tag == command.tag));
    assert_eq!(data, [0; 512]);
}

#[tokio::test]
async fn a_tag_in_use_is_not_used_twice() {
    let fixture = Fixture::memory().await;
    let mut raw = Raw::login(fixture.addresses[0], ISID, &[("ImmediateData", "No")]).await;
    let tag = raw.transfer(false, 0, 1, &[]).await;
    assert!(matches!(raw.receive().await.0, Response::Ready(_)));
    raw.tag = tag;
    raw.transfer(true, 0, 1, &[]).await;
    let (response, _, _) = raw.receive().await;
    assert_eq!(response, Response::Reject { reason: RejectReason::TaskInProgress });
}

#[tokio::test]
async fn a_device_that_fails_or_crashes_is_reported() {
    let lun = Lun::read_only(Arc::new(Broken), Identity::from_digest([1; 32]));
    let fixture = Fixture::new(vec![lun], Limits::default()).await;
    let mut raw = fixture.raw().await;
    let tag = raw.transfer(true, 0, 1, &[]).await;
    let (status, sense) = raw.answer(tag).await;
    assert_eq!((status, sense[2], sense[12]), (2, 0x4, 0x44), "hardware error");
    let tag = raw.transfer(true, 1, 1, &[]).await;
    let (status, sense) = raw.answer(tag).await;
    assert_eq!((status, sense[2], sense[12], sense[6]), (2, 0x3, 0x11, 1), "medium error");
    assert_eq!(raw.read(2, 1).await, [7; 512]);
    let tag = raw.transfer(false, 2, 1, &[1; 512]).await;
    let (status, sense) = raw.answer(tag).await;
    assert_eq!((status, sense[2], sense[12]), (2, 0x7, 0x27), "write protected");
}

#[tokio::test]
async fn endless_text_is_cut_off() {
    let fixture = Fixture::memory().await;
    let mut raw = Raw::connect(fixture.addresses[0]).await;
    let Request::Login(mut first) = Raw::first(ISID) else { unreachable!() };
    (first.more, first.transit) = (true, false);
    let mut said = Vec::new();
    text::encode(&mut said, "X-long", &"x".repeat(30 << 10));
    for _ in 0..2 {
        raw.send(&Request::Login(first), &said).await;
        assert!(
            matches!(raw.receive().await.0, Response::Login(login) if login.status.code() == (0, 0))
        );
    }
    raw.send(&Request::Login(first), &said).await;
    assert!(
        matches!(raw.receive().await.0, Response::Login(login) if login.status.code() == (2, 0))
    );
    raw.closed().await;
}

#[tokio::test]
async fn functions_that_are_not_offered_say_so() {
    let fixture = Fixture::memory().await;
    let mut raw = fixture.raw().await;
    for (function, code) in [
        (TaskFunction::TaskReassign, 4),
        (TaskFunction::ClearAca, 5),
        (TaskFunction::Other(99), 5),
        (TaskFunction::AbortTask, 1),
    ] {
        let tag = raw.manage(function, 12345).await;
        let (response, numbers, _) = raw.receive().await;
        assert_eq!(response.encode(numbers, 0)[2], code);
        assert!(matches!(response, Response::Task { tag: answered, .. } if answered == tag));
    }
}
