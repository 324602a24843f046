//! The whole server side of an NBD connection, from the greeting to the end: options in any order,
//! requests of every framing, lengths that mean harm.
//!
//! An input is a list of pieces, which become what the client says: options and requests, whose
//! magic numbers need not be guessed, and bytes as they are. What the server says is read as a
//! client reads it: every option and every request that came whole is answered, once, with what its
//! framing allows and, from a disk that does not change, with what is on it.

#![no_main]

use std::collections::HashMap;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{Input, Watched, content, run, settle};
use sluice_nbd::{BlockSizes, Carried, Export, Limits, Server};
use sluice_nbd_wire::{
    Chunk, ClientFlags, Command, ExportNameReply, Framing, Greeting, OptionCode, OptionHeader,
    OptionReply, OptionReplyHeader, ReplyCode, ReplyFlags, ReplyHeader, Request,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Not a multiple of a page.
const DISK: usize = (32 << 10) + 512;
/// Bytes in the pipe either way: less than the longest request, so that both sides have to wait.
const PIPE: usize = 8 << 10;
/// Pieces of one input: more of them only take longer.
const MOST_PIECES: usize = 200;

fuzz_target!(|input: &[u8]| run(play(Input::new(input))));

/// What a client says, cut where it waits until the server has nothing more to do.
struct Script {
    writable: bool,
    failing: u64,
    sizes: Option<BlockSizes>,
    parts: Vec<Vec<u8>>,
}

fn script(mut input: Input<'_>) -> Script {
    let [setting, failing] = input.array();
    let minimum = BlockSizes { minimum: 512, preferred: 4096, maximum: 16 << 10 };
    let mut flags = Vec::from(u32::from(setting >> 4 & 3).to_be_bytes());
    if setting & 0x80 != 0 {
        flags = input.take(4).to_vec();
    }
    let (mut parts, mut framing, mut cookie) = (vec![flags], Framing::Simple, 0);
    for _ in 0..MOST_PIECES {
        if input.is_empty() {
            break;
        }
        let head = input.byte();
        let mut piece = Vec::new();
        match head & 3 {
            0 => piece.extend(input.counted()),
            1 => {
                let code = OptionCode::from_code(input.byte().into());
                let data = input.counted();
                // The length is right or, in one case of eight, anything.
                let wrong = (head >> 5 == 7).then(|| u32::from_le_bytes(input.array()));
                let length = wrong.unwrap_or(data.len() as u32);
                OptionHeader { code, length }.encode(&mut piece);
                piece.extend(data);
                if code == OptionCode::ExtendedHeaders {
                    framing = Framing::Extended;
                }
            }
            _ => {
                cookie += u64::from(head & 0x20 == 0);
                let [command, flags] = input.array();
                let offset = place(&mut input, head & 0x08 != 0);
                let mut length = place(&mut input, head & 0x10 != 0);
                if framing != Framing::Extended {
                    length &= u64::from(u32::MAX);
                }
                let request = Request {
                    command: Command::from_code(command.into()),
                    flags: sluice_nbd_wire::CommandFlags(flags.into()),
                    cookie,
                    offset,
                    length,
                };
                request.encode(framing, &mut piece);
                if head & 3 == 3 {
                    // What follows it: a block status list, or as much content as it says.
                    let data = input.counted();
                    let wanted = request.payload(framing).min(16 << 10) as usize;
                    let fill = if data.is_empty() { &[0x5a] } else { data };
                    piece.extend(fill.iter().cycle().take(wanted.max(data.len())));
                }
            }
        }
        if head & 0x04 != 0 {
            parts.push(Vec::new());
        }
        parts.last_mut().expect("the flags of the client").extend(piece);
    }
    let writable = setting & 1 != 0;
    let sizes = (setting & 2 != 0).then_some(minimum);
    let failing = if setting & 4 != 0 { failing.into() } else { 0 };
    Script { writable, failing, sizes, parts }
}

/// A place on the disk or near its end, or anywhere.
fn place(input: &mut Input<'_>, far: bool) -> u64 {
    if far {
        return u64::from_le_bytes(input.array());
    }
    u64::from(u16::from_le_bytes(input.array()))
}

async fn play(input: Input<'_>) {
    let Script { writable, failing, sizes, parts } = script(input);
    let disk = Arc::new(Watched::new(DISK));
    disk.fail_after(failing);
    let other = Export::new("other", Arc::new(Watched::new(512))).with_description("small");
    let mut export = match writable {
        true => Export::writable("disk", disk.clone()),
        false => Export::new("disk", disk.clone()),
    };
    if let Some(sizes) = sizes {
        export = export.with_block_sizes(sizes).with_slow_zeroes();
    }
    let server = Server::new(vec![export, other], Limits::default()).expect("two exports");
    let server = Carried::new(server, CancellationToken::new());
    let (client, served) = tokio::io::duplex(PIPE);
    let (input, output) = tokio::io::split(served);
    let (mut answers, mut says) = tokio::io::split(client);
    let listen = tokio::spawn(async move {
        let mut heard = Vec::new();
        // What ends in the middle of a message is found out when it is read.
        let _ = answers.read_to_end(&mut heard).await;
        heard
    });
    let speak = async {
        for part in &parts {
            // The server may have had enough.
            if says.write_all(part).await.is_err() {
                break;
            }
            settle().await;
        }
        let _ = says.shutdown().await;
    };
    let (ended, ()) = tokio::join!(server.serve(None, input, output), speak);
    let (heard, said) = (listen.await.expect("it only listens"), parts.concat());
    if !writable {
        assert_eq!(disk.changes(), 0, "a disk that cannot be written was");
    }
    let known = (!writable && failing == 0).then(|| content(DISK));
    let mut client = Client { said: &said, heard: &heard, known, ended: ended.is_ok() };
    client.read();
}

/// Reads both sides of a connection that has ended.
struct Client<'a> {
    said: &'a [u8],
    heard: &'a [u8],
    /// What is on the disk, when that is certain.
    known: Option<Vec<u8>>,
    /// Whether the server ended in good order.
    ended: bool,
}

fn next<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

impl Client<'_> {
    fn read(&mut self) {
        let greeting = next(&mut self.heard, Greeting::LEN).expect("a greeting");
        Greeting::decode(greeting).expect("a greeting");
        let flags = next(&mut self.said, ClientFlags::LEN);
        let Some(flags) = flags.and_then(|flags| ClientFlags::decode(flags).ok()) else {
            return self.nothing_more();
        };
        let no_zeroes = flags.contains(ClientFlags::NO_ZEROES);
        if let Some(framing) = self.options(no_zeroes) {
            self.requests(framing);
        }
    }

    fn nothing_more(&self) {
        assert!(self.heard.is_empty(), "{} bytes for nothing", self.heard.len());
    }

    /// Reads options and their replies; the framing, when requests follow.
    fn options(&mut self, no_zeroes: bool) -> Option<Framing> {
        let mut framing = Framing::Simple;
        loop {
            let header = next(&mut self.said, OptionHeader::LEN).map(OptionHeader::decode);
            let Some(Ok(header)) = header else {
                self.nothing_more();
                return None;
            };
            if next(&mut self.said, header.length as usize).is_none() {
                self.nothing_more();
                return None;
            }
            if header.code == OptionCode::ExportName {
                let reply = next(&mut self.heard, ExportNameReply::len(no_zeroes))?;
                ExportNameReply::decode(reply).expect("a reply to a name");
                return Some(framing);
            }
            if self.heard.is_empty() && !self.ended {
                return None;
            }
            let acknowledged = self.replies(header.code);
            match header.code {
                OptionCode::Abort => {
                    self.nothing_more();
                    return None;
                }
                OptionCode::Go if acknowledged => return Some(framing),
                OptionCode::StructuredReply if acknowledged => {
                    framing = framing.max(Framing::Structured);
                }
                OptionCode::ExtendedHeaders if acknowledged => framing = Framing::Extended,
                _ => {}
            }
        }
    }

    /// Reads the replies to one option; whether it was done.
    fn replies(&mut self, option: OptionCode) -> bool {
        loop {
            let header = next(&mut self.heard, OptionReplyHeader::LEN).expect("a reply");
            let header = OptionReplyHeader::decode(header).expect("a reply");
            assert_eq!(header.option, option);
            let data = next(&mut self.heard, header.length as usize).expect("all of a reply");
            OptionReply::decode(header.reply, data).expect("a reply that can be read");
            if header.reply.is_error() || header.reply == ReplyCode::Ack {
                return !header.reply.is_error();
            }
        }
    }

    fn requests(&mut self, framing: Framing) {
        let mut asked: HashMap<u64, Vec<Request>> = HashMap::new();
        while let Some(header) = next(&mut self.said, Request::len(framing)) {
            let Ok(request) = Request::decode(framing, header) else { break };
            let payload = usize::try_from(request.payload(framing)).unwrap_or(usize::MAX);
            if request.command == Command::Disconnect || next(&mut self.said, payload).is_none() {
                break;
            }
            asked.entry(request.cookie).or_default().push(request);
        }
        let certain = self.answers(framing, &mut asked);
        if certain && self.ended {
            assert!(asked.is_empty(), "requests without an answer: {asked:?}");
        }
    }

    /// Reads answers and strikes out what they answer; whether all could be told apart.
    fn answers(&mut self, framing: Framing, asked: &mut HashMap<u64, Vec<Request>>) -> bool {
        let mut covered: HashMap<u64, u64> = HashMap::new();
        while !self.heard.is_empty() {
            let length = self.heard.get(..ReplyHeader::PREFIX);
            let length = length.map(|prefix| ReplyHeader::len(framing, prefix));
            // Only what the server broke off ends in the middle.
            let Some(length) = length else { return self.broken_off() };
            let length = length.expect("the framing that was agreed on");
            let Some(header) = next(&mut self.heard, length) else { return self.broken_off() };
            let header = ReplyHeader::decode(framing, header).expect("a reply");
            let cookie = match &header {
                ReplyHeader::Simple(simple) => simple.cookie,
                ReplyHeader::Chunk(chunk) => chunk.cookie,
            };
            let requests = asked.get(&cookie).expect("a request that was made").clone();
            let [request] = requests[..] else { return false };
            match header {
                ReplyHeader::Simple(simple) => {
                    asked.remove(&cookie);
                    if simple.error.is_none() && request.command == Command::Read {
                        let length = request.length as usize;
                        let Some(data) = next(&mut self.heard, length) else {
                            return self.broken_off();
                        };
                        self.compare(request.offset, data);
                    }
                }
                ReplyHeader::Chunk(chunk) => {
                    let Some(payload) = next(&mut self.heard, chunk.length as usize) else {
                        return self.broken_off();
                    };
                    let decoded = Chunk::decode(chunk.kind, payload).expect("a chunk");
                    let covered = covered.entry(cookie).or_default();
                    *covered += self.chunk(&request, &decoded);
                    let whole = request.command != Command::Read || *covered == request.length;
                    if chunk.flags.contains(ReplyFlags::DONE) {
                        let failed = matches!(decoded, Chunk::Error { .. });
                        assert!(whole || failed, "a read that lacks something");
                        asked.remove(&cookie);
                    }
                }
            }
        }
        true
    }

    fn broken_off(&self) -> bool {
        assert!(!self.ended, "an answer that breaks off");
        false
    }

    /// Looks at a chunk; the bytes of a read that it covers.
    fn chunk(&self, request: &Request, chunk: &Chunk<'_>) -> u64 {
        let (offset, length) = match chunk {
            Chunk::OffsetData { offset, data } => {
                self.compare(*offset, data);
                (*offset, data.len() as u64)
            }
            Chunk::OffsetHole { offset, length } => {
                self.compare(*offset, &vec![0; *length as usize]);
                (*offset, u64::from(*length))
            }
            Chunk::BlockStatus { .. } => {
                assert_eq!(request.command, Command::BlockStatus);
                return 0;
            }
            _ => return 0,
        };
        assert_eq!(request.command, Command::Read);
        assert!(offset >= request.offset && offset + length <= request.offset + request.length);
        length
    }

    fn compare(&self, offset: u64, data: &[u8]) {
        // The other export has a disk of its own.
        let Some(known) = self.known.as_ref().filter(|_| offset >= 512) else { return };
        let offset = offset as usize;
        assert!(known[offset..offset + data.len()] == *data, "what is not on the disk");
    }
}
