//! An NBD server as a backup source, with its dirty bitmap.
