//! The images that are backed up: one generated from a seed, one of a real Debian system.
//!
//! Each comes with a similar second image: a copy in which 2 % of the data changed, in runs of
//! 512 KiB, and the list of what changed. Images are kept from run to run; they depend on nothing
//! but their size (and, for the real one, on the day Debian's packages were fetched).

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::host;

/// 2^20 bytes.
pub const MIB: u64 = 1 << 20;
/// Bumped when the generator changes, so that old images are not taken for new ones.
const GENERATION: u32 = 1;
/// Length of a run of changed bytes.
const CHANGED_RUN: u64 = 512 << 10;
/// Part of the data that changes, as a divisor: 2 %.
const CHANGED_PART: u64 = 50;
/// Packages on top of a minimal Debian: a machine with programs, libraries, and documents.
const PACKAGES: &str = "build-essential,git,nginx-light,postgresql,python3-scipy,vim";
/// Size of the real disk.
const REAL_SIZE: &str = "4G";

/// An image, its second version, and what they differ in.
#[derive(Debug, Clone)]
pub struct DataSet {
    pub name: String,
    /// What it consists of, for the report.
    pub about: String,
    pub image: PathBuf,
    pub similar: PathBuf,
    /// JSON extents in which `similar` differs from `image`.
    pub changed: PathBuf,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Bytes of it that are not holes.
    pub data: u64,
}

impl DataSet {
    fn new(name: String, about: &str, folder: &Path) -> Result<Self> {
        let file = |suffix: &str| folder.join(format!("{name}{suffix}"));
        let (image, similar, changed) = (file(".raw"), file("-similar.raw"), file("-changed.json"));
        let metadata = std::fs::metadata(&image).with_context(|| format!("no {image:?}"))?;
        let (size, data) = (metadata.len(), metadata.blocks() * 512);
        let about = format!("{about}; {} MiB, {} MiB of them data", size / MIB, data / MIB);
        Ok(Self { name, about, image, similar, changed, size, data })
    }
}

/// Numbers that look random and are the same each time (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Words of a vocabulary in which some are much more frequent, with numbers in between: it
    /// compresses about as the files of a system do.
    fn text(&mut self, length: usize, words: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 32);
        while bytes.len() < length {
            let draw = self.next();
            let rank = (draw >> 8) as usize % words.len() * ((draw >> 40) as usize % 1024) / 1024;
            bytes.extend_from_slice(&words[rank]);
            if draw & 7 == 0 {
                bytes.extend_from_slice(&(draw >> 16).to_le_bytes());
            }
        }
        bytes.truncate(length);
        bytes
    }

    fn words(&mut self) -> Vec<Vec<u8>> {
        (0..8192)
            .map(|_| {
                let length = 3 + self.below(9) as usize;
                let mut word: Vec<u8> = (0..length).map(|_| b'a' + self.below(26) as u8).collect();
                word.push(b' ');
                word
            })
            .collect()
    }
}

/// The generated image of this size, made unless it is there.
pub fn generated(folder: &Path, size: u64) -> Result<DataSet> {
    let name = format!("generated-{GENERATION}-{}MiB", size / MIB);
    let image = folder.join(format!("{name}.raw"));
    let mut random = Random(u64::from(GENERATION));
    let words = random.words();
    if !image.exists() {
        eprintln!("bench: generating {}", image.display());
        make(&image, |part| generate(part, size, &mut random, &words))?;
    }
    similar(folder, &name, &words)?;
    let about = "generated from a seed: in parts of 1 MiB, 25 % holes, 25 % incompressible, \
                 40 % like text, 10 % repeated from before";
    DataSet::new(name, about, folder)
}

/// Makes a file under another name and gives it its own when it is complete.
fn make(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let part = path.with_extension("part");
    fill(&part).with_context(|| format!("cannot make {path:?}"))?;
    std::fs::rename(&part, path).with_context(|| format!("cannot rename {part:?}"))
}

fn generate(path: &Path, size: u64, random: &mut Random, words: &[Vec<u8>]) -> Result<()> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len(size)?;
    let mut written: Vec<u64> = Vec::new();
    for offset in (0..size).step_by(MIB as usize) {
        let bytes = match random.below(20) {
            0..5 => continue,
            5..10 => random.noise(MIB as usize),
            10..18 => random.text(MIB as usize, words),
            _ => {
                let Some(&from) = written.get(random.below(written.len() as u64) as usize) else {
                    continue;
                };
                let mut bytes = vec![0; MIB as usize];
                file.read_exact_at(&mut bytes, from)?;
                bytes
            }
        };
        file.write_all_at(&bytes, offset)?;
        written.push(offset);
    }
    Ok(())
}

/// The image of a Debian system, made unless it is there.
pub fn real(folder: &Path) -> Result<DataSet> {
    let name = "debian".to_owned();
    let image = folder.join("debian.raw");
    if !image.exists() {
        make(&image, |part| debian(folder, part))?;
    }
    similar(folder, &name, &Random(2).words())?;
    let about = "the root of a Debian system with compilers, servers, and libraries on ext4";
    DataSet::new(name, about, folder)
}

fn debian(folder: &Path, image: &Path) -> Result<()> {
    let (tar, tree) = (folder.join("debian.tar"), folder.join("debian-tree"));
    eprintln!("bench: building a Debian system");
    if tree.exists() {
        std::fs::remove_dir_all(&tree)?;
    }
    let include = format!("--include={PACKAGES}");
    let script = r#". /etc/os-release && echo "${VERSION_CODENAME:-stable}""#;
    let suite = host::output(host::command("sh").args(["-c", script]))?;
    let options = ["--quiet", "--variant=minbase", "--components=main", "--format=tar", &include];
    host::output(host::command("mmdebstrap").args(options).arg(suite.trim()).arg(&tar))?;
    std::fs::create_dir_all(&tree)?;
    // Device nodes need root, and nobody boots this disk.
    let exclude = ["--exclude=./dev/*", "--exclude=dev/*"];
    host::output(host::command("tar").arg("-C").arg(&tree).arg("-xf").arg(&tar).args(exclude))?;
    let file_system = ["-q", "-t", "ext4", "-L", "bench", "-d"];
    let mkfs = host::find_tool("mke2fs").unwrap_or_else(|| "/usr/sbin/mke2fs".into());
    host::output(host::command(mkfs).args(file_system).arg(&tree).arg(image).arg(REAL_SIZE))?;
    std::fs::remove_dir_all(&tree)?;
    std::fs::remove_file(&tar)?;
    Ok(())
}

/// The second image and the list of what is different in it.
fn similar(folder: &Path, name: &str, words: &[Vec<u8>]) -> Result<()> {
    let base = folder.join(format!("{name}.raw"));
    let second = folder.join(format!("{name}-similar.raw"));
    let list = folder.join(format!("{name}-changed.json"));
    if second.exists() && list.exists() {
        return Ok(());
    }
    eprintln!("bench: changing a copy of {}", base.display());
    make(&second, |part| {
        copy_sparse(&base, part)?;
        let file = File::options().read(true).write(true).open(part)?;
        let changed = change(&file, file.metadata()?.blocks() * 512, words)?;
        let extents: Vec<_> =
            changed.iter().map(|&at| json!({"offset": at, "length": CHANGED_RUN})).collect();
        std::fs::write(&list, serde_json::to_string(&extents)?)?;
        Ok(())
    })
}

/// Rewrites runs in the middle of data; returns where, in order and apart from each other.
fn change(file: &File, data: u64, words: &[Vec<u8>]) -> Result<Vec<u64>> {
    let mut random = Random(3);
    let size = file.metadata()?.len();
    let wanted = (data / CHANGED_PART / CHANGED_RUN).max(1) as usize;
    let mut places: Vec<u64> = Vec::new();
    let mut probe = vec![0; 4096];
    for _ in 0..wanted * 1000 {
        if places.len() == wanted {
            break;
        }
        let at = random.below(size / 4096) * 4096;
        let apart = places.iter().all(|&other| at.abs_diff(other) >= CHANGED_RUN);
        if !apart || at + CHANGED_RUN > size {
            continue;
        }
        file.read_exact_at(&mut probe, at + CHANGED_RUN / 2)?;
        if probe.iter().all(|&byte| byte == 0) {
            continue;
        }
        let length = CHANGED_RUN as usize;
        let half = random.below(2) == 0;
        let bytes = if half { random.noise(length) } else { random.text(length, words) };
        file.write_all_at(&bytes, at)?;
        places.push(at);
    }
    if places.is_empty() {
        bail!("found no data to change");
    }
    places.sort_unstable();
    Ok(places)
}

/// Copies a file and leaves its holes out.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let mut command = host::command("cp");
    host::output(command.args(["--sparse=always", "--reflink=never"]).arg(from).arg(to))?;
    Ok(())
}

/// Reads every file of a folder, or one file, so that it comes from the page cache next time.
pub fn read_all(path: &Path) -> Result<()> {
    if std::fs::symlink_metadata(path).with_context(|| format!("no {path:?}"))?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            read_all(&entry?.path())?;
        }
        return Ok(());
    }
    let mut file = File::open(path).with_context(|| format!("no {path:?}"))?;
    std::io::copy(&mut file, &mut std::io::sink())?;
    Ok(())
}

/// What a file or a folder takes on disk, in bytes.
pub fn stored(path: &Path) -> Result<u64> {
    let metadata = std::fs::symlink_metadata(path).with_context(|| format!("no {path:?}"))?;
    let mut total = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            total += stored(&entry?.path())?;
        }
    }
    Ok(total)
}
