//! Login: who is there, may they, and how both sides will speak.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use sluice_iscsi_wire::{
    LoginRequest, LoginResponse, LoginStatus, Negotiation, Parameters, Request, Response, Serial,
    Stage, WireError, limits, text,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::chap::Authentication;
use crate::config::is_name;
use crate::link::{Link, LinkError};
use crate::outgoing::{Composer, Outgoing, write_one};
use crate::target::{PORTAL_GROUP, Shared};
use crate::window::Window;

/// Bytes of data that one message of the initiator may have: a whole burst in few messages.
pub(crate) const MOST_TO_US: u32 = 256 << 10;
/// Bytes that initiators send for one request to transfer.
const MAX_BURST: u32 = 1 << 20;
/// Bytes that initiators send without being asked; the size that both sides assume anyway.
pub(crate) const FIRST_BURST: u32 = 64 << 10;
/// The number of the first answer.
const FIRST_STATUS: Serial = Serial(1);
/// Steps of one login: each side has few things to say.
const MOST_STEPS: usize = 64;

/// Why login failed.
#[derive(Debug, Error)]
pub(crate) enum LoginError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("login of {initiator:?} refused: {why}")]
    Refused { initiator: String, why: String },
    #[error("login of {initiator:?} not looked at: too many wrong secrets came from its address")]
    Throttled { initiator: String },
}

impl From<std::io::Error> for LoginError {
    fn from(error: std::io::Error) -> Self {
        Self::Link(error.into())
    }
}

impl From<WireError> for LoginError {
    fn from(error: WireError) -> Self {
        Self::Link(error.into())
    }
}

/// What login led to.
pub(crate) struct Agreement {
    pub(crate) initiator: String,
    /// The initiator's port: its name and session identifier.
    pub(crate) port: String,
    pub(crate) discovery: bool,
    pub(crate) parameters: Parameters,
    pub(crate) window: Arc<Window>,
    /// The number of the connection, which a logout names.
    pub(crate) connection: u16,
    /// Composes answers with the numbers that follow those of login.
    pub(crate) composer: Composer,
}

/// A refusal: what the initiator is told, and what the log says besides.
type Refused = (LoginStatus, String);

fn refuse<T>(status: LoginStatus, why: impl Into<String>) -> Result<T, Refused> {
    Err((status, why.into()))
}

/// Serves the login phase; none when the initiator leaves without a word.
pub(crate) async fn login<R, W>(
    shared: &Shared,
    peer: IpAddr,
    commands: u32,
    link: &mut Link<R>,
    out: &mut W,
    stall: Duration,
) -> Result<Option<Agreement>, LoginError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if !link.ready().await? {
        return Ok(None);
    }
    let (first, mut said) = receive(link).await?;
    let mut state = Login::new(shared, peer, &first, commands);
    let mut request = first;
    for _ in 0..MOST_STEPS {
        let mut answer = Vec::new();
        let mut stepped = state.step(&request, &said, &mut answer);
        if matches!(stepped, Ok(true)) && request.next == Stage::FullFeature {
            stepped = state.take_place().await;
        }
        let response = state.response(&request, &stepped);
        let failed = stepped.err();
        if failed.is_some() {
            answer.clear();
        }
        let message =
            Outgoing::Message { response: Response::Login(response), data: answer, slot: None };
        write_one(&mut state.composer, message, out, stall).await?;
        if let Some((_, why)) = failed {
            if state.throttled {
                return Err(LoginError::Throttled { initiator: state.initiator });
            }
            return Err(LoginError::Refused { initiator: state.initiator, why });
        }
        if response.transit && response.next == Stage::FullFeature {
            return Ok(Some(state.finish(link, request.connection)));
        }
        (request, said) = receive(link).await?;
    }
    Err(LoginError::Refused { initiator: state.initiator, why: "it goes on and on".to_owned() })
}

/// The next request and its text.
async fn receive<R: AsyncRead + Unpin>(
    link: &mut Link<R>,
) -> Result<(LoginRequest, Vec<u8>), LoginError> {
    let (header, length) = link.header(limits::TEXT).await?;
    let Request::Login(request) = Request::decode(&header)? else {
        return Err(WireError::Opcode { opcode: header[0] & 0x3f }.into());
    };
    let mut said = vec![0; length];
    link.data(&mut said, length).await?;
    Ok((request, said))
}

struct Login<'a> {
    shared: &'a Shared,
    peer: IpAddr,
    composer: Composer,
    window: Arc<Window>,
    isid: [u8; 6],
    stage: Stage,
    /// Text that goes on in the next request.
    unfinished: Vec<u8>,
    initiator: String,
    discovery: bool,
    introduced: bool,
    /// Whether it is refused because of others that came from its address.
    throttled: bool,
    authentication: Option<Authentication>,
    negotiation: Negotiation,
    handle: u16,
}

/// Whether the stage may end, as the initiator wants.
type Stepped = Result<bool, Refused>;

impl<'a> Login<'a> {
    fn new(shared: &'a Shared, peer: IpAddr, first: &LoginRequest, commands: u32) -> Self {
        let window = Window::new(first.number, commands);
        let wishes = Parameters {
            max_burst: MAX_BURST,
            first_burst: FIRST_BURST,
            initial_r2t: false,
            ..Parameters::default()
        };
        let composer = Composer {
            window: Arc::clone(&window),
            status: FIRST_STATUS,
            header_digest: Default::default(),
            data_digest: Default::default(),
            most: Arc::new(AtomicU32::new(Parameters::default().most_to_peer)),
            max_burst: MAX_BURST,
        };
        Self {
            shared,
            peer,
            composer,
            window,
            isid: first.isid,
            stage: first.stage,
            unfinished: Vec::new(),
            initiator: String::new(),
            discovery: false,
            introduced: false,
            throttled: false,
            authentication: shared.access.chap.clone().map(Authentication::new),
            negotiation: Negotiation::new(wishes, MOST_TO_US),
            handle: 0,
        }
    }

    /// Takes one request.
    fn step(&mut self, request: &LoginRequest, said: &[u8], answer: &mut Vec<u8>) -> Stepped {
        if request.versions.1 > 0 {
            return refuse(LoginStatus::Version, "it speaks a later version only");
        }
        if request.tsih != 0 {
            // Sessions have one connection, and come back as new ones.
            return refuse(LoginStatus::NoSession, "it wants to join a session");
        }
        if request.isid != self.isid || request.stage != self.stage {
            return refuse(LoginStatus::InitiatorError, "it changed its mind");
        }
        if self.unfinished.len() + said.len() > limits::TEXT {
            return refuse(LoginStatus::InitiatorError, "it says too much");
        }
        self.unfinished.extend(said);
        if request.more {
            return Ok(false);
        }
        let said = std::mem::take(&mut self.unfinished);
        let keys = text::decode(&said)
            .map_err(|error| (LoginStatus::InitiatorError, error.to_string()))?;
        self.keys(&keys, answer)?;
        self.transit(request)
    }

    fn keys(&mut self, keys: &[(&str, &str)], answer: &mut Vec<u8>) -> Result<(), Refused> {
        if !self.introduced {
            self.introduce(keys)?;
            if !self.discovery {
                let group = PORTAL_GROUP.to_string();
                text::encode(answer, "TargetPortalGroupTag", &group);
                if !self.shared.alias.is_empty() {
                    text::encode(answer, "TargetAlias", &self.shared.alias);
                }
            }
            self.introduced = true;
        }
        for (key, value) in keys {
            match *key {
                "InitiatorName" | "InitiatorAlias" | "TargetName" | "SessionType" => {}
                "AuthMethod" => self.method(value, answer)?,
                key if key.starts_with("CHAP_") => {}
                key => {
                    let known = self.negotiation.offer(key, value, answer);
                    let known =
                        known.map_err(|error| (LoginStatus::InitiatorError, error.to_string()))?;
                    if !known {
                        text::encode(answer, key, "NotUnderstood");
                    }
                }
            }
        }
        self.prove(keys, answer)?;
        if self.stage == Stage::Operational {
            self.negotiation.declare(answer);
        }
        Ok(())
    }

    /// Goes on with the proof, where one is asked for. An address that was wrong too often has to
    /// wait before its next secret is looked at, right or wrong.
    fn prove(&mut self, keys: &[(&str, &str)], answer: &mut Vec<u8>) -> Result<(), Refused> {
        let Some(authentication) = &mut self.authentication else { return Ok(()) };
        let guess = keys.iter().any(|(key, _)| *key == "CHAP_R");
        let now = Instant::now();
        if guess && self.shared.guard.wait(self.peer, now).is_some() {
            self.throttled = true;
            return refuse(LoginStatus::Unavailable, "too many wrong secrets");
        }
        authentication.step(keys, answer).map_err(|why| {
            if guess {
                self.shared.guard.failed(self.peer, now);
            }
            (LoginStatus::AuthenticationFailure, why.0.to_owned())
        })
    }

    /// The first request says who is there, and what for.
    fn introduce(&mut self, keys: &[(&str, &str)]) -> Result<(), Refused> {
        let find = |name| keys.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let Some(initiator) = find("InitiatorName") else {
            return refuse(LoginStatus::MissingParameter, "it has no name");
        };
        if !is_name(&initiator.to_lowercase().replace('_', "-")) {
            return refuse(LoginStatus::InitiatorError, format!("{initiator:?} is no iSCSI name"));
        }
        self.initiator = initiator.to_owned();
        self.discovery = match find("SessionType") {
            None | Some("Normal") => false,
            Some("Discovery") => true,
            Some(_) => return refuse(LoginStatus::SessionType, "an unknown type of session"),
        };
        if self.discovery {
            // Names are shown without a proof, unless one is offered first: initiators have other
            // secrets for discovery than for targets, and most are given none.
            let methods = find("AuthMethod").unwrap_or("None").split(',');
            if methods.into_iter().find(|name| matches!(*name, "CHAP" | "None")) != Some("CHAP") {
                self.authentication = None;
            }
            return Ok(());
        }
        match find("TargetName") {
            None => refuse(LoginStatus::MissingParameter, "it names no target"),
            Some(name) if !name.eq_ignore_ascii_case(&self.shared.name) => {
                refuse(LoginStatus::NotFound, format!("there is no target {name:?}"))
            }
            Some(_) if !self.shared.access.allows(initiator) => {
                refuse(LoginStatus::Forbidden, "it is not on the list")
            }
            Some(_) => Ok(()),
        }
    }

    fn method(&mut self, offered: &str, answer: &mut Vec<u8>) -> Result<(), Refused> {
        let wanted = if self.authentication.is_some() { "CHAP" } else { "None" };
        if !offered.split(',').any(|method| method == wanted) {
            let why = format!("it offers {offered:?} and not {wanted}");
            return refuse(LoginStatus::AuthenticationFailure, why);
        }
        text::encode(answer, "AuthMethod", wanted);
        Ok(())
    }

    /// Whether the stage ends.
    fn transit(&mut self, request: &LoginRequest) -> Stepped {
        let proven = self.authentication.as_ref().is_none_or(Authentication::is_done);
        match (self.stage, request.next, request.transit) {
            (Stage::Operational, _, _) if !proven => {
                refuse(LoginStatus::AuthenticationFailure, "it skips the proof that is asked for")
            }
            (Stage::Security | Stage::Operational, _, false) => Ok(false),
            (Stage::Security, Stage::Operational | Stage::FullFeature, true) => {
                if !proven {
                    return Ok(false);
                }
                self.stage = request.next;
                Ok(true)
            }
            (Stage::Operational, Stage::FullFeature, true) => {
                self.stage = request.next;
                Ok(true)
            }
            _ => refuse(LoginStatus::InitiatorError, "stages in no order"),
        }
    }

    /// Ends the session that this one replaces. While it cannot be ended this one is refused, so
    /// that a write of the former never comes after one of this: initiators try again.
    async fn take_place(&self) -> Stepped {
        if self.discovery || self.shared.replace(&self.port()).await {
            return Ok(true);
        }
        refuse(LoginStatus::Unavailable, "commands of the session before it have not ended yet")
    }

    /// The initiator's port: its name and session identifier.
    fn port(&self) -> String {
        let isid: String = self.isid.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{},i,0x{isid}", self.initiator)
    }

    fn response(&mut self, request: &LoginRequest, stepped: &Stepped) -> LoginResponse {
        let transit = matches!(stepped, Ok(true));
        if transit && request.next == Stage::FullFeature {
            self.handle = self.shared.handle();
        }
        LoginResponse {
            transit,
            more: false,
            stage: request.stage,
            next: request.next,
            isid: request.isid,
            tsih: self.handle,
            tag: request.tag,
            status: stepped.as_ref().err().map_or(LoginStatus::Success, |(status, _)| *status),
        }
    }

    fn finish<R: AsyncRead + Unpin>(mut self, link: &mut Link<R>, connection: u16) -> Agreement {
        let parameters = self.negotiation.agreed();
        link.set_digests(parameters.header_digest, parameters.data_digest);
        self.composer.header_digest = parameters.header_digest;
        self.composer.data_digest = parameters.data_digest;
        self.composer.max_burst = parameters.max_burst;
        self.composer.most = Arc::new(AtomicU32::new(parameters.most_to_peer));
        Agreement {
            port: self.port(),
            initiator: self.initiator,
            discovery: self.discovery,
            parameters,
            window: self.window,
            connection,
            composer: self.composer,
        }
    }
}

/// The answer to a question for targets: the one there is, and where it listens.
pub(crate) fn send_targets(
    shared: &Shared,
    asked: &str,
    initiator: &str,
    local: SocketAddr,
    listening: &[SocketAddr],
) -> Vec<u8> {
    let mut answer = Vec::new();
    let meant = matches!(asked, "" | "All") || asked.eq_ignore_ascii_case(&shared.name);
    if !meant || !shared.access.allows(initiator) {
        return answer;
    }
    text::encode(&mut answer, "TargetName", &shared.name);
    let announced = if shared.announced.is_empty() { listening } else { &shared.announced };
    for address in announced {
        let mut address = *address;
        if address.ip().is_unspecified() {
            // What the initiator has reached is an address that it can reach.
            address.set_ip(local.ip().to_canonical());
        }
        text::encode(&mut answer, "TargetAddress", &format!("{address},{PORTAL_GROUP}"));
    }
    answer
}
