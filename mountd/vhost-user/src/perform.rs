//! Doing what a request asks.

use std::fmt;
use std::sync::Arc;

use sluice_block::{BlockRead, BlockWrite};
use vm_memory::{Bytes, GuestMemoryMmap};

use crate::config::{MOST_RANGES, MOST_SECTORS, PHYSICAL, SECTOR};
use crate::request::{Kind, Request};
use crate::segments::{BUFFER, BadAddress};

/// Bytes of a device's identity.
pub(crate) const IDENTITY: usize = 20;
/// Bytes of a range to discard or to zero.
const RANGE: u64 = 16;
/// The flag of a range to zero that may be released as well.
const UNMAP: u32 = 1;

/// What is served.
#[derive(Clone)]
pub enum Disk {
    /// A disk that cannot be written. Its last sector is filled up with zeroes.
    ReadOnly(Arc<dyn BlockRead>),
    /// A disk that can be written. Bytes after its last whole sector are left out.
    Writable(Arc<dyn BlockWrite>),
}

impl Disk {
    /// Sectors that the guest sees.
    pub(crate) fn sectors(&self) -> u64 {
        match self {
            Self::ReadOnly(disk) => disk.size().div_ceil(SECTOR),
            Self::Writable(disk) => disk.size() / SECTOR,
        }
    }

    pub(crate) fn is_writable(&self) -> bool {
        matches!(self, Self::Writable(_))
    }

    fn reader(&self) -> &dyn BlockRead {
        match self {
            Self::ReadOnly(disk) => &**disk,
            Self::Writable(disk) => &**disk,
        }
    }

    /// The range of bytes, if it is on the disk.
    fn place(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(length / SECTOR).ok_or(Failure::Io)?;
        if !length.is_multiple_of(SECTOR) || end > self.sectors() {
            return Err(Failure::Io);
        }
        Ok(sector * SECTOR)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.is_writable() { "Writable" } else { "ReadOnly" };
        f.debug_tuple(name).field(&self.reader().size()).finish()
    }
}

/// What is told to the guest of a request that was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Io,
    Unsupported,
}

impl From<BadAddress> for Failure {
    fn from(_: BadAddress) -> Self {
        Self::Io
    }
}

/// Does what a request asks and writes its status; the bytes written to the guest's memory. With
/// `write_through` what is written is durable by then: the driver does not flush.
pub(crate) async fn perform(
    disk: &Disk,
    identity: &[u8; IDENTITY],
    memory: &GuestMemoryMmap,
    mut request: Request,
    write_through: bool,
) -> u32 {
    let wanted = request.wanted.left();
    let done = match request.kind {
        Kind::Read => read(disk, memory, &mut request).await,
        Kind::Identify => identify(identity, memory, &mut request),
        Kind::Unknown => Err(Failure::Unsupported),
        kind => match disk {
            // There is nothing to make durable.
            Disk::ReadOnly(_) if kind == Kind::Flush => Ok(()),
            Disk::ReadOnly(_) => Err(Failure::Io),
            Disk::Writable(device) => {
                let done = change(disk, &**device, memory, &mut request).await;
                match done {
                    Ok(()) if write_through && kind != Kind::Flush => flush(&**device).await,
                    other => other,
                }
            }
        },
    };
    let status = match done {
        Ok(()) => 0_u8,
        Err(Failure::Io) => 1,
        Err(Failure::Unsupported) => 2,
    };
    // A place that is not in memory: there is nobody to tell.
    if memory.write_obj(status, request.status).is_err() {
        return 0;
    }
    let written = wanted - request.wanted.left() + 1;
    u32::try_from(written).unwrap_or(u32::MAX)
}

async fn read(disk: &Disk, memory: &GuestMemoryMmap, request: &mut Request) -> Result<(), Failure> {
    let mut at = disk.place(request.sector, request.wanted.left())?;
    let device = disk.reader();
    let mut buffer = vec![0; BUFFER.min(request.wanted.left() as usize)];
    loop {
        let length = request.wanted.left().min(buffer.len() as u64) as usize;
        if length == 0 {
            return Ok(());
        }
        let there = device.size().saturating_sub(at).min(length as u64) as usize;
        device.read_at(at, &mut buffer[..there]).await.map_err(|error| log(&error))?;
        buffer[there..length].fill(0);
        request.wanted.write(memory, &buffer[..length])?;
        at += length as u64;
    }
}

fn identify(
    identity: &[u8; IDENTITY],
    memory: &GuestMemoryMmap,
    request: &mut Request,
) -> Result<(), Failure> {
    let length = request.wanted.left().min(IDENTITY as u64) as usize;
    Ok(request.wanted.write(memory, &identity[..length])?)
}

async fn change(
    disk: &Disk,
    device: &dyn BlockWrite,
    memory: &GuestMemoryMmap,
    request: &mut Request,
) -> Result<(), Failure> {
    match request.kind {
        Kind::Flush => flush(device).await,
        Kind::Write => write(disk, device, memory, request).await,
        _ => zero(disk, device, memory, request).await,
    }
}

async fn flush(device: &dyn BlockWrite) -> Result<(), Failure> {
    device.flush().await.map_err(|error| log(&error))
}

async fn write(
    disk: &Disk,
    device: &dyn BlockWrite,
    memory: &GuestMemoryMmap,
    request: &mut Request,
) -> Result<(), Failure> {
    let mut at = disk.place(request.sector, request.sent.left())?;
    let mut buffer = vec![0; BUFFER.min(request.sent.left() as usize)];
    loop {
        let length = request.sent.left().min(buffer.len() as u64) as usize;
        if length == 0 {
            return Ok(());
        }
        request.sent.read(memory, &mut buffer[..length])?;
        device.write_at(at, &buffer[..length]).await.map_err(|error| log(&error))?;
        at += length as u64;
    }
}

/// Ranges to discard, or to fill with zeroes. Of what is discarded whole blocks leave zeroes, and
/// parts of blocks stay: to make them zero is to write, for which there may be no room.
async fn zero(
    disk: &Disk,
    device: &dyn BlockWrite,
    memory: &GuestMemoryMmap,
    request: &mut Request,
) -> Result<(), Failure> {
    let length = request.sent.left();
    if length == 0 || !length.is_multiple_of(RANGE) || length / RANGE > u64::from(MOST_RANGES) {
        return Err(Failure::Io);
    }
    let mut ranges = Vec::with_capacity((length / RANGE) as usize);
    let known = if request.kind == Kind::WriteZeroes { UNMAP } else { 0 };
    // All are looked at before the first is done.
    while request.sent.left() > 0 {
        let mut bytes = [0; RANGE as usize];
        request.sent.read(memory, &mut bytes)?;
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|more| bytes[at + more]));
        let sector = u64::from(number(0)) | u64::from(number(4)) << 32;
        let (sectors, flags) = (number(8), number(12));
        if flags & !known != 0 {
            return Err(Failure::Unsupported);
        }
        if sectors > MOST_SECTORS {
            return Err(Failure::Io);
        }
        let length = u64::from(sectors) * SECTOR;
        let at = disk.place(sector, length)?;
        ranges.push(if request.kind == Kind::Discard { whole(at, length) } else { (at, length) });
    }
    for (at, length) in ranges.into_iter().filter(|(_, length)| *length > 0) {
        device.write_zeroes(at, length).await.map_err(|error| log(&error))?;
    }
    Ok(())
}

/// The whole blocks of a range.
fn whole(at: u64, length: u64) -> (u64, u64) {
    let start = at.next_multiple_of(PHYSICAL);
    (start, ((at + length) / PHYSICAL * PHYSICAL).saturating_sub(start))
}

/// What the device reports is for the operator; a guest learns that it failed.
fn log(error: &sluice_block::BlockError) -> Failure {
    let mut reasons = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        reasons += &format!(": {inner}");
        cause = inner.source();
    }
    tracing::error!("a request failed: {reasons}");
    Failure::Io
}

#[cfg(test)]
mod tests {
    use sluice_block::{ErrorKind, FaultyRead, MemoryDisk};
    use vm_memory::GuestAddress;

    use super::*;
    use crate::request::parse;

    const ID: &[u8; IDENTITY] = b"0123456789abcdefghij";

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap()
    }

    /// Does one request: what is sent lies at 0x1000, what is wanted at 0x400000; status and
    /// length.
    async fn ask(
        disk: &Disk,
        memory: &GuestMemoryMmap,
        kind: u32,
        sector: u64,
        sent: &[u8],
        wanted: u32,
    ) -> (u8, u32) {
        memory.write_obj(kind, GuestAddress(0)).unwrap();
        memory.write_obj(sector, GuestAddress(8)).unwrap();
        memory.write_slice(sent, GuestAddress(0x1000)).unwrap();
        memory.write_obj(0xff_u8, GuestAddress(0x800)).unwrap();
        let chain = [
            ((GuestAddress(0), 16), false),
            ((GuestAddress(0x1000), sent.len() as u32), false),
            ((GuestAddress(0x40_0000), wanted), true),
            ((GuestAddress(0x800), 1), true),
        ];
        let request = parse(memory, chain.into_iter()).unwrap();
        let length = perform(disk, ID, memory, request, false).await;
        (memory.read_obj(GuestAddress(0x800)).unwrap(), length)
    }

    fn got(memory: &GuestMemoryMmap, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        memory.read_slice(&mut bytes, GuestAddress(0x40_0000)).unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_read_only_disk_is_read_and_nothing_else() {
        let content: Vec<u8> = (0..3 << 20).map(|at| (at % 251) as u8).collect();
        let disk = Disk::ReadOnly(Arc::new(MemoryDisk::from_bytes(&content)));
        let memory = memory();
        let length = (2 << 20) + 512;
        assert_eq!(ask(&disk, &memory, 0, 3, b"", length).await, (0, length + 1));
        assert!(got(&memory, length as usize) == content[1536..1536 + length as usize]);
        assert_eq!(ask(&disk, &memory, 8, 0, b"", 20).await, (0, 21));
        assert_eq!(got(&memory, 20), ID);
        assert_eq!(ask(&disk, &memory, 4, 0, b"", 0).await, (0, 1));
        for kind in [1, 11, 13] {
            assert_eq!(ask(&disk, &memory, kind, 0, &[0; 512], 0).await.0, 1, "{kind}");
        }
        assert_eq!(ask(&disk, &memory, 99, 0, b"", 0).await, (2, 1));
        // Behind the end, odd, or beyond all numbers.
        let end = (3 << 20) / 512;
        for (sector, length) in [(end, 512), (end - 1, 1024), (0, 100), (u64::MAX, 512)] {
            assert_eq!(ask(&disk, &memory, 0, sector, b"", length).await.0, 1);
        }
    }

    #[tokio::test]
    async fn an_odd_end_is_filled_up_with_zeroes() {
        let disk = Disk::ReadOnly(Arc::new(MemoryDisk::from_bytes(&[7; 700])));
        let memory = memory();
        assert_eq!(disk.sectors(), 2);
        memory.write_slice(&[9; 1024], GuestAddress(0x40_0000)).unwrap();
        assert_eq!(ask(&disk, &memory, 0, 0, b"", 1024).await.0, 0);
        assert_eq!(got(&memory, 1024), [vec![7; 700], vec![0; 324]].concat());
    }

    #[tokio::test]
    async fn what_is_written_and_zeroed_is_there() {
        let disk = Disk::Writable(Arc::new(MemoryDisk::new(1 << 20)));
        let memory = memory();
        assert_eq!(ask(&disk, &memory, 1, 2, &[5; 4096], 0).await, (0, 1));
        assert_eq!(ask(&disk, &memory, 4, 0, b"", 0).await, (0, 1));
        let range = |sector: u64, sectors: u32, flags: u32| {
            [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
        };
        let two = [range(2, 1, 1), range(4, 1, 0)].concat();
        assert_eq!(ask(&disk, &memory, 13, 0, &two, 0).await.0, 0);
        // One block, and parts of two.
        assert_eq!(ask(&disk, &memory, 11, 0, &range(7, 12, 0), 0).await.0, 0);
        assert_eq!(ask(&disk, &memory, 11, 0, &range(8, 7, 0), 0).await.0, 0);
        assert_eq!(ask(&disk, &memory, 0, 2, b"", 4096).await.0, 0);
        let sectors: Vec<u8> = got(&memory, 4096).chunks(512).map(|sector| sector[0]).collect();
        assert_eq!(sectors, [0, 5, 0, 5, 5, 5, 0, 0]);
        // A flag unknown to it, and ranges that are none.
        assert_eq!(ask(&disk, &memory, 11, 0, &range(0, 1, 1), 0).await.0, 2);
        assert_eq!(ask(&disk, &memory, 13, 0, &range(0, 1, 2), 0).await.0, 2);
        for bad in [range(2047, 2, 0), range(u64::MAX, 1, 0), range(0, u32::MAX, 0), vec![0; 15]] {
            assert_eq!(ask(&disk, &memory, 13, 0, &bad, 0).await.0, 1);
        }
        assert_eq!(ask(&disk, &memory, 13, 0, &vec![0; 17 * 16], 0).await.0, 1);
    }

    #[tokio::test]
    async fn bytes_that_cannot_be_read_are_an_error() {
        let faulty = FaultyRead::new(MemoryDisk::new(1 << 20), 4096, ErrorKind::Damaged);
        let disk = Disk::ReadOnly(Arc::new(faulty));
        let memory = memory();
        assert_eq!(ask(&disk, &memory, 0, 0, b"", 4096).await.0, 0);
        assert_eq!(ask(&disk, &memory, 0, 7, b"", 1024).await.0, 1);
    }

    #[tokio::test]
    async fn a_huge_claim_costs_no_memory() {
        let disk = Disk::ReadOnly(Arc::new(MemoryDisk::new(1 << 50)));
        let memory = memory();
        // 4 GiB less a sector, of which the guest has but a part.
        let (status, _) = ask(&disk, &memory, 0, 0, b"", u32::MAX - 511).await;
        assert_eq!(status, 1);
    }
}
