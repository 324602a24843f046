//! The disks of one restore point at a socket, for this process's own use.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Parser;
use sluice_nbd::{Limits, Listener, Server as NbdServer};
use sluice_repository::Pin;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::points;
use crate::args::{Cli, Command, ExportProtocol, NbdArgs};
use crate::context::Context;
use crate::error::usage_error;

/// An export that runs beside something else.
pub(crate) struct AtSocket {
    /// The restore point.
    pub(crate) point: String,
    /// The names of its exports.
    pub(crate) images: Vec<String>,
    serving: JoinHandle<()>,
    pins: Vec<Pin>,
    late_pins: TaskTracker,
}

impl AtSocket {
    /// Waits for its end, and lets the restore point go.
    pub(crate) async fn end(self) {
        let _ = self.serving.await;
        self.late_pins.close();
        self.late_pins.wait().await;
        for pin in self.pins {
            pin.release().await;
        }
    }
}

/// Serves the images of a restore point at a socket until `stop` is cancelled.
pub(crate) async fn at_socket(
    context: &Context,
    point: &str,
    socket: &Path,
    stop: CancellationToken,
) -> Result<AtSocket> {
    let args = arguments(point)?;
    let repository = context.open().await?;
    let chosen = points::choose(context, &repository, &args).await?;
    let pins = points::pin(&repository, &chosen).await?;
    let late_pins = TaskTracker::new();
    let exports = points::exports(context, &repository, &chosen, None, &late_pins);
    let images = exports.iter().map(|export| export.name.clone()).collect();
    let server = NbdServer::new(exports, Limits::default())?;
    let bound = server.bind(&[Listener::Unix(socket.to_owned())]).await;
    let bound = bound.context("cannot serve the disks")?;
    let serving = tokio::spawn(bound.serve(stop));
    let point = chosen.images[0].point.to_string();
    Ok(AtSocket { point, images, serving, pins, late_pins })
}

/// What `sluice export nbd POINT` would be called with.
fn arguments(point: &str) -> Result<NbdArgs> {
    let words = ["sluice", "export", "nbd", "--", point];
    match Cli::try_parse_from(words).map(|cli| cli.command) {
        Ok(Command::Export(args)) => match args.protocol {
            ExportProtocol::Nbd(args) => Ok(args),
            _ => Err(usage_error("this is no export over NBD")),
        },
        _ => Err(usage_error(format!("{point} is no restore point"))),
    }
}
