//! Requests of a guest over vhost-user: descriptors and memory are the guest's.

#![no_main]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use sluice_block::{BlockRead, MemoryDisk};
use sluice_vhost_user::Disk;
use sluice_vhost_user::guest::{Descriptor, request};

const MEMORY: usize = 16 << 10;
const DISK: usize = 8 << 10;

/// Disks in memory never wait.
fn now<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits"),
    }
}

fuzz_target!(|input: (bool, u8, Vec<(u16, u16, u8)>, &[u8])| {
    let (writable, wild, chain, bytes) = input;
    let content = [0x5a; DISK];
    let disk = Arc::new(MemoryDisk::from_bytes(&content));
    let served = if writable { Disk::Writable(disk.clone()) } else { Disk::ReadOnly(disk.clone()) };
    let mut memory = vec![0; MEMORY];
    let length = bytes.len().min(MEMORY);
    memory[..length].copy_from_slice(&bytes[..length]);
    // Mostly places that exist, or hardly anything would come past the first look.
    let chain: Vec<Descriptor> = chain
        .iter()
        .enumerate()
        .map(|(number, (at, length, flags))| {
            let far = usize::from(wild) == number + 1;
            let at = if far { u64::MAX - u64::from(*at) } else { u64::from(*at) % MEMORY as u64 };
            (at, u32::from(*length) << (flags >> 4), flags & 1 == 1)
        })
        .collect();
    let writable_lengths = chain.iter().filter(|(_, _, writes)| *writes);
    let wanted: u64 = writable_lengths.map(|(_, length, _)| u64::from(*length)).sum();
    let told = now(request(&served, &mut memory, &chain)).expect("there is memory");
    assert!(told.is_none_or(|told| u64::from(told) <= wanted), "more than there was room for");
    if !writable {
        let mut after = [0; DISK];
        now(disk.read_at(0, &mut after)).expect("a disk in memory");
        assert_eq!(after, content, "a disk that cannot be written was");
    }
});
