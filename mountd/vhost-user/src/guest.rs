//! One request of a guest, without rings: its memory, and the descriptors of its chain. What a
//! monitor and a guest can send comes to this, whatever they put into it.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::perform::{Disk, IDENTITY, perform};
use crate::request::parse;

/// A descriptor as the guest wrote it: address, length, and whether the device writes it.
pub type Descriptor = (u64, u32, bool);

/// Does what a chain asks for; `memory` lies at the guest's address 0 and is changed. The number of
/// bytes that the guest is told were written; nothing for a chain that is no request.
///
/// # Errors
/// When the system has no memory for a guest of this size.
pub async fn request(
    disk: &Disk,
    memory: &mut [u8],
    chain: &[Descriptor],
) -> Result<Option<u32>, Box<dyn std::error::Error + Send + Sync>> {
    let start = GuestAddress(0);
    let guest: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(start, memory.len())])?;
    guest.write_slice(memory, start)?;
    let descriptors = chain.iter().map(|(at, length, writes)| {
        let segment = (GuestAddress(*at), *length);
        (segment, *writes)
    });
    let Some(request) = parse(&guest, descriptors) else { return Ok(None) };
    let written = perform(disk, &[b'i'; IDENTITY], &guest, request, false).await;
    guest.read_slice(memory, start)?;
    Ok(Some(written))
}
