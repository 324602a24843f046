//! The threads that hash, compress, encrypt and decode.
//!
//! The async runtime owns sockets and timers and must never wait for a core; everything that
//! works through bytes goes to this one bounded pool.

use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::repository::local;

/// A bounded pool of worker threads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<ThreadPool>);

impl Pool {
    /// A pool of `threads`, or of one for each core when 0.
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("sluice-cpu-{number}"))
            .build()
            .map_err(|error| local("cannot start worker threads", error))?;
        Ok(Self(Arc::new(pool)))
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs `work` on the pool and waits for its result without holding a runtime thread.
    ///
    /// # Errors
    /// When `work` panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (send, receive) = tokio::sync::oneshot::channel();
        self.0.spawn(move || {
            // The receiver is gone when the caller was cancelled; the result is then unwanted.
            let _ = send.send(work());
        });
        receive.await.map_err(|_| RepositoryError::new(ErrorKind::Local, "a worker died"))
    }
}
