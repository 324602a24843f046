//! Booting a restore point to see whether it would come back.
//!
//! ```text
//!   restore point ── NBD over a socket ──► QEMU ── snapshot=on: writes to an unlinked file
//!                                           │ stdout   the serial console
//!                                           │ monitor  state of connections, screenshot
//!                                           └ agent    the guest agent
//! ```
//!
//! The guest is tethered: it is killed with this process, however that ends. Sockets lie in a
//! folder that the next test removes when this one could not.

mod checks;
mod folder;
mod machine;
mod monitor;
mod network;
mod script;
mod spec;
mod together;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use data_encoding::BASE64;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::args::BootTestArgs;
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, note, seconds};
use crate::{interrupt, leash};

use checks::{Check, Console};
use machine::{Net, Places};
pub(crate) use machine::{firmware_files, kvm_lacks, qemu};
use monitor::{Monitor, Ports};
use script::Script;
pub(crate) use script::{SSH, is_program};
use together::Turn;
pub(crate) use together::run as run_together;

/// QEMU's overlays lie here: they may become large, and memory is not the place for them.
const SCRATCH: &str = "/var/tmp";
/// A larger screenshot is not kept, in bytes.
const LARGEST_SCREEN: usize = 1 << 20;
/// How long QEMU may take until its monitor answers.
const BEGIN: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is told how far the test is.
const TELL: Duration = Duration::from_secs(1);

/// Boots a restore point and says whether it answers.
pub(crate) async fn run(context: &Context, mut args: BootTestArgs) -> Result<Exit> {
    let begun = Instant::now();
    let stop = interrupt::watch("ending the guest")?;
    Script::check(&args)?;
    let qemu = machine::needed()?;
    let made = folder::make(Path::new(SCRATCH));
    let (folder, _lock) = made.context("cannot make a folder for the test")?;
    leash::leave_nothing_of(folder.path());
    let checks = Check::all(&mut args);
    let exported = CancellationToken::new();
    let places = Places(folder.path());
    let disks = places.disks();
    let export = super::export::at_socket(context, &args.point, &disks, exported.clone());
    let export = Box::pin(export).await?;
    let export_ms = milliseconds(begun);
    let accelerator = machine::accelerator(args.accelerator);
    let words = machine::words(&args, accelerator, &export.images, (&places, &Net::Own))?;
    let others = None;
    let test = Test { context, args: &args, checks: &checks, begun, stop, places, others };
    let done = test.perform(&qemu, &words).await;
    let point = export.point.clone();
    exported.cancel();
    export.end().await;
    let mut told = done?;
    told["timings"]["export_ms"] = export_ms.into();
    told["accelerator"] = accelerator.into();
    told["point"] = point.into();
    test_told(context, &args, &told)
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

struct Test<'a> {
    context: &'a Context,
    args: &'a BootTestArgs,
    checks: &'a [Check],
    begun: Instant,
    stop: CancellationToken,
    places: Places<'a>,
    /// Those that are booted with it.
    others: Option<&'a Turn>,
}

/// How a guest's test ended.
enum Ended {
    Answered,
    Rejected(String),
    /// It answered, and did not stay.
    Left,
    TooLate,
    Gone,
    Stopped,
}

impl Test<'_> {
    async fn perform(&self, qemu: &Path, words: &[String]) -> Result<Value> {
        let mut command = leash::tether(qemu);
        command.args(words).env("TMPDIR", SCRATCH).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // The kernel ties it to this thread, which is the main one.
        let mut guest = command.spawn().context("cannot start QEMU")?;
        let console = Console::waiting_for(&self.args.console);
        let errors = Console::default();
        listen(guest.stdout.take(), console.clone());
        listen(guest.stderr.take(), errors.clone());
        let monitor = self.monitor(&mut guest).await;
        let monitor = monitor.ok_or_else(|| {
            let said = errors.text();
            let why = said.lines().last().unwrap_or("it says nothing").to_owned();
            anyhow::anyhow!("QEMU does not start: {why}")
        })?;
        let start_ms = milliseconds(self.begun);
        let monitor = Arc::new(Mutex::new(monitor));
        let own = || Ports { monitor: Arc::clone(&monitor), address: None };
        let ports = self.others.map_or_else(own, |others| others.ports.clone());
        let mut answered = vec![None; self.checks.len()];
        let mut ended = self.wait(&mut guest, &console, &ports, &mut answered).await;
        let answer_ms = milliseconds(self.begun);
        let screen = self.screen(&monitor).await;
        if let (Some(others), Ended::Answered) = (self.others, &ended) {
            ended = self.stay(&mut guest, others).await;
        }
        let _ = guest.kill().await;
        if matches!(ended, Ended::Stopped) {
            anyhow::bail!("the test was stopped");
        }
        let ok = matches!(ended, Ended::Answered);
        let open = self.checks.iter().zip(&answered).filter(|(_, at)| at.is_none());
        let open: Vec<String> = open.map(|(check, _)| check.words()).collect();
        let reason = match &ended {
            Ended::Answered | Ended::Stopped => String::new(),
            Ended::TooLate => {
                format!("after {}: {}", seconds(self.args.timeout), open.join("; "))
            }
            Ended::Rejected(why) => why.clone(),
            Ended::Left => "the guest has ended while others needed it".to_owned(),
            Ended::Gone => format!("the guest has ended before: {}", open.join("; ")),
        };
        let checks = self.checks.iter().zip(answered).map(|(check, at)| check.told(at));
        Ok(json!({
            "verdict": if ok { "ok" } else { "failed" },
            "reason": reason,
            "timings": {"start_ms": start_ms, "answer_ms": ok.then_some(answer_ms)},
            "checks": checks.collect::<Vec<_>>(),
            "console": console.text(),
            "qemu": errors.text(),
            "screenshot": screen,
        }))
    }

    /// The monitor, once QEMU has made the machine; nothing when it ends before.
    async fn monitor(&self, guest: &mut Child) -> Option<Monitor> {
        let until = Instant::now() + BEGIN;
        while Instant::now() < until && !self.stop.is_cancelled() {
            if let Some(monitor) = Monitor::connect(&self.places.monitor()).await {
                return Some(monitor);
            }
            if !matches!(guest.try_wait(), Ok(None)) {
                // What it said last is read.
                tokio::time::sleep(LOOK).await;
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    /// Lets a guest run that has answered, until all others have, or cannot any more.
    async fn stay(&self, guest: &mut Child, others: &Turn) -> Ended {
        others.answered();
        tokio::select! {
            biased;
            () = others.over() => Ended::Answered,
            _ = guest.wait() => Ended::Left,
            () = self.stop.cancelled() => Ended::Stopped,
        }
    }

    async fn wait(
        &self,
        guest: &mut Child,
        console: &Console,
        ports: &Ports,
        answered: &mut [Option<u64>],
    ) -> Ended {
        let agent = self.places.agent();
        let agent = &agent;
        let one = |(at, check): (usize, &'_ Check)| {
            let check = check.clone();
            async move { (at, check.wait(console, ports, agent).await) }
        };
        let mut waits: FuturesUnordered<_> = self.checks.iter().enumerate().map(one).collect();
        let too_late = tokio::time::sleep(self.args.timeout);
        let mut too_late = std::pin::pin!(too_late);
        let mut ticks = tokio::time::interval(TELL);
        loop {
            tokio::select! {
                biased;
                next = waits.next() => match next {
                    Some((at, Ok(()))) => answered[at] = Some(milliseconds(self.begun)),
                    Some((_, Err(why))) => return Ended::Rejected(why),
                    None => return Ended::Answered,
                },
                _ = guest.wait() => return Ended::Gone,
                () = self.stop.cancelled() => return Ended::Stopped,
                () = &mut too_late => return Ended::TooLate,
                _ = ticks.tick() => self.tell(),
            }
        }
    }

    /// Tells programs how long it may take yet.
    fn tell(&self) {
        if self.context.global.json && !self.context.global.no_progress {
            let eta = self.args.timeout.saturating_sub(self.begun.elapsed()).as_secs();
            let line = json!({"type": "progress", "phase": "boot", "eta": eta});
            let _ = output::json_line(&line);
        }
    }

    /// What the screen shows, as PNG in base64.
    async fn screen(&self, monitor: &Mutex<Monitor>) -> Option<String> {
        let path = self.places.screenshot();
        let taken = monitor.lock().await.screenshot(&path).await;
        if let Err(error) = taken {
            tracing::warn!("there is no screenshot: {error}");
            return None;
        }
        let bytes = std::fs::read(&path).ok()?;
        (bytes.len() <= LARGEST_SCREEN).then(|| BASE64.encode(&bytes))
    }
}

/// Keeps what comes out of a pipe.
fn listen(from: Option<impl AsyncRead + Unpin + Send + 'static>, to: Console) {
    let Some(mut from) = from else { return };
    tokio::spawn(async move {
        let mut piece = [0; 4096];
        while let Ok(many @ 1..) = from.read(&mut piece).await {
            to.add(&piece[..many]);
        }
    });
}

fn test_told(context: &Context, args: &BootTestArgs, told: &Value) -> Result<Exit> {
    let ok = told["verdict"] == "ok";
    if let Some(path) = &args.screenshot {
        let text = told["screenshot"].as_str().context("there is no screenshot")?;
        let bytes = BASE64.decode(text.as_bytes()).context("this is no base64")?;
        std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if context.global.json {
        output::json(told)?;
    } else {
        let time = |name: &str| told["timings"][name].as_u64().map(Duration::from_millis);
        let (word, point) = (told["verdict"].as_str(), told["point"].as_str());
        output::print(&format!("{}\n", word.unwrap_or_default()))?;
        if !context.global.quiet {
            let accelerator = told["accelerator"].as_str().unwrap_or_default();
            note(format_args!("{} under {accelerator}", point.unwrap_or_default()));
            for (what, name) in
                [("exported", "export_ms"), ("started", "start_ms"), ("answered", "answer_ms")]
            {
                if let Some(after) = time(name) {
                    note(format_args!("  {what} after {}", seconds(after)));
                }
            }
        }
    }
    if !ok {
        output::warn(told["reason"].as_str().unwrap_or_default());
    }
    Ok(if ok { Exit::Done } else { Exit::Warnings })
}
