use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sluice_block::{BlockRead, BlockWrite};
use sluice_door::Places;
use sluice_iscsi_wire::limits;
use sluice_scsi::Identity;
use zeroize::Zeroizing;

use crate::ServeError;

/// Logical units of one target: what one byte of their number can say.
const MOST_UNITS: usize = 256;

/// Logical blocks in a physical one, as a power of two: 4 KiB, which is what disks and file systems
/// of today are made of.
const PHYSICAL: u8 = 3;

/// A disk behind a logical unit.
#[derive(Clone)]
pub(crate) enum Device {
    ReadOnly(Arc<dyn BlockRead>),
    Writable(Arc<dyn BlockWrite>),
}

/// A disk and who it is. The position in [`Target::luns`] is its number.
#[derive(Clone)]
pub struct Lun {
    pub(crate) device: Device,
    pub(crate) identity: Identity,
    pub(crate) product: String,
    pub(crate) physical: u8,
}

impl Lun {
    /// A disk that is write-protected.
    pub fn read_only(device: Arc<dyn BlockRead>, identity: Identity) -> Self {
        let product = "restore point".to_owned();
        Self { device: Device::ReadOnly(device), identity, product, physical: PHYSICAL }
    }

    /// A disk that can be written.
    pub fn writable(device: Arc<dyn BlockWrite>, identity: Identity) -> Self {
        let product = "disk".to_owned();
        Self { device: Device::Writable(device), identity, product, physical: PHYSICAL }
    }

    /// The same disk with `2^exponent` blocks of 512 bytes in a physical one, to which initiators
    /// align; 3 (4 KiB) unless told otherwise, and 15 at most.
    #[must_use]
    pub fn with_physical_exponent(mut self, exponent: u8) -> Self {
        self.physical = exponent.min(15);
        self
    }
}

impl fmt::Debug for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lun").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A user and a secret for CHAP.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) user: String,
    pub(crate) secret: Zeroizing<Vec<u8>>,
}

impl Credentials {
    /// Both as they are agreed with the other side.
    pub fn new(user: impl Into<String>, secret: impl Into<Vec<u8>>) -> Self {
        Self { user: user.into(), secret: Zeroizing::new(secret.into()) }
    }

    fn check(&self) -> Result<(), ServeError> {
        let length = self.secret.len();
        // "CHAP Considerations": 96 bits at least.
        if (12..=255).contains(&length) {
            return Ok(());
        }
        Err(ServeError::Secret { user: self.user.clone(), length })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Proof of identity that is asked for.
#[derive(Debug, Clone)]
pub struct Chap {
    /// What initiators prove themselves with.
    pub initiator: Credentials,
    /// What the target proves itself with, to initiators that ask.
    pub target: Option<Credentials>,
}

/// Who may use a target.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Names of the initiators that may; empty lets every name in.
    pub initiators: Vec<String>,
    /// The proof that is asked for; none asks for no proof.
    pub chap: Option<Chap>,
}

impl Access {
    pub(crate) fn allows(&self, initiator: &str) -> bool {
        self.initiators.is_empty()
            || self.initiators.iter().any(|name| name.eq_ignore_ascii_case(initiator))
    }
}

/// Disks under one iSCSI name.
#[derive(Debug, Clone)]
pub struct Target {
    /// The iSCSI name.
    pub name: String,
    /// A text for people; may be empty.
    pub alias: String,
    /// The disks; the first is logical unit 0.
    pub luns: Vec<Lun>,
    /// Who may use them.
    pub access: Access,
    /// Addresses that initiators are told to connect to, where they differ from those listened on:
    /// behind a translating router, say.
    pub announced: Vec<SocketAddr>,
}

impl Target {
    /// A target that everybody may use.
    pub fn new(name: impl Into<String>, luns: Vec<Lun>) -> Self {
        Self {
            name: name.into(),
            alias: String::new(),
            luns,
            access: Access::default(),
            announced: Vec::new(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ServeError> {
        if self.luns.is_empty() {
            return Err(ServeError::NoUnits);
        }
        if self.luns.len() > MOST_UNITS {
            return Err(ServeError::TooManyUnits { count: self.luns.len(), limit: MOST_UNITS });
        }
        let names = std::iter::once(&self.name).chain(&self.access.initiators);
        if let Some(name) = names.into_iter().find(|name| !is_name(name)) {
            return Err(ServeError::Name { name: name.clone() });
        }
        if let Some(chap) = &self.access.chap {
            chap.initiator.check()?;
            if let Some(target) = &chap.target {
                target.check()?;
                if target.secret == chap.initiator.secret {
                    return Err(ServeError::SameSecret);
                }
            }
        }
        Ok(())
    }
}

/// Whether `name` can be an iSCSI name ("iSCSI Name Structure"), in its normal form.
pub(crate) fn is_name(name: &str) -> bool {
    let known = ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind));
    let fits = name.len() > 4 && name.len() <= limits::NAME;
    let allowed = |c: char| match c {
        '-' | '.' | ':' | '0'..='9' | 'a'..='z' => true,
        'A'..='F' => !name.starts_with("iqn."),
        c => !c.is_ascii() && !c.is_whitespace() && !c.is_control(),
    };
    known && fits && name.chars().all(allowed)
}

/// What one client may take of the server.
///
/// Memory is bounded by `max_sessions * (2 * bytes_in_flight + commands * 64 KiB)` and 3 MiB for
/// pings and texts of each, reached only when every initiator keeps its queues full. Sessions for
/// discovery have nothing but the latter.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Sessions at a time. Connections count, and those that have not logged in yet, or only for
    /// discovery, make room for newer ones, the oldest first; beyond that, further ones are closed
    /// at once.
    pub max_sessions: usize,
    /// Of these, from one address (of IPv6: one /64).
    pub max_sessions_per_address: usize,
    /// Commands a session may have under way.
    pub commands: u32,
    /// Bytes that a session may have under way in each direction. At least one transfer of the
    /// largest size is always let through.
    pub bytes_in_flight: usize,
    /// Time from connecting to the end of login.
    pub login_timeout: Duration,
    /// Time that a session for discovery may go without a message: it asks for names and leaves.
    pub discovery_idle: Duration,
    /// Time without any progress in the middle of a message.
    pub stall_timeout: Duration,
    /// Time that commands under way get to finish when the server shuts down.
    pub shutdown_grace: Duration,
}

impl Limits {
    pub(crate) fn places(&self) -> Places {
        let (all, per_address) = (self.max_sessions, self.max_sessions_per_address);
        Places { all, per_address, strangers: all }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: 128,
            max_sessions_per_address: 64,
            // Linux has 128 commands per session by default.
            commands: 128,
            bytes_in_flight: 32 << 20,
            login_timeout: Duration::from_secs(15),
            discovery_idle: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_standard() {
        for name in ["iqn.2026-01.test:a.b-1", "eui.02004567A425678D", "naa.52004567BA64678D"] {
            assert!(is_name(name), "{name}");
        }
        let long = format!("iqn.{}", "x".repeat(220));
        for name in ["", "iqn.", "disk", "iqn.2026-01.test:A", "iqn.a b", "iqn.a_b", &long] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn secrets_are_checked_and_never_shown() {
        let device: Arc<dyn BlockRead> = Arc::new(sluice_block::MemoryDisk::new(512));
        let lun = Lun::read_only(device, Identity::from_digest([1; 32]));
        let mut target = Target::new("iqn.2026-01.test:a", vec![lun]);
        let long = Credentials::new("user", "twelve bytes");
        assert!(!format!("{long:?}").contains("twelve"));
        target.access.chap = Some(Chap { initiator: long.clone(), target: None });
        assert!(target.check().is_ok());
        target.access.chap = Some(Chap { initiator: long.clone(), target: Some(long) });
        assert!(matches!(target.check(), Err(ServeError::SameSecret)));
        let short = Credentials::new("user", "eleven byte");
        target.access.chap = Some(Chap { initiator: short, target: None });
        assert!(matches!(target.check(), Err(ServeError::Secret { length: 11, .. })));
    }
}
