//! What a mount is on a node: a command line, an environment, and a folder that it may need.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_node::Refused;
use sluice_node_api::{MountOrder, Work, is_folder, overlay_of};

use crate::args::MountPlaceArgs;
use crate::command::detach::Spec;

/// The field of a stored mount that has its id at the server.
pub(super) const SERVER_ID: &str = "server_id";
/// What a mount gets of this process's environment, as tasks do.
const INHERITED: [&str; 5] = ["HOME", "TZ", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"];
/// Where the certificates of mounts by http are kept that are made here: below this folder.
const STATE_HOME: &str = "XDG_STATE_HOME";

/// Where mounts of a node are, as its administrator says.
#[derive(Debug, Clone)]
pub(in super::super) struct Place {
    /// The state folder, in which lies what clients write.
    pub(in super::super) state: PathBuf,
    /// What was typed.
    pub(in super::super) args: MountPlaceArgs,
}

fn no(message: impl Into<String>) -> Refused {
    Refused { message: message.into(), retryable: false }
}

fn own(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The command line of a mount. Values that begin with a dash are values.
fn words(order: &MountOrder, url: &str, place: &Place) -> Result<Vec<String>, Refused> {
    if order.protocol == "fuse" {
        let dir = folder(order, place)?;
        let mut words = own(&["sluice", "--repo", url, "mount"]);
        words.push(format!("--point={}", order.point));
        words.extend(place.args.mount_allow_other.then(|| "--allow-other".to_owned()));
        words.extend(["--".to_owned(), text(&dir)?]);
        return Ok(words);
    }
    if !["nbd", "iscsi", "http"].contains(&order.protocol.as_str()) {
        return Err(no(format!("this node does not speak {}", order.protocol)));
    }
    let listen = SocketAddr::new(place.args.mount_address, 0);
    let mut words = own(&["sluice", "--repo", url, "export", &order.protocol]);
    words.push(format!("--listen={listen}"));
    words.extend(order.clients.iter().map(|network| format!("--allow={network}")));
    words.extend(order.initiators.iter().map(|name| format!("--initiator={name}")));
    words.extend(order.chap_user.iter().map(|user| format!("--chap-user={user}")));
    if let (true, Some(certificate), Some(key)) =
        (order.protocol == "http", &place.args.mount_certificate, &place.args.mount_key)
    {
        words.push(format!("--tls-certificate={}", text(certificate)?));
        words.push(format!("--tls-key={}", text(key)?));
    }
    if order.writable {
        let folder = overlay_of(&place.state, &order.id).map_err(no)?;
        words.push("--writable".to_owned());
        words.push(format!("--overlay={}", folder.display()));
    }
    let image = order.image.iter().map(|image| format!(":{image}"));
    words.extend(["--".to_owned(), order.point.clone() + &image.collect::<String>()]);
    Ok(words)
}

fn text(path: &Path) -> Result<String, Refused> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| no(format!("{} is not UTF-8", path.display())))
}

/// The folder of a mount by fuse: one name below the folder that the administrator has named.
fn folder(order: &MountOrder, place: &Place) -> Result<PathBuf, Refused> {
    let Some(above) = &place.args.mount_folder else {
        return Err(no("this node mounts nothing on folders: it runs without --mount-folder"));
    };
    let name = order.folder.as_deref().unwrap_or(&order.id);
    if !is_folder(name) {
        return Err(no(format!("{name:?} is no name of a folder for mounts")));
    }
    let above = std::fs::canonicalize(above).map_err(|error| Refused {
        message: format!("the folder of mounts, {}, cannot be used: {error}", above.display()),
        retryable: true,
    })?;
    Ok(above.join(name))
}

/// Makes the folder of a mount. One that is there already must be empty, so that nothing is hidden,
/// and no link, so that it is where it seems to be.
pub(super) fn make_folder(dir: &Path) -> Result<(), Refused> {
    let odd = |error: std::io::Error| no(format!("cannot mount on {}: {error}", dir.display()));
    match std::fs::DirBuilder::new().mode(0o755).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => return other.map_err(odd),
    }
    if !std::fs::symlink_metadata(dir).map_err(odd)?.is_dir() {
        return Err(no(format!("cannot mount on {}: it is no folder", dir.display())));
    }
    if std::fs::read_dir(dir).map_err(odd)?.next().is_some() {
        return Err(no(format!("cannot mount on {}: it is not empty", dir.display())));
    }
    Ok(())
}

/// What is stored of a mount, and its secrets, which are not.
pub(super) fn described(
    order: &MountOrder,
    work: &Work,
    place: &Place,
) -> Result<(Value, BTreeMap<String, String>), Refused> {
    let is_secret = |name: &String| work.secret_names.contains(name);
    let all = work.environment.clone().into_iter();
    let (secrets, mut environment): (BTreeMap<_, _>, BTreeMap<_, _>) =
        all.partition(|(name, _)| is_secret(name));
    for name in INHERITED {
        let own = std::env::var(name).ok().map(|value| (name.to_owned(), value));
        environment.extend(own);
    }
    let instead = sluice_node::own_variables(work, &place.state);
    environment.extend(instead.map_err(|message| Refused { message, retryable: true })?);
    if order.protocol == "http" {
        environment.insert(STATE_HOME.to_owned(), text(&place.state)?);
    }
    let dir = (order.protocol == "fuse").then(|| folder(order, place)).transpose()?;
    let spec = Spec {
        kind: order.protocol.clone(),
        argv: words(order, &work.url, place)?,
        folder: PathBuf::from("/"),
        environment,
        made: dir.is_some(),
        dir,
    };
    let odd = |error: serde_json::Error| no(error.to_string());
    let mut spec = serde_json::to_value(spec).map_err(odd)?;
    spec[SERVER_ID] = Value::from(order.id.clone());
    Ok((spec, secrets))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use sluice_node_api::TaskSpec;

    use super::*;
    use crate::args::{Cli, Command, ExportProtocol};

    fn place(address: &str) -> Place {
        let mount_address = address.parse().unwrap();
        let args = MountPlaceArgs {
            mount_address,
            mount_certificate: None,
            mount_key: None,
            mount_folder: None,
            mount_allow_other: false,
        };
        Place { state: "/s".into(), args }
    }

    fn order(protocol: &str) -> MountOrder {
        MountOrder {
            id: "m1".into(),
            point: "shop.web@k3".into(),
            image: Some("root".into()),
            protocol: protocol.into(),
            clients: vec!["192.0.2.0/24".into(), "2001:db8::/32".into()],
            ..MountOrder::default()
        }
    }

    #[test]
    fn what_a_server_orders_is_an_export_that_can_be_typed() {
        let place = place("192.0.2.7");
        let mut wanted = order("iscsi");
        wanted.initiators = vec!["iqn.2026-01.test:host-1".into()];
        wanted.chap_user = Some("-odd".into());
        let typed = words(&wanted, "/backup", &place).unwrap();
        let Command::Export(export) = Cli::try_parse_from(typed).unwrap().command else { panic!() };
        let ExportProtocol::Iscsi(args) = export.protocol else { panic!() };
        assert_eq!(args.point, "shop.web@k3:root");
        assert_eq!(args.listen, ["192.0.2.7:0".parse().unwrap()]);
        assert_eq!((args.allow.len(), &*args.initiator[0]), (2, "iqn.2026-01.test:host-1"));
        assert_eq!(args.chap_user.as_deref(), Some("-odd"));
        let typed = words(&order("nbd"), "/backup", &place).unwrap();
        assert!(Cli::try_parse_from(typed).is_ok());
        let mut writable = order("iscsi");
        writable.writable = true;
        let typed = words(&writable, "/backup", &place).unwrap();
        let Command::Export(export) = Cli::try_parse_from(typed).unwrap().command else { panic!() };
        let ExportProtocol::Iscsi(args) = export.protocol else { panic!() };
        assert_eq!(args.writable.overlay.as_deref(), Some(Path::new("/s/overlays/m1")));
        assert!(words(&order("telepathy"), "/backup", &place).is_err());
    }

    #[test]
    fn secrets_are_neither_stored_nor_typed() {
        let environment = [("AWS_REGION", "eu"), ("SLUICE_PASSPHRASE", "horse")];
        let work = Work {
            spec: TaskSpec::Mount { mount: order("nbd") },
            url: "/backup".into(),
            environment: environment.map(|(name, value)| (name.into(), value.into())).into(),
            secret_names: vec!["SLUICE_PASSPHRASE".into()],
            hooks: None,
            no_identity: false,
            folders: vec![],
        };
        let place = place("127.0.0.1");
        let (spec, secrets) = described(&order("nbd"), &work, &place).unwrap();
        assert!(!spec.to_string().contains("horse"), "{spec}");
        assert_eq!(
            (&spec["environment"]["AWS_REGION"], &spec[SERVER_ID]),
            (&"eu".into(), &"m1".into())
        );
        assert_eq!(secrets["SLUICE_PASSPHRASE"], "horse");
        let stored: Spec = serde_json::from_value(spec).unwrap();
        assert_eq!(stored.kind, "nbd");
    }

    #[test]
    fn a_mount_of_what_a_project_has_named_is_not_known_as_its_machine() {
        let state = tempfile::tempdir().unwrap();
        let place = Place { state: state.path().to_owned(), ..place("127.0.0.1") };
        let mut work = Work { url: "s3://bucket".into(), ..Work::without_repository() };
        let home = |work: &Work| {
            let (spec, _) = described(&order("nbd"), work, &place).unwrap();
            spec["environment"]["HOME"].as_str().map(PathBuf::from)
        };
        assert_eq!(home(&work), std::env::var_os("HOME").map(PathBuf::from));
        work.no_identity = true;
        assert!(home(&work).unwrap().starts_with(state.path()));
    }

    #[test]
    fn a_mount_by_http_has_the_certificate_of_the_node() {
        let mut place = place("192.0.2.7");
        place.args.mount_certificate = Some("/etc/c.pem".into());
        place.args.mount_key = Some("/etc/c.key".into());
        let typed = words(&order("http"), "/backup", &place).unwrap();
        let Command::Export(export) = Cli::try_parse_from(typed).unwrap().command else { panic!() };
        let ExportProtocol::Http(args) = export.protocol else { panic!() };
        assert_eq!((args.points, args.allow.len()), (vec!["shop.web@k3:root".to_owned()], 2));
        assert_eq!(args.tls_certificate.as_deref(), Some(Path::new("/etc/c.pem")));
        assert!(!args.plain);
    }

    #[test]
    fn folders_lie_below_the_one_that_was_named() {
        let above = tempfile::tempdir().unwrap();
        let mut place = place("127.0.0.1");
        let mut wanted = order("fuse");
        assert!(words(&wanted, "/backup", &place).unwrap_err().message.contains("--mount-folder"));
        place.args.mount_folder = Some(above.path().to_owned());
        wanted.folder = Some("web-1".into());
        let typed = words(&wanted, "/backup", &place).unwrap();
        let Command::Mount(args) = Cli::try_parse_from(typed).unwrap().command else { panic!() };
        let dir = std::fs::canonicalize(above.path()).unwrap().join("web-1");
        assert_eq!(args.point.as_deref(), Some("shop.web@k3"));
        assert_eq!(args.places, [dir.to_str().unwrap()]);
        for bad in ["../etc", "/etc", "..", "a/b"] {
            wanted.folder = Some(bad.into());
            assert!(words(&wanted, "/backup", &place).is_err(), "{bad}");
        }
        assert!(make_folder(&dir).is_ok() && make_folder(&dir).is_ok(), "it is empty");
        std::fs::write(dir.join("file"), "x").unwrap();
        assert!(make_folder(&dir).unwrap_err().message.contains("not empty"));
        let link = above.path().join("link");
        std::os::unix::fs::symlink("/proc", &link).unwrap();
        assert!(make_folder(&link).unwrap_err().message.contains("no folder"));
    }
}
