//! Real clients.

use sluice_block::{ExtentKind, MemoryDisk, coalesce};

use crate::support::{Fixture, run, sample, succeed};

const QEMU: &str = "qemu-utils";
const LIBNBD: &str = "libnbd-bin";

#[tokio::test(flavor = "multi_thread")]
async fn qemu_img_reads_what_the_disk_holds() {
    let server = Fixture::sample().await;
    let raw = server.file("disk.raw", &sample());
    for uri in server.uris("disk") {
        succeed(QEMU, "qemu-img", &["compare", "-f", "raw", "-F", "raw", &raw, &uri]).await;
    }
    let copy = server.path("copy.qcow2");
    let uri = server.unix("disk");
    succeed(QEMU, "qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, &copy]).await;
    succeed(QEMU, "qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &copy, &raw]).await;
    server.stop().await;
}

/// Offset, length and whether the run reads as zeroes, as the disk itself says.
async fn expected_map() -> Vec<(u64, u64, bool)> {
    let bytes = sample();
    let disk = MemoryDisk::from_bytes(&bytes);
    let extents = coalesce(&disk, 0, bytes.len() as u64).await.unwrap();
    extents.iter().map(|e| (e.offset, e.length, e.kind != ExtentKind::Data)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_img_map_is_the_map_of_the_disk() {
    let server = Fixture::sample().await;
    for uri in server.uris("disk") {
        let out = succeed(QEMU, "qemu-img", &["map", "--output=json", "-f", "raw", &uri]).await;
        let map: serde_json::Value = serde_json::from_str(&out).unwrap();
        let found: Vec<_> = map
            .as_array()
            .unwrap()
            .iter()
            .map(|e| {
                let number = |key: &str| e[key].as_u64().unwrap();
                (number("start"), number("length"), e["zero"].as_bool().unwrap())
            })
            .collect();
        assert_eq!(found, expected_map().await);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdinfo_map_is_the_map_of_the_disk() {
    let server = Fixture::sample().await;
    let out = succeed(LIBNBD, "nbdinfo", &["--map", "--json", &server.tcp("disk")]).await;
    let map: serde_json::Value = serde_json::from_str(&out).unwrap();
    let found: Vec<_> = map
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            let number = |key: &str| e[key].as_u64().unwrap();
            assert!(matches!(number("type"), 0 | 3), "data, or hole and zero");
            (number("offset"), number("length"), number("type") == 3)
        })
        .collect();
    assert_eq!(found, expected_map().await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdinfo_lists_and_describes_the_exports() {
    let exports =
        [("disk", "the first disk", 1 << 20), ("vdb ü", "", 512)].map(|(name, text, size)| {
            let device = std::sync::Arc::new(MemoryDisk::new(size));
            sluice_nbd::Export::new(name, device).with_description(text)
        });
    let server = Fixture::exports(exports.to_vec(), Default::default()).await;
    let out = succeed(LIBNBD, "nbdinfo", &["--list", "--json", &server.tcp("")]).await;
    let list: serde_json::Value = serde_json::from_str(&out).unwrap();
    let exports = list["exports"].as_array().unwrap();
    let names: Vec<_> = exports.iter().map(|e| e["export-name"].as_str().unwrap()).collect();
    assert_eq!(names, ["disk", "vdb ü"]);
    assert_eq!(exports[0]["description"], "the first disk");

    // The empty name is the first export.
    for uri in server.uris("") {
        let out = succeed(LIBNBD, "nbdinfo", &["--json", &uri]).await;
        let info: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(info["structured"], true);
        let export = &info["exports"][0];
        assert_eq!(export["export-size"], 1 << 20);
        assert_eq!(export["is_read_only"], true);
        assert_eq!(export["can_multi_conn"], true);
        assert_eq!(export["can_df"], true);
        assert_eq!(export["can_cache"], true);
        assert_eq!(export["can_flush"], false);
        assert_eq!(export["block_size_minimum"], 1);
        assert_eq!(export["block_size_maximum"], 32 << 20);
        assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    }
    let refused = run(LIBNBD, "nbdinfo", &["--size", &server.tcp("nothing")]).await;
    assert!(!refused.ok, "an unknown export is refused");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdcopy_copies_the_whole_image_over_many_connections() {
    let server = Fixture::sample().await;
    for (index, uri) in server.uris("disk").iter().enumerate() {
        for (mode, args) in [
            ("multi", &["--connections=4", "--requests=64"][..]),
            ("small", &["--request-size=4096", "--requests=128"]),
            ("synchronous", &["--synchronous"]),
        ] {
            let copy = server.path(&format!("{mode}-{index}.raw"));
            succeed(LIBNBD, "nbdcopy", &[args, &[uri, &copy]].concat()).await;
            assert!(std::fs::read(&copy).unwrap() == sample(), "{mode} over {uri}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_io_reads_at_odd_offsets_and_cannot_write() {
    let mut bytes = vec![0u8; 1 << 20];
    bytes[100_001..100_001 + 5_555].fill(0x5a);
    let device = std::sync::Arc::new(MemoryDisk::from_bytes(&bytes));
    let server = Fixture::device(device, Default::default()).await;
    for uri in server.uris("disk") {
        for read in ["read -P 0x5a 100001 5555", "read -P 0 105556 943020", "read -P 0 0 100001"] {
            let out = succeed(QEMU, "qemu-io", &["-r", "-f", "raw", "-c", read, &uri]).await;
            assert!(!out.contains("verification failed"), "{read}: {out}");
        }
        let write = run(QEMU, "qemu-io", &["-f", "raw", "-c", "write 0 512", &uri]).await;
        assert!(!write.ok, "a write succeeded: {write:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdkit_passes_the_export_on() {
    let server = Fixture::sample().await;
    for (index, uri) in server.uris("disk").iter().enumerate() {
        let copy = server.path(&format!("via-nbdkit-{index}.raw"));
        let uri = format!("uri={uri}");
        let run = format!("nbdcopy \"$uri\" {copy}");
        let args = ["-U", "-", "--exit-with-parent", "nbd", &uri, "shared=true", "--run", &run];
        succeed("nbdkit", "nbdkit", &args).await;
        assert!(std::fs::read(&copy).unwrap() == sample());
    }
    server.stop().await;
}

/// What libnbd can say and the other clients do not: no structured replies, no fixed newstyle,
/// single commands with flags.
#[tokio::test(flavor = "multi_thread")]
async fn libnbd_gets_along_in_every_mode() {
    let server = Fixture::sample().await;
    let raw = server.file("disk.raw", &sample());
    let script = r#"
import nbd, sys
uri, raw = sys.argv[1], open(sys.argv[2], "rb").read()

def probe(h):
    assert h.get_size() == len(raw)
    assert h.is_read_only() and h.can_multi_conn()
    probes = [(0, 1), (1, 4999), (4990, 200000), (1 << 20, 2 << 20), (len(raw) - 7, 7)]
    for offset, length in probes:
        assert h.pread(length, offset) == raw[offset:offset + length], (offset, length)
    h.cache(1 << 20, 0)

FIXED, NO_ZEROES = nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE, nbd.HANDSHAKE_FLAG_NO_ZEROES
for structured in True, False:
    for flags in nbd.HANDSHAKE_FLAG_MASK, FIXED, NO_ZEROES, 0:
        h = nbd.NBD()
        h.set_request_structured_replies(structured)
        h.set_handshake_flags(flags)
        h.connect_uri(uri)
        fixed = flags & nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE
        assert h.get_structured_replies_negotiated() == bool(structured and fixed)
        probe(h)
        h.shutdown()

h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(uri)
chunks = []
got = h.pread_structured(300000, 0, lambda b, o, s, e: chunks.append(s), nbd.CMD_FLAG_DF)
assert got == raw[:300000] and chunks == [nbd.READ_DATA], chunks
chunks = []
got = h.pread_structured(300000, 0, lambda b, o, s, e: chunks.append(s))
assert got == raw[:300000] and chunks == [nbd.READ_DATA, nbd.READ_HOLE], chunks
entries = []
h.block_status(len(raw), 0, lambda c, o, e, err: entries.extend(e), nbd.CMD_FLAG_REQ_ONE)
assert entries == [8192, 0], entries
h.set_strict_mode(0)
for broken in (lambda: h.pread(512, len(raw)), lambda: h.pwrite(b"x" * 512, 0),
               lambda: h.trim(512, 0), lambda: h.zero(512, 0), lambda: h.pread(1, 0, 0x4000)):
    try:
        broken()
        raise SystemExit("a broken command succeeded")
    except nbd.Error as error:
        assert error.errno in ("EINVAL", "EPERM"), error
probe(h)
h.shutdown()

h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
seen = []
h.opt_list(lambda name, text: seen.append((name, text)))
assert seen == [("disk", "the first disk")], seen
h.set_export_name("nothing")
try:
    h.opt_go()
    raise SystemExit("an unknown export was opened")
except nbd.Error:
    pass
h.set_export_name("")
h.opt_go()
probe(h)
h.shutdown()
"#;
    for uri in server.uris("") {
        succeed("python3-libnbd", "/usr/bin/python3", &["-c", script, &uri, &raw]).await;
    }
    server.stop().await;
}
