//! Copies of the repository: replicas, and points in repositories with other keys.

mod copy;
mod replica;
mod role;
mod tell;

use std::sync::Arc;

use anyhow::Result;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::url::Opened;
use sluice_destination::wrap::{Count, Counters};
use sluice_destination::{Destination, DestinationError, ErrorKind as DestinationKind};
use sluice_repository::replicate::throttle::{Schedule, Window};
use sluice_repository::replicate::{Filter, Options, Progress, Relation, Throttle, relation};
use sluice_repository::retention::Policy;

use super::prune::who;
use crate::args::{RateWindow, ReplicateArgs, ReplicateCommand, ReplicateRunArgs};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};

/// Both ends of a copy.
struct Ends {
    source: Opened,
    target: Opened,
    /// Whether DEST is the source.
    pull: bool,
}

/// What every way of copying is given.
struct Job<'j> {
    context: &'j Context,
    args: &'j ReplicateRunArgs,
    ends: Ends,
    options: Options,
    throttle: Option<Arc<Throttle>>,
    progress: Arc<Progress>,
}

/// Copies, or changes or shows the role.
pub(crate) async fn run(context: &Context, args: ReplicateArgs) -> Result<Exit> {
    match args.command {
        None => replicate(context, &args.run).await,
        Some(ReplicateCommand::Promote { force }) => role::promote(context, force).await,
        Some(ReplicateCommand::Demote { to }) => role::demote(context, &to).await,
        Some(ReplicateCommand::Status) => role::status(context).await,
    }
}

async fn replicate(context: &Context, args: &ReplicateRunArgs) -> Result<Exit> {
    let options = options(context, args)?;
    let ends = ends(context, args).await?;
    let (source, target) = (&ends.source.destination, &ends.target.destination);
    if source.location() == target.location() {
        return Err(usage_error("DEST is the repository itself"));
    }
    let relation = relation(&**source, &**target).await?;
    if relation == Relation::Empty && args.tell_copies {
        let text = format!("there is no repository at {}", target.location());
        return Err(advise("not-found", text, "is its disk away, or was it removed?"));
    }
    let schedule = Schedule { limit: args.limit, windows: windows(&args.limit_window) };
    let throttle = (schedule != Schedule::default())
        .then(|| Arc::new(Throttle::new(schedule, context.clock.clone(), context.zone.clone())));
    let progress = Arc::<Progress>::default();
    let job = Job { context, args, ends, options, throttle, progress };
    match relation {
        Relation::Other => copy::run(job).await,
        _ => replica::run(job, relation).await,
    }
}

async fn ends(context: &Context, args: &ReplicateRunArgs) -> Result<Ends> {
    let repo = context.repo()?;
    let (from, to, pull) = match (&args.to, &args.from) {
        (Some(to), _) => (repo, to.as_str(), false),
        (None, Some(from)) => (from.as_str(), repo, true),
        (None, None) => return Err(usage_error("where to? Give --to DEST, or --from DEST")),
    };
    let source = match pull {
        true => context.other_destination_at(from, false).await?,
        false => context.destination_at(from, false).await?,
    };
    // A node copies between repositories that are there: an empty folder is a disk that is away.
    let create = !args.dry_run && !args.tell_copies;
    let target = match pull {
        true => context.destination_at(to, create).await,
        false => context.other_destination_at(to, create).await,
    };
    let target = match target {
        Err(error) if args.dry_run && is_missing(&error) => nothing(),
        other => other?,
    };
    Ok(Ends { source, target, pull })
}

/// Whether a folder is only not there yet.
fn is_missing(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<DestinationError>().map(DestinationError::kind);
    kind == Some(DestinationKind::InvalidConfig)
}

/// Stands for a folder that a dry run does not create.
fn nothing() -> Opened {
    let count = Count::new(Arc::new(MemoryDestination::new()));
    let counters: Arc<Counters> = count.counters();
    let destination: Arc<dyn Destination> = Arc::new(count);
    Opened { destination, counters }
}

fn options(context: &Context, args: &ReplicateRunArgs) -> Result<Options> {
    let keep = Policy { keep_within: args.keep_within, ..args.periods.policy() };
    if keep.is_empty() && keep != Policy::default() {
        let text = sluice_repository::retention::EmptyPolicy.to_string();
        return Err(usage_error(text));
    }
    let since_ms = args.since.as_deref().map(|text| context.moment(text)).transpose()?;
    let filter = Filter { instances: args.instance.clone(), latest: args.latest, since_ms };
    let options = Options {
        filter,
        keep: (!keep.is_empty()).then_some(keep),
        by: who(),
        mirror_prunes: args.mirror_prunes,
        repair: args.repair,
        parallel: usize::from(args.parallel),
        zone: context.zone.clone(),
    };
    if args.without_key && options.need_key() {
        return Err(usage_error(
            "--instance, --latest, --since and --keep-... need the key; leave them out, or \
             --without-key",
        ));
    }
    Ok(options)
}

fn windows(given: &[RateWindow]) -> Vec<Window> {
    let window = |one: &RateWindow| Window { from: one.from, to: one.to, rate: one.rate };
    given.iter().map(window).collect()
}
