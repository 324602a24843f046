use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sluice_iscsi::{Access, Chap, Credentials, Identity, Limits, Lun, Server, Target};
use sluice_repository::{Repository, RestorePoint};

use crate::args::IscsiArgs;
use crate::context::Context;
use crate::error::Exit;
use crate::ready::Ready;
use crate::{interrupt, output, secret};

/// What the identity of a logical unit is derived from, besides its names: other derivations would
/// have another text here.
const IDENTITY: &str = "sluice 2026-11-21 iSCSI logical unit of a restore point";
/// The part of a default target name before the instance.
const AUTHORITY: &str = "iqn.2026-01.local.sluice";
/// Bytes of an instance's name that go into a target name, which has 223 at most.
const LONGEST_INSTANCE: usize = 120;

/// Serves a restore point over iSCSI.
pub(crate) async fn iscsi(
    context: &Context,
    args: IscsiArgs,
    ready: Option<Ready>,
) -> Result<Exit> {
    // Secrets first: a file that is not there should not wait for a repository.
    let access = access(&args)?;
    let repository = context.open().await?;
    let (point, image) = context.point(&repository, &args.point).await?;
    let names = Context::image_names(&point, image.as_deref())?;
    let pin = repository.pin(&point, "export").await?;
    let served = serve(context, &args, access, &repository, &point, &names, ready).await;
    pin.release().await;
    served
}

async fn serve(
    context: &Context,
    args: &IscsiArgs,
    access: Access,
    repository: &Repository,
    point: &RestorePoint,
    names: &[String],
    ready: Option<Ready>,
) -> Result<Exit> {
    context.statistics.watch_cache(repository);
    let mut luns = Vec::with_capacity(names.len());
    let mut told = Vec::with_capacity(names.len());
    for name in names {
        let identity = identity(&repository.descriptor().id, &point.id.to_string(), name);
        told.push((name.clone(), identity.clone()));
        let image = Arc::new(repository.image(point, Some(name))?);
        luns.push(Lun::read_only(context.statistics.measured(name, image), identity));
    }
    let default = || target_name(&point.instance, &point.id.to_string());
    let mut target = Target::new(args.target_name.clone().unwrap_or_else(default), luns);
    target.alias = point.to_string();
    target.announced.clone_from(&args.portal);
    let open = access.chap.is_none();
    target.access = access;
    let name = target.name.clone();
    // Watched before initiators can connect: no signal finds nobody listening.
    let stop = interrupt::watch("")?;
    let bound = Server::new(target, Limits::default())?;
    let bound = bound.bind(&args.listen).await.context("cannot serve")?;
    let portals = if args.portal.is_empty() { bound.addresses() } else { &args.portal };
    let first = *portals.first().context("the server has no address")?;
    let exposed = bound.addresses().iter().any(|address| !address.ip().is_loopback());
    if open && exposed && !context.global.json {
        output::warn("whoever reaches this address can read the disks: set --chap-user");
    }
    let place = Place { listen: bound.addresses(), portals, first };
    tell(context, &point.to_string(), &name, &place, &told)?;
    if let Some(ready) = ready {
        ready.tell(&url(first, &name, 0))?;
    }
    bound.serve(stop).await;
    Ok(Exit::Done)
}

/// Who may connect, and what they must prove.
fn access(args: &IscsiArgs) -> Result<Access> {
    let credentials = |user: &Option<String>, file: &Option<std::path::PathBuf>| {
        let (Some(user), Some(file)) = (user, file) else { return Ok(None) };
        let secret = secret::chap_secret(file)?;
        anyhow::Ok(Some(Credentials::new(user.clone(), secret.as_bytes())))
    };
    let initiator = credentials(&args.chap_user, &args.chap_secret_file)?;
    let target = credentials(&args.mutual_chap_user, &args.mutual_chap_secret_file)?;
    let chap = initiator.map(|initiator| Chap { initiator, target });
    Ok(Access { initiators: args.initiator.clone(), chap })
}

/// The same for one image whenever and wherever it is served, and different for any other.
fn identity(repository: &str, point: &str, image: &str) -> Identity {
    let mut hash = blake3::Hasher::new_derive_key(IDENTITY);
    for part in [repository, point, image] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    Identity::from_digest(*hash.finalize().as_bytes())
}

/// A name that is allowed, tells people something, and belongs to one point.
fn target_name(instance: &str, point: &str) -> String {
    let allowed = |c: char| match c {
        'a'..='z' | '0'..='9' | '-' | '.' => c,
        _ => '-',
    };
    let instance = instance.to_lowercase();
    let instance: String = instance.chars().take(LONGEST_INSTANCE).map(allowed).collect();
    format!("{AUTHORITY}:{instance}.{point}")
}

fn url(portal: SocketAddr, target: &str, lun: usize) -> String {
    format!("iscsi://{portal}/{target}/{lun}")
}

/// Where a target is.
struct Place<'a> {
    /// What it listens on.
    listen: &'a [SocketAddr],
    /// Where initiators are told to connect to.
    portals: &'a [SocketAddr],
    /// The first of them.
    first: SocketAddr,
}

fn tell(
    context: &Context,
    point: &str,
    target: &str,
    place: &Place<'_>,
    luns: &[(String, Identity)],
) -> Result<()> {
    let first = place.first;
    let all = luns.iter().enumerate();
    if context.global.json {
        let luns: Vec<_> = all
            .map(|(lun, (name, identity))| {
                serde_json::json!({
                    "name": name,
                    "lun": lun,
                    "uri": url(first, target, lun),
                    "serial": identity.serial(),
                    "wwn": format!("0x{:016x}", identity.naa()),
                })
            })
            .collect();
        return output::json_line(&serde_json::json!({
            "type": "ready",
            "point": point,
            "uri": url(first, target, 0),
            "target": target,
            "portals": place.portals,
            "listen": place.listen,
            "luns": luns,
        }));
    }
    if context.global.quiet {
        return Ok(());
    }
    output::note(format_args!("serving {point} read-only; Ctrl-C ends it"));
    for (lun, (name, _)) in all {
        output::note(format_args!("  {name}: {}", url(first, target, lun)));
    }
    output::note("for example:");
    output::note(format_args!("  qemu-img info '{}'", url(first, target, 0)));
    output::note(format_args!("  iscsiadm -m discovery -t sendtargets -p {first}"));
    output::note(format_args!("  iscsiadm -m node -T {target} -p {first} --login"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_tell_images_apart_and_stay() {
        let one = identity("repository", "point", "vda");
        assert_eq!(one, identity("repository", "point", "vda"));
        // Known to whoever mounts by it: it must not change between releases.
        assert_eq!(format!("{:016x}", one.naa()), "37c534b0e5c8ef6d");
        for other in [
            identity("repository", "point", "vdb"),
            identity("repository", "pointv", "da"),
            identity("repositor", "ypoint", "vda"),
        ] {
            assert_ne!(other, one);
        }
    }

    #[test]
    fn target_names_are_allowed_whatever_the_instance() {
        let name = target_name("Web_1 (ä)", "0abc");
        assert_eq!(name, "iqn.2026-01.local.sluice:web-1----.0abc");
        assert!(target_name(&"x".repeat(500), &"p".repeat(29)).len() <= 223);
    }
}
