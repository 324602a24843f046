use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use regex::bytes::Regex;
use sluice_node_api::{CheckScript, CheckSsh};

use super::value;

/// Boot a restore point in a virtual machine and see whether it answers
///
/// The guest runs under QEMU on this machine. Its disks are the restore point itself; what it
/// writes is thrown away. Its network leads nowhere, but for the ports that are checked. Needs
/// qemu-system-x86_64 (package qemu-system-x86). Ends with status 3 when the guest does not answer.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice boot-test web-1@latest
  sluice boot-test web-1 --tcp 22=^SSH --timeout 10m --screenshot web-1.png
  sluice boot-test web-1 --ssh root --ssh-key /etc/sluice/restore-test
  sluice boot-test db-1 --script '5432=/opt/checks/database app'
  sluice boot-test win-1 --firmware uefi --disk sata --nic e1000 --memory 4GiB --guest-agent")]
pub(crate) struct BootTestArgs {
    /// The restore point, with :IMAGE to start with that image only
    pub(crate) point: String,

    /// It answers when its serial console shows this, a regular expression; several must all be
    /// shown [default: login: when nothing else is checked]
    #[arg(long, value_name = "REGEX", value_parser = Regex::new)]
    pub(crate) console: Vec<Regex>,

    /// It answers when this port of the guest does, and sends what the expression says
    #[arg(long, value_name = "PORT[=REGEX]", value_parser = tcp)]
    pub(crate) tcp: Vec<TcpCheck>,

    /// It answers when its guest agent does
    #[arg(long)]
    pub(crate) guest_agent: bool,

    /// It answers when this command of this machine ends with 0: a program with its arguments,
    /// without a shell. It finds the guest's ports as SLUICE_GUEST_HOST and SLUICE_GUEST_PORT_n,
    /// and is run again until it does
    #[arg(long, value_name = "[PORT,...=]COMMAND", value_parser = script)]
    pub(crate) script: Vec<CheckScript>,

    /// It answers when this user can log in by SSH
    #[arg(long, value_name = "USER[:PORT]", value_parser = ssh, requires = "ssh_key")]
    pub(crate) ssh: Vec<CheckSsh>,

    /// File of the key for that
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key: Option<PathBuf>,

    /// How long it has to answer
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = value::duration)]
    pub(crate) timeout: Duration,

    /// Memory of the guest
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = value::bytes)]
    pub(crate) memory: u64,

    /// Processors of the guest
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) cpus: u32,

    /// What the guest boots with
    #[arg(long, value_enum, value_name = "FIRMWARE", default_value = "bios")]
    pub(crate) firmware: Firmware,

    /// How the guest sees its disks
    #[arg(long, value_enum, value_name = "BUS", default_value = "virtio")]
    pub(crate) disk: DiskBus,

    /// How the guest sees its network card
    #[arg(long, value_enum, value_name = "CARD", default_value = "virtio")]
    pub(crate) nic: Nic,

    /// Whether the processor runs the guest itself; auto does where that works for any guest
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub(crate) accelerator: Accelerator,

    /// Write what the guest's screen shows at the end to this file, as PNG
    #[arg(long, value_name = "FILE")]
    pub(crate) screenshot: Option<PathBuf>,
}

/// Boot several restore points in one network and see whether they answer
///
/// Each guest is one as of `sluice boot-test`. Their network leads nowhere but to each other: they
/// have addresses by DHCP, or those that they come with. A guest of a later stage is started when
/// all of earlier ones have answered, and all run until the last has. Needs QEMU 7.2 or later.
///
/// The document has `subnet` and a list of `guests`. Of each, only `point` must be said: stage,
/// address, ssh_key (a file), memory_mib, cpus, firmware, disk, nic, timeout_seconds, and `checks`
/// as plans have them, of kind console, tcp, guest-agent, script or ssh.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice boot-together shop.yaml
  sluice boot-together '{\"guests\": [{\"point\": \"db-1\"}, {\"point\": \"web-1\", \"stage\": 1}]}'

shop.yaml:
  subnet: 10.0.2.0/24
  guests:
    - {point: db-1, address: 10.0.2.15, checks: [{kind: tcp, port: 5432}]}
    - {point: web-1@latest, stage: 1, timeout_seconds: 600, checks: [
        {kind: console, pattern: \"orders: [0-9]+\"}, {kind: script, command: [/opt/orders]}]}")]
pub(crate) struct BootTogetherArgs {
    /// What is booted: a file, - for standard input, or the document itself
    #[arg(value_name = "SPEC")]
    pub(crate) spec: String,

    /// Whether the processor runs the guests itself; auto does where that works for any guest
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub(crate) accelerator: Accelerator,
}

/// A port that is to answer.
#[derive(Debug, Clone)]
pub(crate) struct TcpCheck {
    pub(crate) port: u16,
    pub(crate) banner: Option<Regex>,
}

fn tcp(text: &str) -> Result<TcpCheck, String> {
    let (port, banner) = match text.split_once('=') {
        Some((port, banner)) => (port, Some(Regex::new(banner).map_err(|e| e.to_string())?)),
        None => (text, None),
    };
    let port = port.parse().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("{text:?} is no port; write 22 or 22=^SSH"))?;
    Ok(TcpCheck { port, banner })
}

/// A document, or words with ports in front of them.
fn script(text: &str) -> Result<CheckScript, String> {
    if text.starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    let listed = |text: &str| text.split(',').map(|port| port.parse().ok()).collect();
    let (ports, words): (Option<Vec<u16>>, _) = match text.split_once('=') {
        Some((ports, words)) => match listed(ports) {
            Some(ports) => (Some(ports), words),
            None => (None, text),
        },
        None => (None, text),
    };
    let command = shlex::split(words).filter(|words| !words.is_empty());
    let command = command.ok_or_else(|| format!("{words:?} is no command"))?;
    Ok(CheckScript { command, ports: ports.unwrap_or_default(), ..CheckScript::default() })
}

/// A document, or a user with a port.
fn ssh(text: &str) -> Result<CheckSsh, String> {
    if text.starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    let (user, port) = text.split_once(':').unwrap_or((text, "22"));
    let port = port.parse().ok().filter(|port| *port > 0);
    match port {
        Some(port) if !user.is_empty() && !user.starts_with('-') && !user.contains('@') => {
            Ok(CheckSsh { user: user.to_owned(), port, command: Vec::new() })
        }
        _ => Err(format!("{text:?} is no USER or USER:PORT")),
    }
}

/// What a guest boots with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Firmware {
    /// SeaBIOS
    Bios,
    /// OVMF (package ovmf)
    Uefi,
}

/// How a guest sees its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiskBus {
    /// virtio-blk
    Virtio,
    /// virtio-scsi
    Scsi,
    /// AHCI, which every system knows
    Sata,
}

/// How a guest sees its network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Nic {
    /// virtio-net
    Virtio,
    /// Intel 82540EM, which most systems know
    E1000,
}

/// What runs a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accelerator {
    /// KVM where the processor's own virtualization is behind it, else QEMU
    Auto,
    /// The kernel
    Kvm,
    /// QEMU
    Tcg,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_say_what_it_sends() {
        let check = tcp("22=^SSH-2").unwrap();
        assert_eq!(check.port, 22);
        assert!(check.banner.is_some_and(|banner| banner.is_match(b"SSH-2.0-x")));
        assert!(tcp("443").is_ok_and(|check| check.banner.is_none()));
        for bad in ["", "0", "65536", "ssh", "22=("] {
            assert!(tcp(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn commands_name_the_ports_that_they_reach() {
        let check = script("5432,80=/opt/check 'a b' c=d").unwrap();
        assert_eq!(check.ports, [5432, 80]);
        assert_eq!(check.command, ["/opt/check", "a b", "c=d"]);
        assert_eq!(script("/opt/check c=d").unwrap().ports, [0; 0]);
        let told = r#"{"command": ["/t"], "reject": [2]}"#;
        assert_eq!(script(told).unwrap().reject, [2]);
        assert!(["", "80=", "'", "{"].iter().all(|bad| script(bad).is_err()));
        let login = ssh("root:2222").unwrap();
        assert_eq!((&*login.user, login.port), ("root", 2222));
        assert!(["", "-o", "a@b", "a:0"].iter().all(|bad| ssh(bad).is_err()));
    }
}
