//! What is looked at in a disk image before QEMU opens it. Guests write these bytes.

#![no_main]

use sluice_connector_disk::inspect;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    inspect::detect(input, input);
    if let Ok(Some(name)) = inspect::qcow2_backing(input) {
        assert!(name.len() <= 1023, "longer than the format allows");
    }
    if let Ok(files) = inspect::vmdk_extents(&inspect::vmdk_descriptor(input)) {
        assert!(files.iter().all(|file| !file.name.contains('"')));
    }
});
