//! Restore points as virtio disks that a guest writes to.

use std::path::Path;

use rustix::process::Signal;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::serve::Export;
use crate::support::vhost::{DISCARD, FLUSH, Guest, READ, WRITE, WRITE_ZEROES};

/// A point of a disk of 16 MiB, the first nine of them filled.
pub fn sample() -> (Repo, String) {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 16 * MIB);
    disk::fill(&image, 0, 9 * MIB, 1);
    let point = repo.backup(&image);
    (repo, point)
}

fn writable(repo: &Repo, point: &str) -> Export {
    let dir = repo.path("overlay");
    let args = ["--writable", "--overlay", dir.to_str().unwrap(), "--queues", "2"];
    Export::vhost_user(repo, point, &args)
}

#[test]
fn a_guest_writes_through_all_queues_and_what_it_flushed_survives_a_kill() {
    let (repo, point) = sample();
    let mut export = writable(&repo, &point);
    let mut guest = Guest::connect(Path::new(export.uri()), 2);
    let config = guest.config();
    assert_eq!(config[..8], (16 * MIB / 512).to_le_bytes());
    assert_eq!(config[34..36], [2, 0]);
    // Flush, several queues, discard and write zeroes are offered, and it is not read-only.
    for bit in [9, 12, 13, 14] {
        assert_eq!(guest.features >> bit & 1, 1, "{bit}");
    }
    assert_eq!(guest.features >> 5 & 1, 0);
    // Side by side on both queues, each other's sectors interleaved.
    let piece = |number: u64| vec![number as u8 + 1; 64 << 10];
    for batch in 0..4 {
        let asked: Vec<_> = (batch * 8..batch * 8 + 8)
            .map(|number| {
                let (queue, sector) = (number as usize % 2, 2048 + number * 128);
                guest.ask(queue, (WRITE, sector), &piece(number), 0)
            })
            .collect();
        for ticket in &asked {
            assert_eq!(guest.wait(ticket).0, 0);
        }
    }
    for number in 0..32 {
        let place = (READ, 2048 + number * 128);
        let read = guest.run(1 - number as usize % 2, place, &[], 64 << 10);
        assert!(read == (0, piece(number)), "{number}");
    }
    assert_eq!(guest.clear(0, WRITE_ZEROES, 100, 300), 0);
    assert_eq!(guest.clear(1, DISCARD, 2048, 8), 0);
    // One sector of a cell: what lies around it stays.
    assert_eq!(guest.run(1, (WRITE, 9), &[0x77; 512], 0).0, 0);
    assert_eq!(guest.run(0, (FLUSH, 0), &[], 0).0, 0);
    // What is not on the disk, and what is nothing, is refused and harms nobody.
    assert_eq!(guest.run(0, (WRITE, 16 * MIB / 512), &[1; 512], 0).0, 1);
    assert_eq!(guest.run(0, (READ, u64::MAX), &[], 512).0, 1);
    assert_eq!(guest.clear(0, DISCARD, u64::MAX, u32::MAX), 1);
    assert_eq!(guest.run(1, (99, 0), &[], 0).0, 2);
    export.running().signal(Signal::KILL);
    drop((export, guest));

    let image = repo.path("written.raw");
    std::fs::copy(repo.path("disk.raw"), &image).unwrap();
    (0..32).for_each(|number| disk::write(&image, MIB + number * (64 << 10), &piece(number)));
    disk::write(&image, 100 * 512, &[0; 300 * 512]);
    disk::write(&image, MIB, &[0; 8 * 512]);
    disk::write(&image, 9 * 512, &[0x77; 512]);
    let export = writable(&repo, &point);
    let mut guest = Guest::connect(Path::new(export.uri()), 1);
    let bytes = std::fs::read(&image).unwrap();
    for (number, expected) in bytes.chunks(128 << 10).enumerate() {
        let read = guest.run(0, (READ, number as u64 * 256), &[], 128 << 10);
        assert!(read.0 == 0 && read.1 == expected, "at {} KiB", number * 128);
    }
    // A commit while the guest is there.
    let dir = repo.path("overlay");
    repo.ok(["overlay", "commit", dir.to_str().unwrap(), "--as", "changed"]);
    assert_eq!(guest.run(0, (WRITE, 0), &[3; 512], 0).0, 0);
    drop(guest);
    export.stop();
    repo.assert_restores("changed@latest", &image);
    repo.assert_restores(&point, &repo.path("disk.raw"));
}

#[test]
fn a_guest_cannot_write_where_nobody_allowed_it_and_garbage_ends_only_its_own_connection() {
    let (repo, point) = sample();
    let export = Export::vhost_user(&repo, &point, &[]);
    let mut guest = Guest::connect(Path::new(export.uri()), 1);
    assert_eq!(guest.features >> 5 & 1, 1);
    assert_eq!(guest.run(0, (WRITE, 0), &[1; 512], 0).0, 1);
    assert_eq!(guest.clear(0, WRITE_ZEROES, 0, 8), 1);
    drop(guest);
    use std::io::Write as _;
    let mut stranger = std::os::unix::net::UnixStream::connect(export.uri()).unwrap();
    stranger.write_all(&[0xff; 4096]).unwrap();
    drop(stranger);
    let mut guest = Guest::connect(Path::new(export.uri()), 1);
    let read = guest.run(0, (READ, 0), &[], 4096);
    assert!(read.0 == 0 && read.1 == std::fs::read(repo.path("disk.raw")).unwrap()[..4096]);
    drop(guest);
    export.stop();
}
