//! One binary, one module for each thing that is promised.

mod crash;
mod damage;
mod faults;
mod huge;
mod keys;
mod main_job;
mod mount;
mod nbd;
mod removal;
mod retention;
mod s3;
mod scripts;
mod secrets;
mod sources;
mod support;
