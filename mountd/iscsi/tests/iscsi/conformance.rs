//! libiscsi's conformance suite.
//!
//! A test that the suite skips counts as passed there; here it must be one of those whose feature
//! is not offered (`docs/semantics.md` has the reasons).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;

use sluice_block::MemoryDisk;
use sluice_iscsi::{Identity, Limits, Lun};
use tokio::process::Command;

use crate::support::{Fixture, writable};

/// Suites of features that are not offered.
const NOT_OFFERED: [&str; 10] = [
    "ExtendedCopy",
    "NoMedia",
    "PreventAllow",
    "ReadDefectData10",
    "ReadDefectData12",
    "ReceiveCopyResults",
    "Sanitize",
    "StartStopUnit",
    "WriteAtomic16",
    // These are run apart, where there is something to see.
    "ReadOnly",
];

/// Tests that ask for what the standards forbid, and why (`docs/semantics.md`).
const AT_ODDS: [&str; 2] = [
    // Wants zeroes where it had WRITE SAME write ones.
    "WriteSame10.UnmapUntilEnd",
    // Takes a physical block for a logical one; passes where they have one size.
    "GetLBAStatus.UnmapSingle",
];

/// Results of a run: names as `SUITE.TEST`.
#[derive(Default)]
struct Results {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    skipped: BTreeSet<String>,
    text: String,
}

async fn run(tests: &str, urls: &[String]) -> Results {
    let suite = Command::new("iscsi-test-cu")
        .args(["--dataloss", "--verbose", "--test", tests])
        .args(urls)
        .kill_on_drop(true)
        .output()
        .await;
    let output = match suite {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("iscsi-test-cu is missing: install the Debian package libiscsi-bin")
        }
        Err(error) => panic!("cannot run iscsi-test-cu: {error}"),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut results = Results::default();
    for suite in text.split("\nSuite: ").skip(1) {
        let name = suite.lines().next().unwrap().trim();
        for test in suite.split("\n  Test: ").skip(1) {
            let test = test.split("\nRun Summary").next().unwrap();
            let name = format!("{name}.{}", test.split(' ').next().unwrap());
            let failed = test.lines().any(|line| line.starts_with("    1. "));
            let into = match (failed, test.contains("[SKIPPED]")) {
                (true, _) => &mut results.failed,
                (false, true) => &mut results.skipped,
                (false, false) => &mut results.passed,
            };
            into.insert(name);
        }
    }
    results.text = text;
    results
}

/// Runs one family; what fails or is skipped must be known.
async fn family(name: &str, least: usize) {
    let fixture = fixture().await;
    let urls = [fixture.url(0, 0), fixture.url(1, 0)];
    let results = run(name, &urls).await;
    let failed: Vec<_> =
        results.failed.iter().filter(|name| !AT_ODDS.contains(&name.as_str())).collect();
    assert!(failed.is_empty(), "{failed:?} failed:\n{}", results.text);
    let offered = |name: &&String| !NOT_OFFERED.iter().any(|suite| name.starts_with(suite));
    let skipped: Vec<_> = results.skipped.iter().filter(offered).collect();
    assert!(skipped.is_empty(), "{skipped:?} were skipped:\n{}", results.text);
    let passed = results.passed.len();
    assert!(passed >= least, "only {passed} tests passed:\n{}", results.text);
    fixture.stop().await;
}

/// A thin disk, one that is write-protected, and one with small physical blocks.
async fn fixture() -> Fixture {
    let disk = || MemoryDisk::new(256 << 20);
    let protected = Lun::read_only(Arc::new(disk()), Identity::from_digest([2; 32]));
    let small = writable(disk(), 3).with_physical_exponent(0);
    Fixture::new(vec![writable(disk(), 1), protected, small], Limits::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scsi_family_passes() {
    family("SCSI", 170).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_iscsi_family_passes() {
    family("iSCSI", 15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_linux_family_passes() {
    family("LINUX", 130).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_paths_and_special_disks_pass() {
    let fixture = fixture().await;
    for (tests, urls, count) in [
        ("ALL.MultipathIO", vec![fixture.url(0, 0), fixture.url(1, 0)], 4),
        ("SCSI.ReadOnly", vec![fixture.url(0, 1)], 1),
        ("SCSI.GetLBAStatus", vec![fixture.url(0, 2)], 3),
    ] {
        let results = run(tests, &urls).await;
        assert_eq!(results.passed.len(), count, "{tests}:\n{}", results.text);
    }
    fixture.stop().await;
}
