//! Telling systemd.

use std::os::unix::ffi::OsStrExt;

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};

/// Says something to the service manager, if there is one that listens.
pub(crate) fn say(text: &str) -> Result<()> {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let failed = || format!("cannot tell {text} on NOTIFY_SOCKET");
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
        path => SocketAddrUnix::new(path),
    };
    let address = address.with_context(failed)?;
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None);
    let socket = socket.with_context(failed)?;
    rustix::net::sendto(&socket, text.as_bytes(), SendFlags::empty(), &address)
        .with_context(failed)?;
    Ok(())
}
