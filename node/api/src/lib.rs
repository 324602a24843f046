//! The contract between server and nodes, and a client of the server.
