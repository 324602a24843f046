//! What it takes to open a restore point, in requests and in time.
//!
//! `opening REPOSITORY PASSPHRASE-FILE INSTANCE OFFSET` opens a repository in a local folder, then
//! the latest point of an instance and its image, then reads 4 KiB at an offset, all of it for the
//! first time in this process; it prints one JSON object with the time and the requests of each.
//! Unlocking is slow on purpose, since the passphrase is stretched, and is done once in the life
//! of a process; so it is apart from the rest.
//!
//! `cargo xtask bench` runs it on a sparse disk of 16 TiB.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use sluice_block::BlockRead;
use sluice_destination::filesystem::FilesystemDestination;
use sluice_destination::wrap::{Count, Counters};
use sluice_repository::{Clock, PointSelector, PointSpec, Repository, Settings, Unlock};

type Failure = Box<dyn std::error::Error>;

struct Question {
    repository: PathBuf,
    passphrase: PathBuf,
    instance: String,
    offset: u64,
}

impl Question {
    fn from_args() -> Option<Self> {
        let mut args = std::env::args().skip(1);
        Some(Self {
            repository: args.next()?.into(),
            passphrase: args.next()?.into(),
            instance: args.next()?,
            offset: args.next()?.parse().ok()?,
        })
    }
}

#[expect(clippy::print_stdout, reason = "the result of a command-line tool")]
#[tokio::main]
async fn main() -> ExitCode {
    let Some(question) = Question::from_args() else {
        eprintln!("usage: opening REPOSITORY PASSPHRASE-FILE INSTANCE OFFSET");
        return ExitCode::from(2);
    };
    match open(question).await {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("opening: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Time and requests since the last look.
struct Meter {
    counters: Arc<Counters>,
    since: Instant,
    seen: sluice_destination::wrap::Snapshot,
}

impl Meter {
    fn lap(&mut self) -> serde_json::Value {
        let now = self.counters.snapshot();
        let spent = now - std::mem::replace(&mut self.seen, now);
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        serde_json::json!({
            "seconds": seconds,
            "gets": spent.get.requests,
            "bytes": spent.get.bytes,
            "other_requests": spent.requests() - spent.get.requests,
        })
    }
}

async fn open(question: Question) -> Result<serde_json::Value, Failure> {
    let text = std::fs::read_to_string(&question.passphrase)?;
    let passphrase = text.lines().next().unwrap_or_default().to_owned();
    let destination = FilesystemDestination::open(&question.repository).await?;
    let counted = Count::new(Arc::new(destination));
    let counters = counted.counters();
    let mut meter = Meter { counters, since: Instant::now(), seen: Default::default() };

    let unlock = Unlock::Passphrase(passphrase.into());
    let settings = Settings::default();
    let repository = Repository::open(Arc::new(counted), Clock::system(), unlock, settings).await?;
    let unlocked = meter.lap();

    let instance = question.instance;
    let spec = PointSpec { instance, selector: PointSelector::Latest, image: None };
    let point = repository.resolve(&spec).await?;
    let image = repository.image(&point, None)?;
    let opened = meter.lap();

    let mut first = vec![0; 4096];
    image.read_at(question.offset, &mut first).await?;
    let read = meter.lap();
    image.read_at(question.offset + 4096, &mut first).await?;
    let again = meter.lap();

    Ok(serde_json::json!({
        "image_bytes": image.size(),
        "unlock": unlocked,
        "open": opened,
        "first_read": read,
        "second_read": again,
    }))
}
