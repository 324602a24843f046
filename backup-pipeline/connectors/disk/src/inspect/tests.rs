use proptest::prelude::*;

use super::*;

fn qcow2(backing: &str) -> Vec<u8> {
    let mut head = vec![0; 512];
    head[..4].copy_from_slice(b"QFI\xFB");
    head[7] = 3;
    head[103] = 104;
    if !backing.is_empty() {
        head[14..16].copy_from_slice(&256u16.to_be_bytes());
        head[18..20].copy_from_slice(&(backing.len() as u16).to_be_bytes());
        head[256..256 + backing.len()].copy_from_slice(backing.as_bytes());
    }
    head
}

#[test]
fn backing_names_are_found() {
    assert_eq!(qcow2_backing(&qcow2("")).unwrap(), None);
    assert_eq!(qcow2_backing(&qcow2("base.raw")).unwrap(), Some("base.raw".into()));
    let mut data_file = qcow2("");
    data_file[79] = 4;
    assert!(qcow2_backing(&data_file).is_err());
}

#[test]
fn protocols_are_no_plain_names() {
    for bad in ["json:{}", "nbd:host:1", "http://x/y", "", "fat:rw:/x"] {
        assert!(!is_plain(bad), "{bad}");
    }
    for good in ["base.raw", "/a/b:c", "./x:y", "../x"] {
        assert!(is_plain(good), "{good}");
    }
}

#[test]
fn a_guessed_format_may_not_name_other_files() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("guest.raw");
    std::fs::write(&disk, qcow2("/etc/hostname")).unwrap();
    let error = inspect(&disk, None).unwrap_err();
    assert!(matches!(error, DiskError::Unsafe(..)), "{error}");
    assert_eq!(inspect(&disk, Some(Format::Raw)).unwrap().chain[0].1, Format::Raw);
    let said = inspect(&disk, Some(Format::Qcow2)).unwrap();
    assert_eq!(said.chain.len(), 2);
}

#[test]
fn a_descriptor_that_a_guest_may_have_written_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // What QEMU follows, what it might follow by the time that it looks, and what names nothing.
    let odd = "# Disk DescriptorFile\nRW\x0b8\x0bFLAT\x0b\"/etc/hostname\"\x0b0\n";
    let own = "# Disk DescriptorFile\nRW 8 FLAT \"guest.raw\" 0\n";
    let mut sparse = vec![0; 1024];
    sparse[..4].copy_from_slice(b"KDMV");
    (sparse[12], sparse[28], sparse[512]) = (8, 1, b'#');
    for bytes in [odd.as_bytes(), own.as_bytes(), b"# Disk DescriptorFile", &sparse] {
        for name in ["guest.raw", "guest", "guest-flat.vmdk", "guest-f001.VMDK"] {
            std::fs::write(at(name), bytes).unwrap();
            let error = inspect(&at(name), None).unwrap_err();
            assert!(matches!(error, DiskError::Guessed(_, Format::Vmdk)), "{name}: {error}");
            assert_eq!(inspect(&at(name), Some(Format::Raw)).unwrap().files.len(), 1);
        }
    }
    std::fs::write(at("guest.vmdk"), &sparse).unwrap();
    assert_eq!(inspect(&at("guest.vmdk"), None).unwrap().files.len(), 1);
}

#[test]
fn all_files_that_an_image_consists_of_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| std::fs::canonicalize(folder.path()).unwrap().join(name);
    let text = "# Disk DescriptorFile\nparentCID=ffffffff\nRW 8 FLAT \"b-f001.vmdk\" 0\n\
                RW 8 SPARSE \"link.vmdk\"\nRW 8 FLAT \"b-f001.vmdk\" 8\n\
                NOACCESS 8 FLAT \"none\" 0\n";
    for (name, bytes) in [("b.vmdk", text.as_bytes()), ("b-f001.vmdk", &[1]), ("data", &[2])] {
        std::fs::write(at(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink(at("data"), at("link.vmdk")).unwrap();
    std::fs::write(at("top.qcow2"), qcow2("b.vmdk")).unwrap();
    let found = inspect(&at("top.qcow2"), None).unwrap();
    let files = ["top.qcow2", "b.vmdk", "b-f001.vmdk", "data", "none"].map(at);
    assert_eq!((found.chain.len(), &found.files[..]), (2, &files[..]));
    let known: Vec<&Path> = found.known().map(|(path, _)| path).collect();
    assert_eq!(known, files[..4].iter().map(PathBuf::as_path).collect::<Vec<_>>());
}

#[test]
fn loops_and_protocols_in_chains_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.qcow2"), folder.path().join("b.qcow2"));
    std::fs::write(&a, qcow2("b.qcow2")).unwrap();
    std::fs::write(&b, qcow2("a.qcow2")).unwrap();
    assert!(matches!(inspect(&a, None).unwrap_err(), DiskError::Unsafe(..)));
    std::fs::write(&b, qcow2("json:{\"driver\":\"nbd\"}")).unwrap();
    assert!(matches!(inspect(&a, None).unwrap_err(), DiskError::Unsafe(..)));
    std::fs::write(&b, qcow2("missing")).unwrap();
    assert!(matches!(inspect(&a, None).unwrap_err(), DiskError::Io(..)));
}

#[test]
fn files_of_formats_that_are_not_read_are_no_raw_disks() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("a.img");
    std::fs::write(&disk, [b"QED\0".as_slice(), &[0; 600]].concat()).unwrap();
    assert!(matches!(inspect(&disk, None).unwrap_err(), DiskError::Unknown(..)));
    let overlay = folder.path().join("top.qcow2");
    let mut head = qcow2("a.img");
    head[103] = 104;
    std::fs::write(&overlay, &head).unwrap();
    assert!(matches!(inspect(&overlay, None).unwrap_err(), DiskError::Unknown(..)));
    head[104..115].copy_from_slice(b"\xE2\x79\x2A\xCA\0\0\0\x03qed");
    std::fs::write(&overlay, &head).unwrap();
    assert!(matches!(inspect(&overlay, None).unwrap_err(), DiskError::Unsafe(..)));
    head[112..115].copy_from_slice(b"raw");
    std::fs::write(&overlay, &head).unwrap();
    assert_eq!(inspect(&overlay, None).unwrap().chain[1].1, Format::Raw);
}

#[test]
fn what_is_no_disk_is_not_taken_for_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [Path::new("/dev/null"), &socket, folder.path()] {
        for format in [None, Some(Format::Raw), Some(Format::Qcow2)] {
            assert!(matches!(inspect(path, format).unwrap_err(), DiskError::Io(..)), "{path:?}");
        }
    }
}

#[test]
fn vmdk_extents_stay_in_their_folder() {
    let text = "# Disk DescriptorFile\nparentCID=ffffffff\nRW 8 FLAT \"../x.vmdk\" 0\n";
    let named = |text: &str| -> Vec<String> {
        vmdk_extents(text).unwrap().into_iter().map(|extent| extent.name).collect()
    };
    assert_eq!(named(text), ["../x.vmdk"]);
    // As QEMU reads them: blanks of any kind, some not needed, and over the ends of lines.
    for odd in [
        "RW\t8\tFLAT\t\"/x\"\t0",
        "RW\n8 FLAT\n\"/x\" 0\n",
        " RW 8 FLAT \"/x\nq\"",
        "RW\x0b8\x0bFLAT\x0b\"/x\"\x0b0",
        "\x0b\x0cRW\x0c8 FLAT \"/x\" 0",
        "\r\n\x0b\n\x0bRW\r8FLAT\"/x\"0",
        "a = \"b\"\n\x0bRW\x0b+8VMFS\"/x\r\"",
    ] {
        assert_eq!(named(odd), ["/x"], "{odd:?}");
    }
    assert!(named("# RW 8 FLAT \"/x\" 0\nddb.a = \"RW\"\n").is_empty());
    for bad in [&format!("RW 8 SPARSE \"{}\"", "x".repeat(512)), "RW 8 FLAT \"\u{fffd}\""] {
        assert!(vmdk_extents(bad).is_err(), "{bad}");
    }
    for bad in ["parentCID=12345678", "parentCID 12345678", " PARENTcid = ffffffff"] {
        assert!(vmdk_extents(bad).is_err(), "{bad}");
    }
    assert!(vmdk_extents("parentFileNameHint=\"/x.vmdk\"").is_err());
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("d.vmdk");
    std::fs::write(&disk, text).unwrap();
    assert!(matches!(inspect(&disk, None).unwrap_err(), DiskError::Unsafe(..)));
}

#[test]
fn vmdk_extents_hide_no_files_behind_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("shop")).unwrap();
    let disk = at("shop/d.vmdk");
    let text = |kind: &str| {
        format!("# Disk DescriptorFile\nparentCID=ffffffff\nRW 8 {kind} \"x.vmdk\" 0\n")
    };
    std::fs::write(&disk, text("FLAT")).unwrap();
    std::fs::write(at("secret"), [7; 4096]).unwrap();
    std::os::unix::fs::symlink(at("secret"), at("shop/x.vmdk")).unwrap();
    let within = Within::new(&[vec![at("shop").to_str().unwrap().to_owned()]]);
    assert!(inspect(&disk, None).is_ok());
    let error = inspect_within(&disk, None, &within).unwrap_err();
    assert!(matches!(&error, DiskError::Outside(..)), "{error}");
    // A header that leads to another descriptor, as QEMU takes it.
    std::fs::remove_file(at("shop/x.vmdk")).unwrap();
    let mut head = vec![0; 1024];
    head[..4].copy_from_slice(b"KDMV");
    head[28] = 1;
    std::fs::write(at("shop/x.vmdk"), head).unwrap();
    assert!(inspect_within(&disk, None, &within).is_ok(), "these are the disk's own bytes");
    std::fs::write(&disk, text("SPARSE")).unwrap();
    let error = inspect(&disk, None).unwrap_err();
    assert!(error.to_string().contains("names further files"), "{error}");
    // What is not looked at might name others.
    std::fs::write(&disk, text("FLAT") + &"#".repeat(HEAD)).unwrap();
    assert!(matches!(inspect(&disk, None).unwrap_err(), DiskError::Invalid(..)));
}

#[test]
fn backing_files_out_of_a_folder_are_no_way_out_of_it() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    std::fs::create_dir(at("shop")).unwrap();
    std::fs::write(at("secret.raw"), [7; 4096]).unwrap();
    std::fs::write(at("shop/base.raw"), [7; 4096]).unwrap();
    std::os::unix::fs::symlink(at("secret.raw"), at("shop/link.raw")).unwrap();
    std::fs::write(at("shop/middle.qcow2"), qcow2("../secret.raw")).unwrap();
    let within = Within::new(&[vec![at("shop").to_str().unwrap().to_owned()]]);
    let absolute = at("secret.raw");
    let out = ["../secret.raw", absolute.to_str().unwrap(), "link.raw", "middle.qcow2"];
    for name in out {
        std::fs::write(at("shop/a.qcow2"), qcow2(name)).unwrap();
        let error = inspect_within(&at("shop/a.qcow2"), None, &within).unwrap_err();
        assert!(matches!(&error, DiskError::Outside(..)), "{name}: {error}");
        assert!(error.to_string().contains("secret.raw"), "{error}");
    }
    std::fs::write(at("shop/a.qcow2"), qcow2("base.raw")).unwrap();
    let inside = inspect_within(&at("shop/a.qcow2"), None, &within).unwrap();
    assert_eq!(inside.chain.len(), 2);
    assert!(inspect_within(&at("secret.raw"), None, &within).is_err());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(
        mut head in proptest::collection::vec(any::<u8>(), 0..700),
        magic in 0usize..4,
    ) {
        let magic = [&b"QFI\xFB\0\0\0\x03"[..], b"KDMV", b"# Disk DescriptorFile", b""][magic];
        let length = magic.len().min(head.len());
        head[..length].copy_from_slice(&magic[..length]);
        detect(&head, &head);
        let _ = qcow2_backing(&head);
        let _ = qcow2_backing_format(&head);
        is_foreign(&head);
        let _ = vmdk_extents(&vmdk_descriptor(&head));
    }
}
