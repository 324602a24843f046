//! NBD protocol bytes: no sockets, no files.
