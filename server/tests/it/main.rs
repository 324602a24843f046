//! The server over HTTPS, as clients see it.

mod lease;
mod matrix;
mod requests;
mod retention;
mod support;
