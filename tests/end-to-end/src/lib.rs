//! Black-box tests of the built executable; see `tests/`.
