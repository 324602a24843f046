//! Reading, from every kind of server.

use sluice_block::{BlockRead, Extent, conformance};
use sluice_connector_nbd::NbdSource;
use sluice_nbd::Limits;

use crate::support::{Ours, Theirs, sample};

#[tokio::test]
async fn our_own_server_keeps_the_contract_through_the_source() {
    let server = Ours::start(Limits::default()).await;
    for uri in [server.tcp(), server.unix()] {
        let source = NbdSource::connect(&uri).await.unwrap();
        assert!(source.knows_allocation());
        conformance::read(&source, &sample()).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_disk_of_odd_size_is_read_to_its_end() {
    let bytes = &sample()[..(1 << 20) + 4711];
    let server = Ours::serve(bytes, Limits::default()).await;
    let source = NbdSource::connect(&server.tcp()).await.unwrap();
    conformance::read(&source, bytes).await;
    server.stop().await;
}

#[tokio::test]
async fn holes_and_data_are_told_apart() {
    let server = Ours::start(Limits::default()).await;
    let source = NbdSource::connect(&server.tcp()).await.unwrap();
    let extents = source.extents(4096, 1 << 20).await.unwrap();
    assert_eq!(
        extents,
        [
            Extent::data(4096, 73_728 - 4096),
            Extent::hole(73_728, (1 << 20) - 73_728),
            Extent::data(1 << 20, 4096)
        ]
    );
    server.stop().await;
}

#[tokio::test]
async fn qemu_nbd_is_read_over_several_connections_and_over_one() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.raw");
    std::fs::write(&image, sample()).unwrap();
    for shared in ["1", "8"] {
        let socket = dir.path().join(format!("{shared}.sock"));
        let (socket_arg, image) = (socket.to_str().unwrap(), image.to_str().unwrap());
        let args = ["-r", "-t", "-e", shared, "-f", "raw", "-k", socket_arg, image];
        let server = Theirs::start("qemu-utils", "qemu-nbd", &args, &socket).await;
        let source = NbdSource::connect(&server.uri).await.unwrap();
        conformance::read(&source, &sample()).await;
    }
}

#[tokio::test]
async fn nbdkit_is_read_with_its_block_sizes_and_without_structured_replies() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.raw");
    std::fs::write(&image, sample()).unwrap();
    let image = image.to_str().unwrap();
    let strict = [
        "--filter=blocksize-policy",
        "file",
        image,
        "blocksize-minimum=4096",
        "blocksize-preferred=4096",
        "blocksize-maximum=65536",
        "blocksize-error-policy=error",
    ];
    for (name, options) in [("strict", &strict[..]), ("simple", &["--no-sr", "file", image])] {
        let socket = dir.path().join(name);
        let common = ["-f", "-r", "-U", socket.to_str().unwrap()];
        let args = [&common, options].concat();
        let server = Theirs::start("nbdkit", "nbdkit", &args, &socket).await;
        let source = NbdSource::connect(&server.uri).await.unwrap();
        assert_eq!(source.knows_allocation(), name == "strict");
        conformance::read(&source, &sample()).await;
    }
}

#[tokio::test]
async fn many_readers_share_a_source() {
    let server = Ours::start(Limits::default()).await;
    let source = std::sync::Arc::new(NbdSource::connect(&server.tcp()).await.unwrap());
    let readers = (0..64u64).map(|reader| {
        let source = std::sync::Arc::clone(&source);
        tokio::spawn(async move {
            let mut buf = vec![0; 3 << 20];
            let offset = reader * 12_345;
            source.read_at(offset, &mut buf).await.unwrap();
            assert!(buf[..] == sample()[offset as usize..][..3 << 20]);
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    server.stop().await;
}
