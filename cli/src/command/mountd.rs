//! The daemon that keeps mounts; what it does is in the room `mountd/daemon`, and here is how it
//! is started, and how it starts mounts: as processes of this executable, so that one that breaks
//! takes no other with it.

mod notify;
mod process;

use std::fs::{DirBuilder, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

pub(crate) use process::Processes;

use anyhow::{Context as _, Result};
use sluice_mountd::{Config, Daemon, MetricsServer, Socket, Store};

use crate::args::MountdArgs;
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::interrupt;
use crate::output::{self, note};

/// Set in the environment of a background process: it says [`READY`] and leaves its terminal.
const DETACHED: &str = "SLUICE_DETACHED";
/// What the background process says once it can be asked.
const READY: &str = "READY=1\n";
/// The control socket of the system's service, which root asks first.
const SYSTEM_SOCKET: &str = "/run/sluice/mountd.sock";
const SOCKET: &str = "SLUICE_MOUNTD_SOCKET";
/// What a daemon in the background keeps of the environment.
const INHERITED: [&str; 7] =
    ["HOME", "PATH", "LANG", "TZ", "XDG_RUNTIME_DIR", "SLUICE_LOG", "SLUICE_LOG_FORMAT"];

/// Where a daemon is.
#[derive(Debug)]
pub(crate) struct Places {
    /// Its folder.
    pub(crate) state: PathBuf,
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// Whether somebody named it: then no other will do.
    pub(crate) named: bool,
}

impl Places {
    /// Those of the daemon that a client asks.
    pub(crate) fn of_client() -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(socket) = set(SOCKET) {
            let socket = PathBuf::from(socket);
            return Ok(Self { state: PathBuf::new(), socket, named: true });
        }
        let root = rustix::process::geteuid().is_root();
        let state = set("SLUICE_MOUNTD_STATE").map(PathBuf::from);
        if root && state.is_none() && Path::new(SYSTEM_SOCKET).exists() {
            let socket = PathBuf::from(SYSTEM_SOCKET);
            return Ok(Self { state: PathBuf::new(), socket, named: true });
        }
        Self::of(state.as_deref(), None)
    }

    fn of(state: Option<&Path>, socket: Option<&Path>) -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = |name, below: &str| set(name).map(|folder| PathBuf::from(folder).join(below));
        let state = state.map(Path::to_owned);
        let state = state
            .or_else(|| home("XDG_STATE_HOME", "sluice/mountd"))
            .or_else(|| home("HOME", ".local/state/sluice/mountd"));
        let state = state.ok_or_else(|| {
            advise("local", "there is no folder for the state of mountd", "set HOME, or --state")
        })?;
        let state = std::path::absolute(state)?;
        let socket = match socket {
            Some(socket) => std::path::absolute(socket)?,
            None => state.join("mountd.sock"),
        };
        Ok(Self { state, socket, named: false })
    }
}

/// Runs the daemon.
pub(crate) async fn run(context: &Context, args: &MountdArgs) -> Result<Exit> {
    let places = Places::of(args.state.as_deref(), args.socket.as_deref())?;
    let stop = interrupt::watch("")?;
    let store = Store::open(&places.state)?;
    let runner = Arc::new(Processes::new(&places.state)?);
    let clock = context.clock.clone();
    let clock: Arc<dyn Fn() -> u64 + Send + Sync> = Arc::new(move || clock.now_ms());
    let config = Config { clock, until_idle: args.until_idle };
    let daemon = Daemon::new(store, runner, config)?;
    let socket = Socket::bind(&places.socket)
        .with_context(|| format!("cannot listen on {}", places.socket.display()))?;
    let ended = stop.child_token();
    let answering = socket.serve(&daemon, ended.clone());
    let mut metrics = None;
    if let Some(address) = args.metrics {
        let failed = || format!("cannot listen on {address}");
        let server = MetricsServer::bind(address).await.with_context(failed)?;
        let address = server.address().with_context(failed)?;
        server.serve(&daemon, ended.clone());
        metrics = Some(address);
    }
    tell(context, &places, metrics, daemon.recovered())?;
    notify::say("READY=1")?;
    daemon.run(stop).await;
    notify::say("STOPPING=1")?;
    ended.cancel();
    // With it goes the socket's file.
    answering.await?;
    Ok(Exit::Done)
}

fn tell(
    context: &Context,
    places: &Places,
    metrics: Option<std::net::SocketAddr>,
    recovered: usize,
) -> Result<()> {
    if std::env::var_os(DETACHED).is_some() {
        output::print(READY)?;
        return leave_terminal(&places.state);
    }
    let metrics = metrics.map(|address| format!("http://{address}/metrics"));
    if context.global.json {
        return output::json_line(&serde_json::json!({
            "type": "ready",
            "socket": places.socket,
            "state": places.state,
            "metrics": metrics,
            "recovered": recovered,
        }));
    }
    if !context.global.quiet {
        note(format_args!("listening on {}; Ctrl-C ends it", places.socket.display()));
        if let Some(metrics) = metrics {
            note(format_args!("metrics: {metrics}"));
        }
        if recovered > 0 {
            note(format_args!("starting {recovered} mounts again; `sluice mounts` shows them"));
        }
    }
    Ok(())
}

/// Lets go of the terminal and of whoever waits for the outputs to be closed.
fn leave_terminal(state: &Path) -> Result<()> {
    let context = "cannot go to the background";
    let nothing = std::fs::File::options().read(true).write(true).open("/dev/null");
    let nothing = nothing.context(context)?;
    let mut options = OpenOptions::new();
    let log = options.create(true).append(true).mode(0o600).open(state.join("mountd.log"));
    rustix::stdio::dup2_stdin(&nothing).context(context)?;
    rustix::stdio::dup2_stdout(&nothing).context(context)?;
    rustix::stdio::dup2_stderr(log.as_ref().unwrap_or(&nothing)).context(context)?;
    // A process that leads its group already needs no session of its own.
    let _ = rustix::process::setsid();
    Ok(())
}

/// Starts a daemon in the background and waits until it can be asked, or has failed.
pub(crate) fn background(args: &MountdArgs) -> Result<()> {
    let context = "cannot start mountd";
    let places = Places::of(args.state.as_deref(), args.socket.as_deref())?;
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&places.state).context(context)?;
    let mut command = std::process::Command::new(std::env::current_exe().context(context)?);
    command
        .args(["mountd", "--quiet", "--until-idle", "--state"])
        .arg(&places.state)
        .arg("--socket")
        .arg(&places.socket)
        // What this client knows is not for the mounts of others.
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| INHERITED.iter().any(|kept| name == kept)))
        .env(DETACHED, "1")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context(context)?;
    let mut said = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        // Ends when the process is ready, for it then lets go of the pipe, or when it is over.
        pipe.read_to_string(&mut said).context(context)?;
    }
    if said == READY {
        return Ok(());
    }
    child.wait().context(context)?;
    Err(advise("failed", "mountd did not start", "`sluice mountd` in the foreground tells why"))
}
