//! Runs the tasks of a server on this machine.
