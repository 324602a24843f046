//! What QEMU is called with.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use sluice_node_api::CheckSsh;

use super::network::{Member, Subnet};
use crate::args::{Accelerator, BootTestArgs, DiskBus, Firmware, Nic};
use crate::error::advise;

/// The program.
pub(super) const QEMU: &str = "qemu-system-x86_64";
/// Where distributions keep the firmware, and its empty variables.
const OVMF: [(&str, &str); 3] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
];

/// The program's path, if this machine has it.
pub(crate) fn qemu() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(QEMU)).find(|file| file.is_file())
}

/// The program's path.
pub(super) fn needed() -> Result<PathBuf> {
    qemu().ok_or_else(|| {
        let text = format!("{QEMU} is not on this machine");
        advise("local", text, "install the package qemu-system-x86")
    })
}

/// Why the kernel cannot run any guest, and what is missing: a device for it, or the processor's
/// own means behind that. Where those are not passed on to a virtual machine, stock guests do not
/// boot.
pub(crate) fn kvm_lacks(device: &Path) -> Option<(String, &'static str)> {
    let opened = std::fs::File::options().read(true).write(true).open(device);
    if let Err(error) = opened {
        let fix = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "to run as root, or in the group kvm",
            _ => "virtualisation by the processor, and the kernel module kvm_intel or kvm_amd",
        };
        return Some((format!("{}: {error}", device.display()), fix));
    }
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpus.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    (!has).then(|| {
        let why = "the processor shows neither vmx nor svm".to_owned();
        (why, "virtualisation that is passed on to this virtual machine")
    })
}

/// Who runs the guest.
pub(super) fn accelerator(wanted: Accelerator) -> &'static str {
    match wanted {
        Accelerator::Kvm => "kvm",
        Accelerator::Auto if kvm_lacks(Path::new("/dev/kvm")).is_none() => "kvm",
        Accelerator::Auto | Accelerator::Tcg => "tcg",
    }
}

/// The firmware for UEFI and its empty variables, where this machine has them.
pub(crate) fn firmware_files() -> Option<(&'static str, &'static str)> {
    OVMF.into_iter().find(|(code, _)| Path::new(code).is_file())
}

/// Where things are in the folder of a test.
pub(super) struct Places<'a>(pub(super) &'a Path);

impl Places<'_> {
    fn file(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    pub(super) fn disks(&self) -> PathBuf {
        self.0.join("disks")
    }

    pub(super) fn monitor(&self) -> PathBuf {
        self.0.join("monitor")
    }

    pub(super) fn agent(&self) -> PathBuf {
        self.0.join("agent")
    }

    pub(super) fn screenshot(&self) -> PathBuf {
        self.0.join("screen.png")
    }
}

/// Within an option's value, commas are doubled.
fn value(text: &str) -> String {
    text.replace(',', ",,")
}

/// The network that a guest is in.
pub(super) enum Net<'a> {
    /// One of its own.
    Own,
    /// One of several guests: the socket of its wire, and the address of its card.
    Shared(&'a Path, String),
}

/// The words behind the program's name. The first of `images` is booted.
pub(super) fn words(
    args: &BootTestArgs,
    accelerator: &str,
    images: &[String],
    (places, net): (&Places<'_>, &Net<'_>),
) -> Result<Vec<String>> {
    let cpu = if accelerator == "kvm" { "host" } else { "max" };
    let mut words: Vec<String> = [
        "-name",
        "sluice-boot-test",
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-vga",
        "std",
        "-rtc",
        "base=utc",
        "-cpu",
        cpu,
        // A guest that breaks out of its machine can start nothing and become nobody.
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut say = |option: &str, what: String| words.extend([option.to_owned(), what]);
    say("-machine", format!("q35,accel={accelerator}"));
    say("-m", (args.memory >> 20).max(16).to_string());
    say("-smp", args.cpus.to_string());
    firmware(args.firmware, &mut say)?;
    say("-chardev", "stdio,id=console,signal=off".into());
    say("-serial", "chardev:console".into());
    let socket =
        |name| format!("socket,id={name},path={},server=on,wait=off", value(&places.file(name)));
    say("-chardev", socket("monitor"));
    say("-mon", "chardev=monitor,mode=control".into());
    say("-device", "virtio-serial-pci".into());
    say("-chardev", socket("agent"));
    say("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0".into());
    say("-device", "virtio-rng-pci".into());
    let card = match args.nic {
        Nic::Virtio => "virtio-net-pci",
        Nic::E1000 => "e1000",
    };
    match net {
        // Nothing gets out, and nothing in but from this machine to what is checked.
        Net::Own => {
            let ports = ports(args).into_iter();
            let ports = ports.map(|port| format!(",hostfwd=tcp:127.0.0.1:0-:{port}"));
            say("-netdev", format!("user,id=net,restrict=on{}", ports.collect::<String>()));
            say("-device", format!("{card},netdev=net,romfile="));
        }
        Net::Shared(socket, mac) => {
            say("-netdev", wire(socket, "net"));
            say("-device", format!("{card},netdev=net,romfile=,mac={mac}"));
        }
    }
    if args.disk == DiskBus::Scsi {
        say("-device", "virtio-scsi-pci,id=scsi".into());
    }
    for (number, image) in images.iter().enumerate() {
        // What is written goes to a file that QEMU removes as soon as it has made it.
        let path = value(&places.disks().to_string_lossy());
        say(
            "-drive",
            format!(
                "if=none,id=disk{number},snapshot=on,driver=raw,file.driver=nbd,\
                 file.server.type=unix,file.server.path={path},file.export={}",
                value(image)
            ),
        );
        let device = match args.disk {
            DiskBus::Virtio => "virtio-blk-pci".to_owned(),
            DiskBus::Scsi => "scsi-hd,bus=scsi.0".to_owned(),
            DiskBus::Sata => format!("ide-hd,bus=ide.{number}"),
        };
        say("-device", format!("{device},drive=disk{number},bootindex={}", number + 1));
    }
    Ok(words)
}

/// One end of a wire.
fn wire(socket: &Path, id: &str) -> String {
    let path = value(&socket.to_string_lossy());
    format!("stream,id={id},server=off,addr.type=unix,addr.path={path}")
}

/// The words for a QEMU without a guest, which is the gateway of a network.
pub(super) fn gateway_words(
    subnet: Subnet,
    members: &[Member],
    monitor: &Path,
    socket: &Path,
) -> Vec<String> {
    let mut words: Vec<String> = [
        "-name",
        "sluice-boot-network",
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-machine",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut say = |option: &str, what: String| words.extend([option.to_owned(), what]);
    let path = value(&monitor.to_string_lossy());
    say("-chardev", format!("socket,id=monitor,path={path},server=on,wait=off"));
    say("-mon", "chardev=monitor,mode=control".into());
    let forwards = members.iter().flat_map(|member| {
        let to = move |port| format!(",hostfwd=tcp:127.0.0.1:0-{}:{port}", member.address);
        member.ports.iter().map(to)
    });
    let forwards = forwards.collect::<String>();
    say("-netdev", format!("user,id=net,restrict=on,{}{forwards}", subnet.words()));
    say("-netdev", wire(socket, "wire"));
    say("-netdev", "hubport,id=inside,hubid=0,netdev=net".into());
    say("-netdev", "hubport,id=outside,hubid=0,netdev=wire".into());
    words
}

/// Ports of the guest that something is to reach.
pub(super) fn ports(args: &BootTestArgs) -> BTreeSet<u16> {
    let scripts = args.script.iter().flat_map(|script| script.ports.iter().copied());
    let logins = args.ssh.iter().map(ssh_port);
    args.tcp.iter().map(|check| check.port).chain(scripts).chain(logins).collect()
}

/// The port of a login.
pub(super) fn ssh_port(login: &CheckSsh) -> u16 {
    if login.port == 0 { 22 } else { login.port }
}

fn firmware(firmware: Firmware, say: &mut impl FnMut(&str, String)) -> Result<()> {
    if firmware == Firmware::Bios {
        return Ok(());
    }
    let (code, variables) = firmware_files().ok_or_else(|| {
        let text = "there is no firmware for UEFI on this machine";
        advise("local", text, "install the package ovmf")
    })?;
    say("-drive", format!("if=pflash,format=raw,readonly=on,file={code}"));
    say("-drive", format!("if=pflash,format=raw,snapshot=on,file={variables}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn called(line: &str, images: &[&str]) -> String {
        let Command::BootTest(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("{line} is no test");
        };
        let images: Vec<String> = images.iter().map(|&image| image.to_owned()).collect();
        let places = Places(Path::new("/t,1"));
        words(&args, "tcg", &images, (&places, &Net::Own)).unwrap().join(" ")
    }

    #[test]
    fn the_network_leads_nowhere_and_what_is_written_is_thrown_away() {
        let line = "sluice boot-test vm --tcp 443 --tcp 22=^SSH --ssh root --ssh-key /k";
        let words = called(line, &["root", "a,b"]);
        let net =
            "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22,hostfwd=tcp:127.0.0.1:0-:443";
        assert!(words.contains(net), "{words}");
        assert_eq!(words.matches("snapshot=on").count(), 2);
        assert!(words.contains("file.export=a,,b") && words.contains("path=/t,,1/disks"));
        assert!(words.contains("virtio-blk-pci,drive=disk1,bootindex=2"));
    }

    #[test]
    fn a_guest_may_know_only_old_hardware() {
        let words = called("sluice boot-test vm --disk sata --nic e1000 --memory 2GiB", &["root"]);
        for part in ["ide-hd,bus=ide.0,drive=disk0", "e1000,netdev=net", "-m 2048"] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
    }
}
