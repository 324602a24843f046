//! Exports whose destination goes away, and exports with peers that mean no good.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};

use rustix::net::{AddressFamily, SocketType};

use crate::iscsi::qemu;
use crate::support::disk::{self, MIB};
use crate::support::proxy::Proxy;
use crate::support::repo::Repo;
use crate::support::run::{Cmd, wait_until};
use crate::support::serve::Export;

fn sample(repo: &Repo) -> String {
    let image = repo.path("disk.raw");
    disk::create(&image, 24 * MIB);
    disk::fill(&image, 0, 20 * MIB, 1);
    repo.backup(&image)
}

/// A read of 64 KiB at so many MiB; every call another place, so that no cache has it.
fn read(uri: &str, at: u64) -> Cmd {
    qemu("qemu-io").args(["-r", "-f", "raw", "-c", &format!("read {at}M 64k")]).arg(uri)
}

/// Waits for a destination that comes back, and fails where it does not, and works again.
fn outlives(protocol: &str) {
    let repo = Repo::on_s3();
    let point = sample(&repo);
    let proxy = Proxy::before(repo.prefix().address());
    let url = repo.prefix().url_through(proxy.address());
    let export = |retry: &str| {
        let more = ["--repo", &url, "--retry-for", retry];
        match protocol {
            "nbd" => Export::nbd(&repo, &[&[point.as_str()], &more[..]].concat()),
            _ => Export::iscsi(&repo, &point, &more),
        }
    };
    let patient = export("10m");
    read(patient.uri(), 0).ok();
    proxy.down();
    let before = proxy.refused();
    let mut waiting = read(patient.uri(), 9).spawn();
    wait_until("the destination is asked again", || proxy.refused() >= before + 3);
    assert!(!waiting.is_over(), "{protocol}: the read did not wait");
    proxy.up();
    waiting.wait().ended(0);

    let hasty = export("1s");
    read(hasty.uri(), 0).ok();
    proxy.down();
    let failed = read(hasty.uri(), 14).run();
    let told = format!("{}{}", failed.text(), failed.err);
    assert!(told.contains("Input/output error"), "{protocol}: {told}");
    proxy.up();
    read(hasty.uri(), 17).ok();
    patient.stop();
    hasty.stop();
}

#[test]
fn an_nbd_read_waits_for_a_destination_that_is_away_as_long_as_it_was_told_to() {
    outlives("nbd");
}

#[test]
fn an_iscsi_read_waits_for_a_destination_that_is_away_as_long_as_it_was_told_to() {
    outlives("iscsi");
}

/// A connection from another address of this machine than its usual one.
fn stranger(to: u16) -> Option<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 9), 0);
    rustix::net::bind(&socket, &from).ok()?;
    rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, to)).ok()?;
    Some(TcpStream::from(socket))
}

/// A thousand connections: silent ones, ones that send garbage, ones that stop in the middle of a
/// request, and ones that vanish. Those that stay are returned.
fn crowd(port: u16) -> Vec<TcpStream> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let mut staying = Vec::new();
    for number in 0..1000_u32 {
        // One that is refused is as good as one that is served.
        let Some(mut stream) = stranger(port) else { continue };
        let bytes: Vec<u8> = (0..600_u32).map(|at| (at * number % 251) as u8).collect();
        let _ = match number % 4 {
            0 => Ok(()),
            1 => stream.write_all(&bytes),
            2 => stream.write_all(b"GET /"),
            _ => stream
                .write_all(&[0xff; 48])
                .and_then(|()| stream.shutdown(std::net::Shutdown::Both)),
        };
        if number % 4 != 3 {
            staying.push(stream);
        }
    }
    assert!(staying.len() > 500, "the crowd did not come in: {}", staying.len());
    staying
}

fn port(uri: &str) -> u16 {
    let host = uri.split('/').nth(2).unwrap();
    host.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn a_crowd_of_strangers_keeps_no_client_from_an_nbd_export() {
    let repo = Repo::new();
    let point = sample(&repo);
    let export = Export::nbd(&repo, &[&point]);
    let crowd = crowd(port(export.uri()));
    let copy = repo.path("copy.raw");
    Cmd::new("nbdcopy").arg(export.uri()).arg(&copy).ok();
    disk::assert_same(&repo.path("disk.raw"), &copy);
    drop(crowd);
    read(export.uri(), 3).ok();
    export.stop();
}

#[test]
fn a_crowd_of_strangers_keeps_no_initiator_from_an_iscsi_export() {
    let repo = Repo::new();
    let point = sample(&repo);
    let export = Export::iscsi(&repo, &point, &[]);
    let crowd = crowd(port(export.uri()));
    let image = repo.path("disk.raw");
    qemu("qemu-img").args(["compare", "-f", "raw", "-F", "raw", export.uri()]).arg(&image).ok();
    drop(crowd);
    read(export.uri(), 3).ok();
    export.stop();
}

#[test]
fn a_crowd_of_strangers_keeps_no_client_from_an_http_export() {
    let repo = Repo::new();
    let point = sample(&repo);
    let export = Export::http(&repo, &[&point], &["--plain"]);
    let crowd = crowd(port(export.uri()));
    let copy = repo.path("copy.raw");
    Cmd::new("curl").args(["-fsS", "--max-time", "120", "-o"]).arg(&copy).arg(export.uri()).ok();
    disk::assert_same(&repo.path("disk.raw"), &copy);
    // A reader that stops reading, and goes on when others are done.
    let mut slow = TcpStream::connect(("127.0.0.1", port(export.uri()))).unwrap();
    let path = format!("/{}", export.uri().splitn(4, '/').nth(3).unwrap());
    write!(slow, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    Cmd::new("curl").args(["-fsS", "--max-time", "120", "-o"]).arg(&copy).arg(export.uri()).ok();
    let mut first = [0; 12];
    slow.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    drop((crowd, slow));
    export.stop();
}
