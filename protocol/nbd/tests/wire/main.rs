//! The wire crate as its users see it.

mod hostile;
mod replies;
