//! REST API, access rules, scheduler loop and node dispatch.
