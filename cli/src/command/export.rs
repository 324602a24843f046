mod iscsi;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sluice_nbd::{Export, Limits, Listener, Server};
use sluice_repository::Repository;

use crate::args::NbdArgs;
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::interrupt;
use crate::output::{self, note, warn};
use crate::ready::Ready;

pub(crate) use iscsi::iscsi;

const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10809);

/// Serves a restore point over NBD.
pub(crate) async fn nbd(context: &Context, args: NbdArgs, ready: Option<Ready>) -> Result<Exit> {
    let listener = match &args.socket {
        Some(path) => Listener::Unix(std::path::absolute(path)?),
        None => Listener::Tcp(args.listen.unwrap_or(DEFAULT)),
    };
    let repository = context.open().await?;
    let (point, image) = context.point(&repository, &args.point).await?;
    let names = Context::image_names(&point, image.as_deref())?;
    if args.name.is_some() && names.len() > 1 {
        return Err(usage_error(format!(
            "--name needs a single image; write {}:{}",
            args.point, names[0]
        )));
    }
    let pin = repository.pin(&point, "export").await?;
    let served = serve(context, &args, &repository, &point, &names, listener, ready).await;
    pin.release().await;
    served
}

async fn serve(
    context: &Context,
    args: &NbdArgs,
    repository: &Repository,
    point: &sluice_repository::RestorePoint,
    names: &[String],
    listener: Listener,
    ready: Option<Ready>,
) -> Result<Exit> {
    context.statistics.watch_cache(repository);
    let mut exports = Vec::with_capacity(names.len());
    for name in names {
        let called = args.name.clone().unwrap_or_else(|| name.clone());
        let image = Arc::new(repository.image(point, Some(name))?);
        let device = context.statistics.measured(&called, image);
        exports.push(Export::new(called, device).with_description(format!("{point}:{name}")));
    }
    let called: Vec<String> = exports.iter().map(|export| export.name.clone()).collect();
    // Watched before clients can connect: no signal finds nobody listening.
    let stop = interrupt::watch("")?;
    let bound =
        Server::new(exports, Limits::default())?.bind(&[listener]).await.context("cannot serve")?;
    let address = bound.addresses().first().cloned().context("the server has no address")?;
    let base = uri(&address, "");
    tell(context, &point.to_string(), &address, &called)?;
    if let Some(ready) = ready {
        ready.tell(&base)?;
    }
    bound.serve(stop).await;
    Ok(Exit::Done)
}

/// The URI of an export; the empty name is the default one.
fn uri(address: &Listener, export: &str) -> String {
    let export = escape(export);
    match address {
        Listener::Tcp(address) => format!("nbd://{address}/{export}"),
        Listener::Unix(path) => {
            format!("nbd+unix:///{export}?socket={}", escape(&path.to_string_lossy()))
        }
    }
}

/// Percent-encodes what has a meaning in a URI.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/+,".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped += &format!("%{byte:02X}");
        }
    }
    escaped
}

fn tell(context: &Context, point: &str, address: &Listener, names: &[String]) -> Result<()> {
    let all: Vec<(String, String)> =
        names.iter().map(|name| (name.clone(), uri(address, name))).collect();
    if context.global.json {
        let exports: Vec<_> =
            all.iter().map(|(name, uri)| serde_json::json!({"name": name, "uri": uri})).collect();
        return output::json_line(&serde_json::json!({
            "type": "ready",
            "point": point,
            "uri": uri(address, ""),
            "exports": exports,
        }));
    }
    if let Listener::Tcp(address) = address
        && !address.ip().is_loopback()
    {
        warn("whoever reaches this address can read the disk: NBD asks for no password here");
    }
    if context.global.quiet {
        return Ok(());
    }
    let default = uri(address, "");
    note(format_args!("serving {point} read-only; Ctrl-C ends it"));
    for (name, uri) in &all {
        note(format_args!("  {name}: {uri}"));
    }
    note("for example:");
    note(format_args!("  qemu-img info '{default}'"));
    note(format_args!("  nbdcopy '{default}' disk.raw"));
    match address {
        Listener::Tcp(address) => note(format_args!(
            "  nbd-client {} {} /dev/nbd0 -name {} -readonly",
            address.ip(),
            address.port(),
            names[0]
        )),
        Listener::Unix(path) => note(format_args!(
            "  nbd-client -unix {} /dev/nbd0 -name {} -readonly",
            path.display(),
            names[0]
        )),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_those_that_clients_understand() {
        let tcp = Listener::Tcp("[::1]:1234".parse().unwrap());
        assert_eq!(uri(&tcp, "vda"), "nbd://[::1]:1234/vda");
        let unix = Listener::Unix("/run/a b?.sock".into());
        assert_eq!(uri(&unix, ""), "nbd+unix:///?socket=/run/a%20b%3F.sock");
        assert_eq!(uri(&unix, "ä&"), "nbd+unix:///%C3%A4%26?socket=/run/a%20b%3F.sock");
    }
}
