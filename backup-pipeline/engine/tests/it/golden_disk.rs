//! The content of the disk in the golden repositories.

/// The disk at a generation: text that compresses, noise that does not, repeats and holes, an
/// odd size.
pub fn bytes(generation: u64) -> Vec<u8> {
    let mut disk = vec![0u8; (40 << 20) + 1234];
    for (line, place) in disk[..300_000].chunks_mut(40).enumerate() {
        let text = format!("line {line} of generation {:<30}", line as u64 % 97 * generation);
        let length = place.len();
        place.copy_from_slice(&text.as_bytes()[..length]);
    }
    let noise = |seed: u64, place: &mut [u8]| {
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(place);
    };
    noise(1, &mut disk[1 << 20..(1 << 20) + 50_000]);
    noise(2 + generation, &mut disk[(33 << 20) + 7..(33 << 20) + 30_000]);
    let (from, to) = (1 << 20, 20 << 20);
    disk.copy_within(from..from + (64 << 10), to);
    noise(9, &mut disk[(40 << 20)..]);
    disk
}
