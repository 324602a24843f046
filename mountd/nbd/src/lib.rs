//! NBD export server over any block device.
