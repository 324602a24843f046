//! S3 as a destination, when it is not as it should be.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::disk::{self, MIB};
use crate::support::port;
use crate::support::repo::Repo;
use crate::support::run::Cmd;
use crate::support::s3;

/// A repository on S3 with one small point.
fn small() -> Repo {
    let repo = Repo::on_s3();
    let image = repo.path("disk.raw");
    disk::create(&image, 4 * MIB);
    disk::fill(&image, MIB, MIB, 1);
    repo.backup(&image);
    repo
}

/// Far more than the time the command was given, far less than for ever.
fn in_time(cmd: Cmd) -> crate::support::run::Ran {
    let start = Instant::now();
    let ran = cmd.run();
    assert!(start.elapsed() < Duration::from_secs(60), "{} took {:?}", ran.what, start.elapsed());
    ran
}

#[test]
fn a_server_that_is_down_is_an_error_within_the_time_given() {
    let repo = small();
    let server = s3::server();
    let closed = format!("127.0.0.1:{}", port::free());
    let url = server.url(&server.bucket, "x", &format!("http://{closed}"));
    let image = repo.path("disk.raw");
    for args in [&["list"][..], &["init"], &["backup", "vm", image.to_str().unwrap()]] {
        let cmd = repo.sluice(args).args(["--repo", &url, "--retry-for", "3s"]);
        in_time(cmd).ended(1).says(&[&closed, "help:", "network"]);
    }
}

#[test]
fn a_bucket_that_is_missing_is_told_with_what_to_do() {
    let repo = small();
    let server = s3::server();
    let url = server.url("no-such-bucket-here", "x", &server.endpoint);
    let cmd = repo.sluice(["list", "--repo", &url, "--retry-for", "3s"]);
    in_time(cmd).ended(1).says(&["no-such-bucket-here", "help:"]);
}

#[test]
fn wrong_and_missing_credentials_are_told_and_never_shown() {
    let repo = small();
    let secret = "not-the-secret-0123456789";
    let cmd =
        repo.sluice(["list", "--retry-for", "3s", "-vv"]).env("AWS_SECRET_ACCESS_KEY", secret);
    let ran = in_time(cmd).ended(1).says(&["credentials", "help:"]);
    let key = s3::server().key;
    assert!(!ran.err.contains(secret) && !ran.text().contains(secret), "{}", ran.err);
    assert!(!ran.text().contains(&key));
    let cmd = repo.sluice(["list", "--retry-for", "3s"]);
    let cmd = cmd.without_env("AWS_SECRET_ACCESS_KEY").without_env("AWS_ACCESS_KEY_ID");
    // The machine's own service for credentials is not waited for.
    let cmd = cmd.env("AWS_EC2_METADATA_DISABLED", "true");
    in_time(cmd).ended(1).says(&["credentials", "help:"]);
}

#[test]
fn credentials_may_lie_in_a_file() {
    let repo = small();
    let server = s3::server();
    let keys = repo.path("keys");
    let text = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        server.key, server.secret
    );
    fs::write(&keys, text).unwrap();
    let url = format!("{}&credentials={}", repo.url(), keys.display());
    let cmd = repo.sluice(["list", "--repo", &url]);
    cmd.without_env("AWS_SECRET_ACCESS_KEY").without_env("AWS_ACCESS_KEY_ID").ok();
}

#[test]
fn a_url_with_a_misspelt_parameter_is_refused() {
    let repo = Repo::without();
    let url = "s3://bucket/x?endpiont=http://127.0.0.1:1";
    repo.fails(1, ["list", "--repo", url]).says(&["endpiont", "endpoint"]);
}
