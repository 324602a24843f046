//! One binary, one module for each thing that is promised.

mod crash;
mod damage;
mod faults;
mod huge;
mod iscsi;
mod main_job;
mod mount;
mod nbd;
mod removal;
mod s3;
mod scripts;
mod secrets;
mod sources;
mod support;
