use std::sync::Arc;

use sluice_destination::Destination;
use sluice_destination::conformance;
use sluice_destination::filesystem::FilesystemDestination;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Count, Effect, Fault, Limit, Retry, RetryPolicy, Rule};

fn memory() -> Arc<dyn Destination> {
    Arc::new(MemoryDestination::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_contract() {
    conformance::run(|| async { memory() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_file_system_keeps_the_contract() {
    let parent = tempfile::tempdir().unwrap();
    conformance::run(|| async {
        let root = tempfile::tempdir_in(parent.path()).unwrap().keep();
        Arc::new(FilesystemDestination::open(root).await.unwrap()) as Arc<dyn Destination>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn retry_keeps_the_contract() {
    let policy = RetryPolicy::default();
    conformance::run(|| async { Arc::new(Retry::new(memory(), policy)) as Arc<dyn Destination> })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn limit_keeps_the_contract() {
    conformance::run(|| async { Arc::new(Limit::new(memory(), 2)) as Arc<dyn Destination> }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn count_keeps_the_contract() {
    conformance::run(|| async { Arc::new(Count::new(memory())) as Arc<dyn Destination> }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fault_without_rules_keeps_the_contract() {
    conformance::run(|| async { Fault::new(memory()) as Arc<dyn Destination> }).await;
}

#[tokio::test]
async fn locks_pass_through_every_wrapper() {
    conformance::run_locks(|| async {
        let store = Fault::new(Arc::new(MemoryDestination::with_locks()));
        let limit = Limit::new(Arc::new(Count::new(store)), 2);
        Arc::new(Retry::new(Arc::new(limit), RetryPolicy::default())) as Arc<dyn Destination>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[should_panic(expected = "a call that must fail")]
async fn a_store_that_ignores_conditions_breaks_the_contract() {
    conformance::run(|| async {
        let fault = Fault::new(memory());
        fault.inject(Rule::new(Effect::IgnoreCondition));
        fault as Arc<dyn Destination>
    })
    .await;
}
