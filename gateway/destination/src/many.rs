//! Removing many objects, and telling what became of them.

use std::future::Future;

use futures::stream::{self, StreamExt};

use crate::{DestinationError, Result};

/// Requests of one `delete_many` that run at a time.
const AT_ONCE: usize = 8;

/// Waits for all removals, a few of which run at a time.
///
/// Takes futures in a vector: borrowing closures in a stream do not go through `async_trait`.
pub(crate) async fn side_by_side<Fut>(removals: Vec<Fut>) -> Result<()>
where
    Fut: Future<Output = Result<()>>,
{
    conclude(gather(removals).await)
}

/// The same, and what failed.
pub(crate) async fn gather<Fut>(removals: Vec<Fut>) -> Vec<DestinationError>
where
    Fut: Future<Output = Result<()>>,
{
    let outcomes: Vec<_> = stream::iter(removals).buffer_unordered(AT_ONCE).collect().await;
    outcomes.into_iter().filter_map(Result::err).collect()
}

/// One error for many: the first that repeating does not help against, else the first of all.
pub(crate) fn conclude(mut failures: Vec<DestinationError>) -> Result<()> {
    let count = failures.len();
    let worst = failures.iter().position(|error| !error.is_retryable()).unwrap_or(0);
    if count < 2 {
        return failures.pop().map_or(Ok(()), Err);
    }
    let worst = failures.swap_remove(worst);
    let context = format!("{count} requests to remove objects failed");
    Err(DestinationError::caused(worst.kind(), context, worst))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn the_error_that_stays_is_the_one_told() {
        let error = |kind| DestinationError::new(kind, format!("{kind:?}"));
        conclude(Vec::new()).unwrap();
        let one = conclude(vec![error(ErrorKind::NoSpace)]).unwrap_err();
        assert_eq!(one.to_string(), "NoSpace");
        let kinds = [ErrorKind::Unavailable, ErrorKind::AccessDenied, ErrorKind::Unavailable];
        let three = conclude(kinds.map(error).into()).unwrap_err();
        assert_eq!(three.kind(), ErrorKind::AccessDenied);
        assert!(three.to_string().starts_with("3 requests"), "{three}");
        let busy = conclude(vec![error(ErrorKind::Unavailable), error(ErrorKind::Unavailable)]);
        assert!(busy.unwrap_err().is_retryable());
    }
}
