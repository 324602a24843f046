//! Nodes that share nothing but a bucket: each in a network, process and host name space of its
//! own, so that none can tell by looking whether another one runs.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::run::Cmd;
use crate::support::s3;

/// A namespace with one wire to this machine; removed when dropped.
struct Node {
    name: String,
    /// The S3 server, as seen from inside.
    endpoint: String,
}

impl Node {
    /// Nothing when this may not be done here.
    fn new(number: u8) -> Option<Self> {
        let name = format!("sluice-{}-{number}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        let made = made.expect("ip, of the package iproute2, is there");
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr);
            eprintln!("SKIPPED: no network namespaces here (root is needed): {}", why.trim());
            return None;
        }
        // Of the range for benchmarks between devices, which is routed nowhere (RFC 2544).
        let network = format!("198.18.{}", (std::process::id() as u8 & 0x7f) << 1 | number);
        let wire = format!("sl{}n{number}", std::process::id());
        let mut node = Self { name: name.clone(), endpoint: String::new() };
        for command in [
            format!("link add {wire} type veth peer name eth0 netns {name}"),
            format!("addr add {network}.1/24 dev {wire}"),
            format!("link set {wire} up"),
            format!("-n {name} addr add {network}.2/24 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} link set lo up"),
        ] {
            Cmd::new("ip").args(command.split(' ')).ok();
        }
        let port = forward(&format!("{network}.1:0"), &s3::server().endpoint);
        node.endpoint = format!("http://{network}.1:{port}");
        Some(node)
    }

    fn behind(&self) -> Vec<OsString> {
        let inside = "unshare --uts --pid --fork --kill-child --mount-proc";
        let command = format!("ip netns exec {} {inside}", self.name);
        command.split(' ').map(OsString::from).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Its wire goes with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Hands connections on to a server that listens on loopback only; returns the port.
fn forward(listen: &str, endpoint: &str) -> u16 {
    let listener = TcpListener::bind(listen).unwrap();
    let port = listener.local_addr().unwrap().port();
    let to: SocketAddr = endpoint.trim_start_matches("http://").parse().unwrap();
    thread::spawn(move || {
        for from in listener.incoming().flatten() {
            let Ok(to) = TcpStream::connect(to) else { continue };
            for (mut from, mut to) in [
                (from.try_clone().unwrap(), to.try_clone().unwrap()),
                (to.try_clone().unwrap(), from.try_clone().unwrap()),
            ] {
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    port
}

/// Backs up and prunes an instance several times; returns the image of each point that is left.
fn write(repo: &Repo, node: &Node, instance: &str) -> Vec<(String, PathBuf)> {
    let endpoint = &s3::server().endpoint;
    let url = repo.url().replace(endpoint.as_str(), &node.endpoint);
    let sluice = |args: &[&str]| {
        let home = repo.path(&format!("home-{instance}"));
        let cmd = repo.sluice(args).env("SLUICE_REPO", &url).env("SLUICE_HEARTBEAT", "1s");
        cmd.env("HOME", &home).env("XDG_CACHE_HOME", home.join("cache")).behind(&node.behind()).ok()
    };
    let mut images = Vec::new();
    for day in 0..6_u64 {
        let image = repo.path(&format!("{instance}-{day}.raw"));
        disk::create(&image, 16 * MIB);
        // Both have this in common, and it comes and goes.
        disk::fill(&image, 0, 4 * MIB, day % 3);
        disk::fill(&image, 8 * MIB, 4 * MIB, instance.len() as u64 * 100 + day);
        sluice(&["backup", instance, image.to_str().unwrap(), "--rescan"]);
        images.push(image);
        sluice(&["prune", instance, "--keep-last", "2"]);
    }
    let points = repo.points(instance);
    assert_eq!(points.len(), 2);
    points.into_iter().zip(images.split_off(4)).collect()
}

#[test]
fn two_nodes_back_up_into_one_bucket_while_a_third_collects() {
    let (Some(one), Some(two)) = (Node::new(0), Node::new(1)) else { return };
    let repo = Repo::on_s3();
    let over = AtomicBool::new(false);
    let (kept, freed) = thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut freed = 0;
            loop {
                let last = over.load(Ordering::Relaxed);
                let how = ["--wait", "60s", "--min-saving", "64KiB", "--compact-below", "80%"];
                let done = repo.json([&["collect"][..], &how].concat());
                assert_eq!(done["finished"], true, "{done}");
                freed += done["freed_bytes"].as_u64().unwrap();
                if last {
                    return freed;
                }
            }
        });
        let writers = [(&one, "first"), (&two, "the-other")];
        let writers = writers.map(|(node, name)| scope.spawn(|| write(&repo, node, name)));
        let kept = writers.map(|writer| writer.join());
        over.store(true, Ordering::Relaxed);
        (kept.map(Result::unwrap).concat(), collector.join().unwrap())
    });
    assert!(freed > 16 * MIB, "{freed}");
    for (point, image) in kept {
        repo.assert_restores(&point, &image);
    }
    repo.assert_sound();
    // What is left is what the points need, and what became free last.
    assert!(repo.data() < 40 * MIB, "{}", repo.data());
}
