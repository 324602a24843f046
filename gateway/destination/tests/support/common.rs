//! What the tests of servers share.

use std::time::Duration;

use bytes::Bytes;
use sluice_destination::wrap::RetryPolicy;
use sluice_destination::{Key, Timeouts};

/// For requests that never end: they fail soon. Others could fail on a busy machine.
pub const IMPATIENT: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(2),
    stall: Duration::from_secs(1),
    rate: 1 << 20,
};

/// Tries again at once, and not for long.
pub const QUICK: RetryPolicy = RetryPolicy {
    attempts: 4,
    base: Duration::from_millis(5),
    cap: Duration::from_millis(20),
    total: Duration::from_secs(60),
};

pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Larger than any buffer on its way.
pub fn large() -> Bytes {
    (0..3_000_000u32).map(|at| (at.wrapping_mul(0x9E37_79B1) >> 11) as u8).collect()
}
