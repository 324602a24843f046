use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sluice_iscsi::{Access, Chap, Credentials, Identity, Limits, Lun, Server, Target};
use sluice_repository::{Repository, RestorePoint};

use super::only;
use super::writable::Writable;
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
    let writable = Writable::open(context, &args.writable, &repository, &point, &names).await?;
    if let Some(writable) = writable {
        // The overlay holds a pin of its own, on the point it lies over.
        let luns = written(context, &repository, &writable, &names);
        let served = serve(context, &args, access, &point, luns, Some(&writable), ready).await;
        let closed = writable.close().await;
        return served.and_then(|exit| closed.map(|()| exit));
    }
    let pin = repository.pin(&point, "export").await?;
    let served = match read_only(context, &repository, &point, &names) {
        Ok(luns) => serve(context, &args, access, &point, luns, None, ready).await,
        Err(error) => Err(error),
    };
    pin.release().await;
    served
}

/// A logical unit, with its image's name and who it is.
struct Named {
    name: String,
    identity: Identity,
    lun: Lun,
}

/// Images as disks that are write-protected.
fn read_only(
    context: &Context,
    repository: &Repository,
    point: &RestorePoint,
    names: &[String],
) -> Result<Vec<Named>> {
    context.statistics.watch_cache(repository);
    let named = |name: &String| {
        let identity = identity(&repository.descriptor().id, &point.id.to_string(), name);
        let image = Arc::new(repository.image(point, Some(name))?);
        let device = context.statistics.measured(name, image);
        let lun = Lun::read_only(device, identity.clone());
        Ok(Named { name: name.clone(), identity, lun })
    };
    names.iter().map(named).collect()
}

/// Images as disks that can be written: others than those of the point, and the same whatever is
/// committed.
fn written(
    context: &Context,
    repository: &Repository,
    writable: &Writable,
    names: &[String],
) -> Vec<Named> {
    context.statistics.watch_cache(repository);
    let overlay = writable.id();
    let disks = names.iter().zip(writable.disks(context, names));
    let named = disks.map(|(name, disk)| {
        let identity = identity(&repository.descriptor().id, &overlay, name);
        Named { name: name.clone(), lun: Lun::writable(disk, identity.clone()), identity }
    });
    named.collect()
}

async fn serve(
    context: &Context,
    args: &IscsiArgs,
    access: Access,
    point: &RestorePoint,
    named: Vec<Named>,
    writable: Option<&Writable>,
    ready: Option<Ready>,
) -> Result<Exit> {
    let told: Vec<_> = named.iter().map(|one| (one.name.clone(), one.identity.clone())).collect();
    let luns = named.into_iter().map(|one| one.lun).collect();
    // What is written makes another disk of it, so it must not be taken for the point's own target:
    // two of one name are two paths to one thing.
    let of = writable.map_or_else(|| point.id.to_string(), Writable::id);
    let default = || target_name(&point.instance, &of);
    let mut target = Target::new(args.target_name.clone().unwrap_or_else(default), luns);
    target.alias = point.to_string();
    target.announced.clone_from(&args.portal);
    let open = access.chap.is_none() && args.allow.is_empty();
    target.access = access;
    let name = target.name.clone();
    // Watched before initiators can connect: no signal finds nobody listening.
    let stop = interrupt::watch("")?;
    let mut server = Server::new(target, Limits::default())?;
    if !args.allow.is_empty() {
        server = server.only_for(only(&args.allow));
    }
    let bound = server.bind(&args.listen).await.context("cannot serve")?;
    let portals = if args.portal.is_empty() { bound.addresses() } else { &args.portal };
    let first = *portals.first().context("the server has no address")?;
    let exposed = bound.addresses().iter().any(|address| !address.ip().is_loopback());
    if open && exposed && !context.global.json {
        output::warn("whoever reaches this address can read the disks: set --allow or --chap-user");
    }
    let place = Place { listen: bound.addresses(), portals, first };
    tell(context, point, writable, &name, &place, &told)?;
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
    let initiator = match (&args.chap_user, &args.chap_secret_file) {
        (Some(user), None) => {
            let secret = secret::chap_variable()?;
            Some(Credentials::new(user.clone(), secret.as_bytes()))
        }
        (user, file) => credentials(user, file)?,
    };
    let target = credentials(&args.mutual_chap_user, &args.mutual_chap_secret_file)?;
    let chap = initiator.map(|initiator| Chap { initiator, target });
    Ok(Access { initiators: args.initiator.clone(), chap })
}

/// The same for one image whenever and wherever it is served, and different for any other.
pub(super) fn identity(repository: &str, point: &str, image: &str) -> Identity {
    let mut hash = blake3::Hasher::new_derive_key(IDENTITY);
    for part in [repository, point, image] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    Identity::from_digest(*hash.finalize().as_bytes())
}

/// A name that is allowed, tells people something, and belongs to one point or overlay.
fn target_name(instance: &str, of: &str) -> String {
    let allowed = |c: char| match c {
        'a'..='z' | '0'..='9' | '-' | '.' => c,
        _ => '-',
    };
    let instance = instance.to_lowercase();
    let instance: String = instance.chars().take(LONGEST_INSTANCE).map(allowed).collect();
    format!("{AUTHORITY}:{instance}.{of}")
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
    point: &RestorePoint,
    writable: Option<&Writable>,
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
            "point": point.to_string(),
            "overlay": writable.map(Writable::path),
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
    let way = if writable.is_some() { "writable" } else { "read-only" };
    output::note(format_args!("serving {point} {way}; Ctrl-C ends it"));
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
