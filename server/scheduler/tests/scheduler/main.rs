//! Simulated years: calendars against a clock that is read minute by minute, planning and queues
//! under load.

mod calendar_model;
mod pile_up;
mod pile_up_sim;
mod plan_model;
