//! The floor under a backup and a restore: the work that cannot be avoided, with nothing around it.
//!
//! `floor FILE SCRATCH` runs the kernels of the repository over a disk image, in memory and on all
//! cores, and prints one JSON object. No reading, no writing, no waiting is in the times, but for
//! the last two:
//!
//! * `new`: zero test and keyed BLAKE3 of each block, zstd 1 and AES-256-GCM of each distinct one;
//! * `hash`: zero test and keyed BLAKE3, which is what an unchanged image costs;
//! * `decode`: AES-256-GCM, zstd, and BLAKE3 again for each block, which is what a restore costs;
//! * `read`: reading the blocks from the file, most likely from the page cache;
//! * `write`: writing them to the file SCRATCH, which is made anew and then removed, until they are
//!   durable: past the page cache where that can be.
//!
//! Speeds are in GB/s of blocks that are not all zero: holes cost nothing. Processor times beside
//! them say the same on a machine where others work too. The file goes through in segments, so
//! that memory is bounded; the times of the segments are added up.
//!
//! `cargo xtask bench` divides what `sluice` reaches by these.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rayon::iter::{
    IndexedParallelIterator, IntoParallelIterator, IntoParallelRefIterator, ParallelIterator,
};
use sluice_block::{Buffer, DirectFile};
use sluice_repository::crypto::{NONCE_LEN, SealKey, TAG_LEN};
use sluice_repository::is_zero;

/// The default block of an image.
const BLOCK: usize = 128 << 10;
/// Blocks held in memory at a time: 256 MiB, far more than any cache.
const SEGMENT: usize = 2048;
/// Keys of no repository.
const HASH_KEY: [u8; 32] = [1; 32];
const SEAL_KEY: [u8; 32] = [2; 32];

struct Block {
    offset: u64,
    content: Vec<u8>,
    id: [u8; 32],
    /// No block before it has the same content.
    first: bool,
}

struct Slot {
    nonce: [u8; NONCE_LEN],
    compressed: bool,
    /// Ciphertext and tag.
    sealed: Vec<u8>,
}

#[derive(Default)]
struct Totals {
    data: u64,
    distinct: u64,
    stored: u64,
    new: Spent,
    hash: Spent,
    decode: Spent,
    read: Spent,
    write: Spent,
}

/// Time that kernels took: of the clock, and of all processors together.
#[derive(Default)]
struct Spent {
    wall: Duration,
    processor: Duration,
}

struct Tools {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    input: Vec<u8>,
    output: Vec<u8>,
}

thread_local! {
    static TOOLS: RefCell<Option<Tools>> = const { RefCell::new(None) };
}

/// Calls `work` with this thread's buffers, which are made once.
fn with_tools<T>(work: impl FnOnce(&mut Tools) -> io::Result<T>) -> io::Result<T> {
    TOOLS.with_borrow_mut(|slot| match slot {
        Some(tools) => work(tools),
        None => work(slot.insert(Tools {
            compressor: zstd::bulk::Compressor::new(1)?,
            decompressor: zstd::bulk::Decompressor::new()?,
            input: vec![0; BLOCK],
            output: Vec::with_capacity(zstd::zstd_safe::compress_bound(BLOCK)),
        })),
    })
}

#[expect(clippy::print_stdout, reason = "the result of a command-line tool")]
fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(path), Some(scratch)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: floor FILE SCRATCH");
        return ExitCode::from(2);
    };
    match File::open(&path).and_then(|file| measure(&file, scratch.as_ref())) {
        Ok(totals) => {
            println!("{}", report(&totals));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("floor: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn report(totals: &Totals) -> serde_json::Value {
    let phase = |bytes: u64, spent: &Spent| {
        serde_json::json!({
            "gbps": bytes as f64 / 1e9 / spent.wall.as_secs_f64().max(1e-9),
            "cpu_s": spent.processor.as_secs_f64(),
        })
    };
    serde_json::json!({
        "threads": rayon::current_num_threads(),
        "block": BLOCK,
        "data_bytes": totals.data,
        "distinct_bytes": totals.distinct,
        "stored_bytes": totals.stored,
        "new": phase(totals.data, &totals.new),
        "hash": phase(totals.data, &totals.hash),
        "decode": phase(totals.data, &totals.decode),
        "read": phase(totals.data, &totals.read),
        "write": phase(totals.data, &totals.write),
    })
}

fn measure(file: &File, scratch: &Path) -> io::Result<Totals> {
    let size = file.metadata()?.len();
    let mut totals = Totals::default();
    let mut seen = HashSet::new();
    let mut blocks = Vec::with_capacity(SEGMENT);
    let mut target = Scratch::create(scratch)?;
    let mut offset = 0;
    while offset < size {
        let batch: Vec<u64> = (offset..size).step_by(BLOCK).take(SEGMENT - blocks.len()).collect();
        offset += (batch.len() * BLOCK) as u64;
        let loaded: Vec<Option<Block>> =
            batch.par_iter().map(|&at| load(file, at, size)).collect::<io::Result<_>>()?;
        blocks.extend(loaded.into_iter().flatten().map(|block| {
            let first = seen.insert(block.id);
            Block { first, ..block }
        }));
        if blocks.len() == SEGMENT || offset >= size {
            segment(file, &blocks, &mut totals)?;
            target.write(&blocks, &mut totals.write)?;
            blocks.clear();
        }
    }
    timed(&mut totals.write, || target.file.sync_all())?;
    drop(target);
    std::fs::remove_file(scratch)?;
    Ok(totals)
}

/// Reads a block, unless it is all zero. Not part of any time.
fn load(file: &File, offset: u64, size: u64) -> io::Result<Option<Block>> {
    let length = (size - offset).min(BLOCK as u64) as usize;
    let mut content = vec![0; length];
    file.read_exact_at(&mut content, offset)?;
    if is_zero(&content) {
        return Ok(None);
    }
    let id = *blake3::keyed_hash(&HASH_KEY, &content).as_bytes();
    Ok(Some(Block { offset, content, id, first: false }))
}

fn timed<T>(total: &mut Spent, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (start, before) = (Instant::now(), processor_time()?);
    let result = work();
    total.wall += start.elapsed();
    total.processor += processor_time()?.saturating_sub(before);
    result
}

/// What all threads of this process took until now, in steps of 10 ms: fields 14 and 15 of
/// `/proc/self/stat`, counted after the name, which may hold anything.
fn processor_time() -> io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|word| word.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

fn segment(file: &File, blocks: &[Block], totals: &mut Totals) -> io::Result<()> {
    let key = SealKey::new(&SEAL_KEY);
    let bytes = |blocks: &mut dyn Iterator<Item = &Block>| {
        blocks.map(|block| block.content.len() as u64).sum::<u64>()
    };
    let data = bytes(&mut blocks.iter());
    let distinct = bytes(&mut blocks.iter().filter(|block| block.first));
    timed(&mut totals.read, || blocks.par_iter().try_for_each(|block| read(file, block)))?;
    timed(&mut totals.hash, || blocks.par_iter().try_for_each(hash))?;
    let slots: Vec<Option<Slot>> = timed(&mut totals.new, || {
        let work = blocks.par_iter().enumerate().map(|(number, block)| {
            hash(block)?;
            block.first.then(|| encode(&key, number, block)).transpose()
        });
        work.collect()
    })?;
    totals.stored += slots.iter().flatten().map(|slot| slot.sealed.len() as u64).sum::<u64>();
    // A restore decodes repeated blocks too: most of them long after the first one.
    let fill = |(number, slot)| match slot {
        Some(slot) => Ok(slot),
        None => encode(&key, number, &blocks[number]),
    };
    let slots: Vec<Slot> =
        slots.into_par_iter().enumerate().map(fill).collect::<io::Result<_>>()?;
    timed(&mut totals.decode, || {
        blocks.par_iter().zip(&slots).try_for_each(|(block, slot)| decode(&key, block, slot))
    })?;
    totals.data += data;
    totals.distinct += distinct;
    Ok(())
}

fn read(file: &File, block: &Block) -> io::Result<()> {
    with_tools(|tools| file.read_exact_at(&mut tools.input[..block.content.len()], block.offset))
}

fn hash(block: &Block) -> io::Result<()> {
    let same = !is_zero(&block.content)
        && blake3::keyed_hash(&HASH_KEY, &block.content).as_bytes() == &block.id;
    if same { Ok(()) } else { Err(io::Error::other("the hash differs")) }
}

/// What the writer of a repository does with a new block after hashing it.
fn encode(key: &SealKey, number: usize, block: &Block) -> io::Result<Slot> {
    with_tools(|tools| {
        tools.output.clear();
        tools.compressor.compress_to_buffer(&block.content, &mut tools.output)?;
        // The rule of the repository: below 3 % it is not worth decompressing.
        let compressed = tools.output.len() * 100 <= block.content.len() * 97;
        let payload = if compressed { &tools.output } else { &block.content };
        let mut sealed = Vec::with_capacity(payload.len() + TAG_LEN);
        sealed.extend_from_slice(payload);
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let tag = key.seal(nonce, &[], &mut sealed);
        sealed.extend_from_slice(&tag);
        Ok(Slot { nonce, compressed, sealed })
    })
}

/// What the reader of a repository does with a slot.
fn decode(key: &SealKey, block: &Block, slot: &Slot) -> io::Result<()> {
    with_tools(|tools| {
        tools.input.clear();
        tools.input.extend_from_slice(&slot.sealed);
        let payload = key
            .open(slot.nonce, &[], &mut tools.input)
            .ok_or_else(|| io::Error::other("a slot does not open"))?;
        let plain: &[u8] = if slot.compressed {
            tools.output.clear();
            tools.decompressor.decompress_to_buffer(payload, &mut tools.output)?;
            &tools.output
        } else {
            payload
        };
        let same = blake3::keyed_hash(&HASH_KEY, plain).as_bytes() == &block.id;
        tools.input.resize(BLOCK, 0);
        if same { Ok(()) } else { Err(io::Error::other("decoded content differs")) }
    })
}

/// Bytes of one write, and how many writes are under way at a time.
const WRITE: usize = 1 << 20;
const WRITERS: usize = 4;

/// The file that is written for `write`.
struct Scratch {
    file: File,
    direct: Option<DirectFile>,
    end: u64,
}

impl Scratch {
    fn create(path: &Path) -> io::Result<Self> {
        let file = File::options().write(true).create(true).truncate(true).open(path)?;
        Ok(Self { direct: DirectFile::of(&file), file, end: 0 })
    }

    /// Writes these blocks one after the other. Gathering them is not part of the time.
    fn write(&mut self, blocks: &[Block], spent: &mut Spent) -> io::Result<()> {
        let pieces: Vec<(u64, Buffer)> = (self.end..)
            .step_by(WRITE)
            .zip(blocks.chunks(WRITE / BLOCK))
            .map(|(offset, blocks)| {
                let content: Vec<u8> =
                    blocks.iter().flat_map(|block| block.content.iter().copied()).collect();
                let mut buffer = Buffer::new(content.len());
                buffer.copy_from_slice(&content);
                (offset, buffer)
            })
            .collect();
        self.end += (pieces.len() * WRITE) as u64;
        timed(spent, || self.write_pieces(&pieces))
    }

    fn write_pieces(&self, pieces: &[(u64, Buffer)]) -> io::Result<()> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((offset, piece)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                let direct = self.direct.as_ref();
                let done = direct.map_or(Ok(0), |direct| direct.write_at(*offset, piece))?;
                self.file.write_all_at(&piece[done..], offset + done as u64)?;
            }
            Ok(())
        };
        // Through the page cache, a file takes one write after the other.
        let writers = if self.direct.is_some() { WRITERS } else { 1 };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..writers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a writer died")))
            })
        })
    }
}
