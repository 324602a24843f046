use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sluice_repository::RestorePoint;
use sluice_vhost_user::{Disk, Server};

use super::iscsi::identity;
use super::writable::Writable;
use crate::args::VhostUserArgs;
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::ready::Ready;
use crate::{interrupt, output};

/// Serves an image over vhost-user.
pub(crate) async fn vhost_user(
    context: &Context,
    args: VhostUserArgs,
    ready: Option<Ready>,
) -> Result<Exit> {
    let repository = context.open().await?;
    let (point, image) = context.point(&repository, &args.point).await?;
    let names = Context::image_names(&point, image.as_deref())?;
    let [name] = names.as_slice() else {
        let first = &names[0];
        return Err(usage_error(format!("a device is one image; write {}:{first}", args.point)));
    };
    // The serial number that initiators see over iSCSI: the same disk, whatever the way to it.
    let serial = |of: &str| -> String {
        let identity = identity(&repository.descriptor().id, of, name);
        identity.serial().chars().take(20).collect()
    };
    let names = std::slice::from_ref(name);
    let writable = Writable::open(context, &args.writable, &repository, &point, names).await?;
    context.statistics.watch_cache(&repository);
    if let Some(writable) = writable {
        // The overlay holds a pin of its own, on the point it lies over.
        let disk = writable.disks(context, names).into_iter().next();
        let disk = Disk::Writable(disk.context("the overlay has no disk")?);
        let image = Image { disk, serial: serial(&writable.id()), name, point: &point };
        let served = serve(context, &args, image, Some(&writable), ready).await;
        let closed = writable.close().await;
        return served.and_then(|exit| closed.map(|()| exit));
    }
    let pin = repository.pin(&point, "export").await?;
    let served = match repository.image(&point, Some(name)) {
        Ok(image) => {
            let disk = Disk::ReadOnly(context.statistics.measured(name, Arc::new(image)));
            let image = Image { disk, serial: serial(&point.id.to_string()), name, point: &point };
            serve(context, &args, image, None, ready).await
        }
        Err(error) => Err(error.into()),
    };
    pin.release().await;
    served
}

/// A disk, and what it is called.
struct Image<'a> {
    disk: Disk,
    serial: String,
    name: &'a str,
    point: &'a RestorePoint,
}

async fn serve(
    context: &Context,
    args: &VhostUserArgs,
    image: Image<'_>,
    writable: Option<&Writable>,
    ready: Option<Ready>,
) -> Result<Exit> {
    let Image { disk, serial, name, point } = image;
    let socket = std::path::absolute(&args.socket)?;
    // Watched before a monitor can connect: no signal finds nobody listening.
    let stop = interrupt::watch("")?;
    let bound = Server::new(disk, &serial, args.queues)?.bind(&socket).context("cannot serve")?;
    tell(context, (point, name), writable, &socket, &serial, args.queues)?;
    if let Some(ready) = ready {
        ready.tell(&socket.to_string_lossy())?;
    }
    bound.serve(stop).await.context("cannot go on")?;
    Ok(Exit::Done)
}

fn tell(
    context: &Context,
    (point, name): (&RestorePoint, &str),
    writable: Option<&Writable>,
    socket: &Path,
    serial: &str,
    queues: u16,
) -> Result<()> {
    let image = format!("{point}:{name}");
    if context.global.json {
        return output::json_line(&serde_json::json!({
            "type": "ready",
            "point": point.to_string(),
            "image": image,
            "overlay": writable.map(Writable::path),
            "socket": socket,
            "serial": serial,
            "queues": queues,
        }));
    }
    if context.global.quiet {
        return Ok(());
    }
    let path = socket.display();
    let how = if writable.is_some() { "for writing" } else { "read-only" };
    output::note(format_args!("serving {image} {how}; Ctrl-C ends it"));
    output::note(format_args!("  socket: {path}"));
    output::note("for example, with the guest's memory shared (share=on, shared=on):");
    output::note(format_args!(
        "  qemu-system-x86_64 ... -chardev socket,id=c,path={path} \\\n    \
         -device vhost-user-blk-pci,chardev=c,num-queues={queues}"
    ));
    output::note(format_args!("  cloud-hypervisor ... --disk vhost_user=true,socket={path}"));
    Ok(())
}
