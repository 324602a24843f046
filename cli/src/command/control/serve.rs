//! Running a server, a node, or both.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::json;
use sluice_node::{Abilities, Agent, Config as NodeConfig, Credentials, Ended, Mounts};
use sluice_node_api::metrics as node_metrics;
use sluice_node_api::{Client, Join, JoinToken, Joined, KeyRequest};
use sluice_server::{Config, Server};

use super::keep::{self, Keeper, Place};
use super::profile::Profile;
use super::shown::Shown;
use super::survey::{self, Executable, Survey};
use crate::args::{NodeRunArgs, ServerArgs, UpArgs};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::interrupt;
use crate::output::{self, note};
use crate::secret;

/// The node that runs beside the server of `sluice up`.
const LOCAL: &str = "local";

pub(crate) fn folder(given: Option<PathBuf>, below: &str) -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let place = given
        .or_else(|| set("XDG_STATE_HOME").map(|home| home.join("sluice").join(below)))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/sluice").join(below)));
    let advice = || advise("local", "there is no folder for the state", "set HOME, or --state");
    Ok(std::path::absolute(place.ok_or_else(advice)?)?)
}

/// Allows as many open files as may be: each slot of each node holds a connection.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it there are fewer connections, which the server says when they are needed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

async fn open(args: ServerArgs) -> Result<(Server, PathBuf)> {
    allow_many_files();
    let state = folder(args.state, "server")?;
    let config = Config {
        state: state.clone(),
        database: args.database,
        listen: args.listen,
        names: args.names,
        public_url: args.public_url,
        lease: args.lease,
        certificates: args.node_certificates,
        new_setup_token: args.new_setup_token,
    };
    let server = Server::open(config).await?;
    let server = match args.metrics {
        Some(address) => server.with_metrics(address).await?,
        None => server,
    };
    Ok((server, state))
}

fn tell(context: &Context, server: &Server, state: &Path) -> Result<()> {
    let local = server.local();
    let fingerprint = local.fingerprint.to_string();
    let file = state.join("setup-token");
    let setup = server.setup_token().map(|_| &file);
    if context.global.json {
        return output::json_line(&json!({
            "type": "ready",
            "url": local.url,
            "fingerprint": fingerprint,
            "setup_token_file": setup,
        }));
    }
    note(format_args!("listening on {}; Ctrl-C ends it", local.url));
    note(format_args!("certificate: SHA-256 {fingerprint}"));
    if server.is_set_up_elsewhere() {
        note("the setup token was made by another server of this database, or is lost:");
        note("it is in the file setup-token of that server; --new-setup-token makes another");
    }
    if let Some(token) = server.setup_token() {
        note(format_args!("setup token: {token} (also in {})", file.display()));
        note("make the first administrator with it:");
        note(format_args!(
            "  sluice login {} --fingerprint {fingerprint} --user admin --setup-token-file {}",
            local.url,
            file.display()
        ));
    }
    Ok(())
}

/// Runs a server.
pub(crate) async fn server(context: &Context, args: ServerArgs) -> Result<Exit> {
    let stop = interrupt::watch("")?;
    let (server, state) = open(args).await?;
    tell(context, &server, &state)?;
    server.serve(stop).await;
    Ok(Exit::Done)
}

/// Runs a server, a node beside it, and sees to a first destination.
pub(crate) async fn up(context: &Context, args: UpArgs) -> Result<Exit> {
    let stop = interrupt::watch("")?;
    let (server, state) = open(args.server).await?;
    let identity = server.local_node(LOCAL).await?;
    let repository = state.join("repository");
    let url = repository.to_str().ok_or_else(|| usage_error("--state must be UTF-8"))?;
    server.local_destination(LOCAL, url, &state.join("local-passphrase")).await?;
    let local = server.local();
    let client = Client::new(&local.url, local.fingerprint)?;
    client.show(&identity)?;
    let shown = Shown::of_local(identity, context.clock.clone());
    let executable = Executable::own(Some("it runs within `sluice up`: start that again"));
    let survey = Survey::new(args.slots, args.mounts.clone(), executable);
    let place = Place { state: state.clone(), args: args.mounts };
    let (keeper, keeping) = keep::start(place, &context.clock, &stop)?;
    let agent = agent(client, &state, Arc::new(survey), keeper, shown, (None, None)).await?;
    tell(context, &server, &state)?;
    let node = tokio::spawn(agent.run(stop.clone()));
    server.serve(stop).await;
    // It has been told to end as well.
    let _ = node.await;
    let _ = keeping.await;
    Ok(Exit::Done)
}

async fn agent(
    client: Client,
    state: &Path,
    survey: Arc<Survey>,
    keeper: Keeper,
    shown: Shown,
    (folders, commands): (Option<Vec<String>>, Option<Vec<String>>),
) -> Result<Agent> {
    let executable = std::env::current_exe().context("cannot find this executable")?;
    let folder = state.to_owned();
    let hello = survey.hello().await;
    let mounts: Option<Arc<dyn Mounts>> = Some(Arc::new(keeper));
    let credentials: Option<Arc<dyn Credentials>> = Some(Arc::new(shown));
    let abilities: Option<Arc<dyn Abilities>> = Some(survey);
    let config =
        NodeConfig { executable, folder, hello, folders, commands, mounts, credentials, abilities };
    Ok(Agent::new(client, config))
}

/// Lets this machine join.
pub(crate) async fn join(
    context: &Context,
    name: &str,
    token_file: &Path,
    state: Option<PathBuf>,
) -> Result<Exit> {
    let state = folder(state, "node")?;
    let token = secret::token_or_stdin(token_file)?;
    let token: JoinToken = token.parse().map_err(|error: &str| usage_error(error))?;
    let path = state.join("node.json");
    let client = Client::new(&token.server, token.fingerprint)?;
    let JoinToken { server, fingerprint, token } = token;
    let fingerprint = fingerprint.to_string();
    // Who shows the key of a node is that node, also when the certificate has ended.
    let before = Profile::read(&path).ok().filter(|before| before.fingerprint == fingerprint);
    if let Some(identity) = before.and_then(|before| before.identity)
        && let Err(error) = client.show(&identity)
    {
        tracing::warn!("what this machine was before cannot be shown: {error}");
    }
    let asked = KeyRequest::new(name).map_err(|why| advise("local", why, "try again"))?;
    let request = Some(asked.request.clone());
    // How it stands is told by `node run`, which knows where mounts are shown.
    let hello = survey::joining();
    let join = Join { token, name: name.to_owned(), hello, request };
    let joined: Joined = client.post("/api/node/v1/join", &join).await?;
    let identity = joined.certified.map(|certified| asked.with(certified));
    let name = Some(name.to_owned());
    let profile = Profile { server, fingerprint, token: joined.token, name, identity };
    profile.write(&path)?;
    let name = profile.name.as_deref().unwrap_or_default();
    if context.global.json {
        output::json(&json!({"node": joined.node, "name": name, "again": joined.again}))?;
    } else if !context.global.quiet {
        let again = if joined.again { " again" } else { "" };
        note(format_args!("joined{again} as {name}; now: sluice node run"));
    }
    Ok(Exit::Done)
}

/// Runs a node that has joined.
pub(crate) async fn run_node(context: &Context, args: NodeRunArgs) -> Result<Exit> {
    let NodeRunArgs { state, slots, mounts, allow_path, allow_command, metrics } = args;
    let state = folder(state, "node")?;
    let stop = interrupt::watch("")?;
    let path = state.join("node.json");
    let profile = Profile::read(&path).map_err(|error| {
        let text = format!("this machine has joined no server: {error}");
        advise("login", text, "sluice node join NAME --token-file FILE")
    })?;
    // What was mounted comes back though the server does not answer.
    let executable = Executable::own(None);
    let again = executable.as_ref().map(|executable| executable.path().to_owned());
    let survey = Arc::new(Survey::new(slots, mounts.clone(), executable));
    let place = Place { state: state.clone(), args: mounts };
    let (keeper, keeping) = keep::start(place, &context.clock, &stop)?;
    let (client, server) = (profile.client()?, profile.server.clone());
    let shown = Shown::of(profile, path, context.clock.clone());
    let given = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let allowed = (given(allow_path), given(allow_command));
    let agent = agent(client, &state, survey, keeper, shown, allowed).await?;
    if let Some(address) = metrics {
        let socket = node_metrics::bind(address).await;
        let socket = socket.with_context(|| format!("cannot listen on {address}"))?;
        tokio::spawn(node_metrics::serve(socket, sluice_node::tell(agent.metrics())));
    }
    if context.global.json {
        output::json_line(&json!({"type": "ready", "server": server}))?;
    } else if !context.global.quiet {
        note(format_args!("running tasks of {server}; Ctrl-C ends it"));
    }
    let ran = agent.run(stop.clone()).await;
    // Nothing is left behind, also when the server refuses this node.
    stop.cancel();
    let _ = keeping.await;
    match (ran?, again) {
        (Ended::Restart, Some(path)) => Err(start_again(&path)),
        _ => Ok(Exit::Done),
    }
}

/// Becomes what lies at `path` now: the same process with the same words, so whoever watches over
/// it sees no end. Returns when that is not possible.
fn start_again(path: &Path) -> anyhow::Error {
    tracing::info!("starting again from {}", path.display());
    let mut command = std::process::Command::new(path);
    command.arg0(path).args(std::env::args_os().skip(1));
    let error = command.exec();
    anyhow::Error::new(error).context(format!("cannot start {} again", path.display()))
}
