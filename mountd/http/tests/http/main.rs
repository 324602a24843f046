//! The server as clients see it that are slow, rude, or in doubt; over real sockets.

mod hostile;
mod requests;
mod support;
