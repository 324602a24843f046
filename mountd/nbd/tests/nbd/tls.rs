//! Encryption, as GnuTLS clients (libnbd, qemu) see it.

use std::fs;
use std::sync::Arc;

use sluice_block::MemoryDisk;
use sluice_nbd::{Encryption, Export, Limits, Server, Tls};
use sluice_nbd_wire::{Framing, InfoRequest, OptionReply, OptionRequest, ReplyCode};
use tokio::io::AsyncWriteExt;

use crate::support::{Fixture, Ran, Raw, run, sample, succeed};

const QEMU: &str = "qemu-utils";
const LIBNBD: &str = "libnbd-bin";
const KEY: &str = "6d792d7365637265742d6b65792d30316d792d7365637265742d6b65792d3031";
const OTHER_KEY: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

/// A folder of certificates: an authority, a server, a client, and a client of another authority.
struct Pki {
    dir: tempfile::TempDir,
}

impl Pki {
    async fn new(key: &str) -> Self {
        let pki = Self { dir: tempfile::tempdir().unwrap() };
        for ca in ["ca", "other-ca"] {
            pki.openssl(&format!(
                "req -x509 -newkey {key} -nodes -days 30 -subj /CN={ca} \
                 -keyout {ca}.key -out {ca}.pem"
            ))
            .await;
        }
        fs::write(pki.path("server.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
        fs::write(pki.path("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
        for (name, ca, ext) in
            [("server", "ca", "server"), ("client", "ca", "client"), ("bad", "other-ca", "client")]
        {
            pki.openssl(&format!(
                "req -newkey {key} -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ))
            .await;
            pki.openssl(&format!(
                "x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days 30 \
                 -extfile {ext}.ext -out {name}.pem"
            ))
            .await;
        }
        // The folders that clients want, with the file names that they want.
        for name in ["client", "bad"] {
            let folder = pki.dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            for (from, to) in [
                ("ca.pem".to_owned(), "ca-cert.pem"),
                (format!("{name}.pem"), "client-cert.pem"),
                (format!("{name}.key"), "client-key.pem"),
            ] {
                fs::copy(pki.path(&from), folder.join(to)).unwrap();
            }
        }
        let anonymous = pki.dir.path().join("anonymous");
        fs::create_dir(&anonymous).unwrap();
        fs::copy(pki.path("ca.pem"), anonymous.join("ca-cert.pem")).unwrap();
        pki
    }

    async fn openssl(&self, args: &str) {
        let folder = self.dir.path().to_str().unwrap();
        let script = format!("cd {folder} && openssl {args}");
        succeed("openssl", "sh", &["-c", &script]).await;
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The server's credentials; clients must have some too when `mutual`.
    fn tls(&self, mutual: bool) -> Tls {
        let tls =
            Tls::builder().certificate(self.read("server.pem"), self.read("server.key").into());
        let tls = if mutual { tls.client_authorities(self.read("ca.pem")) } else { tls };
        tls.build().unwrap()
    }
}

fn psk() -> Tls {
    Tls::builder().keys(&format!("alice:{KEY}\nbob:{OTHER_KEY}\n")).unwrap().build().unwrap()
}

async fn served(encryption: Encryption) -> Fixture {
    let disk = Arc::new(MemoryDisk::from_bytes(&sample()));
    let export = Export::writable("disk", disk).with_description("the first disk");
    let server = Server::new(vec![export], Limits::default()).unwrap();
    Fixture::serve(server.with_encryption(encryption)).await
}

impl Fixture {
    fn certified(&self, pki: &Pki, client: &str) -> [String; 2] {
        let folder = pki.path(client);
        [
            format!("nbds://{}/disk?tls-certificates={folder}", self.address),
            format!(
                "nbds+unix:///disk?socket={}&tls-certificates={folder}&tls-hostname=localhost",
                self.socket.display()
            ),
        ]
    }

    fn keyed(&self, user: &str, key: &str) -> [String; 2] {
        let file = self.file("keys.psk", format!("{user}:{key}\n").as_bytes());
        [
            format!("nbds://{user}@{}/disk?tls-psk-file={file}", self.address),
            format!(
                "nbds+unix://{user}@/disk?socket={}&tls-psk-file={file}",
                self.socket.display()
            ),
        ]
    }
}

async fn nbdinfo(uri: &str) -> Ran {
    run(LIBNBD, "nbdinfo", &["--json", uri]).await
}

/// Copies the disk out and another one in, over several connections.
async fn copies(server: &Fixture, uri: &str) {
    let (copy, other) = (server.path("copy.raw"), server.path("other.raw"));
    succeed(LIBNBD, "nbdcopy", &["--connections=4", uri, &copy]).await;
    assert!(fs::read(&copy).unwrap() == sample());
    let mut bytes = sample();
    bytes.rotate_left(70_000);
    fs::write(&other, &bytes).unwrap();
    for (from, content) in [(&other, &bytes), (&copy, &sample())] {
        succeed(LIBNBD, "nbdcopy", &["--flush", "--connections=4", from, uri]).await;
        let back = server.path("back.raw");
        succeed(LIBNBD, "nbdcopy", &[uri, &back]).await;
        assert!(fs::read(&back).unwrap() == *content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn libnbd_copies_under_certificates_of_every_kind() {
    for key in ["rsa:2048", "ec -pkeyopt ec_paramgen_curve:P-256"] {
        let pki = Pki::new(key).await;
        let server = served(Encryption::Required(pki.tls(false))).await;
        for uri in server.certified(&pki, "anonymous") {
            let info = nbdinfo(&uri).await;
            assert!(info.ok, "{}", info.err);
            let info: serde_json::Value = serde_json::from_str(&info.out).unwrap();
            assert_eq!(info["TLS"], true, "{info}");
            copies(&server, &uri).await;
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_must_have_certificates_where_these_are_asked_for() {
    let pki = Pki::new("ec -pkeyopt ec_paramgen_curve:P-256").await;
    let server = served(Encryption::Required(pki.tls(true))).await;
    for uri in server.certified(&pki, "client") {
        let info = nbdinfo(&uri).await;
        assert!(info.ok, "{}", info.err);
    }
    for client in ["anonymous", "bad"] {
        for uri in server.certified(&pki, client) {
            assert!(!nbdinfo(&uri).await.ok, "{client} was let in");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libnbd_copies_under_a_shared_key_and_only_with_the_right_one() {
    let server = served(Encryption::Required(psk())).await;
    for uri in server.keyed("alice", KEY) {
        let info = nbdinfo(&uri).await;
        assert!(info.ok, "{}", info.err);
        copies(&server, &uri).await;
    }
    for (user, key) in [("alice", OTHER_KEY), ("mallory", KEY)] {
        for uri in server.keyed(user, key) {
            assert!(!nbdinfo(&uri).await.ok, "{user} was let in");
        }
    }
    for uri in server.keyed("bob", OTHER_KEY) {
        assert!(nbdinfo(&uri).await.ok);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_reads_under_certificates_and_shared_keys() {
    let pki = Pki::new("ec -pkeyopt ec_paramgen_curve:P-256").await;
    let keys = pki.dir.path().join("qemu");
    fs::create_dir(&keys).unwrap();
    fs::write(keys.join("keys.psk"), format!("alice:{KEY}\n")).unwrap();
    let x509 = format!("tls-creds-x509,id=tls0,endpoint=client,dir={}", pki.path("client"));
    let shared = format!(
        "tls-creds-psk,id=tls0,endpoint=client,username=alice,dir={}",
        keys.to_str().unwrap()
    );
    for (tls, object) in [(pki.tls(true), x509), (psk(), shared)] {
        let server = served(Encryption::Required(tls)).await;
        let raw = server.file("disk.raw", &sample());
        let image = format!(
            "driver=raw,file.driver=nbd,file.host=127.0.0.1,file.port={},file.export=disk,\
             file.tls-creds=tls0",
            server.address.port()
        );
        let plain = format!("driver=raw,file.filename={raw}");
        let args = ["compare", "--object", &object, "--image-opts", &image, &plain];
        succeed(QEMU, "qemu-img", &args).await;
        server.stop().await;
    }
}

/// `nbd-client` insists on it.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_know_tls_1_2_only_are_served_under_certificates_and_nothing_older_is() {
    for key in ["rsa:2048", "ec -pkeyopt ec_paramgen_curve:P-256"] {
        let pki = Pki::new(key).await;
        let server = served(Encryption::Required(pki.tls(true))).await;
        let image = format!(
            "driver=nbd,host=127.0.0.1,port={},export=disk,tls-creds=tls0",
            server.address.port()
        );
        let info = async |client: &str, priority: &str| {
            let object = format!(
                "tls-creds-x509,id=tls0,endpoint=client,dir={},priority={priority}",
                pki.path(client)
            );
            let args = ["info", "--object", &object, "--image-opts", &image];
            run(QEMU, "qemu-img", &args).await
        };
        let said = info("client", "NORMAL:-VERS-ALL:+VERS-TLS1.2").await;
        assert!(said.ok, "{}", said.err);
        assert!(!info("bad", "NORMAL:-VERS-ALL:+VERS-TLS1.2").await.ok);
        assert!(!info("client", "LEGACY:-VERS-ALL:+VERS-TLS1.1").await.ok);
        let unauthenticated = "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CBC";
        assert!(!info("client", unauthenticated).await.ok);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_key_is_not_let_in_by_the_servers_certificate() {
    let pki = Pki::new("ec -pkeyopt ec_paramgen_curve:P-256").await;
    let both = Tls::builder().certificate(pki.read("server.pem"), pki.read("server.key").into());
    let both = both.keys(&format!("alice:{KEY}\n")).unwrap().build().unwrap();
    let server = served(Encryption::Required(both)).await;
    for uri in server.keyed("alice", KEY) {
        let info = nbdinfo(&uri).await;
        assert!(info.ok, "{}", info.err);
    }
    for client in ["anonymous", "client", "bad"] {
        for uri in server.certified(&pki, client) {
            assert!(!nbdinfo(&uri).await.ok, "{client} was let in without a key");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_client_is_served_only_where_it_may_be() {
    let server = served(Encryption::Offered(psk())).await;
    assert!(nbdinfo(&server.tcp("disk")).await.ok);
    for uri in server.keyed("alice", KEY) {
        assert!(nbdinfo(&uri).await.ok);
    }
    server.stop().await;

    let server = served(Encryption::Required(psk())).await;
    assert!(!nbdinfo(&server.tcp("disk")).await.ok);
    let mut raw = Raw::connect(server.address).await;
    let go = InfoRequest { name: "disk".into(), infos: vec![] };
    for option in [
        OptionRequest::List,
        OptionRequest::StructuredReply,
        OptionRequest::Info(go.clone()),
        OptionRequest::Go(go),
        OptionRequest::Other(77),
    ] {
        let replies = raw.option(option).await;
        assert_eq!(replies.len(), 1);
        assert_eq!(replies[0].code(), ReplyCode::ErrTlsRequired);
    }
    raw.acknowledged(OptionRequest::Abort).await;
    // The oldest way to open an export knows no errors.
    let mut old = Raw::connect(server.address).await;
    old.stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk").await.unwrap();
    old.closed().await;
    server.stop().await;

    // Who insists on encryption is told that there is none.
    let server = served(Encryption::Off).await;
    assert!(!nbdinfo(&server.keyed("alice", KEY)[0]).await.ok);
    server.stop().await;
}

#[tokio::test]
async fn what_was_sent_before_encryption_is_not_taken_for_encrypted() {
    let server = served(Encryption::Offered(psk())).await;
    let mut raw = Raw::connect(server.address).await;
    // Somebody in between adds an option behind STARTTLS.
    let mut bytes = b"IHAVEOPT\0\0\0\x05\0\0\0\0".to_vec();
    bytes.extend(b"IHAVEOPT\0\0\0\x03\0\0\0\0");
    raw.stream.write_all(&bytes).await.unwrap();
    raw.closed().await;
    // Garbage instead of a handshake ends the connection, and no other.
    let mut raw = Raw::connect(server.address).await;
    assert_eq!(raw.option(OptionRequest::StartTls).await, [OptionReply::Ack]);
    raw.stream.write_all(&[0x42; 40_000]).await.unwrap();
    raw.closed().await;
    Raw::ready(server.address, Framing::Extended).await;
    server.stop().await;
}
