//! Recovery plans: which step is next.
//!
//! ```text
//!   group 1: before, one by one ─► items, so many at a time ─► after, one by one ─► group 2 ...
//! ```
//!
//! A step that fails ends its part of the group: nothing is restored where what comes before has
//! failed, and what comes after does not run where an item has, unless the group goes on. A group
//! that has failed ends the plan, unless it goes on.

use serde::{Deserialize, Serialize};

/// Where in its group a step belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Phase {
    /// A script before the items.
    Before,
    /// Something that is recovered.
    Item,
    /// A script after the items.
    After,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum StepState {
    /// Its turn has not come.
    #[default]
    Waiting,
    /// It was started and has not ended.
    Running,
    /// Done.
    Done,
    /// Not done.
    Failed,
    /// It was not started because something before it has failed.
    Skipped,
    /// Ended, or not started, because somebody wanted so.
    Cancelled,
}

impl StepState {
    /// Whether nothing more happens.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }

    fn is_bad(self) -> bool {
        matches!(self, Self::Failed | Self::Skipped | Self::Cancelled)
    }
}

/// A step, as far as it matters for what is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The number of its group.
    pub group: usize,
    /// Where in that.
    pub phase: Phase,
    /// How far it is.
    pub state: StepState,
}

/// A group's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Items at a time; all when it is 0.
    pub at_a_time: u32,
    /// Whether the plan goes on when something of it has failed.
    pub goes_on: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Succeeded,
    /// Steps have failed of groups that go on.
    Warnings,
    /// A group has failed, and nothing came after it.
    Failed,
    /// Somebody wanted it to end.
    Cancelled,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Steps to start.
    pub start: Vec<usize>,
    /// Steps that will not be started, with what they are instead.
    pub pass_over: Vec<(usize, StepState)>,
    /// Steps that run and are to end.
    pub cancel: Vec<usize>,
    /// Set when nothing is left.
    pub ended: Option<Outcome>,
}

/// What is next. Ask again whenever the state of a step has changed.
pub fn decide(groups: &[Group], steps: &[Step], cancelled: bool) -> Decision {
    let mut decision = Decision::default();
    if cancelled {
        for (at, step) in steps.iter().enumerate() {
            match step.state {
                StepState::Waiting => decision.pass_over.push((at, StepState::Cancelled)),
                StepState::Running => decision.cancel.push(at),
                _ => {}
            }
        }
        decision.ended = decision.cancel.is_empty().then_some(Outcome::Cancelled);
        return decision;
    }
    let mut turn = Turn { states: steps.iter().map(|step| step.state).collect(), steps, decision };
    let mut bad = false;
    for (number, group) in groups.iter().enumerate() {
        if !turn.group(number, *group) {
            return turn.decision;
        }
        if turn.any(number, None, StepState::is_bad) {
            bad = true;
            if !group.goes_on {
                for later in number + 1..groups.len() {
                    turn.skip(later, None);
                }
                turn.decision.ended = Some(Outcome::Failed);
                return turn.decision;
            }
        }
    }
    turn.decision.ended = Some(if bad { Outcome::Warnings } else { Outcome::Succeeded });
    turn.decision
}

struct Turn<'a> {
    steps: &'a [Step],
    /// With what this turn decides.
    states: Vec<StepState>,
    decision: Decision,
}

impl Turn<'_> {
    fn of(&self, group: usize, phase: Option<Phase>) -> Vec<usize> {
        let own = |at: &usize| {
            let step = &self.steps[*at];
            step.group == group && phase.is_none_or(|phase| step.phase == phase)
        };
        (0..self.steps.len()).filter(own).collect()
    }

    fn any(&self, group: usize, phase: Option<Phase>, is: impl Fn(StepState) -> bool) -> bool {
        self.of(group, phase).into_iter().any(|at| is(self.states[at]))
    }

    fn skip(&mut self, group: usize, phase: Option<Phase>) {
        for at in self.of(group, phase) {
            if self.states[at] == StepState::Waiting {
                self.states[at] = StepState::Skipped;
                self.decision.pass_over.push((at, StepState::Skipped));
            }
        }
    }

    fn start(&mut self, at: usize) {
        self.states[at] = StepState::Running;
        self.decision.start.push(at);
    }

    /// Whether nothing of a group is left to do.
    fn group(&mut self, number: usize, group: Group) -> bool {
        if !self.one_by_one(number, Phase::Before) {
            return false;
        }
        if self.any(number, Some(Phase::Before), StepState::is_bad) {
            self.skip(number, None);
        }
        let items = self.of(number, Some(Phase::Item));
        let running = items.iter().filter(|at| self.states[**at] == StepState::Running).count();
        let most = if group.at_a_time == 0 { usize::MAX } else { group.at_a_time as usize };
        let waiting = items.iter().filter(|at| self.states[**at] == StepState::Waiting);
        let next: Vec<usize> = waiting.copied().take(most.saturating_sub(running)).collect();
        next.into_iter().for_each(|at| self.start(at));
        if self.any(number, Some(Phase::Item), |state| !state.is_final()) {
            return false;
        }
        if self.any(number, Some(Phase::Item), StepState::is_bad) && !group.goes_on {
            self.skip(number, Some(Phase::After));
        }
        self.one_by_one(number, Phase::After)
    }

    /// Whether nothing of a part is left to do, of which each waits for the one before.
    fn one_by_one(&mut self, group: usize, phase: Phase) -> bool {
        for at in self.of(group, Some(phase)) {
            match self.states[at] {
                StepState::Waiting => {
                    self.start(at);
                    return false;
                }
                StepState::Running => return false,
                state if state.is_bad() => {
                    self.skip(group, Some(phase));
                    return true;
                }
                _ => {}
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    use Phase::{After, Before, Item};

    fn steps(all: &[(usize, Phase)]) -> Vec<Step> {
        let state = StepState::Waiting;
        all.iter().map(|&(group, phase)| Step { group, phase, state }).collect()
    }

    /// Goes on with a plan: `ends` says how a step ends. Returns the order of starts, the most
    /// items that ran at a time, and the end.
    fn play(
        groups: &[Group],
        steps: &mut [Step],
        ends: impl Fn(usize) -> StepState,
    ) -> (Vec<usize>, usize, Outcome) {
        let (mut order, mut most) = (Vec::new(), 0);
        loop {
            let decision = decide(groups, steps, false);
            for (at, state) in decision.pass_over {
                assert_eq!(steps[at].state, StepState::Waiting);
                steps[at].state = state;
            }
            for at in decision.start {
                assert_eq!(steps[at].state, StepState::Waiting, "a step starts once");
                steps[at].state = StepState::Running;
                order.push(at);
            }
            let running: Vec<usize> =
                (0..steps.len()).filter(|at| steps[*at].state == StepState::Running).collect();
            most = most.max(running.len());
            // Whoever asks again, after a crash as well, is told nothing new.
            let again = decide(groups, steps, false);
            assert_eq!((again.start.len(), again.pass_over.len()), (0, 0));
            if let Some(ended) = decision.ended {
                assert!(running.is_empty() && steps.iter().all(|step| step.state.is_final()));
                return (order, most, ended);
            }
            let first = *running.first().expect("something runs until the end");
            steps[first].state = ends(first);
        }
    }

    const STOPS: Group = Group { at_a_time: 0, goes_on: false };

    #[test]
    fn groups_come_in_order_with_scripts_around_their_items() {
        let plan = [(0, Before), (0, Item), (0, Item), (0, Item), (0, After), (1, Item)];
        let groups = [Group { at_a_time: 2, ..STOPS }, STOPS];
        let played = play(&groups, &mut steps(&plan), |_| StepState::Done);
        assert_eq!(played, (vec![0, 1, 2, 3, 4, 5], 2, Outcome::Succeeded));
    }

    #[test]
    fn what_fails_ends_the_plan_unless_its_group_goes_on() {
        let plan = [(0, Item), (0, Item), (0, After), (1, Item)];
        let ends = |at| if at == 0 { StepState::Failed } else { StepState::Done };
        let mut all = steps(&plan);
        let played = play(&[STOPS, STOPS], &mut all, ends);
        assert_eq!(played, (vec![0, 1], 2, Outcome::Failed), "other items are not given up");
        assert_eq!([all[2].state, all[3].state], [StepState::Skipped; 2]);
        let on = Group { goes_on: true, ..STOPS };
        let played = play(&[on, STOPS], &mut steps(&plan), ends);
        assert_eq!(played, (vec![0, 1, 2, 3], 2, Outcome::Warnings));
    }

    #[test]
    fn nothing_is_restored_where_what_comes_before_has_failed() {
        let plan = [(0, Before), (0, Before), (0, Item), (0, After)];
        let mut all = steps(&plan);
        let played = play(&[STOPS], &mut all, |_| StepState::Failed);
        assert_eq!(played, (vec![0], 1, Outcome::Failed));
        assert!(all[1..].iter().all(|step| step.state == StepState::Skipped));
    }

    #[test]
    fn a_cancelled_plan_ends_once_what_runs_has_ended() {
        let mut all = steps(&[(0, Item), (1, Item)]);
        all[0].state = StepState::Running;
        let decision = decide(&[STOPS, STOPS], &all, true);
        assert_eq!((decision.cancel, decision.ended), (vec![0], None));
        assert_eq!(decision.pass_over, [(1, StepState::Cancelled)]);
        (all[0].state, all[1].state) = (StepState::Cancelled, StepState::Cancelled);
        assert_eq!(decide(&[STOPS, STOPS], &all, true).ended, Some(Outcome::Cancelled));
        assert_eq!(decide(&[], &[], false).ended, Some(Outcome::Succeeded));
    }

    proptest! {
        #[test]
        fn every_plan_ends_in_order_whatever_fails(
            groups in prop::collection::vec((0u32..3, any::<bool>()), 1..4),
            all in prop::collection::vec((0usize..4, 0u8..3), 0..12),
            fails in prop::collection::vec(any::<bool>(), 12),
        ) {
            let phase = |n| match n { 0 => Before, 1 => Item, _ => After };
            let mut plan: Vec<_> =
                all.iter().map(|&(group, n)| (group % groups.len(), phase(n))).collect();
            plan.sort();
            let rule = |&(at_a_time, goes_on)| Group { at_a_time, goes_on };
            let groups: Vec<Group> = groups.iter().map(rule).collect();
            let end = |at: usize| if fails[at] { StepState::Failed } else { StepState::Done };
            let mut all = steps(&plan);
            let (order, _, outcome) = play(&groups, &mut all, end);
            // They were sorted as they are to come.
            prop_assert!(order.is_sorted_by(|one, other| plan[*one] <= plan[*other]));
            let failed = all.iter().any(|step| step.state == StepState::Failed);
            prop_assert_eq!(failed, outcome != Outcome::Succeeded);
        }
    }
}
