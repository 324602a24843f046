//! What tells that a guest answers.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regex::bytes::Regex;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::monitor::{Ports, agent_answers};
use super::script::Script;
use crate::args::{BootTestArgs, TcpCheck};

/// How much of the console is kept, in bytes: its end.
const CONSOLE: usize = 64 << 10;
/// How much a port may send before it is clear that it is not what was meant, in bytes.
const BANNER: usize = 16 << 10;
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// How long a port or agent may take for one answer before it is asked anew.
const ANSWER: Duration = Duration::from_secs(10);

/// What the guest has written to its serial console.
#[derive(Debug, Clone, Default)]
pub(super) struct Console(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    end: Vec<u8>,
    /// Expressions that are waited for.
    wanted: Vec<(Regex, bool)>,
}

impl Console {
    pub(super) fn waiting_for(expressions: &[Regex]) -> Self {
        let wanted = expressions.iter().map(|one| (one.clone(), false)).collect();
        Self(Arc::new(Mutex::new(Written { end: Vec::new(), wanted })))
    }

    pub(super) fn add(&self, bytes: &[u8]) {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Written { end, wanted } = &mut *written;
        end.extend_from_slice(bytes);
        for (expression, found) in wanted {
            *found = *found || expression.is_match(end);
        }
        let rest = end.len().saturating_sub(CONSOLE);
        end.drain(..rest);
    }

    fn has(&self, at: usize) -> bool {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.wanted.get(at).is_some_and(|(_, found)| *found)
    }

    /// Its end, as text without what only terminals understand.
    pub(super) fn text(&self) -> String {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&written.end).into_owned();
        text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect()
    }
}

/// One thing that is waited for.
#[derive(Debug, Clone)]
pub(super) enum Check {
    /// An expression of the console, by its number.
    Console(usize, String),
    Tcp(TcpCheck),
    GuestAgent,
    Script(Script),
}

impl Check {
    /// All that the arguments say, or what goes without saying.
    pub(super) fn all(args: &mut BootTestArgs) -> Vec<Self> {
        let scripts = Script::all(args);
        let ports = args.console.is_empty() && args.tcp.is_empty();
        if ports && !args.guest_agent && scripts.is_empty() {
            args.console.extend(Regex::new("login:"));
        }
        let console = args.console.iter().enumerate();
        let console = console.map(|(at, one)| Self::Console(at, one.as_str().to_owned()));
        let tcp = args.tcp.iter().cloned().map(Self::Tcp);
        let agent = args.guest_agent.then_some(Self::GuestAgent);
        console.chain(tcp).chain(agent).chain(scripts.into_iter().map(Self::Script)).collect()
    }

    pub(super) fn told(&self, answered_ms: Option<u64>) -> Value {
        match self {
            Self::Console(_, pattern) => {
                json!({"kind": "console", "pattern": pattern, "answered_ms": answered_ms})
            }
            Self::Tcp(TcpCheck { port, banner }) => {
                let banner = banner.as_ref().map(Regex::as_str);
                let kind = "tcp";
                json!({"kind": kind, "port": port, "banner": banner, "answered_ms": answered_ms})
            }
            Self::GuestAgent => json!({"kind": "guest-agent", "answered_ms": answered_ms}),
            Self::Script(script) => script.told(answered_ms),
        }
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::Console(_, pattern) => format!("the console does not show {pattern:?}"),
            Self::Tcp(TcpCheck { port, banner: None }) => format!("port {port} does not answer"),
            Self::Tcp(TcpCheck { port, banner: Some(banner) }) => {
                format!("port {port} does not send {:?}", banner.as_str())
            }
            Self::GuestAgent => "the guest agent does not answer".to_owned(),
            Self::Script(script) => script.words(),
        }
    }

    /// Returns once it answers, or says that it never will.
    pub(super) async fn wait(
        &self,
        console: &Console,
        ports: &Ports,
        agent: &Path,
    ) -> Result<(), String> {
        loop {
            let answered = match self {
                Self::Console(at, _) => console.has(*at),
                Self::Tcp(check) => answers_soon(check, ports).await,
                Self::GuestAgent => {
                    matches!(timeout(ANSWER, agent_answers(agent)).await, Ok(Ok(())))
                }
                Self::Script(script) => {
                    let port = script.login_port().map(|port| TcpCheck { port, banner: None });
                    let there = match &port {
                        Some(check) => answers_soon(check, ports).await,
                        None => true,
                    };
                    there && script.run(ports).await?
                }
            };
            if answered {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }
}

async fn answers_soon(check: &TcpCheck, ports: &Ports) -> bool {
    timeout(ANSWER, answers(check, ports)).await == Ok(true)
}

/// Whether a port answers. QEMU takes a connection before the guest does, so that it can be made
/// says nothing: the guest must have taken it too, or have sent something.
async fn answers(check: &TcpCheck, ports: &Ports) -> bool {
    let Some(here) = ports.forward(check.port).await else { return false };
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", here)).await else {
        return false;
    };
    let Some(banner) = &check.banner else {
        loop {
            let flows = ports.flows(check.port).await;
            if flows.iter().any(|flow| flow.state == "ESTABLISHED") {
                return true;
            }
            let mut byte = [0];
            match timeout(LOOK, stream.peek(&mut byte)).await {
                Ok(Ok(1)) => return true,
                Ok(_) => return false,
                Err(_) => {}
            }
        }
    };
    let mut sent = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(many @ 1..) = stream.read(&mut piece).await {
        sent.extend_from_slice(&piece[..many]);
        if banner.is_match(&sent) {
            return true;
        }
        if sent.len() > BANNER {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_searched_across_pieces_and_only_its_end_is_kept() {
        let console = Console::waiting_for(&[Regex::new("login:").unwrap()]);
        console.add(b"web-1 log");
        assert!(!console.has(0));
        console.add(b"in: ");
        assert!(console.has(0));
        console.add(&vec![b'x'; CONSOLE]);
        assert!(console.has(0), "what was seen was seen");
        assert_eq!(console.text().len(), CONSOLE);
        assert!(!console.text().contains("login"));
    }

    #[test]
    fn what_only_terminals_understand_is_left_out() {
        let console = Console::default();
        console.add(b"\x1b[2J\x07ready\r\n\xff\n");
        assert_eq!(console.text(), "[2Jready\n\u{fffd}\n");
    }
}
