//! What the exports of this process have done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_block::{BlockRead, BlockWrite, Counters, DeviceCounters, LATENCY_BOUNDS, Measured};
use sluice_mountd::metrics::{Cache, ExportStatistics, Operation, Statistics};
use sluice_repository::Repository;

/// Exports that are counted one by one; all further ones together. A mount may open thousands of
/// images, and each is a line for every figure in the metrics.
const MOST: usize = 64;
/// The name under which further exports are counted.
const OTHERS: &str = "(others)";

/// Counters by name of export. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    exports: Vec<(String, Arc<DeviceCounters>)>,
    repository: Option<Repository>,
}

impl Registry {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device, counted as `name`; further devices of that name are counted with it.
    pub(crate) fn measured(&self, name: &str, device: Arc<dyn BlockRead>) -> Arc<dyn BlockRead> {
        Arc::new(Measured::new(device, self.counters(name)))
    }

    /// The same for one that can be written.
    pub(crate) fn measured_writes<D: BlockWrite + 'static>(
        &self,
        name: &str,
        device: Arc<D>,
    ) -> Arc<dyn BlockWrite> {
        Arc::new(Measured::new(device, self.counters(name)))
    }

    /// Counts nothing yet, but names the export.
    pub(crate) fn announce(&self, name: &str) {
        self.counters(name);
    }

    fn counters(&self, name: &str) -> Arc<DeviceCounters> {
        let mut known = self.known();
        let exports = &mut known.exports;
        let full = exports.len() >= MOST && exports.iter().all(|(known, _)| known != name);
        let name = if full { OTHERS } else { name };
        if let Some((_, counters)) = exports.iter().find(|(known, _)| known == name) {
            return counters.clone();
        }
        let counters = Arc::<DeviceCounters>::default();
        exports.push((name.to_owned(), counters.clone()));
        counters
    }

    /// Counts the hits of the repository's cache too.
    pub(crate) fn watch_cache(&self, repository: &Repository) {
        self.known().repository = Some(repository.clone());
    }

    /// All figures now.
    pub(crate) fn statistics(&self) -> Statistics {
        let known = self.known();
        let exports = known.exports.iter().map(|(name, counters)| ExportStatistics {
            name: name.clone(),
            read: operation(&counters.read),
            write: operation(&counters.write),
            flush: operation(&counters.flush),
        });
        let cache = known.repository.as_ref().map(|repository| {
            let counts = repository.cache_counts();
            Cache { hits: counts.hits, misses: counts.misses }
        });
        Statistics { exports: exports.collect(), cache }
    }
}

fn operation(counters: &Counters) -> Operation {
    let counts = counters.counts();
    Operation {
        requests: counts.requests,
        bytes: counts.bytes,
        errors: counts.errors,
        micros: counts.micros,
        latency: LATENCY_BOUNDS.into_iter().zip(counts.latency).collect(),
    }
}

#[cfg(test)]
mod tests {
    use sluice_block::MemoryDisk;

    use super::*;

    #[tokio::test]
    async fn devices_of_one_name_are_counted_together_and_there_is_an_end_of_names() {
        let registry = Registry::default();
        for number in 0..MOST + 9 {
            for _ in 0..2 {
                let disk = Arc::new(MemoryDisk::new(512));
                let disk = registry.measured(&number.to_string(), disk);
                disk.read_at(0, &mut [0; 10]).await.unwrap();
            }
        }
        let exports = registry.statistics().exports;
        assert_eq!(exports.len(), MOST + 1);
        assert_eq!((exports[0].read.requests, exports[0].read.bytes), (2, 20));
        assert_eq!((exports[MOST].name.as_str(), exports[MOST].read.requests), (OTHERS, 18));
    }
}
