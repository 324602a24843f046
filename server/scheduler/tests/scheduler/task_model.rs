//! A task under every order of events, with nodes that die, come back, and repeat themselves.

use jiff::{Timestamp, ToSpan};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::sample::select;
use sluice_scheduler::retry::{ErrorClass, RetryPolicy};
use sluice_scheduler::task::{Answer, Event, Outcome, State, Task, Terms};
use sluice_scheduler::time::Span;

const LENGTH: Span = Span::seconds(30);
const NODES: usize = 3;

#[derive(Debug, Clone)]
enum Action {
    /// So many seconds pass, and the server looks at its leases.
    Wait(i64),
    /// The server gives the task to a node, which hears of it after so many seconds, or never.
    Assign(usize, i64, bool),
    /// A node asks for more; the answer is lost, or not.
    Renew(usize, bool),
    /// A node reports; the answer is lost, or not, and then it reports again later.
    Finish(usize, Outcome, bool),
    Start(usize),
    Return(usize),
    /// A node forgets all it has.
    Die(usize),
    /// The server was off for so many seconds.
    ServerOff(i64),
    Cancel,
    Expire,
    Restart,
}

fn any_action() -> impl Strategy<Value = Action> {
    let node = 0..NODES;
    let outcome = select(vec![
        Outcome::Succeeded,
        Outcome::Warned,
        Outcome::Cancelled,
        Outcome::Failed { class: ErrorClass::Transient },
        Outcome::Failed { class: ErrorClass::NoSpace },
    ]);
    prop_oneof![
        6 => (0_i64..70).prop_map(Action::Wait),
        6 => (node.clone(), 0_i64..5, any::<bool>()).prop_map(|(n, s, l)| Action::Assign(n, s, l)),
        4 => (node.clone(), any::<bool>()).prop_map(|(node, lost)| Action::Renew(node, lost)),
        3 => (node.clone(), outcome, any::<bool>()).prop_map(|(n, o, l)| Action::Finish(n, o, l)),
        3 => node.clone().prop_map(Action::Start),
        1 => node.clone().prop_map(Action::Return),
        1 => node.prop_map(Action::Die),
        1 => (0_i64..500).prop_map(Action::ServerOff),
        1 => select(vec![Action::Cancel, Action::Expire, Action::Restart]),
    ]
}

/// A node that believes it has the task: under which token, and until when.
type Belief = Option<(u64, Timestamp)>;

struct World {
    now: Timestamp,
    task: Task,
    nodes: [Belief; NODES],
    /// Reports that were taken, by token.
    taken: Vec<u64>,
}

impl World {
    fn send(&mut self, event: Event) -> Answer {
        let ended = self.task.state.ended();
        let before = self.task.clone();
        let retry = RetryPolicy::default();
        let restart = event == Event::Restart;
        let answer = self.task.on(event, self.now, Terms { retry: &retry, seed: 7 });
        assert!(self.task.token >= before.token);
        if ended && !restart {
            assert_eq!(self.task, before, "a task that has ended changed");
        }
        if let Some(lease) = self.task.state.lease() {
            assert_eq!(lease.token, self.task.token);
        }
        answer
    }

    /// What the node believes, as long as its lease lasts by its own count.
    fn belief(&self, node: usize) -> Belief {
        self.nodes[node].filter(|(_, until)| *until > self.now)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Wait(seconds) => {
                self.now += seconds.seconds();
                self.send(Event::Tick);
            }
            Action::Assign(node, delay, heard) => {
                // It asked for work some time before it is given any.
                let asked = self.now;
                self.now += delay.seconds();
                let event = Event::Assign { node: node.to_string().into(), length: LENGTH };
                if self.send(event) == Answer::Done && heard {
                    self.nodes[node] = Some((self.task.token, LENGTH.after(asked)));
                }
            }
            Action::Renew(node, lost) => {
                let Some((token, _)) = self.belief(node) else { return };
                let answer = self.send(Event::Renew { token, length: LENGTH });
                if !lost {
                    let held = matches!(answer, Answer::Done | Answer::Cancel);
                    self.nodes[node] = held.then(|| (token, LENGTH.after(self.now)));
                }
            }
            Action::Finish(node, outcome, lost) => {
                let Some((token, _)) = self.belief(node) else { return };
                if self.send(Event::Finish { token, outcome }) == Answer::Done {
                    self.taken.push(token);
                }
                if !lost {
                    self.nodes[node] = None;
                }
            }
            Action::Start(node) => {
                let Some((token, _)) = self.belief(node) else { return };
                if self.send(Event::Start { token }) == Answer::Gone {
                    self.nodes[node] = None;
                }
            }
            Action::Return(node) => {
                let Some((token, _)) = self.nodes[node].take() else { return };
                self.send(Event::Return { token });
            }
            Action::Die(node) => self.nodes[node] = None,
            Action::ServerOff(seconds) => {
                self.now += seconds.seconds();
                self.send(Event::ServerBack { length: LENGTH });
                self.send(Event::Tick);
            }
            Action::Cancel => {
                self.send(Event::Cancel);
            }
            Action::Expire => {
                self.send(Event::Expire);
            }
            Action::Restart => {
                self.send(Event::Restart);
            }
        }
    }

    /// Nodes that are at work: one that reported may not know yet that it was heard.
    fn at_work(&self) -> usize {
        let open = |(token, _): &(u64, Timestamp)| !self.taken.contains(token);
        (0..NODES).filter_map(|node| self.belief(node)).filter(open).count()
    }

    /// However things stand, a node that works reliably brings the task to its end.
    fn drive(&mut self) {
        for _ in 0..20 {
            self.nodes = [None; NODES];
            self.now += 2.hours();
            self.send(Event::Tick);
            if self.task.state.ended() {
                return;
            }
            let assign = Event::Assign { node: "0".into(), length: LENGTH };
            assert_eq!(self.send(assign), Answer::Done, "{:?}", self.task);
            let (token, outcome) = (self.task.token, Outcome::Succeeded);
            assert_eq!(self.send(Event::Finish { token, outcome }), Answer::Done);
            assert_eq!(self.task.state, State::Succeeded);
        }
    }
}

proptest! {
    #[test]
    fn no_task_is_lost_and_none_runs_under_two_leases(actions in vec(any_action(), 0..60)) {
        let mut world = World {
            now: Timestamp::UNIX_EPOCH,
            task: Task::default(),
            nodes: [None; NODES],
            taken: Vec::new(),
        };
        for action in actions {
            world.act(action.clone());
            assert!(world.at_work() <= 1, "two nodes are at it after {action:?}");
        }
        let reports = world.taken.len();
        world.taken.dedup();
        assert_eq!(world.taken.len(), reports, "a report was taken twice");
        world.drive();
        assert!(world.task.state.ended());
    }
}
