use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use sluice_http::{Export, Limits, Server, Token};
use sluice_repository::{Repository, RestorePoint};

use super::{certificate, only};
use crate::args::HttpArgs;
use crate::context::Context;
use crate::error::Exit;
use crate::ready::Ready;
use crate::{interrupt, output, secret};

/// What entity tags are derived from, besides the content: other derivations would have another
/// text here.
const TAG: &str = "sluice 2026-11-21 HTTP entity tag of an image";

/// What is told of a server once it runs.
struct Site<'a> {
    /// With the token: whoever knows it can read.
    root: String,
    token: &'a Token,
    from: Origin,
    exports: Vec<Told>,
    certificate: Option<certificate::Served>,
    /// What the arguments meant, one by one.
    points: Vec<String>,
    /// Where it listens, in the order that was asked for.
    listen: Vec<SocketAddr>,
}

/// Where the token comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It was made here, and has to be told.
    Here,
    /// A file of the user's, who knows it: people are not told it again.
    File,
    /// Of a node, for which it is a secret: what is told is stored.
    Variable,
}

struct Told {
    name: String,
    point: String,
    path: String,
    etag: String,
}

/// Serves restore points over HTTP.
pub(crate) async fn http(context: &Context, args: HttpArgs, ready: Option<Ready>) -> Result<Exit> {
    // Secrets first: a file that is not there should not wait for a repository.
    let token = token(&args)?;
    let certificate = certificate::find(&args)?;
    let repository = context.open().await?;
    let mut points = Vec::with_capacity(args.points.len());
    for text in &args.points {
        let (point, image) = context.point(&repository, text).await?;
        let names = Context::image_names(&point, image.as_deref())?;
        points.push((point, names));
    }
    let mut pins = Vec::with_capacity(points.len());
    for (point, _) in &points {
        pins.push(repository.pin(point, "export").await?);
    }
    let served = serve(context, &args, token, certificate, &repository, &points, ready).await;
    for pin in pins {
        pin.release().await;
    }
    served
}

/// The token, and where it comes from.
fn token(args: &HttpArgs) -> Result<(Token, Origin)> {
    Ok(match (&args.token_file, secret::http_token_variable()) {
        (Some(file), _) => {
            let token = Token::new(&secret::token(file)?);
            (
                token.with_context(|| format!("cannot use the token in {}", file.display()))?,
                Origin::File,
            )
        }
        (None, Some(given)) => {
            let token = Token::new(&given).context("cannot use the token in SLUICE_HTTP_TOKEN")?;
            (token, Origin::Variable)
        }
        (None, None) => (Token::generate()?, Origin::Here),
    })
}

async fn serve(
    context: &Context,
    args: &HttpArgs,
    (token, from): (Token, Origin),
    certificate: Option<certificate::Served>,
    repository: &Repository,
    points: &[(RestorePoint, Vec<String>)],
    ready: Option<Ready>,
) -> Result<Exit> {
    let (mut exports, mut told) = (vec![], vec![]);
    for (point, names) in points {
        for name in names {
            let export = export(context, repository, point, name, points.len() > 1)?;
            told.push(Told {
                name: name.clone(),
                point: point.to_string(),
                path: export.path(),
                etag: export.tag.clone(),
            });
            exports.push(export);
        }
    }
    // Watched before clients can connect: no signal finds nobody listening.
    let stop = interrupt::watch("")?;
    let tls = certificate.as_ref().map(|served| served.tls.clone());
    let mut server = Server::new(exports, token.clone(), tls, Limits::default())?;
    if !args.allow.is_empty() {
        server = server.only_for(only(&args.allow));
    }
    let bound = server.bind(&args.listen).await.context("cannot serve")?;
    let address = *bound.addresses().first().context("the server has no address")?;
    let exposed = bound.addresses().iter().any(|address| !address.ip().is_loopback());
    if args.plain && exposed && !context.global.json {
        output::warn("token and disks can be read by everybody on the way: serve without --plain");
    }
    let root = root(address, certificate.is_some(), &token);
    let points = points.iter().map(|(point, _)| point.to_string()).collect();
    let listen = bound.addresses().to_vec();
    let site = Site { root, token: &token, from, exports: told, certificate, points, listen };
    tell(context, &site)?;
    if let (Some(ready), Some(first)) = (ready, site.exports.first()) {
        ready.tell(&site.url(first))?;
    }
    bound.serve(stop).await;
    Ok(Exit::Done)
}

fn export(
    context: &Context,
    repository: &Repository,
    point: &RestorePoint,
    image: &str,
    several: bool,
) -> Result<Export> {
    let reader = Arc::new(repository.image(point, Some(image))?);
    let name = match several {
        true => format!("{}/{}/{image}", point.instance, point.id),
        false => image.to_owned(),
    };
    let record = reader.record();
    let tag = tag(&repository.descriptor().id, &record.root.to_string(), record.size);
    let device = context.statistics.measured(&name, reader);
    Ok(Export {
        name,
        description: format!("{point}:{image}"),
        tag,
        modified: UNIX_EPOCH + Duration::from_millis(point.created_ms),
        device,
    })
}

/// The same for the same content whenever and wherever it is served, and different for any other.
fn tag(repository: &str, root: &str, size: u64) -> String {
    let mut hash = blake3::Hasher::new_derive_key(TAG);
    for part in [repository, root, &size.to_string()] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().to_hex()[..32].to_owned()
}

fn root(address: SocketAddr, tls: bool, token: &Token) -> String {
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{address}/{}/", token.reveal())
}

impl Site<'_> {
    fn url(&self, export: &Told) -> String {
        format!("{}{}", self.root, export.path)
    }

    /// Without the token, unless it may be told.
    fn shown(&self, url: &str, told: bool) -> String {
        if told { url.to_owned() } else { url.replacen(self.token.reveal(), "TOKEN", 1) }
    }
}

fn tell(context: &Context, site: &Site<'_>) -> Result<()> {
    if context.global.json {
        let told = site.from != Origin::Variable;
        let exports = site.exports.iter().map(|export| {
            serde_json::json!({
                "name": export.name,
                "point": export.point,
                "uri": site.shown(&site.url(export), told),
                "etag": export.etag,
            })
        });
        let certificate = site.certificate.as_ref();
        return output::json_line(&serde_json::json!({
            "type": "ready",
            "point": site.exports.first().map(|export| &export.point),
            "points": site.points,
            "listen": site.listen,
            "uri": site.shown(&site.root, told),
            "token": told.then(|| site.token.reveal()),
            "fingerprint": certificate.map(|served| served.tls.fingerprint()),
            "certificate": certificate.map(|served| &served.file),
            "exports": exports.collect::<Vec<_>>(),
        }));
    }
    if context.global.quiet {
        return Ok(());
    }
    output::note("serving read-only; Ctrl-C ends it. Whoever knows the token can read:");
    for export in &site.exports {
        output::note(format_args!(
            "  {}: {}",
            export.point,
            site.shown(&site.url(export), site.from == Origin::Here)
        ));
    }
    let mut trust = String::new();
    if let Some(served) = &site.certificate {
        output::note(format_args!("certificate: {}", served.file.display()));
        output::note(format_args!("  SHA-256 {}", served.tls.fingerprint()));
        trust = format!("--cacert {} ", served.file.display());
    }
    output::note("for example:");
    output::note(format_args!("  curl {trust}-C - -O URL"));
    output::note("  qemu-img convert -m 1 -O qcow2 URL disk.qcow2");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_tell_contents_apart_and_stay() {
        let one = tag("repository", "root", 4096);
        // Known to whoever goes on with a copy: it must not change between releases.
        assert_eq!(one, "788f39c3d60604536289aad3b34627f5");
        for other in [
            tag("repository", "root", 4097),
            tag("repositor", "yroot", 4096),
            tag("repository", "toor", 4096),
        ] {
            assert_ne!(other, one);
        }
    }

    #[test]
    fn urls_hold_the_token() {
        let token = Token::new("0123456789abcdef").unwrap();
        let address = "[::1]:1234".parse().unwrap();
        assert_eq!(root(address, true, &token), "https://[::1]:1234/0123456789abcdef/");
        assert_eq!(root(address, false, &token), "http://[::1]:1234/0123456789abcdef/");
    }
}
