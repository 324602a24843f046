//! Ports that have to be known before somebody listens there.
//!
//! A port that the kernel has chosen is free again once the socket is closed, and the kernel may
//! give it to another test before the server that it is for listens: there are some thousand to
//! choose from, and tests that run beside this one take many each second. These are below those it
//! chooses from (`net.ipv4.ip_local_port_range`), so nobody is given one who does not ask for it.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where they begin. Servers of `tests/lab` are below, at 9333 and more and at 10000 above that.
const FIRST: u32 = 22_000;
/// How many there are.
const COUNT: u32 = 10_000;

/// A port of this machine where nobody listens, and which stays that way from one start of a
/// server to the next.
pub fn free() -> u16 {
    static TURN: AtomicU32 = AtomicU32::new(0);
    // Each test is a process of its own: far from its neighbours.
    let own = std::process::id().wrapping_mul(0x9e37_79b1) >> 8;
    loop {
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + own.wrapping_add(turn * 1009) % COUNT;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
