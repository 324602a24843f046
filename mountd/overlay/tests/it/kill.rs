//! A process that is killed while it writes, for real: all that was answered is there afterwards.

use std::fs::{self, OpenOptions as FileOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sluice_block::BlockWrite;
use sluice_overlay::CELL;

use crate::support::{CREATE, content, open, read_all};

/// Set for the process that writes: the folder to write in.
const FOLDER: &str = "SLUICE_TEST_KILLED_IN";
const WRITERS: u64 = 4;
/// Cells that each writer has for itself.
const OWN: u64 = 64;
const SIZE: usize = (WRITERS * OWN * CELL) as usize;

/// One write, which follows from its writer and its number.
struct Deed {
    offset: u64,
    bytes: Vec<u8>,
    zeroes: bool,
}

fn deed(writer: u64, number: u64) -> Deed {
    let cell = writer * OWN + number * 7919 % (OWN - 2);
    let (within, length) = match number % 5 {
        0 => (0, 2 * CELL),
        1 => (50, 100),
        2 => (CELL - 10, 20),
        _ => (0, CELL),
    };
    let zeroes = number.is_multiple_of(10);
    let fill = if zeroes { 0 } else { (number * 31 + writer) as u8 | 1 };
    Deed { offset: cell * CELL + within, bytes: vec![fill; length as usize], zeroes }
}

fn answers(folder: &Path, writer: u64) -> std::path::PathBuf {
    folder.join(format!("answers-{writer}"))
}

/// Not a test of its own: what [`what_a_killed_process_was_told_is_written_is_there`] kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_that_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let (_overlay, disk) = open(&folder.join("overlay"), &content(SIZE, 3), CREATE);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (disk, path) = (Arc::clone(&disk), answers(folder, writer));
        writers.spawn(async move {
            let mut options = FileOptions::new();
            let mut told = options.create(true).append(true).open(path).unwrap();
            // Goes on where the one before it was.
            let from = told.metadata().unwrap().len();
            for number in from.. {
                let deed = deed(writer, number);
                if deed.zeroes {
                    disk.write_zeroes(deed.offset, deed.bytes.len() as u64).await.unwrap();
                } else {
                    disk.write_at(deed.offset, &deed.bytes).await.unwrap();
                }
                if number % 37 == writer {
                    disk.flush().await.unwrap();
                }
                told.write_all(b".").unwrap();
            }
        });
    }
    writers.join_all().await;
}

/// The process that writes, until it is dropped.
struct Writing(Child);

impl Writing {
    fn begin(folder: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::a_process_that_writes_until_it_is_killed"])
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_a_killed_process_was_told_is_written_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 3);
    let mut model = under.clone();
    let mut known = [0; WRITERS as usize];
    for round in 1..=4 {
        let mut child = Writing::begin(folder.path());
        let count = |writer| fs::metadata(answers(folder.path(), writer)).map_or(0, |f| f.len());
        while (0..WRITERS).any(|writer| count(writer) < round * 150) {
            assert!(child.0.try_wait().unwrap().is_none(), "it ended by itself");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(child);
        let (_overlay, disk) = open(&folder.path().join("overlay"), &under, CREATE);
        let found = read_all(&*disk).await;
        for writer in 0..WRITERS {
            let answered = count(writer);
            for number in known[writer as usize]..answered {
                put(&mut model, &deed(writer, number));
            }
            known[writer as usize] = answered;
            check(&model, &found, writer, answered);
            // The one that was not answered is done, or not, or in part; from here on, it is.
            let Deed { offset, bytes, .. } = deed(writer, answered);
            disk.write_at(offset, &bytes).await.unwrap();
            put(&mut model, &deed(writer, answered));
        }
        drop(disk);
    }
}

fn put(model: &mut [u8], deed: &Deed) {
    let at = deed.offset as usize;
    model[at..at + deed.bytes.len()].copy_from_slice(&deed.bytes);
}

/// A writer's cells are as they were answered, but for the write that was not.
fn check(model: &[u8], found: &[u8], writer: u64, answered: u64) {
    let mut with = model.to_vec();
    put(&mut with, &deed(writer, answered));
    let cell = CELL as usize;
    for at in (writer * OWN) as usize..((writer + 1) * OWN) as usize {
        let range = at * cell..(at + 1) * cell;
        let now = &found[range.clone()];
        let known = now == &model[range.clone()] || now == &with[range];
        assert!(known, "cell {at} of writer {writer} is not as answered ({answered})");
    }
}
