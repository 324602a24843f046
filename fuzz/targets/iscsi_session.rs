//! The whole target side of iSCSI connections: login, discovery, the full feature phase, data in
//! both directions, task management, one session taking the place of another.
//!
//! An input is a list of pieces, which become what two initiators say: messages, whose lengths,
//! numbers and digests need not be guessed, and bytes as they are. What the target says is read as
//! an initiator reads it: every message decodes, none is longer than any may take, answers are
//! numbered without gaps, and when all have gone the target holds nothing.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{Input, Watched, run, settle};
use sluice_iscsi::{Access, Carried, Chap, Credentials, Identity, Limits, Lun, Server, Target};
use sluice_iscsi_wire::{
    HEADER, Lengths, Request, Response, Stage, digest, digest_parts, padding, text,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DISK: usize = 16 << 10;
/// Bytes in the pipe either way.
const PIPE: usize = 8 << 10;
const INITIATORS: usize = 2;
/// Pieces of one input: more of them only take longer.
const MOST_PIECES: usize = 200;

fuzz_target!(|input: &[u8]| run(play(Input::new(input))));

fn target(chap: bool) -> Carried {
    let luns = vec![
        Lun::writable(Arc::new(Watched::new(DISK)), Identity::from_digest([1; 32])),
        Lun::read_only(Arc::new(Watched::new(DISK + 100)), Identity::from_digest([2; 32])),
    ];
    let mut target = Target::new("iqn.2026-01.test:memory", luns);
    let initiator = Credentials::new("user", "not to be guessed");
    let own = Some(Credentials::new("target", "nor this one either"));
    let chap = chap.then_some(Chap { initiator, target: own });
    target.access = Access { initiators: Vec::new(), chap };
    let server = Server::new(target, Limits::default()).expect("a target");
    Carried::new(server, CancellationToken::new())
}

/// One initiator, on its side of the pipe.
struct Initiator {
    says: tokio::io::WriteHalf<DuplexStream>,
    heard: JoinHandle<Vec<u8>>,
    served: JoinHandle<()>,
    /// The number of its next command.
    number: u32,
    /// Whether it adds digests once it has logged in.
    digests: bool,
    full_feature: bool,
}

impl Initiator {
    fn new(target: &Arc<Carried>, digests: bool) -> Self {
        let (client, served) = tokio::io::duplex(PIPE);
        let (mut answers, says) = tokio::io::split(client);
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            // What ends in the middle of a message is found out when it is read.
            let _ = answers.read_to_end(&mut heard).await;
            heard
        });
        let target = Arc::clone(target);
        let served = tokio::spawn(async move {
            let nowhere = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let (peer, local) = (SocketAddr::new(nowhere, 1024), SocketAddr::new(nowhere, 3260));
            // However it ended: what counts is what it said before.
            let _ = target.serve(peer, local, tokio::io::split(served)).await;
        });
        Self { says, heard, served, number: 1, digests, full_feature: false }
    }

    /// A message of the initiator, in the form that was agreed on.
    fn message(&mut self, input: &mut Input<'_>, head: u8) -> Vec<u8> {
        let mut header: [u8; HEADER] = input.array();
        let data = input.counted();
        let length = (data.len() as u32).to_be_bytes();
        header[4] = 0;
        header[5..8].copy_from_slice(&length[1..]);
        if head & 0x02 == 0
            && let Ok(request) = Request::decode(&header)
            && let Some((_, immediate)) = request.order()
        {
            header[24..28].copy_from_slice(&self.number.to_be_bytes());
            self.number = self.number.wrapping_add(u32::from(!immediate));
        }
        let login = match Request::decode(&header) {
            Ok(Request::Login(login)) => Some(login),
            _ => None,
        };
        // Digests begin with the first message after login.
        self.full_feature |= login.is_none();
        let digests = self.digests && self.full_feature;
        let mut message = header.to_vec();
        if digests {
            message.extend(digest(&header));
        }
        let pad = [0; 3];
        let pad = &pad[..padding(data.len())];
        message.extend(data);
        message.extend(pad);
        if digests && !data.is_empty() {
            let mut sum = digest_parts(data, pad);
            sum[0] ^= u8::from(head & 0x08 != 0);
            message.extend(sum);
        }
        if login.is_some_and(|login| login.transit && login.next == Stage::FullFeature) {
            self.full_feature = true;
        }
        message
    }
}

async fn play(mut input: Input<'_>) {
    let setting = input.byte();
    let target = Arc::new(target(setting & 1 != 0));
    let digests = setting & 2 != 0;
    let mut initiators: Vec<_> =
        (0..INITIATORS).map(|_| Initiator::new(&target, digests)).collect();
    for _ in 0..MOST_PIECES {
        if input.is_empty() {
            break;
        }
        let head = input.byte();
        let initiator = &mut initiators[usize::from(head & 1)];
        let said = match head & 0x80 {
            0 => initiator.message(&mut input, head),
            _ => input.counted().to_vec(),
        };
        // The target may have had enough.
        let _ = initiator.says.write_all(&said).await;
        if head & 0x04 == 0 {
            settle().await;
        }
    }
    let mut ends = Vec::new();
    for mut initiator in initiators {
        let _ = initiator.says.shutdown().await;
        ends.push((initiator.served, initiator.heard));
    }
    for (served, heard) in ends {
        served.await.expect("a connection that ends");
        listen(&heard.await.expect("it only listens"));
    }
    assert_eq!(target.sessions(), 0, "a session outlived its connection");
}

/// Reads what an initiator was told, as far as its messages are whole.
fn listen(mut heard: &[u8]) {
    let (mut number, mut most) = (None, 8 << 10);
    let (mut headers, mut bodies) = (false, false);
    let (mut in_login, mut agreed) = (true, (false, false));
    while let Some((header, rest)) = heard.split_first_chunk::<HEADER>() {
        heard = rest;
        if headers {
            let Some((sum, rest)) = heard.split_first_chunk::<4>() else { return };
            assert_eq!(*sum, digest(header), "the digest of a header");
            heard = rest;
        }
        let lengths = Lengths::decode(header, 1 << 24).expect("a length that may be");
        let padded = lengths.data + padding(lengths.data);
        let Some((data, rest)) = heard.split_at_checked(padded) else { return };
        heard = rest;
        if bodies && !data.is_empty() {
            let Some((sum, rest)) = heard.split_first_chunk::<4>() else { return };
            assert_eq!(*sum, digest(data), "the digest of data");
            heard = rest;
        }
        let (response, numbers) = Response::decode(header).expect("a message of a target");
        if response.is_numbered() {
            let next = number.unwrap_or(numbers.status);
            assert_eq!(numbers.status, next, "answers are numbered one after another");
            number = Some(next.plus(1));
        }
        let said = &data[..lengths.data];
        match response {
            Response::Login(login) => {
                assert!(in_login, "login is over");
                for (key, value) in text::decode(said).expect("text") {
                    match key {
                        "HeaderDigest" => agreed.0 = value == "CRC32C",
                        "DataDigest" => agreed.1 = value == "CRC32C",
                        _ => {}
                    }
                }
                if login.transit && login.next == Stage::FullFeature {
                    in_login = false;
                    (headers, bodies) = agreed;
                    // Whatever the initiator has said it takes.
                    most = 1 << 24;
                }
            }
            _ => assert!(!in_login, "{response:?} during login"),
        }
        assert!(lengths.data <= most, "more than was agreed on");
        sense(&response, said);
        let shut = numbers.most.plus(1);
        assert!(!shut.before(numbers.expected), "a window that ends before it begins");
    }
}

/// Sense data stands behind its length.
fn sense(response: &Response, data: &[u8]) {
    if let Response::Command(answer) = response
        && let Some((length, sense)) = data.split_first_chunk()
    {
        assert_eq!(usize::from(u16::from_be_bytes(*length)), sense.len());
        assert_eq!(answer.status, 0x02, "sense data without trouble");
        assert!(matches!(sense[0] & 0x7f, 0x70 | 0x72));
    }
}
