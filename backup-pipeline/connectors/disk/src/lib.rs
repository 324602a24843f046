//! Disk image files and block devices as backup sources.
