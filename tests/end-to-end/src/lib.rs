//! Black-box tests of the built executable, with real clients and real faults; see `tests/`.
