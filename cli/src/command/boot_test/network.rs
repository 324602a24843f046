//! A network of guests that are booted together. It leads nowhere else.
//!
//! ```text
//!   guest 1 ── socket ──┐
//!   guest 2 ── socket ──┼── switch (this process) ── socket ── gateway (QEMU without a guest)
//!   guest 3 ── socket ──┘        │ addresses by DHCP              │ restricted: ports that are
//!                                                                   checked, from loopback only
//! ```
//!
//! Guests speak to each other as they did where they come from, with addresses of their own or by
//! DHCP: each gets the address that it is known by. What is for anybody else is thrown away.

mod dhcp;
mod switch;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::machine::gateway_words;
use super::monitor::Monitor;
use crate::error::{advise, usage_error};
use crate::leash;
use dhcp::Offer;
use switch::Switch;

/// A longer frame is no frame.
const LONGEST: u32 = 70_000;
/// Frames that wait for a port. More are lost, as on any wire.
const WAITING: usize = 512;
/// How long the gateway may take to begin.
const BEGIN: Duration = Duration::from_secs(60);
/// The first address that is given by itself is so far from the beginning of the network.
const FIRST: u32 = 15;
/// Guests of a network.
pub(super) const MOST: usize = 8;

/// The addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnet {
    base: u32,
    prefix: u32,
}

impl Subnet {
    /// `10.0.2.0/24`, or that when nothing is said.
    pub(super) fn of(text: &str) -> Result<Self> {
        let text = if text.is_empty() { "10.0.2.0/24" } else { text };
        let parsed = || {
            let (base, prefix) = text.split_once('/')?;
            let base = u32::from(base.parse::<Ipv4Addr>().ok()?);
            let prefix = prefix.parse().ok().filter(|prefix| (8..=27).contains(prefix))?;
            let own = Self { base, prefix };
            (base & !own.mask() == 0).then_some(own)
        };
        parsed().ok_or_else(|| {
            usage_error(format!("{text:?} is no network; write 10.0.2.0/24, of /8 to /27"))
        })
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - self.prefix)
    }

    /// So many addresses before the last one.
    fn before_end(self, many: u32) -> Ipv4Addr {
        (self.base | !self.mask()).saturating_sub(many).into()
    }

    pub(super) fn gateway(self) -> Ipv4Addr {
        self.before_end(1)
    }

    /// The address of a guest: the one that is said, or by its number.
    pub(super) fn guest(self, number: usize, said: &str) -> Result<Ipv4Addr> {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let own = match said {
            "" => self.base.saturating_add(FIRST).saturating_add(number).into(),
            said => said.parse::<Ipv4Addr>().map_err(|_| {
                usage_error(format!("{said:?} is no address; write one such as 10.0.2.15"))
            })?,
        };
        let bits = u32::from(own);
        let inside = bits & self.mask() == self.base && bits != self.base;
        // The last ones are the gateway's.
        if inside && own < self.before_end(3) { Ok(own) } else { Err(self.outside(own)) }
    }

    fn outside(self, own: Ipv4Addr) -> anyhow::Error {
        let first = Ipv4Addr::from(self.base + 1);
        usage_error(format!(
            "{own} is no guest's address: those are {first} to {}",
            self.before_end(4)
        ))
    }

    /// What the gateway's QEMU is told of it.
    pub(super) fn words(self) -> String {
        let (base, gateway) = (Ipv4Addr::from(self.base), self.gateway());
        let (dns, first) = (self.before_end(2), self.before_end(3));
        format!("net={base}/{},host={gateway},dns={dns},dhcpstart={first}", self.prefix)
    }
}

/// A guest of a network.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) address: Ipv4Addr,
    /// Ports of it that are reached from this machine.
    pub(super) ports: Vec<u16>,
}

/// The address of a guest's card.
pub(super) fn card(number: usize) -> String {
    format!("52:54:00:5c:00:{:02x}", number + 1)
}

/// A network that runs; it ends when dropped.
pub(super) struct Network {
    pub(super) monitor: Arc<tokio::sync::Mutex<Monitor>>,
    _gateway: Child,
    _wires: JoinSet<()>,
}

/// The socket of a port.
pub(super) fn socket(folder: &Path, port: usize) -> PathBuf {
    folder.join(format!("wire-{port}"))
}

impl Network {
    /// Begins a network in a folder. Must be called on the main thread.
    pub(super) async fn start(
        qemu: &Path,
        folder: &Path,
        subnet: Subnet,
        members: &[Member],
    ) -> Result<Self> {
        let gateway = leash::tether(qemu);
        Self::with(gateway, folder, subnet, members).await
    }

    /// The same, with a command for the gateway that lacks its words.
    async fn with(
        mut command: Command,
        folder: &Path,
        subnet: Subnet,
        members: &[Member],
    ) -> Result<Self> {
        let offer = |member: &Member| Offer {
            address: member.address,
            mask: subnet.mask().into(),
            gateway: subnet.gateway(),
            gateway_mac: [0x52, 0x54, 0, 0x5c, 1, 0],
        };
        let switch = Arc::new(Mutex::new(Switch::new(members.iter().map(offer))));
        let (mut wires, mut ends, mut sockets) = (JoinSet::new(), Vec::new(), Vec::new());
        for port in 0..=members.len() {
            let (end, waiting) = mpsc::channel(WAITING);
            let listener = UnixListener::bind(socket(folder, port));
            sockets.push((listener.context("cannot make a wire of the network")?, waiting));
            ends.push(end);
        }
        let ends: Arc<[mpsc::Sender<Vec<u8>>]> = ends.into();
        for (port, (listener, waiting)) in sockets.into_iter().enumerate() {
            let (switch, ends) = (Arc::clone(&switch), Arc::clone(&ends));
            wires.spawn(serve(port, listener, waiting, switch, ends));
        }
        let place = folder.join("gateway");
        command.args(gateway_words(subnet, members, &place, &socket(folder, switch::GATEWAY)));
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped());
        let mut gateway = command.spawn().context("cannot start QEMU")?;
        let monitor = begun(&mut gateway, &place).await?;
        let monitor = Arc::new(tokio::sync::Mutex::new(monitor));
        Ok(Self { monitor, _gateway: gateway, _wires: wires })
    }
}

/// The monitor of the gateway.
async fn begun(gateway: &mut Child, place: &Path) -> Result<Monitor> {
    let until = Instant::now() + BEGIN;
    loop {
        if let Some(monitor) = Monitor::connect(place).await {
            return Ok(monitor);
        }
        if !matches!(gateway.try_wait(), Ok(None)) || Instant::now() > until {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let _ = gateway.kill().await;
    let mut said = String::new();
    if let Some(mut from) = gateway.stderr.take() {
        let _ = from.read_to_string(&mut said).await;
    }
    let why = said.lines().last().unwrap_or("it says nothing");
    let text = format!("the network of the guests does not begin: {why}");
    Err(advise("local", text, "networks take QEMU 7.2 or later"))
}

/// Carries frames of one port, until the network ends.
async fn serve(
    port: usize,
    listener: UnixListener,
    waiting: mpsc::Receiver<Vec<u8>>,
    switch: Arc<Mutex<Switch>>,
    ends: Arc<[mpsc::Sender<Vec<u8>>]>,
) {
    // One is plugged in, and stays.
    let Ok((stream, _)) = listener.accept().await else { return };
    let (from, to) = stream.into_split();
    let inward = take_in(port, from, &switch, &ends);
    let outward = put_out(to, waiting);
    tokio::join!(inward, outward);
}

async fn take_in(
    port: usize,
    mut from: OwnedReadHalf,
    switch: &Mutex<Switch>,
    ends: &[mpsc::Sender<Vec<u8>>],
) {
    while let Ok(length) = from.read_u32().await {
        if length > LONGEST {
            return;
        }
        let mut frame = vec![0; length as usize];
        if from.read_exact(&mut frame).await.is_err() {
            return;
        }
        let taken = switch.lock().unwrap_or_else(PoisonError::into_inner).take(port, &frame);
        for (port, frame) in taken {
            // What does not fit is lost, as on any wire.
            let _ = ends.get(port).map(|end| end.try_send(frame));
        }
    }
}

async fn put_out(mut to: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = waiting.recv().await {
        let mut bytes = Vec::with_capacity(frame.len() + 4);
        bytes.extend(u32::try_from(frame.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&frame);
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine;
    use super::*;

    #[test]
    fn guests_have_addresses_of_their_network() {
        let subnet = Subnet::of("192.168.7.0/27").unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(192, 168, 7, 30));
        assert_eq!(subnet.guest(1, "").unwrap(), Ipv4Addr::new(192, 168, 7, 16));
        assert!(subnet.guest(MOST - 1, "").is_ok());
        assert!(subnet.guest(0, "192.168.7.1").is_ok());
        for bad in ["192.168.8.1", "192.168.7.0", "192.168.7.30", "192.168.7.28", "x"] {
            assert!(subnet.guest(0, bad).is_err(), "{bad}");
        }
        assert_eq!(Subnet::of("").unwrap(), Subnet::of("10.0.2.0/24").unwrap());
        for bad in ["10.0.2.0", "10.0.2.1/24", "10.0.2.0/28", "10.0.0.0/7", "x/24"] {
            assert!(Subnet::of(bad).is_err(), "{bad}");
        }
        let words = Subnet::of("10.1.0.0/16").unwrap().words();
        let wanted = "net=10.1.0.0/16,host=10.1.255.254,dns=10.1.255.253,dhcpstart=10.1.255.252";
        assert_eq!(words, wanted);
    }

    /// A guest that says what it is told to.
    struct Raw(tokio::net::UnixStream);

    impl Raw {
        async fn plug_in(folder: &Path, port: usize) -> Self {
            Self(tokio::net::UnixStream::connect(socket(folder, port)).await.unwrap())
        }

        async fn say(&mut self, frame: &[u8]) {
            self.0.write_u32(u32::try_from(frame.len()).unwrap()).await.unwrap();
            self.0.write_all(frame).await.unwrap();
        }

        /// The next frame that is like this.
        async fn hear(&mut self, like: impl Fn(&[u8]) -> bool) -> Vec<u8> {
            let heard = async {
                loop {
                    let mut frame = vec![0; self.0.read_u32().await.unwrap() as usize];
                    self.0.read_exact(&mut frame).await.unwrap();
                    if like(&frame) {
                        return frame;
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(60), heard).await.expect("it is heard")
        }
    }

    /// Who has an address, or, with `to`, that `by` has one.
    fn arp(to: Option<[u8; 6]>, by: [u8; 6], own: [u8; 4], asked: [u8; 4]) -> Vec<u8> {
        let kind = if to.is_some() { 2 } else { 1 };
        let mut frame = [to.unwrap_or([255; 6]), by].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, kind]);
        frame.extend(by);
        frame.extend(own);
        frame.extend(to.unwrap_or_default());
        frame.extend(asked);
        frame
    }

    /// The beginning of a connection over TCP.
    fn syn((to, by): ([u8; 6], [u8; 6]), own: [u8; 4], there: ([u8; 4], u16)) -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0];
        ip.extend([own, there.0].concat());
        let sum = dhcp::checksum(&ip).to_be_bytes();
        ip[10..12].copy_from_slice(&sum);
        let mut tcp = vec![0x9c, 0x40];
        tcp.extend(there.1.to_be_bytes());
        tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        let summed = [&own[..], &there.0, &[0, 6, 0, 20], &tcp].concat();
        let sum = dhcp::checksum(&summed).to_be_bytes();
        tcp[16..18].copy_from_slice(&sum);
        [&to[..], &by, &[8, 0], &ip, &tcp].concat()
    }

    #[tokio::test]
    async fn guests_reach_each_other_and_this_machine_reaches_their_ports() {
        let Some(qemu) = machine::qemu() else {
            eprintln!("SKIPPED: no qemu-system-x86_64 (package qemu-system-x86)");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let subnet = Subnet::of("192.168.7.0/24").unwrap();
        let member =
            |number| Member { address: subnet.guest(number, "").unwrap(), ports: vec![5432] };
        let members = [member(0), member(1)];
        let begun = Network::with(Command::new(qemu), folder.path(), subnet, &members).await;
        let network = begun.unwrap();
        let mut one = Raw::plug_in(folder.path(), 1).await;
        let mut two = Raw::plug_in(folder.path(), 2).await;
        // It asks for an address, and gets its own.
        let mac = dhcp::tests::MAC;
        one.say(&dhcp::tests::question(1, &[])).await;
        let offer = one.hear(|frame| frame[12..14] == [8, 0]).await;
        assert_eq!(offer[14 + 20 + 8 + 16..][..4], [192, 168, 7, 15]);
        // The other one looks for it.
        let other = [2, 0, 0, 0, 0, 2];
        two.say(&arp(None, other, [192, 168, 7, 16], [192, 168, 7, 15])).await;
        let asked = one.hear(|frame| frame[12..14] == [8, 6]).await;
        assert_eq!(asked[38..42], [192, 168, 7, 15]);
        one.say(&arp(Some(other), mac, [192, 168, 7, 15], [192, 168, 7, 16])).await;
        let told = two.hear(|frame| frame[12..14] == [8, 6] && frame[21] == 2).await;
        assert_eq!((&told[..6], &told[6..12]), (&other[..], &mac[..]));
        // This machine begins to speak to a port of the first, and to nobody else.
        let ports = |number: usize| {
            let address = Some(members[number].address);
            super::super::monitor::Ports { monitor: Arc::clone(&network.monitor), address }
        };
        let (here, there) = (ports(0).forward(5432).await, ports(1).forward(5432).await);
        let here = here.expect("it is forwarded");
        assert!(there.is_some_and(|there| there != here), "each guest has a port of its own");
        let _speaks = tokio::net::TcpStream::connect(("127.0.0.1", here)).await.unwrap();
        let own = [192, 168, 7, 15];
        let who = one.hear(|frame| frame[12..14] == [8, 6] && frame[38..42] == own).await;
        let gateway: [u8; 6] = who[6..12].try_into().unwrap();
        // It tries to get out, to this machine, before it lets the gateway know where it is.
        let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = ([192, 168, 7, 254], outside.local_addr().unwrap().port());
        one.say(&syn((gateway, mac), own, there)).await;
        one.say(&arp(Some(gateway), mac, own, [192, 168, 7, 254])).await;
        let syn = one.hear(|frame| frame[12..14] == [8, 0] && frame[23] == 6).await;
        assert_eq!((&syn[30..34], &syn[36..38]), (&own[..], &5432_u16.to_be_bytes()[..]));
        // The gateway has seen what came before that, and let nothing out.
        outside.set_nonblocking(true).unwrap();
        let reached = outside.accept().map(drop).map_err(|error| error.kind());
        assert_eq!(reached, Err(std::io::ErrorKind::WouldBlock));
    }
}
