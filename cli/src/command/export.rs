mod certificate;
mod http;
mod iscsi;
mod points;
mod socket;
mod tls;
mod vhost_user;
mod writable;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sluice_block::BlockWrite;
use sluice_nbd::{Export, Limits, Listener, Server as NbdServer};
use sluice_node_api::Network;
use sluice_repository::Repository;
use tokio_util::task::TaskTracker;

use crate::args::NbdArgs;
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::interrupt;
use crate::output::{self, note, warn};
use crate::ready::Ready;

pub(crate) use http::http;
pub(crate) use iscsi::iscsi;
use points::Chosen;
pub(crate) use socket::{AtSocket, at_socket};
use tls::Secrecy;
pub(crate) use vhost_user::vhost_user;
use writable::Writable;

const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10809);

/// Exports read at most this many lines of a person's screen.
const MOST_TOLD: usize = 20;

/// Serves restore points over NBD.
pub(crate) async fn nbd(context: &Context, args: NbdArgs, ready: Option<Ready>) -> Result<Exit> {
    let listener = match &args.socket {
        Some(path) => Listener::Unix(std::path::absolute(path)?),
        None => Listener::Tcp(args.listen.unwrap_or(DEFAULT)),
    };
    // Secrets first: a file that is not there should not wait for a repository.
    let secrecy = tls::secrecy(&args.tls)?;
    let repository = context.open().await?;
    let chosen = points::choose(context, &repository, &args).await?;
    if args.name.is_some() && chosen.images.len() > 1 {
        let first = &chosen.images[0];
        let single = format!("{}:{}", first.point, first.image);
        return Err(usage_error(format!("--name needs a single image; write {single}")));
    }
    let server = Server { context, args: &args, secrecy, chosen: &chosen, listener };
    if args.writable.writable {
        return server.serve_writable(&repository, ready).await;
    }
    let pins = points::pin(&repository, &chosen).await?;
    let late_pins = TaskTracker::new();
    let called = args.name.as_deref();
    let exports = points::exports(context, &repository, &chosen, called, &late_pins);
    let served = server.serve(exports, None, ready).await;
    late_pins.close();
    late_pins.wait().await;
    for pin in pins {
        pin.release().await;
    }
    served
}

/// What is to be served, and how.
struct Server<'a> {
    context: &'a Context,
    args: &'a NbdArgs,
    secrecy: Secrecy,
    chosen: &'a Chosen,
    listener: Listener,
}

impl Server<'_> {
    /// Serves the images of one point over an overlay, which holds a pin of its own.
    async fn serve_writable(self, repository: &Repository, ready: Option<Ready>) -> Result<Exit> {
        let (context, images) = (self.context, &self.chosen.images);
        if self.args.points.len() > 1 {
            return Err(usage_error("--writable goes with one restore point"));
        }
        let names: Vec<String> = images.iter().map(|one| one.image.clone()).collect();
        let point = images[0].point.clone();
        let opened = Writable::open(context, &self.args.writable, repository, &point, &names);
        let writable = opened.await?.context("--writable was given")?;
        let export = |(name, disk): (&String, Arc<dyn BlockWrite>)| {
            let called = self.args.name.clone().unwrap_or_else(|| name.clone());
            Export::writable(called, disk).with_description(format!("{point}:{name}, writable"))
        };
        let exports = names.iter().zip(writable.disks(context, &names)).map(export).collect();
        let served = self.serve(exports, Some(&writable), ready).await;
        let closed = writable.close().await;
        served.and_then(|exit| closed.map(|()| exit))
    }

    async fn serve(
        self,
        exports: Vec<Export>,
        writable: Option<&Writable>,
        ready: Option<Ready>,
    ) -> Result<Exit> {
        let Self { context, args, secrecy, chosen, listener } = self;
        let called: Vec<String> = exports.iter().map(|export| export.name.clone()).collect();
        // Watched before clients can connect: no signal finds nobody listening.
        let stop = interrupt::watch("")?;
        let mut limits = Limits::default();
        limits.max_connections = args.max_connections as usize;
        allow_files(u64::from(args.max_connections));
        let mut server =
            NbdServer::new(exports, limits)?.with_encryption(secrecy.encryption.clone());
        if !args.allow.is_empty() {
            server = server.only_for(only(&args.allow));
        }
        let bound = server.bind(&[listener]).await.context("cannot serve")?;
        let address = bound.addresses().first().cloned().context("the server has no address")?;
        let open = args.allow.is_empty();
        let place = Place { address, encrypted: secrecy.is_required(), open };
        tell(context, chosen, writable, &place, &secrecy, &called)?;
        if let Some(ready) = ready {
            ready.tell(&place.uri(""))?;
        }
        bound.serve(stop).await;
        Ok(Exit::Done)
    }
}

/// Tells whether an address is in one of these networks.
fn only(networks: &[Network]) -> Arc<dyn Fn(IpAddr) -> bool + Send + Sync> {
    let networks = networks.to_vec();
    Arc::new(move |address| networks.iter().any(|network| network.contains(address)))
}

/// Lets the process have a descriptor for each connection, and those that it needs itself: clients
/// must not take from the repository what it reads with. Soft limits are often just 1024.
fn allow_files(connections: u64) {
    const OWN: u64 = 512;
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(connections + OWN, |most| most.min(connections + OWN));
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, wanted, "the limit of open files stays");
    }
}

/// Where the server is, and how it is spoken to.
struct Place {
    address: Listener,
    encrypted: bool,
    /// Whether everybody may connect.
    open: bool,
}

impl Place {
    /// The URI of an export; the empty name is the default one.
    fn uri(&self, export: &str) -> String {
        let (export, s) = (escape(export), if self.encrypted { "s" } else { "" });
        match &self.address {
            Listener::Tcp(address) => format!("nbd{s}://{address}/{export}"),
            Listener::Unix(path) => {
                let path = escape(&path.to_string_lossy());
                format!("nbd{s}+unix:///{export}?socket={path}")
            }
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

fn tell(
    context: &Context,
    chosen: &Chosen,
    writable: Option<&Writable>,
    place: &Place,
    secrecy: &Secrecy,
    names: &[String],
) -> Result<()> {
    if context.global.json {
        let all = names.iter().zip(&chosen.images);
        let exports: Vec<_> = all
            .map(|(name, one)| {
                serde_json::json!({
                    "name": name,
                    "uri": place.uri(name),
                    "point": one.point.to_string(),
                    "image": one.image,
                })
            })
            .collect();
        return output::event(&serde_json::json!({
            "type": "ready",
            "point": chosen.images[0].point.to_string(),
            "points": chosen.meant,
            "overlay": writable.map(Writable::path),
            "uri": place.uri(""),
            "tls": secrecy.name(),
            "exports": exports,
        }));
    }
    if let Listener::Tcp(address) = &place.address
        && !address.ip().is_loopback()
        && place.open
        && !secrecy.proves_clients()
    {
        warn(
            "whoever reaches this address can read the disks: clients need no proof here; \
            see --tls-psk-file and --tls-client-ca",
        );
    }
    if context.global.quiet {
        return Ok(());
    }
    let how = if writable.is_some() { "for writing" } else { "read-only" };
    match &chosen.images[..] {
        [first, rest @ ..] if rest.iter().all(|one| one.point == first.point) => {
            note(format_args!("serving {} {how}; Ctrl-C ends it", first.point));
        }
        all => {
            let exports = output::count(all.len() as u64, "export");
            note(format_args!("serving {exports} {how}; Ctrl-C ends it"));
        }
    }
    for name in names.iter().take(MOST_TOLD) {
        note(format_args!("  {name}: {}", place.uri(name)));
    }
    if names.len() > MOST_TOLD {
        let more = names.len() - MOST_TOLD;
        note(format_args!("  and {more} more: nbdinfo --list '{}'", place.uri("")));
    }
    tell_examples(place, secrecy, &names[0], writable.is_some());
    Ok(())
}

fn tell_examples(place: &Place, secrecy: &Secrecy, name: &str, writable: bool) {
    note("for example:");
    if place.encrypted {
        let (uri, credentials) = (place.uri(""), secrecy.parameters());
        let and = if uri.contains('?') { '&' } else { '?' };
        let uri = uri.replacen("//", secrecy.user(), 1);
        note(format_args!("  nbdcopy '{uri}{and}{credentials}' disk.raw"));
        return;
    }
    let default = place.uri("");
    note(format_args!("  qemu-img info '{default}'"));
    note(format_args!("  nbdcopy '{default}' disk.raw"));
    let how = if writable { "" } else { " -readonly" };
    match &place.address {
        Listener::Tcp(address) => note(format_args!(
            "  nbd-client {} {} /dev/nbd0 -name {name}{how}",
            address.ip(),
            address.port(),
        )),
        Listener::Unix(path) => {
            let path = path.display();
            note(format_args!("  nbd-client -unix {path} /dev/nbd0 -name {name}{how}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_those_that_clients_understand() {
        let place = |address, encrypted| Place { address, encrypted, open: true };
        let tcp = Listener::Tcp("[::1]:1234".parse().unwrap());
        assert_eq!(place(tcp.clone(), false).uri("vda"), "nbd://[::1]:1234/vda");
        assert_eq!(place(tcp, true).uri("w@1:a"), "nbds://[::1]:1234/w%401%3Aa");
        let unix = Listener::Unix("/run/a b?.sock".into());
        let plain = place(unix.clone(), false);
        assert_eq!(plain.uri(""), "nbd+unix:///?socket=/run/a%20b%3F.sock");
        assert_eq!(plain.uri("ä&"), "nbd+unix:///%C3%A4%26?socket=/run/a%20b%3F.sock");
        let secret = place(unix, true);
        assert_eq!(secret.uri("x"), "nbds+unix:///x?socket=/run/a%20b%3F.sock");
    }
}
