//! Several restore points, booted in one network.
//!
//! ```text
//!   stage 0: boot ─► all have answered ─► stage 1: boot ─► all have answered ─► all end
//!              └──────────── each runs on until the last has answered ────────────┘
//! ```
//!
//! The first that does not answer ends all: what comes after it would prove nothing.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use futures::future::join_all;
use serde_json::{Value, json};
use sluice_node_api::TestOrder;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::checks::Check;
use super::machine::{self, Net, Places};
use super::monitor::Ports;
use super::network::{self, MOST, Member, Network, Subnet};
use super::script::Script;
use super::spec::read;
use super::{SCRATCH, Test, folder, milliseconds};
use crate::args::{BootTestArgs, BootTogetherArgs, Cli, Command};
use crate::command::export::AtSocket;
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::output::{self, note};
use crate::{interrupt, leash};

/// How far all of them are.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// The stages of those that have not answered.
    open: Vec<u32>,
    /// Who has not answered in time, or never will.
    failed: Option<String>,
}

impl Progress {
    fn is_over(&self) -> bool {
        self.open.is_empty() || self.failed.is_some()
    }
}

/// A guest's place among the others.
pub(super) struct Turn {
    stage: u32,
    progress: Arc<watch::Sender<Progress>>,
    /// Whether it has answered.
    done: AtomicBool,
    /// How its ports are reached.
    pub(super) ports: Ports,
}

impl Turn {
    /// Waits until those of earlier stages have answered; why not, if they do not.
    async fn comes(&self) -> Result<(), String> {
        let mut progress = self.progress.subscribe();
        let ready = |now: &Progress| {
            now.failed.is_some() || now.open.iter().all(|stage| *stage >= self.stage)
        };
        // The other end is this one's own.
        let Ok(now) = progress.wait_for(ready).await else { return Ok(()) };
        now.failed.clone().map_or(Ok(()), Err)
    }

    /// This one has answered.
    pub(super) fn answered(&self) {
        self.done.store(true, Ordering::Relaxed);
        self.progress.send_modify(|progress| {
            if let Some(at) = progress.open.iter().position(|stage| *stage == self.stage) {
                progress.open.swap_remove(at);
            }
        });
    }

    fn failed(&self, who: &str) {
        self.progress.send_modify(|progress| {
            progress.failed.get_or_insert_with(|| who.to_owned());
        });
    }

    /// Waits until no other needs this one any more.
    pub(super) async fn over(&self) {
        let _ = self.progress.subscribe().wait_for(Progress::is_over).await;
    }

    /// Waits until some other has failed, and this one has not answered before: if it has, it is
    /// what it is.
    async fn in_vain(&self) -> String {
        let mut progress = self.progress.subscribe();
        let failed = match progress.wait_for(|now| now.failed.is_some()).await {
            Ok(now) => now.failed.clone(),
            Err(_) => None,
        };
        match failed.filter(|_| !self.done.load(Ordering::Relaxed)) {
            Some(who) => who,
            None => std::future::pending().await,
        }
    }
}

/// A guest, before it is booted.
struct Guest {
    order: TestOrder,
    args: BootTestArgs,
    checks: Vec<Check>,
    member: Member,
}

/// The addresses of guests: those that are said, and the first that are free for the others.
fn addresses(guests: &[TestOrder], subnet: Subnet) -> Result<Vec<Ipv4Addr>> {
    let mut taken = BTreeSet::new();
    for guest in guests.iter().filter(|guest| !guest.address.is_empty()) {
        let own = subnet.guest(0, &guest.address)?;
        if !taken.insert(own) {
            return Err(usage_error(format!("two guests have the address {own}")));
        }
    }
    let mut free = |guest: &TestOrder| {
        if !guest.address.is_empty() {
            return subnet.guest(0, &guest.address);
        }
        let mut number = 0;
        loop {
            let next = subnet.guest(number, "")?;
            if taken.insert(next) {
                return Ok(next);
            }
            number += 1;
        }
    };
    guests.iter().map(&mut free).collect()
}

fn guests(spec: &TestOrder, how: &BootTogetherArgs, subnet: Subnet) -> Result<Vec<Guest>> {
    if !(1..=MOST).contains(&spec.guests.len()) {
        return Err(usage_error(format!("a network has 1 to {MOST} guests")));
    }
    let mut guests = Vec::new();
    for (order, address) in spec.guests.iter().zip(addresses(&spec.guests, subnet)?) {
        let words = std::iter::once("sluice".to_owned()).chain(sluice_node::boot_words(order));
        let parsed = Cli::try_parse_from(words).map_err(|error| usage_error(error.to_string()))?;
        let Command::BootTest(mut args) = parsed.command else {
            return Err(usage_error("this is no guest"));
        };
        args.accelerator = how.accelerator;
        let ports = machine::ports(&args).into_iter().collect();
        let member = Member { address, ports };
        let checks = Check::all(&mut args);
        guests.push(Guest { order: order.clone(), args, checks, member });
    }
    Ok(guests)
}

/// Boots all and says which answer.
pub(crate) async fn run(context: &Context, args: BootTogetherArgs) -> Result<Exit> {
    let begun = Instant::now();
    let stop = interrupt::watch("ending the guests")?;
    let spec = read(&args.spec)?;
    let subnet = Subnet::of(&spec.subnet)?;
    let guests = guests(&spec, &args, subnet)?;
    guests.iter().try_for_each(|guest| Script::check(&guest.args))?;
    let qemu = machine::needed()?;
    let made = folder::make(Path::new(SCRATCH));
    let (folder, _lock) = made.context("cannot make a folder for the test")?;
    leash::leave_nothing_of(folder.path());
    let exported = CancellationToken::new();
    let mut exports: Vec<AtSocket> = Vec::new();
    let done = async {
        for (number, guest) in guests.iter().enumerate() {
            let own = folder.path().join(number.to_string());
            std::fs::create_dir(&own).context("cannot make a folder for a guest")?;
            let (point, disks) = (&guest.order.point, Places(&own).disks());
            let export =
                crate::command::export::at_socket(context, point, &disks, exported.clone());
            exports.push(Box::pin(export).await?);
        }
        let export_ms = milliseconds(begun);
        let members: Vec<Member> = guests.iter().map(|guest| guest.member.clone()).collect();
        let network = Network::start(&qemu, folder.path(), subnet, &members).await?;
        let open = guests.iter().map(|guest| guest.order.stage).collect();
        let progress = Arc::new(watch::Sender::new(Progress { open, failed: None }));
        let all = guests.iter().zip(&exports).enumerate().map(|(number, (guest, export))| {
            let ports = Ports {
                monitor: Arc::clone(&network.monitor),
                address: Some(guest.member.address),
            };
            let (stage, progress) = (guest.order.stage, Arc::clone(&progress));
            let world = World { context, begun, stop: &stop, qemu: &qemu, folder: folder.path() };
            Box::pin(async move {
                let turn = Turn { stage, progress, done: AtomicBool::new(false), ports };
                one(world, number, guest, export, &turn).await
            })
        });
        let told: Result<Vec<Value>> = join_all(all).await.into_iter().collect();
        anyhow::Ok((told?, export_ms))
    };
    let done = Box::pin(done).await;
    exported.cancel();
    for export in exports {
        export.end().await;
    }
    let (told, export_ms) = done?;
    tell(context, told, export_ms)
}

/// What all guests share.
struct World<'a> {
    context: &'a Context,
    begun: Instant,
    stop: &'a CancellationToken,
    qemu: &'a Path,
    folder: &'a Path,
}

/// Boots one, when its turn has come.
async fn one(
    world: World<'_>,
    number: usize,
    guest: &Guest,
    export: &AtSocket,
    turn: &Turn,
) -> Result<Value> {
    let name = &guest.order.point;
    let not_tried = |who: &str| {
        let reason = format!("it was not tried to its end: {who} has not answered");
        json!({"verdict": "undone", "reason": reason, "checks": []})
    };
    let own = world.folder.join(number.to_string());
    let accelerator = machine::accelerator(guest.args.accelerator);
    let tried = async {
        if let Err(who) = turn.comes().await {
            return Ok(not_tried(&who));
        }
        let started_ms = milliseconds(world.begun);
        // Its time begins now, and what is told counts from there.
        let (places, begun) = (Places(&own), Instant::now());
        let wire = network::socket(world.folder, number + 1);
        let net = Net::Shared(&wire, network::card(number));
        let words = machine::words(&guest.args, accelerator, &export.images, (&places, &net))?;
        let test = Test {
            context: world.context,
            args: &guest.args,
            checks: &guest.checks,
            begun,
            stop: world.stop.clone(),
            places,
            others: Some(turn),
        };
        let performed = Box::pin(test.perform(world.qemu, &words));
        let mut told = tokio::select! {
            biased;
            told = performed => told?,
            who = turn.in_vain() => not_tried(&who),
        };
        told["timings"]["begin_ms"] = started_ms.into();
        anyhow::Ok(told)
    };
    let mut told = tried.await.inspect_err(|_| turn.failed(name))?;
    if told["verdict"] == "failed" {
        turn.failed(name);
    }
    told["id"] = guest.order.id.as_str().into();
    told["point"] = export.point.as_str().into();
    told["address"] = guest.member.address.to_string().into();
    told["accelerator"] = accelerator.into();
    Ok(told)
}

fn tell(context: &Context, guests: Vec<Value>, export_ms: u64) -> Result<Exit> {
    let failed = guests.iter().find(|guest| guest["verdict"] == "failed");
    let ok = guests.iter().all(|guest| guest["verdict"] == "ok");
    let word = |guest: &Value, name: &str| guest[name].as_str().unwrap_or_default().to_owned();
    let reason = failed
        .map_or_else(String::new, |guest| word(guest, "point") + ": " + &word(guest, "reason"));
    if context.global.json {
        output::json(&json!({"verdict": if ok { "ok" } else { "failed" }, "reason": reason,
            "timings": {"export_ms": export_ms}, "guests": guests}))?;
    } else {
        for guest in &guests {
            let (point, address) = (word(guest, "point"), word(guest, "address"));
            output::print(&format!("{}  {point}  {address}\n", word(guest, "verdict")))?;
            let answered = guest["timings"]["answer_ms"].as_u64();
            if let Some(ms) = answered.filter(|_| !context.global.quiet) {
                let after = output::seconds(std::time::Duration::from_millis(ms));
                note(format_args!("  answered after {after}"));
            }
        }
    }
    if !ok {
        output::warn(&reason);
    }
    Ok(if ok { Exit::Done } else { Exit::Warnings })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::AsyncWriteExt;

    use super::super::monitor::Monitor;
    use super::*;

    #[test]
    fn guests_without_an_address_get_the_first_that_are_free() {
        let subnet = Subnet::of("10.0.2.0/27").unwrap();
        let given = |said: &[&str]| {
            let guest = |one: &&str| TestOrder { address: (*one).into(), ..TestOrder::default() };
            let guests: Vec<_> = said.iter().map(guest).collect();
            let given = addresses(&guests, subnet)?;
            anyhow::Ok(given.iter().map(|one| one.octets()[3]).collect::<Vec<_>>())
        };
        assert_eq!(given(&["", "10.0.2.15", "", "10.0.2.17"]).unwrap(), [16, 15, 18, 17]);
        assert_eq!(given(&[""; MOST]).unwrap().last(), Some(&22));
        assert!(given(&["10.0.2.15", "10.0.2.15"]).is_err());
    }

    #[tokio::test]
    async fn a_stage_begins_when_those_before_have_answered_and_never_after_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let monitor = Arc::new(tokio::sync::Mutex::new(quiet(folder.path()).await));
        let open = vec![0, 0, 1, 2];
        let progress = Arc::new(watch::Sender::new(Progress { open, failed: None }));
        let turn = |stage| Turn {
            stage,
            progress: Arc::clone(&progress),
            done: AtomicBool::new(false),
            ports: Ports { monitor: Arc::clone(&monitor), address: None },
        };
        let (first, second, third, last) = (turn(0), turn(0), turn(1), turn(2));
        assert_eq!(first.comes().await, Ok(()));
        first.answered();
        assert!(third.comes().now_or_never().is_none(), "one of the first has not answered");
        second.answered();
        assert_eq!(third.comes().await, Ok(()));
        assert!(first.over().now_or_never().is_none(), "others need it");
        third.failed("web");
        first.over().await;
        assert_eq!(last.comes().await, Err("web".to_owned()));
        assert_eq!(last.in_vain().await, "web");
        assert!(first.in_vain().now_or_never().is_none(), "it has answered, and that counts");
    }

    /// A monitor that is asked nothing.
    async fn quiet(folder: &Path) -> Monitor {
        let place = folder.join("monitor");
        let listener = tokio::net::UnixListener::bind(&place).unwrap();
        let greets = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"{}\n{\"return\": {}}\n").await.unwrap();
            stream
        };
        let (_stream, monitor) = tokio::join!(greets, Monitor::connect(&place));
        monitor.unwrap()
    }
}
