//! What restore points can be booted with here.

use std::path::{Path, PathBuf};

use sluice_node_api::Ability;

use super::run;
use crate::command::boot_test::{SSH, firmware_files, is_program, kvm_lacks, qemu};

/// Who runs guests.
pub(super) const NAMES: [&str; 2] = ["test:kvm", "test:tcg"];
/// What guests that boot by UEFI need.
const UEFI: &str = "test:uefi";
/// What checks of guests that log in need.
const LOGIN: &str = "test:ssh";
/// The package of QEMU.
const PACKAGE: &str = "package qemu-system-x86";
/// The kernel's device for guests.
pub(super) const KVM: &str = "/dev/kvm";

/// All of them.
pub(super) async fn look() -> Vec<Ability> {
    let uefi = match firmware() {
        Some(_) => Ability::works(UEFI),
        None => Ability::lacks(UEFI, "there is no firmware for UEFI", "package ovmf"),
    };
    let login = match is_program(SSH) {
        true => Ability::works(LOGIN),
        false => Ability::lacks(LOGIN, "there is no ssh", "package openssh-client"),
    };
    let Some(qemu) = qemu() else {
        let none = |name| Ability::lacks(name, "there is no qemu-system-x86_64", PACKAGE);
        return NAMES.into_iter().map(none).chain([uefi, login]).collect();
    };
    let kvm = async {
        match kvm_lacks(Path::new(KVM)) {
            Some((why, fix)) => Ability::lacks(NAMES[0], why, fix),
            None => machine(&qemu, NAMES[0], "kvm").await,
        }
    };
    let (kvm, tcg) = tokio::join!(kvm, machine(&qemu, NAMES[1], "tcg"));
    vec![kvm, tcg, uefi, login]
}

/// The firmware for UEFI.
pub(super) fn firmware() -> Option<PathBuf> {
    firmware_files().map(|(code, _)| PathBuf::from(code))
}

/// Whether QEMU makes a machine with that accelerator: one is made, and ends before it begins.
async fn machine(qemu: &Path, name: &str, accelerator: &str) -> Ability {
    let machine = format!("q35,accel={accelerator}");
    let words = ["-no-user-config", "-nodefaults", "-display", "none", "-machine", &machine];
    let more = ["-m", "16", "-S", "-sandbox", "on", "-monitor", "stdio"];
    match run(qemu, &[&words[..], &more].concat(), "quit\n").await {
        Ok(_) => Ability::works(name),
        Err(why) => Ability::lacks(name, why, PACKAGE),
    }
}

#[cfg(test)]
mod tests {
    use super::super::which;
    use super::*;

    #[tokio::test]
    async fn a_program_that_makes_no_machine_is_none() {
        let none = machine(Path::new("/bin/false"), "test:tcg", "tcg").await;
        assert!(!none.works && none.fix == PACKAGE, "{none:?}");
        let real = which("qemu-system-x86_64");
        assert_eq!(qemu(), real);
        if let Some(qemu) = real {
            assert!(machine(&qemu, "test:tcg", "tcg").await.works);
            assert!(!machine(&qemu, "test:kvm", "nothing").await.works);
        }
    }
}
