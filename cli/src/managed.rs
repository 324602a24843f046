//! The side of a mount that mountd has started: this process serves, and mountd keeps it.
//!
//! ```text
//! stdin   {"identity":null}\n                      what must be as it was, at the beginning
//!         statistics 7\n                           a question
//!         end of file                              mountd wants it to end, or is gone itself
//! stdout  {"type":"ready",...}\n                   as with --json
//!         {"type":"statistics","number":7,...}\n   an answer
//! ```
//!
//! The end of file is what makes a killed mountd harmless: what it had started ends by itself and
//! gives up its addresses, in good order.

use std::io::{BufRead, Read};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluice_mountd::metrics::Statistics;
use sluice_repository::PointSpec;
use tokio_util::sync::CancellationToken;

use crate::args::{Cli, Command, DetachArgs, ExportProtocol};
use crate::error::{Exit, usage_error};
use crate::output;
use crate::statistics::Registry;

/// Set in the environment of a process that mountd has started.
pub(crate) const MANAGED: &str = "SLUICE_MANAGED";
/// A line from mountd is not longer than this.
const LONGEST: u64 = 1 << 20;
/// How long ending in good order may take.
const GRACE: Duration = Duration::from_secs(20);

/// Cancelled when mountd wants this process to end.
static DISMISSED: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// What the process said when it was ready for the first time.
    pub(crate) identity: Option<Value>,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Of the question.
    pub(crate) number: u64,
    /// What was asked for.
    pub(crate) statistics: Statistics,
}

/// Whether mountd has started this process.
pub(crate) fn is_managed() -> bool {
    std::env::var_os(MANAGED).is_some()
}

/// Cancelled when this process is to end; never, when mountd has not started it.
pub(crate) fn dismissed() -> &'static CancellationToken {
    &DISMISSED
}

/// Makes the command the one that mountd wants: in the foreground, and what it was before.
pub(crate) fn adopt(cli: &mut Cli) -> Result<()> {
    cli.global.json = true;
    let mut line = String::new();
    let stdin = std::io::stdin().lock();
    stdin.take(LONGEST).read_line(&mut line).context("cannot read what mountd says")?;
    let greeting: Greeting = serde_json::from_str(&line).context("mountd said nothing sensible")?;
    apply(&mut cli.command, greeting.identity.as_ref())
}

fn apply(command: &mut Command, identity: Option<&Value>) -> Result<()> {
    match command {
        Command::Mount(args) => {
            args.background = DetachArgs::default();
            args.ready_fd = None;
            if let Some(point) = &mut args.point {
                keep_points(std::slice::from_mut(point), identity)?;
            }
        }
        Command::Export(args) => {
            args.background = DetachArgs::default();
            match &mut args.protocol {
                ExportProtocol::Nbd(args) => {
                    args.ready_fd = None;
                    keep_points(&mut args.points, identity)?;
                    if let Some(address) = identity.and_then(address_of_uri)
                        && args.socket.is_none()
                    {
                        args.listen = Some(still_free(address));
                    }
                }
                ExportProtocol::Iscsi(args) => {
                    args.ready_fd = None;
                    keep_points(std::slice::from_mut(&mut args.point), identity)?;
                    if let Some(addresses) = identity.and_then(addresses) {
                        args.listen = addresses.into_iter().map(still_free).collect();
                    }
                }
                ExportProtocol::Http(args) => {
                    args.ready_fd = None;
                    keep_points(&mut args.points, identity)?;
                    if let Some(addresses) = identity.and_then(addresses) {
                        args.listen = addresses.into_iter().map(still_free).collect();
                    } else if let ([listen], Some(address)) =
                        (&mut args.listen[..], identity.and_then(address_of_uri))
                    {
                        // What an earlier version said.
                        *listen = still_free(address);
                    }
                }
                ExportProtocol::VhostUser(args) => {
                    args.ready_fd = None;
                    keep_points(std::slice::from_mut(&mut args.point), identity)?;
                }
            }
        }
        _ => return Err(usage_error("mountd keeps mounts and exports only")),
    }
    Ok(())
}

/// The same points as before, though there may be newer ones of these names.
fn keep_points(texts: &mut [String], identity: Option<&Value>) -> Result<()> {
    let Some(identity) = identity else { return Ok(()) };
    let told = identity["points"].as_array().map(Vec::as_slice);
    // Of several points an earlier version said the first, and what has one point says that.
    let told = told.unwrap_or(std::slice::from_ref(&identity["point"]));
    if told.len() != texts.len() {
        return Ok(());
    }
    let told = told.iter().filter_map(Value::as_str);
    texts.iter_mut().zip(told).try_for_each(|(text, point)| keep_point(text, point))
}

/// The point, with the image that was asked for.
fn keep_point(text: &mut String, point: &str) -> Result<()> {
    let zone = jiff::tz::TimeZone::system();
    let spec = PointSpec::parse(&output::undo_folder_name(text), &zone)?;
    *text = spec.image.map_or_else(|| point.to_owned(), |image| format!("{point}:{image}"));
    Ok(())
}

/// The address in a URI such as `nbd://127.0.0.1:10809/`.
fn address_of_uri(identity: &Value) -> Option<SocketAddr> {
    let (_, rest) = identity["uri"].as_str()?.split_once("://")?;
    rest.split('/').next()?.parse().ok()
}

/// The address, or a free port beside it when another program has taken it since. Clients must be
/// told then; whoever keeps the mount hears of it.
fn still_free(address: SocketAddr) -> SocketAddr {
    match std::net::TcpListener::bind(address) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            output::warn(format!("{address} is taken by another program: another port is used"));
            SocketAddr::new(address.ip(), 0)
        }
        // Whatever else is wrong is told by whoever listens there.
        _ => address,
    }
}

fn addresses(identity: &Value) -> Option<Vec<SocketAddr>> {
    let addresses = identity["listen"].as_array()?.iter();
    addresses.map(|address| address.as_str()?.parse().ok()).collect()
}

/// Answers mountd until it wants no more.
pub(crate) fn attend(registry: Registry) -> Result<()> {
    let thread = std::thread::Builder::new().name("mountd".into());
    thread.spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut line = String::new();
        while (&mut stdin).take(LONGEST).read_line(&mut line).is_ok_and(|length| length > 0) {
            let number = line.trim().strip_prefix("statistics ").and_then(|n| n.parse().ok());
            if let Some(number) = number {
                let answer = Answer { number, statistics: registry.statistics() };
                if output::json_line(&answer).is_err() {
                    break;
                }
            }
            line.clear();
        }
        DISMISSED.cancel();
        std::thread::sleep(GRACE);
        std::process::exit(Exit::Failed as i32);
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    fn adopted(line: &str, identity: &Value) -> Command {
        let mut command = Cli::try_parse_from(line.split(' ')).unwrap().command;
        apply(&mut command, Some(identity)).unwrap();
        command
    }

    #[test]
    fn an_export_comes_back_with_its_point_and_address() {
        let told = json!({"point": "vm@0123", "uri": "nbd://127.0.0.1:4711/"});
        let line = "sluice export nbd vm@latest:vda --listen 127.0.0.1:0 --detach --ready-fd 3";
        let Command::Export(export) = adopted(line, &told) else { panic!() };
        assert!(!export.background.detach);
        let ExportProtocol::Nbd(args) = export.protocol else { panic!() };
        assert_eq!(args.points[0], "vm@0123:vda");
        assert_eq!(args.listen, Some("127.0.0.1:4711".parse().unwrap()));
        assert_eq!(args.ready_fd, None);

        let told = json!({"point": "vm@0123", "uri": "nbd+unix:///?socket=/s"});
        let line = "sluice export nbd vm --socket /s --detach";
        let Command::Export(export) = adopted(line, &told) else { panic!() };
        let ExportProtocol::Nbd(args) = export.protocol else { panic!() };
        assert_eq!((args.points[0].as_str(), args.listen), ("vm@0123", None));
        assert_eq!(args.socket, Some("/s".into()));

        let told = json!({"point": "vm@0123", "uri": "https://127.0.0.1:4712/TOKEN/"});
        let line = "sluice export http vm@latest --listen 127.0.0.1:0 --detach";
        let Command::Export(export) = adopted(line, &told) else { panic!() };
        let ExportProtocol::Http(args) = export.protocol else { panic!() };
        assert_eq!(args.points, ["vm@0123"]);
        assert_eq!(args.listen, ["127.0.0.1:4712".parse().unwrap()]);

        let told = json!({"point": "vm@01", "points": ["vm@01", "db@02", "vm@03"],
            "uri": "nbd://127.0.0.1:1/"});
        let line = "sluice export nbd vm@latest:vda db@latest vm --listen 127.0.0.1:0 --detach";
        let Command::Export(export) = adopted(line, &told) else { panic!() };
        let ExportProtocol::Nbd(args) = export.protocol else { panic!() };
        assert_eq!(args.points, ["vm@01:vda", "db@02", "vm@03"]);

        let told = json!({"point": "vm@01", "points": ["vm@01", "db@02"],
            "listen": ["127.0.0.1:1", "[::1]:2"], "uri": "https://127.0.0.1:1/TOKEN/"});
        let line = "sluice export http vm db@latest:a --listen 127.0.0.1:0 --listen [::1]:0";
        let Command::Export(export) = adopted(line, &told) else { panic!() };
        let ExportProtocol::Http(args) = export.protocol else { panic!() };
        assert_eq!(args.points, ["vm@01", "db@02:a"]);
        assert_eq!(args.listen, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);

        // What an earlier version said of several points does not tell which they were.
        let told = json!({"point": "vm@01", "uri": "nbd://127.0.0.1:1/"});
        let line = "sluice export nbd vm@latest db@latest --listen 127.0.0.1:0";
        let Command::Export(export) = adopted(line, &told) else { panic!() };
        let ExportProtocol::Nbd(args) = export.protocol else { panic!() };
        assert_eq!(args.points, ["vm@latest", "db@latest"]);

        let told = json!({"point": "vm@01", "listen": ["127.0.0.1:1", "[::1]:2"]});
        let line = "sluice export iscsi vm --listen 127.0.0.1:0 --listen [::1]:0 --detach";
        let Command::Export(export) = adopted(line, &told) else { panic!() };
        let ExportProtocol::Iscsi(args) = export.protocol else { panic!() };
        assert_eq!(args.listen, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    }

    #[test]
    fn other_commands_are_not_kept() {
        let mut command = Cli::try_parse_from(["sluice", "list"]).unwrap().command;
        assert!(apply(&mut command, None).is_err());
    }

    #[test]
    fn a_port_that_was_taken_is_replaced() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(still_free(address), SocketAddr::new(address.ip(), 0));
        drop(taken);
        assert_eq!(still_free(address), address);
    }
}
