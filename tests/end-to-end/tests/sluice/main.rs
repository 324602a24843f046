//! One binary, one module for each thing that is promised.

mod arbiter;
mod collect;
mod crash;
mod damage;
mod faults;
mod heal;
mod huge;
mod iscsi;
mod keys;
mod main_job;
mod mount;
mod mountd;
mod namespaces;
mod nbd;
mod removal;
mod replicate;
mod retention;
mod s3;
mod scripts;
mod scrub;
mod secrets;
mod sources;
mod support;
