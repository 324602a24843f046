//! The protocol holds in every state of every small world, and no rule of it is idle.

mod rules;
mod worlds;
