//! The task that keeps one mount: starts it, waits for its end, stops it.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::metrics::Statistics;
use crate::runner::{Ended, Failure, Job, Runner, Started};

/// Questions that may wait for one mount; who asks when there are more gets no answer.
const QUESTIONS: usize = 8;

/// Asks a keeper for statistics.
pub(crate) type Question = oneshot::Sender<Option<Statistics>>;

/// The daemon's end of a keeper.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    questions: mpsc::Sender<Question>,
    stop: CancellationToken,
}

impl Keeper {
    /// Tells it to stop the mount; it says when that is done.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Asks for statistics, and says whether an answer may come.
    pub(crate) fn ask(&self, question: Question) -> bool {
        self.questions.try_send(question).is_ok()
    }
}

/// What a keeper tells: the mount's id, and what happened.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    /// It can be used; with its identity.
    Started(Value),
    /// Nothing of it runs any more.
    Ended(Result<Ended, Failure>),
}

/// Starts a keeper. Its last event is [`What::Ended`].
pub(crate) fn keep(runner: Arc<dyn Runner>, job: Job, events: mpsc::Sender<Event>) -> Keeper {
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let keeper = Keeper { questions, stop: CancellationToken::new() };
    let stop = keeper.stop.clone();
    tokio::spawn(async move {
        let id = job.id.clone();
        let ended = run(&*runner, &job, asked, &stop, &events).await;
        runner.clean(&job.id, &job.spec).await;
        // Nobody listens any more when the daemon is over.
        let _ = events.send(Event { id, what: What::Ended(ended) }).await;
    });
    keeper
}

async fn run(
    runner: &dyn Runner,
    job: &Job,
    mut asked: mpsc::Receiver<Question>,
    stop: &CancellationToken,
    events: &mpsc::Sender<Event>,
) -> Result<Ended, Failure> {
    let started = tokio::select! {
        started = runner.start(job) => started?,
        () = stop.cancelled() => return Ok(Ended::Finished),
    };
    let Started { identity, mut running } = started;
    let id = job.id.clone();
    let _ = events.send(Event { id, what: What::Started(identity) }).await;
    loop {
        tokio::select! {
            ended = running.wait() => return Ok(ended),
            () = stop.cancelled() => {
                running.stop().await;
                return Ok(Ended::Finished);
            }
            Some(question) = asked.recv() => {
                let _ = question.send(running.statistics().await);
            }
        }
    }
}
