//! Commits of an overlay that come all at once, while a client writes.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::serve::Export;

/// Blocks that the client writes; each is a cell of the overlay.
const BLOCKS: u64 = 1024;
const BLOCK: usize = 4096;
const COMMITTERS: usize = 4;
/// Commits that must come to be.
const COMMITS: usize = 12;

/// A client of an NBD export, with one request at a time.
struct Client(TcpStream);

impl Client {
    fn connect(uri: &str) -> Self {
        let address = uri.strip_prefix("nbd://").unwrap().trim_end_matches('/');
        let mut client = Self(TcpStream::connect(address).unwrap());
        client.take(18);
        // Fixed newstyle; NBD_OPT_GO for the default export, without wishes.
        client.send(&[&3_u32.to_be_bytes()]);
        let go = [7_u32, 6].map(u32::to_be_bytes).concat();
        client.send(&[b"IHAVEOPT", &go, &[0; 6]]);
        loop {
            let head = client.take(20);
            let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
            client.take(number(16) as usize);
            match number(12) {
                1 => return client,
                kind => assert_eq!(kind, 3, "the export is refused"),
            }
        }
    }

    fn send(&mut self, parts: &[&[u8]]) {
        self.0.write_all(&parts.concat()).unwrap();
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn ask(&mut self, command: u32, block: u64, content: &[u8]) {
        let place = [77, block * BLOCK as u64].map(u64::to_be_bytes).concat();
        let head = [0x2560_9513, command].map(u32::to_be_bytes).concat();
        self.send(&[&head, &place, &(BLOCK as u32).to_be_bytes(), content]);
        assert_eq!(self.take(16)[4..8], [0; 4], "an error");
    }

    fn write(&mut self, block: u64, number: u64) {
        self.ask(1, block, &number.to_be_bytes().repeat(BLOCK / 8));
    }

    fn read(&mut self, block: u64) -> u64 {
        self.ask(0, block, &[]);
        number(&self.take(BLOCK))
    }
}

/// The number that a block is full of.
fn number(block: &[u8]) -> u64 {
    assert!(block[..BLOCK - 8] == block[8..], "half a write");
    u64::from_be_bytes(block[..8].try_into().unwrap())
}

/// Where the write of this number goes.
fn place(number: u64) -> u64 {
    number * 37 % BLOCKS
}

/// What the blocks hold after so many writes.
fn model(writes: u64) -> Vec<u64> {
    let mut blocks = vec![0; BLOCKS as usize];
    (1..=writes).for_each(|number| blocks[place(number) as usize] = number);
    blocks
}

/// A commit that was made: its point, how many writes had been answered when it was asked for, and
/// how many had begun when it was done.
struct Made {
    point: String,
    answered: u64,
    begun: u64,
}

/// Asks for a commit, as `overlay commit` does; nothing when another one is under way.
fn commit(overlay: &Path) -> Option<String> {
    let mut stream = UnixStream::connect(overlay.join("control.sock")).unwrap();
    stream.write_all(b"{\"command\":\"commit\"}\n").unwrap();
    let last = BufReader::new(stream).lines().last().unwrap().unwrap();
    let answer: Value = serde_json::from_str(&last).unwrap();
    if answer["done"].is_null() {
        assert_eq!(answer["failed"]["kind"], "conflict", "{answer}");
        return None;
    }
    Some(answer["done"]["point"].as_str().unwrap().to_owned())
}

/// Each point is the disk of one moment, and the disk stays what the client wrote, however many
/// want commits at once.
#[test]
fn commits_at_once_lose_nothing_of_point_or_disk() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, BLOCKS * BLOCK as u64 + MIB);
    disk::fill(&image, BLOCKS * BLOCK as u64, MIB, 1);
    let point = repo.backup(&image);
    let folder = repo.path("overlay");
    let export = Export::nbd(&repo, &[&point, "--writable", "--overlay", folder.to_str().unwrap()]);
    let mut client = Client::connect(export.uri());
    let (answered, begun) = (AtomicU64::new(0), AtomicU64::new(0));
    let (made, stop) = (Mutex::new(Vec::<Made>::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..COMMITTERS {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let answered = answered.load(Ordering::SeqCst);
                    let Some(point) = commit(&folder) else { continue };
                    let begun = begun.load(Ordering::SeqCst);
                    made.lock().unwrap().push(Made { point, answered, begun });
                }
            });
        }
        // So that the committers end when this fails.
        let _stop = Stop(&stop);
        while made.lock().unwrap().len() < COMMITS {
            let next = begun.fetch_add(1, Ordering::SeqCst) + 1;
            client.write(place(next), next);
            answered.store(next, Ordering::SeqCst);
            // One that was written long ago.
            let old = next.saturating_sub(BLOCKS / 2).max(1);
            assert_eq!(client.read(place(old)), old, "after {next} writes");
        }
    });
    let writes = answered.into_inner();
    let now: Vec<u64> = (0..BLOCKS).map(|block| client.read(block)).collect();
    assert_eq!(now, model(writes));
    drop(client);
    export.stop();
    let target = repo.path("restored.raw");
    for Made { point, answered, begun } in made.into_inner().unwrap() {
        repo.ok(["restore", &point, target.to_str().unwrap()]);
        let bytes = fs::read(&target).unwrap();
        fs::remove_file(&target).unwrap();
        let (blocks, rest) = bytes.split_at(BLOCKS as usize * BLOCK);
        let then: Vec<u64> = blocks.chunks(BLOCK).map(number).collect();
        let last = *then.iter().max().unwrap();
        assert!((answered..=begun).contains(&last), "{point}: {answered} {last} {begun}");
        assert_eq!(then, model(last), "{point}");
        assert!(rest == &fs::read(&image).unwrap()[blocks.len()..]);
    }
    repo.assert_sound();
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
