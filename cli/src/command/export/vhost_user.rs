use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sluice_repository::{Repository, RestorePoint};
use sluice_vhost_user::{Disk, Server};

use super::iscsi::identity;
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
    let pin = repository.pin(&point, "export").await?;
    let served = serve(context, &args, &repository, &point, name, ready).await;
    pin.release().await;
    served
}

async fn serve(
    context: &Context,
    args: &VhostUserArgs,
    repository: &Repository,
    point: &RestorePoint,
    name: &str,
    ready: Option<Ready>,
) -> Result<Exit> {
    context.statistics.watch_cache(repository);
    let image = Arc::new(repository.image(point, Some(name))?);
    let disk = Disk::ReadOnly(context.statistics.measured(name, image));
    // The serial number that initiators see over iSCSI: the same disk, whatever the way to it.
    let identity = identity(&repository.descriptor().id, &point.id.to_string(), name);
    let serial: String = identity.serial().chars().take(20).collect();
    let socket = std::path::absolute(&args.socket)?;
    // Watched before a monitor can connect: no signal finds nobody listening.
    let stop = interrupt::watch("")?;
    let bound = Server::new(disk, &serial, args.queues)?.bind(&socket).context("cannot serve")?;
    tell(context, (point, name), &socket, &serial, args.queues)?;
    if let Some(ready) = ready {
        ready.tell(&socket.to_string_lossy())?;
    }
    bound.serve(stop).await.context("cannot go on")?;
    Ok(Exit::Done)
}

fn tell(
    context: &Context,
    (point, name): (&RestorePoint, &str),
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
            "socket": socket,
            "serial": serial,
            "queues": queues,
        }));
    }
    if context.global.quiet {
        return Ok(());
    }
    let path = socket.display();
    output::note(format_args!("serving {image} read-only; Ctrl-C ends it"));
    output::note(format_args!("  socket: {path}"));
    output::note("for example, with the guest's memory shared (share=on, shared=on):");
    output::note(format_args!(
        "  qemu-system-x86_64 ... -chardev socket,id=c,path={path} \\\n    \
         -device vhost-user-blk-pci,chardev=c,num-queues={queues}"
    ));
    output::note(format_args!("  cloud-hypervisor ... --disk vhost_user=true,socket={path}"));
    Ok(())
}
