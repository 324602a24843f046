//! Runs of recovery plans: begun by people and schedules, and brought on step by step.
//!
//! ```text
//!   plan ── as it is now, with its parameters ──► run: steps, each with what it has started
//!                                                  ▲ │
//!    each second: what became of tasks, mounts,  ──┘ └──► recovery::decide ──► start, skip, cancel
//!    and tests that steps have started
//! ```
//!
//! What a step starts and that it was started are one transaction, so a run goes on where it was,
//! whatever dies: nothing is started twice, and nothing is forgotten.

mod schedule;
mod step;
mod together;

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{
    AuditEntry, BootCheck, Instance, MountId, Node, OnFailure, Plan, PlanMode, PlanRun, PlanRunId,
    PlanRunState, PlanTarget, PointChoice, ProjectId, Record, RestoreTestId, TaskId, Tx,
};
use sluice_scheduler::recovery::{self, Outcome, Phase, StepState};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::policies::{EVERYTHING, check_calendars};
use crate::auth::Actor;
use crate::complaint::go_on;
use crate::problem::{Problem, Result};
use crate::restore_tests;
use crate::state::Shared;

pub(crate) use schedule::Planner;

/// A run as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunBody {
    /// The plan as it was when the run began.
    pub(crate) plan: Plan,
    pub(crate) parameters: BTreeMap<String, String>,
    /// Who began it.
    pub(crate) by: String,
    /// Whether it is to end.
    #[serde(default)]
    pub(crate) cancel: bool,
    pub(crate) steps: Vec<StepView>,
}

/// A step of a run.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct StepView {
    /// The number of its group, from 0.
    pub(crate) group: usize,
    pub(crate) phase: Phase,
    /// Its number in that part of the group, from 0.
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) state: StepState,
    /// Why it is in this state.
    pub(crate) message: String,
    /// The restore point, as `sluice` takes it.
    pub(crate) point: Option<String>,
    /// What it has started.
    pub(crate) task: Option<TaskId>,
    pub(crate) mount: Option<MountId>,
    pub(crate) test: Option<RestoreTestId>,
    pub(crate) started_ms: Option<u64>,
    pub(crate) finished_ms: Option<u64>,
}

/// The text with what its `${NAME}` stand for.
pub(crate) fn filled(text: &str, parameters: &BTreeMap<String, String>) -> Result<String> {
    let (mut full, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let (name, behind) = after
            .split_once('}')
            .ok_or_else(|| Problem::invalid(format!("{text:?} has ${{ without }}")))?;
        let value = parameters.get(name);
        let value = value.ok_or_else(|| Problem::invalid(format!("no parameter {name:?}")))?;
        full.push_str(before);
        full.push_str(value);
        rest = behind;
    }
    full.push_str(rest);
    Ok(full)
}

/// Targets and commands with parameters are ones that can be used.
fn check_filled(plan: &Plan, parameters: &BTreeMap<String, String>) -> Result<()> {
    for path in plan.items().filter_map(|item| item.target.path()) {
        let path = filled(path, parameters)?;
        if !path.starts_with('/') || path.contains('\0') {
            return Err(Problem::invalid("a target is an absolute path"));
        }
    }
    let words = plan.scripts().flat_map(|script| &script.command);
    for word in words.chain(checks(plan).flat_map(BootCheck::command)) {
        if filled(word, parameters)?.contains('\0') {
            return Err(Problem::invalid("a command has no NUL"));
        }
    }
    Ok(())
}

/// What tells of its items whether they answer.
fn checks(plan: &Plan) -> impl Iterator<Item = &BootCheck> {
    let boots = plan.items().flat_map(|item| {
        let own = match &item.target {
            PlanTarget::BootTest { boot, .. } => Some(boot),
            _ => None,
        };
        own.into_iter().chain(&item.test)
    });
    boots.flat_map(|boot| &boot.checks)
}

/// What it takes beyond the project: commands of nodes are those of who administers nodes, and
/// paths of nodes may be anybody's.
fn require(actor: &Actor, plan: &Plan) -> Result<()> {
    if plan.scripts().next().is_some() {
        actor.require(Permission::Administer, None)?;
    }
    if plan.items().any(|item| item.target.path().is_some()) {
        actor.require(Permission::Operate, None)?;
    }
    Ok(())
}

/// A plan that fits to the other records, and that the caller may store.
pub(crate) async fn check(
    plan: &Plan,
    tx: &mut Tx,
    project: Option<ProjectId>,
    actor: &Actor,
) -> Result<()> {
    if project.is_none() {
        return Err(Problem::invalid("a plan belongs to a project"));
    }
    require(actor, plan)?;
    check_filled(plan, &plan.parameters)?;
    for one in &plan.schedules {
        check_calendars(std::slice::from_ref(&one.schedule))?;
    }
    for item in plan.items() {
        let instance = tx.get::<Instance>(item.instance, &actor.visible()).await?;
        if instance.project != project {
            return Err(Problem::not_found("instance"));
        }
        // Whoever runs the plan does this with it, whatever they may do otherwise.
        actor.require(Permission::Operate, &instance)?;
        if let PointChoice::Id { id } = item.point
            && tx.point(id, &actor.visible()).await?.instance != item.instance
        {
            return Err(Problem::invalid("this restore point is another instance's"));
        }
        if let PlanTarget::BootTest { boot, .. } = &item.target {
            restore_tests::check(boot)?;
        }
        if let PlanTarget::Mount { clients, .. } = &item.target {
            for network in clients {
                network.parse::<sluice_node_api::Network>().map_err(Problem::invalid)?;
            }
        }
        item.test.as_ref().map_or(Ok(()), restore_tests::check)?;
    }
    let named = plan.items().filter_map(|item| item.target.node());
    let networks = plan.groups.iter().filter_map(|group| group.network.as_ref());
    let named = named.chain(networks.filter_map(|network| network.node));
    for node in named.chain(plan.scripts().map(|script| script.node)) {
        tx.get::<Node>(node, &EVERYTHING).await?;
    }
    Ok(())
}

/// Parameters of one run: those of the plan, and what is said otherwise. What is said otherwise
/// goes into paths and commands, and takes what storing them takes.
pub(crate) fn parameters(
    actor: &Actor,
    plan: &Plan,
    otherwise: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    if let Some(name) = otherwise.keys().find(|name| !plan.parameters.contains_key(*name)) {
        return Err(Problem::invalid(format!("the plan has no parameter {name:?}")));
    }
    if !otherwise.is_empty() {
        require(actor, plan)?;
        // A node allows programs, and whoever stored the plan has chosen their words.
        if checks(plan).any(BootCheck::runs_commands) {
            actor.require(Permission::Operate, None)?;
        }
    }
    let mut parameters = plan.parameters.clone();
    parameters.extend(otherwise);
    check_filled(plan, &parameters)?;
    Ok(parameters)
}

fn steps(plan: &Plan, mode: PlanMode) -> Vec<StepView> {
    let mut steps = Vec::new();
    let mut add = |group, phase, index, name: &str| {
        steps.push(StepView {
            group,
            phase,
            index,
            name: name.to_owned(),
            state: StepState::Waiting,
            message: String::new(),
            point: None,
            task: None,
            mount: None,
            test: None,
            started_ms: None,
            finished_ms: None,
        });
    };
    for (number, group) in plan.groups.iter().enumerate() {
        for (index, script) in group.before.iter().enumerate() {
            if script.modes.contains(&mode) {
                add(number, Phase::Before, index, &script.name);
            }
        }
        for (index, item) in group.items.iter().enumerate() {
            add(number, Phase::Item, index, &item.instance.to_string());
        }
        for (index, script) in group.after.iter().enumerate() {
            if script.modes.contains(&mode) {
                add(number, Phase::After, index, &script.name);
            }
        }
    }
    steps
}

/// Begins a run. Returns nothing when one of the same `due_key` was begun before.
pub(crate) async fn begin(
    tx: &mut Tx,
    plan: &Record<Plan>,
    mode: PlanMode,
    (by, parameters): (&str, BTreeMap<String, String>),
    due_key: Option<String>,
    now: u64,
) -> Result<Option<PlanRunId>> {
    let mut body = RunBody {
        plan: plan.body.clone(),
        parameters,
        by: by.to_owned(),
        cancel: false,
        steps: steps(&plan.body, mode),
    };
    for step in body.steps.iter_mut().filter(|step| step.phase == Phase::Item) {
        let item = &plan.body.groups[step.group].items[step.index];
        if let Ok(instance) = tx.get::<Instance>(item.instance, &EVERYTHING).await {
            step.name = instance.name;
        }
    }
    let run = PlanRun {
        id: PlanRunId::new(now),
        project: plan.project,
        plan: plan.id,
        plan_name: plan.name.clone(),
        mode,
        state: PlanRunState::Running,
        due_key,
        revision: 1,
        created_ms: now,
        finished_ms: None,
        message: String::new(),
        body: serde_json::to_value(&body).unwrap_or_default(),
    };
    Ok(tx.add_plan_run(&run).await?.then_some(run.id))
}

/// What a run says of itself.
pub(crate) fn body(run: &PlanRun) -> Result<RunBody> {
    serde_json::from_value(run.body.clone()).map_err(|_| {
        let text = "this run was made by another release";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", text)
    })
}

/// Lets a run end: what it has started is ended, and nothing more is.
pub(crate) async fn cancel(tx: &mut Tx, id: PlanRunId) -> Result<()> {
    let mut run = tx.plan_run(id, &EVERYTHING).await?;
    if run.state != PlanRunState::Running {
        return Err(Problem::new(StatusCode::CONFLICT, "conflict", "this run has ended already"));
    }
    let mut state = body(&run)?;
    state.cancel = true;
    run.body = serde_json::to_value(&state).unwrap_or_default();
    Ok(tx.save_plan_run(&run).await?)
}

/// Brings all runs on.
pub(crate) async fn settle(shared: &Shared, now: u64) -> Result<()> {
    let under_way = shared.catalog.read().await?.plan_runs_under_way().await?;
    for id in under_way {
        let mut tx = shared.catalog.begin().await?;
        // Of several servers, one brings it on.
        tx.decide_alone().await?;
        let read = tx.plan_run(id, &EVERYTHING).await.map_err(Problem::from);
        let Some(mut run) = go_on(&format!("the plan run {id}"), read)? else { continue };
        if run.state != PlanRunState::Running {
            continue;
        }
        match advance(&mut tx, &mut run, now).await {
            Ok(false) => {}
            Ok(true) => {
                tx.save_plan_run(&run).await?;
                tx.commit().await?;
                shared.work.notify_one();
            }
            // One run that cannot go on does not hold up the others.
            Err(problem) => drop(go_on::<()>(&format!("the plan run {id}"), Err(problem))?),
        }
    }
    Ok(())
}

/// Brings a run on as far as it gets now; returns whether anything has changed.
async fn advance(tx: &mut Tx, run: &mut PlanRun, now: u64) -> Result<bool> {
    let mut state = body(run)?;
    let before = run.body.clone();
    for at in 0..state.steps.len() {
        step::look(tx, &mut state.steps[at], now).await?;
    }
    let groups: Vec<_> = state.plan.groups.iter().map(rules).collect();
    // What cannot be started has failed at once, and something else may be next.
    let ended = loop {
        let steps: Vec<_> = state.steps.iter().map(seen).collect();
        let decision = recovery::decide(&groups, &steps, state.cancel);
        let busy = !decision.start.is_empty() || !decision.pass_over.is_empty();
        for (at, instead) in decision.pass_over {
            state.steps[at].state = instead;
        }
        for at in decision.start {
            step::start(tx, run, &mut state, at, now).await?;
        }
        for at in decision.cancel {
            step::stop(tx, &mut state.steps[at], now).await?;
        }
        if decision.ended.is_some() || !busy {
            break decision.ended;
        }
    };
    if let Some(outcome) = ended {
        end(tx, run, &state, outcome, now).await?;
    }
    run.body = serde_json::to_value(&state).unwrap_or_default();
    Ok(run.body != before || ended.is_some())
}

fn rules(group: &sluice_catalog::PlanGroup) -> recovery::Group {
    let goes_on = group.on_failure == OnFailure::Continue;
    recovery::Group { at_a_time: group.concurrency, goes_on }
}

fn seen(step: &StepView) -> recovery::Step {
    recovery::Step { group: step.group, phase: step.phase, state: step.state }
}

/// A run has ended. Of a test, or one that was cancelled, nothing stays.
async fn end(
    tx: &mut Tx,
    run: &mut PlanRun,
    state: &RunBody,
    outcome: Outcome,
    now: u64,
) -> Result<()> {
    run.state = match outcome {
        Outcome::Succeeded => PlanRunState::Succeeded,
        Outcome::Warnings => PlanRunState::Warnings,
        Outcome::Failed => PlanRunState::Failed,
        Outcome::Cancelled => PlanRunState::Cancelled,
    };
    run.finished_ms = Some(now);
    let failed = state.steps.iter().find(|step| step.state == StepState::Failed);
    run.message =
        failed.map_or_else(String::new, |step| format!("{}: {}", step.name, step.message));
    if run.mode == PlanMode::Test || run.state == PlanRunState::Cancelled {
        for step in &state.steps {
            step::release(tx, step, now).await?;
        }
    }
    let entry = AuditEntry {
        actor: "server".to_owned(),
        action: "plan-run.end",
        object: run.id.to_string(),
        project: run.project,
        detail: json!({"plan": run.plan_name, "state": run.state.word()}),
    };
    tx.audit(entry, now).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_stand_where_they_are_named() {
        let parameters = [("where", "/mnt"), ("n", "7")];
        let parameters = parameters.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(filled("${where}/web-${n}.raw", &parameters).unwrap(), "/mnt/web-7.raw");
        assert_eq!(filled("$HOME and $(x)", &parameters).unwrap(), "$HOME and $(x)");
        // What a parameter says is no text with parameters.
        let odd = [("a".to_owned(), "${a}".to_owned())].into();
        assert_eq!(filled("${a}", &odd).unwrap(), "${a}");
        for bad in ["${gone}", "${where"] {
            assert_eq!(filled(bad, &parameters).unwrap_err().status, 422, "{bad}");
        }
    }
}
