//! Clocks that jump, as they do where machines are paused, moved, or set by hand.

use std::path::PathBuf;

use serde_json::json;

use crate::control_plane::{Place, Up, text};
use crate::support::disk;
use crate::support::run::wait_until;

/// What lets a process see another time than the rest of the machine.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut paths = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = paths.find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED: no libfaketimeMT.so.1 (package faketime)");
    }
    found
}

/// Backups that are done, of all times.
fn done(place: &Place) -> usize {
    place.done("backup").len()
}

#[test]
fn backups_go_on_while_the_clock_jumps_to_and_fro() {
    let Some(library) = library() else { return };
    let place = Place::new();
    let image = place.path("disk.raw");
    disk::sample(&image);
    let clock = place.write("clock", "+0\n");
    let up = Up::start_in(
        &place,
        &[
            ("LD_PRELOAD", text(&library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&clock)),
            ("FAKETIME_NO_CACHE", "1"),
            // Time that only goes forward does so on a real machine, too.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ],
    );
    place.log_in(&up);
    place.back_up_often(&image, json!({}));

    // No further than sessions last, so that the command line stays logged in.
    for jump in ["+0", "+6h", "-6h", "-1d", "+0"] {
        place.write("clock", &format!("{jump}\n"));
        let before = done(&place);
        wait_until(&format!("backups at {jump}"), || done(&place) >= before + 2);
    }
    place.ok(&["policy", "remove", "shop/often"]);
    wait_until("nothing runs", || place.is_idle());

    // None failed, and each made one restore point: no lease was lost to the clock.
    let failed = place.ok(&["task", "list", "--state", "failed"]).json();
    assert_eq!(failed["items"], json!([]));
    let points = place.repository(&["list", "shop.web"]).json();
    let points = points["points"].as_array().unwrap().clone();
    assert_eq!(points.len(), done(&place), "{points:?}");
    place.repository(&["verify", "--data"]);
    let out = place.path("out.raw");
    place.repository(&["restore", "shop.web@latest", text(&out)]);
    disk::assert_same(&image, &out);
}
