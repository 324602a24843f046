use std::path::Path;
use std::sync::Arc;

use sluice_block::{BlockRead, MemoryDisk};
use sluice_overlay::{Base, DiskInfo, OpenOptions, Origin, Overlay, OverlayDisk};

/// A point of an instance.
pub fn origin(point: &str) -> Origin {
    let [repository, instance, point] = ["r", "vm", point].map(str::to_owned);
    Origin { repository, instance, point }
}

/// A disk to lie under an overlay.
pub fn base(name: &str, device: Arc<dyn BlockRead>, root: &str) -> Base {
    let info = DiskInfo { name: name.into(), size: device.size(), root: root.into() };
    Base { info, device }
}

/// Bytes that differ from cell to cell, with holes.
pub fn content(size: usize, seed: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..size).map(|at| (at / 512) as u8 ^ (at / 4096) as u8 ^ seed | 1).collect();
    for hole in bytes.chunks_mut(64 << 10).skip(1).step_by(3) {
        hole.fill(0);
    }
    bytes
}

/// An overlay over one disk.
pub fn open(folder: &Path, under: &[u8], options: OpenOptions) -> (Arc<Overlay>, Arc<OverlayDisk>) {
    let device = Arc::new(MemoryDisk::from_bytes(under));
    let base = base("vda", device, "first");
    let overlay = Overlay::open(folder, &origin("p"), vec![base], options).unwrap();
    let disk = overlay.disks().remove(0);
    (overlay, disk)
}

/// One that is made if need be, and without a limit.
pub const CREATE: OpenOptions = OpenOptions { create: true, limit: None, boot: None };

/// All bytes of a disk.
pub async fn read_all(disk: &dyn BlockRead) -> Vec<u8> {
    let mut bytes = vec![0xEE; disk.size() as usize];
    disk.read_at(0, &mut bytes).await.unwrap();
    bytes
}
