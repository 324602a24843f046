//! Worlds with the whole protocol.

use sluice_simulation::catalogue;
use sluice_simulation::check::exhaust;
use sluice_simulation::world::World;

fn holds(world: World) {
    let report = exhaust(world);
    eprintln!("{report}");
    assert!(report.broken.is_empty(), "{:?}", report.broken);
    assert!(report.unseen.is_empty(), "the world shows nothing: {:?}", report.unseen);
}

#[test]
fn one_backup_beside_one_collector() {
    holds(catalogue::FIRST);
}

#[test]
fn two_collectors_work_on_one_generation() {
    holds(catalogue::TWO_COLLECTORS);
}

#[test]
fn a_backup_goes_on_from_a_point_that_is_pruned_at_once() {
    holds(catalogue::SUCCESSOR);
}

#[test]
fn a_collector_wakes_up_after_its_generation_is_over() {
    holds(catalogue::ZOMBIE);
}

#[test]
fn a_mount_pins_a_point_while_it_is_pruned() {
    holds(catalogue::MOUNT);
    holds(catalogue::MOUNT_OF_NEW);
}

#[test]
fn a_session_goes_on_with_the_packs_of_a_dead_one() {
    holds(catalogue::RESUME);
}

#[test]
fn commit_records_arrive_late() {
    holds(catalogue::LATE_RECORDS);
}

#[test]
fn session_records_arrive_late_over_newer_ones() {
    holds(catalogue::LATE_SESSIONS);
}

#[test]
fn damaged_session_records_are_removed_when_they_are_old() {
    holds(catalogue::DAMAGED_SESSIONS);
}

#[test]
fn collections_whose_list_is_damaged_end_without_a_loss() {
    holds(catalogue::DAMAGED_LISTS);
    holds(catalogue::DAMAGED_LISTS_AND_A_SLEEPER);
}

#[test]
fn packs_and_deletions_arrive_late() {
    holds(catalogue::LATE_PACKS);
    holds(catalogue::LATE_MOVES);
}

#[test]
fn older_generations_are_forgotten() {
    holds(catalogue::FORGETFUL);
}

#[test]
fn two_backups_use_packs_of_each_other() {
    holds(catalogue::NEIGHBOURS);
}

#[test]
fn three_sessions_go_on_from_each_other() {
    holds(catalogue::LINE);
}

#[test]
fn a_mount_reads_what_a_backup_goes_on_from() {
    holds(catalogue::MOUNT_BESIDE_BACKUP);
}

#[test]
fn every_world_has_a_name_of_its_own() {
    let names = catalogue::SMALL.iter().chain(catalogue::DEEP).map(|world| world.name);
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}
