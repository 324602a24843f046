//! Metadata contexts, and exports that open late.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::BytesMut;
use sluice_block::{BlockError, ErrorKind, MemoryDisk, Result};
use sluice_nbd::{Changes, Device, Export, Limits, OpenDevice, Opened};
use sluice_nbd_wire::{
    Chunk, Command, CommandFlags, Errno, Framing, InfoRequest, MetaRequest, OptionReply,
    OptionRequest, ReplyCode, ReplyFlags, StatusExtent, StatusFilter, TransmissionFlags,
};
use tokio::io::AsyncWriteExt;

use crate::support::{Fixture, Raw, run, succeed};

const LIBNBD: &str = "libnbd-bin";
const MIB: u64 = 1 << 20;

/// Two points, one of which is also called "latest", and one that cannot be compared with.
#[derive(Default)]
struct History {
    asked: AtomicUsize,
}

#[async_trait]
impl Changes for History {
    async fn points(&self) -> Result<Vec<String>> {
        Ok(vec!["p2".to_owned(), "p1".to_owned()])
    }

    async fn find(&self, text: &str) -> Result<Option<String>> {
        Ok(match text {
            "p2" | "latest" => Some("p2".to_owned()),
            "p1" | "broken" => Some(text.to_owned()),
            _ => None,
        })
    }

    async fn since(&self, point: &str) -> Result<Vec<Range<u64>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match point {
            "p2" => Ok(std::iter::once(MIB..2 * MIB).collect()),
            "p1" => Ok(vec![0..MIB / 2, MIB..3 * MIB]),
            _ => Err(BlockError::new(ErrorKind::Damaged, "a page does not verify")),
        }
    }
}

async fn served() -> (Fixture, Arc<History>) {
    let mut bytes = vec![0; 4 << 20];
    bytes[..2 << 20].fill(9);
    let history = Arc::new(History::default());
    let export = Export::new("disk", Arc::new(MemoryDisk::from_bytes(&bytes)))
        .with_changes(Arc::clone(&history) as _);
    (Fixture::exports(vec![export], Limits::default()).await, history)
}

fn meta(queries: &[&str]) -> MetaRequest {
    let queries = queries.iter().map(|query| (*query).to_owned()).collect();
    MetaRequest { export: "disk".into(), queries }
}

fn names(replies: &[OptionReply]) -> Vec<(u32, &str)> {
    let context = |reply| match reply {
        &OptionReply::MetaContext { id, ref name } => Some((id, name.as_str())),
        _ => None,
    };
    replies.iter().filter_map(context).collect()
}

const P1: &str = "sluice:changed-since=p1";
const P2: &str = "sluice:changed-since=p2";
const LATEST: &str = "sluice:changed-since=latest";

#[tokio::test]
async fn points_are_listed_and_found() {
    let (server, _) = served().await;
    let mut raw = Raw::connect(server.address).await;
    raw.acknowledged(OptionRequest::StructuredReply).await;
    for (queries, expected) in [
        (&[][..], &["base:allocation", P2, P1][..]),
        (&["sluice:"], &[P2, P1]),
        (&["sluice:changed-since="], &[P2, P1]),
        (&["base:", P1, "sluice:"], &["base:allocation", P1, P2]),
        (&[LATEST], &[LATEST]),
        (&["sluice:changed-since=p3", "sluice:other", "base:x", "x:"], &[]),
    ] {
        let replies = raw.option(OptionRequest::ListMetaContext(meta(queries))).await;
        let found: Vec<_> = names(&replies).into_iter().map(|(_, name)| name).collect();
        assert_eq!(found, expected, "{queries:?}");
        assert_eq!(replies.last(), Some(&OptionReply::Ack));
    }
    // Only what is named is selected, numbered in that order, and by the name it was asked for.
    let wanted = ["sluice:", LATEST, "base:allocation", LATEST, "sluice:changed-since=p3", P1];
    let replies = raw.option(OptionRequest::SetMetaContext(meta(&wanted))).await;
    assert_eq!(names(&replies), [(1, LATEST), (2, "base:allocation"), (3, P1)]);
    let many: Vec<String> = (0..40).map(|n| format!("base:{n}")).collect();
    let many = MetaRequest { export: "disk".into(), queries: many };
    raw.acknowledged(OptionRequest::SetMetaContext(many)).await;
    server.stop().await;
}

/// The chunks of one block status reply.
async fn status(raw: &mut Raw) -> Vec<(u32, Vec<(u64, u64)>)> {
    let mut all = vec![];
    loop {
        let (header, payload) = raw.chunk().await;
        match Chunk::decode(header.kind, &payload).unwrap() {
            Chunk::BlockStatus { context, extents } => {
                let pair = |extent: StatusExtent| (extent.length, extent.flags);
                all.push((context, extents.into_iter().map(pair).collect()));
            }
            other => panic!("not a block status: {other:?}"),
        }
        if header.flags == ReplyFlags::DONE {
            return all;
        }
    }
}

#[tokio::test]
async fn every_selected_context_is_answered() {
    let (server, history) = served().await;
    for framing in [Framing::Structured, Framing::Extended] {
        let mut raw = Raw::connect(server.address).await;
        let extended = framing == Framing::Extended;
        raw.acknowledged(match framing {
            Framing::Extended => OptionRequest::ExtendedHeaders,
            _ => OptionRequest::StructuredReply,
        })
        .await;
        let selected = meta(&["base:allocation", LATEST, P1, P2]);
        raw.option(OptionRequest::SetMetaContext(selected)).await;
        let (_, flags) = raw.go("disk").await;
        assert_eq!(flags.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD), extended);
        raw.framing = framing;
        raw.send(Command::BlockStatus, 1, 0, 4 * MIB).await;
        let latest = vec![(MIB, 0), (MIB, 1), (2 * MIB, 0)];
        let all = [
            (1, vec![(2 * MIB, 0), (2 * MIB, 3)]),
            (2, latest.clone()),
            (3, vec![(MIB / 2, 1), (MIB / 2, 0), (2 * MIB, 1), (MIB, 0)]),
            (4, latest),
        ];
        assert_eq!(status(&mut raw).await, all);
        raw.send_flagged(CommandFlags::REQ_ONE, Command::BlockStatus, 2, MIB + 512, MIB).await;
        let one = [
            (1, vec![(MIB - 512, 0)]),
            (2, vec![(MIB - 512, 1)]),
            (3, vec![(MIB, 1)]),
            (4, vec![(MIB - 512, 1)]),
        ];
        assert_eq!(status(&mut raw).await, one);
    }
    // Each map was made once, however often and by whatever name it was asked for... as long as
    // somebody had the export open.
    assert!(history.asked.load(Ordering::SeqCst) <= 4);
    server.stop().await;
}

#[tokio::test]
async fn a_payload_narrows_block_status_to_some_contexts() {
    let (server, _) = served().await;
    let mut raw = Raw::connect(server.address).await;
    raw.acknowledged(OptionRequest::ExtendedHeaders).await;
    let selected = meta(&["base:allocation", P2, P1]);
    raw.option(OptionRequest::SetMetaContext(selected)).await;
    raw.go("disk").await;
    raw.framing = Framing::Extended;
    let ask = async |raw: &mut Raw, payload: &[u8], offset: u64| {
        let length = payload.len() as u64;
        let flags = CommandFlags::PAYLOAD_LEN;
        raw.send_flagged(flags, Command::BlockStatus, 1, offset, length).await;
        raw.stream.write_all(payload).await.unwrap();
    };
    let payload = |length: u64, contexts: &[u32]| {
        let mut out = BytesMut::new();
        StatusFilter { length, contexts: contexts.to_vec() }.encode(&mut out);
        out
    };
    ask(&mut raw, &payload(3 * MIB, &[3, 1]), MIB).await;
    let expected = [(1, vec![(MIB, 0), (2 * MIB, 3)]), (3, vec![(2 * MIB, 1), (MIB, 0)])];
    assert_eq!(status(&mut raw).await, expected);
    for wrong in [
        &payload(MIB, &[4])[..],
        &payload(MIB, &[0]),
        &payload(MIB, &[1, 1]),
        &payload(MIB, &[]),
        &payload(5 * MIB, &[1]),
        &payload(0, &[1]),
        &payload(MIB, &[1])[..9],
        &[0; 5000],
        b"x",
    ] {
        ask(&mut raw, wrong, 0).await;
        assert_eq!(raw.error().await, Some(Errno::Invalid), "{wrong:?}");
    }
    // Without a payload all are meant, as ever.
    raw.send(Command::BlockStatus, 2, 0, MIB).await;
    assert_eq!(status(&mut raw).await.len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn a_map_that_cannot_be_made_is_an_error_and_no_promise() {
    let (server, _) = served().await;
    let mut raw = Raw::connect(server.address).await;
    raw.acknowledged(OptionRequest::StructuredReply).await;
    let selected = meta(&["sluice:changed-since=broken"]);
    assert_eq!(raw.option(OptionRequest::SetMetaContext(selected)).await.len(), 2);
    raw.go("disk").await;
    raw.framing = Framing::Structured;
    raw.send(Command::BlockStatus, 1, 0, MIB).await;
    assert_eq!(raw.error().await, Some(Errno::Io));
    raw.read(2, 0, 512).await;
    assert_eq!(raw.error().await, None, "reading goes on");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdinfo_and_qemu_read_the_change_maps() {
    let (server, _) = served().await;
    for uri in server.uris("disk") {
        let out = succeed(LIBNBD, "nbdinfo", &["--json", &uri]).await;
        let info: serde_json::Value = serde_json::from_str(&out).unwrap();
        let contexts = serde_json::json!(["base:allocation", P2, P1]);
        assert_eq!(info["exports"][0]["contexts"], contexts);
        let map = format!("--map={LATEST}");
        let out = succeed(LIBNBD, "nbdinfo", &[&map, "--json", &uri]).await;
        let map: serde_json::Value = serde_json::from_str(&out).unwrap();
        let found = map.as_array().unwrap().iter().map(|e| {
            let number = |key: &str| e[key].as_u64().unwrap();
            (number("offset"), number("length"), number("type"))
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found, [(0, MIB, 0), (MIB, MIB, 1), (2 * MIB, 2 * MIB, 0)]);
    }
    // QEMU shows as "no data" what the bitmap marks.
    let image = format!(
        "driver=raw,file.driver=nbd,file.host=127.0.0.1,file.port={},file.export=disk,\
         file.x-dirty-bitmap={P1}",
        server.address.port()
    );
    let args = ["map", "--output=json", "--image-opts", &image];
    let out = succeed("qemu-utils", "qemu-img", &args).await;
    let map: serde_json::Value = serde_json::from_str(&out).unwrap();
    let marked = map.as_array().unwrap().iter().filter(|e| e["data"] == false);
    let marked: Vec<_> =
        marked.map(|e| (e["start"].as_u64().unwrap(), e["length"].as_u64().unwrap())).collect();
    assert_eq!(marked, [(0, MIB / 2), (MIB, 2 * MIB)], "{map}");
    server.stop().await;
}

/// Counts how often it is opened and closed; fails the first time.
struct Late {
    opened: AtomicUsize,
    closed: Arc<AtomicUsize>,
}

struct Closing(MemoryDisk, Arc<AtomicUsize>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl sluice_block::BlockRead for Closing {
    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf).await
    }
}

#[async_trait]
impl OpenDevice for Late {
    async fn open(&self) -> Result<Opened> {
        if self.opened.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(BlockError::new(ErrorKind::Unavailable, "not yet"));
        }
        let disk = Closing(MemoryDisk::from_bytes(&[5; 4096]), Arc::clone(&self.closed));
        Ok(Opened { device: Device::ReadOnly(Arc::new(disk)), changes: None })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_opens_with_its_first_client_and_closes_with_its_last() {
    let closed = Arc::new(AtomicUsize::new(0));
    let late = Arc::new(Late { opened: AtomicUsize::new(0), closed: Arc::clone(&closed) });
    let exports = vec![
        Export::new("first", Arc::new(MemoryDisk::new(512))),
        Export::lazy("late", Arc::clone(&late) as _).with_description("opens late"),
    ];
    let server = Fixture::exports(exports, Limits::default()).await;
    let mut raw = Raw::connect(server.address).await;
    let list = raw.option(OptionRequest::List).await;
    let late_one = OptionReply::Server { name: "late".into(), description: "opens late".into() };
    assert_eq!(list[1], late_one);
    assert_eq!(late.opened.load(Ordering::SeqCst), 0, "a list opens nothing");
    let info = |name: &str| OptionRequest::Info(InfoRequest { name: name.into(), infos: vec![] });
    let refused = raw.option(info("late")).await;
    assert_eq!(refused[0].code(), ReplyCode::ErrUnknown, "it could not be opened");
    raw.go("late").await;
    assert_eq!(late.opened.load(Ordering::SeqCst), 2, "and then it could");
    let mut second = Raw::connect(server.address).await;
    second.option(info("late")).await;
    second.go("late").await;
    raw.read(1, 0, 512).await;
    assert_eq!(raw.simple().await, (None, 1));
    assert_eq!(late.opened.load(Ordering::SeqCst), 2, "it is open already");
    assert_eq!(closed.load(Ordering::SeqCst), 0);
    for mut client in [raw, second] {
        client.send(Command::Disconnect, 0, 0, 0).await;
        client.closed().await;
    }
    while closed.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // And again for the next.
    assert!(run(LIBNBD, "nbdinfo", &["--size", &server.tcp("late")]).await.ok);
    assert_eq!(late.opened.load(Ordering::SeqCst), 3);
    server.stop().await;
    assert_eq!(closed.load(Ordering::SeqCst), 2);
}
