//! HTTP exports, as real clients see them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::iscsi::qemu;
use crate::support::disk::{self, MIB, assert_same};
use crate::support::repo::Repo;
use crate::support::run::{Cmd, Ran};
use crate::support::serve::Export;

/// A repository with the sample disk as `vm`.
fn sample() -> (Repo, String) {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::sample(&image);
    let point = repo.backup(&image);
    (repo, point)
}

/// The certificate that the export made in the state folder of a test.
fn certificate(repo: &Repo) -> PathBuf {
    repo.path("state/sluice/http/127.0.0.1_localhost.pem")
}

fn curl(args: &[&str]) -> Cmd {
    Cmd::new("curl").args(["--silent", "--show-error", "--fail"]).args(args)
}

/// Splits a URL with a token into root and token.
fn parts(url: &str) -> (String, String) {
    let (scheme, rest) = url.split_once("://").unwrap();
    let mut segments = rest.split('/');
    let (host, token) = (segments.next().unwrap(), segments.next().unwrap());
    (format!("{scheme}://{host}"), token.to_owned())
}

#[test]
fn curl_copies_a_disk_over_tls_and_trusts_only_its_certificate() {
    let (repo, point) = sample();
    let export = Export::http(&repo, &[&point], &[]);
    assert!(export.uri().starts_with("https://"), "{}", export.uri());
    let copy = repo.path("copy.raw");
    let trust = certificate(&repo);
    let trust = trust.to_str().unwrap();
    curl(&["--cacert", trust, export.uri(), "-o"]).arg(&copy).ok();
    assert_same(&repo.path("disk.raw"), &copy);
    // 60: the certificate is not trusted.
    curl(&["-o", "/dev/null", export.uri()]).fails(60);
    let told = export.stop();
    let shown =
        Cmd::new("openssl").args(["x509", "-noout", "-fingerprint", "-sha256", "-in", trust]).ok();
    let fingerprint = shown.text().trim().split_once('=').unwrap().1.to_owned();
    assert!(told.err.contains(&fingerprint), "{} is not in {}", fingerprint, told.err);
    // The next start has the same one.
    let before = fs::read(trust).unwrap();
    let again = Export::http(&repo, &[&point], &[]).stop();
    assert!(again.err.contains(&fingerprint));
    assert_eq!(fs::read(trust).unwrap(), before);
}

#[test]
fn an_interrupted_copy_goes_on_where_it_was_and_only_with_the_same_disk() {
    let (repo, first) = sample();
    let token = repo.path("token");
    fs::write(&token, "a-token-of-the-tests\n").unwrap();
    let more = ["--plain", "--token-file", token.to_str().unwrap()];
    let export = Export::http(&repo, &[&first], &more);
    let whole = fs::read(repo.path("disk.raw")).unwrap();
    for client in ["curl", "wget"] {
        let copy = repo.path("disk.part");
        fs::write(&copy, &whole[..12_345_678]).unwrap();
        let cmd = match client {
            "curl" => curl(&["-C", "-", export.uri(), "-o"]),
            _ => Cmd::new("wget").args(["-q", "-c", export.uri(), "-O"]),
        };
        cmd.arg(&copy).ok();
        assert_same(&repo.path("disk.raw"), &copy);
    }
    let head = curl(&["--head", export.uri()]).ok().text();
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in {head}")).to_owned()
    };
    let tag = header("etag: ")["etag: ".len()..].to_owned();
    assert!(header("accept-ranges").ends_with("bytes"));
    assert!(header("content-length").ends_with(&whole.len().to_string()));
    header("last-modified");
    export.stop();
    // The same point has the same tag; another content has another.
    disk::modify(&repo.path("disk.raw"), 1);
    let second = repo.backup(repo.path("disk.raw"));
    for (point, status) in [(&first, "206"), (&second, "200")] {
        let export = Export::http(&repo, &[point], &more);
        let condition = format!("If-Range: {tag}");
        let args = ["-r", "0-9", "-H", &condition, "-o", "/dev/null", "-w", "%{http_code}"];
        assert_eq!(curl(&args).arg(export.uri()).ok().text(), status);
    }
}

#[test]
fn qemu_reads_the_disk_it_was() {
    let (repo, point) = sample();
    for plain in [true, false] {
        let export = Export::http(&repo, &[&point], if plain { &["--plain"] } else { &[] });
        // QEMU has no option for a certificate of one's own.
        let (scheme, rest) = export.uri().split_once("://").unwrap();
        let unchecked = if plain { "" } else { "\"sslverify\":false," };
        let source = format!(
            "json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"{scheme}\",{unchecked}\
             \"url\":\"{scheme}://{rest}\"}}}}"
        );
        let (disk, copy) = (repo.path("disk.raw"), repo.path("copy.raw"));
        qemu("qemu-img").args(["compare", "-F", "raw", &source]).arg(&disk).ok();
        // One request at a time: with several, QEMU 7.2 hangs now and then, whatever the server.
        let convert = ["convert", "-m", "1", "-O", "raw", &source];
        qemu("qemu-img").args(convert).arg(&copy).ok();
        Cmd::new("qemu-img").args(["compare", "-f", "raw"]).arg(&disk).arg(&copy).ok();
        export.stop();
    }
}

#[test]
fn nbdkit_passes_an_export_on() {
    let (repo, point) = sample();
    let export = Export::http(&repo, &[&point], &[]);
    let (root, token) = parts(export.uri());
    let copy = repo.path("copy.raw");
    let run = format!("nbdcopy \"$uri\" {}", copy.display());
    let trust = format!("cainfo={}", certificate(&repo).display());
    let bearer = format!("header=Authorization: Bearer {token}");
    let ways = [vec![export.uri().to_owned()], vec![format!("{root}/disk.raw"), bearer]];
    for way in ways {
        let cmd = Cmd::new("nbdkit").args(["-U", "-", "--exit-with-parent", "curl"]);
        cmd.args(way).args([&trust, "--run", &run]).ok();
        assert_same(&repo.path("disk.raw"), &copy);
        fs::remove_file(&copy).unwrap();
    }
}

#[test]
fn several_connections_and_several_ranges_bring_the_same_bytes() {
    let (repo, point) = sample();
    let export = Export::http(&repo, &[&point], &["--plain"]);
    let copy = repo.path("copy.raw");
    let args = ["-q", "-x", "8", "-s", "8", "-k", "1M", "--file-allocation=none"];
    let folder = format!("--dir={}", repo.dir().display());
    Cmd::new("aria2c").args(args).args([&folder, "--out=copy.raw", export.uri()]).ok();
    assert_same(&repo.path("disk.raw"), &copy);
    let ranges = [(0_usize, 999), (5 << 20, (5 << 20) + 99), (40 << 20, (40 << 20) + 9)];
    let asked: Vec<_> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    let got = curl(&["-r", &asked.join(","), export.uri()]).ok().out;
    let whole = fs::read(&copy).unwrap();
    for (first, last) in ranges {
        let head = format!("Content-Range: bytes {first}-{last}/{}\r\n\r\n", whole.len());
        let at = find(&got, head.as_bytes()).expect("the part") + head.len();
        assert!(got[at..].starts_with(&whole[first..=last]), "{first}-{last}");
    }
}

fn find(all: &[u8], part: &[u8]) -> Option<usize> {
    all.windows(part.len()).position(|window| window == part)
}

/// What a program asks that imports a disk by a URL alone, one range after another: a HEAD for the
/// size, and then GETs with closed ranges, on one connection.
#[test]
fn an_importer_that_asks_for_the_size_and_then_for_ranges_gets_the_disk() {
    let (repo, point) = sample();
    let export = Export::http(&repo, &[&point], &["--plain"]);
    let head = curl(&["--head", "--http1.1", export.uri()]).ok().text();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let size: u64 = length.trim().parse().unwrap();
    let copy = repo.path("copy.raw");
    let mut config = String::new();
    let step = 4 << 20;
    for first in (0..size).step_by(step) {
        let last = (first + step as u64).min(size) - 1;
        let uri = export.uri();
        let next = if first == 0 { "" } else { "next\n" };
        config += &format!("{next}url = \"{uri}\"\nrange = \"{first}-{last}\"\noutput = \"-\"\n");
    }
    let got = curl(&["--no-buffer", "--config", "-"]).input(config).ok();
    fs::write(&copy, &got.out).unwrap();
    assert_same(&repo.path("disk.raw"), &copy);
}

#[test]
fn the_images_of_several_points_are_listed_and_read() {
    let repo = Repo::new();
    let paths = ["vda", "vdb"].map(|name| repo.path(&format!("{name}.raw")));
    for (number, path) in paths.iter().enumerate() {
        disk::create(path, (number as u64 + 1) * MIB);
        disk::fill(path, 4096, 50_000, number as u64);
    }
    let backup = |images: &[&Path]| {
        let images = images.iter().map(|path| path.as_os_str());
        repo.ok(["backup".as_ref(), "vm".as_ref()].into_iter().chain(images));
        repo.points("vm").last().unwrap().clone()
    };
    let first = backup(&[&paths[0], &paths[1]]);
    let second = backup(&[&paths[0]]);
    let export = Export::http(&repo, &[&first, &second], &["--plain", "--json"]);
    let (root, token) = parts(export.uri());
    let root = format!("{root}/{token}/");
    let list: Value = curl(&[&format!("{root}index.json")]).ok().json();
    let exports = list["exports"].as_array().unwrap();
    assert_eq!(exports.len(), 3);
    for (entry, path) in exports.iter().zip([&paths[0], &paths[1], &paths[0]]) {
        let copy = repo.path("copy.raw");
        let url = format!("{root}{}", entry["path"].as_str().unwrap());
        curl(&[&url, "-o"]).arg(&copy).ok();
        assert_same(path, &copy);
    }
    // The same content has the same tag, whichever point it is of.
    assert_eq!(exports[0]["etag"], exports[2]["etag"]);
    assert_ne!(exports[0]["etag"], exports[1]["etag"]);
    let page = curl(&[&root]).ok().text();
    assert_eq!(page.matches(".raw\"").count(), 3, "{page}");
    let ready = export.stop().json();
    assert_eq!(ready["uri"], root.as_str());
    assert_eq!(ready["exports"].as_array().unwrap().len(), 3);
    assert!(repo.objects("p").is_empty(), "still pinned: {:?}", repo.objects("p"));
}

#[test]
fn the_map_shows_holes_where_the_disk_has_none_of_its_data() {
    let (repo, point) = sample();
    let export = Export::http(&repo, &[&point], &["--plain"]);
    let map: Value = curl(&[&format!("{}?extents", export.uri())]).ok().json();
    let kind = |at: u64| {
        let mut extents = map["extents"].as_array().unwrap().iter();
        let found = extents.find(|e| {
            let start = e["offset"].as_u64().unwrap();
            (start..start + e["length"].as_u64().unwrap()).contains(&at)
        });
        found.unwrap()["type"].clone()
    };
    for data in [0, 4 * MIB, 13 * MIB, 20 * MIB] {
        assert_eq!(kind(data), "data", "at {data}");
    }
    for hole in [2 * MIB, 15 * MIB, 30 * MIB, 48 * MIB] {
        assert_eq!(kind(hole), "hole", "at {hole}");
    }
}

#[test]
fn only_who_knows_the_token_gets_in_and_it_is_not_repeated() {
    let (repo, point) = sample();
    let file = repo.path("token");
    fs::write(&file, "a-token-of-the-tests\nsecond line\n").unwrap();
    let more = ["--plain", "-vvv", "--token-file", file.to_str().unwrap()];
    let export = Export::http(&repo, &[&point], &more);
    let (root, token) = parts(export.uri());
    assert_eq!(token, "a-token-of-the-tests");
    let status = |args: &[&str]| {
        let cmd = Cmd::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]);
        cmd.args(args).ok().text()
    };
    let disk = format!("{root}/disk.raw");
    assert_eq!(status(&[&disk]), "401");
    assert_eq!(status(&[&format!("{root}/a-token-of-the-test/disk.raw")]), "401");
    assert_eq!(status(&["-H", "Authorization: Bearer a-token-of-the-tests", &disk]), "200");
    assert_eq!(status(&["-u", "any:a-token-of-the-tests", &disk]), "200");
    assert_eq!(status(&["-u", "a-token-of-the-tests:", &disk]), "401");
    let ran: Ran = export.stop();
    assert!(!ran.err.contains("a-token"), "the token was told: {}", ran.err);
    assert!(!ran.text().contains("a-token"));
}

#[test]
fn a_block_that_is_damaged_ends_the_copy_instead_of_coming_wrong() {
    let (repo, point) = sample();
    let image = fs::read(repo.path("disk.raw")).unwrap();
    for pack in repo.objects("d") {
        let mut bytes = fs::read(&pack).unwrap();
        let at = bytes.len() * 4 / 5;
        bytes[at] ^= 0x10;
        fs::write(&pack, bytes).unwrap();
    }
    let export = Export::http(&repo, &[&point], &["--plain"]);
    let copy = repo.path("copy.raw");
    let ran = Cmd::new("curl").args(["-sS", "--fail", export.uri(), "-o"]).arg(&copy).run();
    // 18: fewer bytes than announced; 22: an answer that says so; 56: the connection was cut.
    assert!([18, 22, 56].contains(&ran.code.unwrap()), "{:?}: {}", ran.code, ran.err);
    let got = fs::read(&copy).unwrap_or_default();
    assert!(got.len() < image.len() && got == image[..got.len()]);
    let told = export.stop();
    assert!(told.err.contains("cannot read"), "{}", told.err);
}

#[test]
fn a_certificate_of_ones_own_is_served() {
    let (repo, point) = sample();
    let (certificate, key) = (repo.path("web.pem"), repo.path("web.key"));
    Cmd::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .ok();
    let paths = [&certificate, &key].map(|path| path.to_str().unwrap());
    let more = ["--tls-certificate", paths[0], "--tls-key", paths[1]];
    let export = Export::http(&repo, &[&point], &more);
    curl(&["--cacert", paths[0], "-r", "0-9", export.uri(), "-o", "/dev/null"]).ok();
    export.stop();
    assert!(!repo.path("state").exists(), "another certificate was made");
    let swapped = ["export", "http", &point, "--tls-certificate", paths[1], "--tls-key", paths[0]];
    repo.fails(1, swapped).says(&["web.key"]);
}

#[test]
fn what_cannot_be_served_is_said_before_anybody_connects() {
    let (repo, point) = sample();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    repo.fails(1, ["export", "http", &point, "--plain", "--listen", &address]).says(&[&address]);
    fs::write(repo.path("short"), "short\n").unwrap();
    let file = repo.path("short");
    let args = ["export", "http", &point, "--plain", "--token-file", file.to_str().unwrap()];
    repo.fails(1, args).says(&["16", "short"]);
    repo.fails(2, ["export", "http", &point, "--tls-certificate", "x"]).says(&["--tls-key"]);
}
