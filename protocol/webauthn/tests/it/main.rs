//! Passkeys against the examples of the specification, and against an authenticator of our own.

mod authenticator;
mod hostile;
mod vectors;
