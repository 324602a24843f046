//! QEMU's monitor, and the guest's agent: lines of JSON over a socket.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// An answer is not longer than this, in bytes.
const LONGEST: u64 = 1 << 20;
/// How long an answer of the monitor may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One end of such a socket.
struct Lines {
    stream: BufReader<UnixStream>,
}

impl Lines {
    async fn connect(path: &Path) -> std::io::Result<Self> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(path).await?) })
    }

    async fn say(&mut self, document: &Value) -> Result<()> {
        let line = format!("{document}\n");
        self.stream.get_mut().write_all(line.as_bytes()).await.context("cannot write")
    }

    async fn hear(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        (&mut self.stream).take(LONGEST).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            bail!("the other side has closed the connection");
        }
        // What is cut off says nothing.
        Ok(serde_json::from_slice(&line).unwrap_or_default())
    }
}

/// QEMU's monitor.
pub(super) struct Monitor(Lines);

impl Monitor {
    /// Connects, if QEMU listens already.
    pub(super) async fn connect(path: &Path) -> Option<Self> {
        let mut monitor = Self(Lines::connect(path).await.ok()?);
        let greeted = async {
            monitor.0.hear().await?;
            monitor.ask("qmp_capabilities", json!({})).await
        };
        let greeted = tokio::time::timeout(PATIENCE, greeted).await;
        matches!(greeted, Ok(Ok(_))).then_some(monitor)
    }

    /// Has something done, and returns what came of it.
    pub(super) async fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let asked = async {
            self.0.say(&json!({"execute": command, "arguments": arguments})).await?;
            loop {
                // Events come in between.
                let heard = self.0.hear().await?;
                if let Some(value) = heard.get("return") {
                    return Ok(value.clone());
                }
                if let Some(why) = heard["error"]["desc"].as_str() {
                    bail!("QEMU says: {why}");
                }
            }
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        answer.with_context(|| format!("QEMU does not answer {command}"))?
    }

    /// The guest's connections and forwarded ports.
    pub(super) async fn network(&mut self) -> Result<Vec<Flow>> {
        let command = json!({"command-line": "info usernet"});
        let text = self.ask("human-monitor-command", command).await?;
        Ok(flows(text.as_str().unwrap_or_default()))
    }

    /// Writes what the screen shows to a file.
    pub(super) async fn screenshot(&mut self, path: &Path) -> Result<()> {
        let arguments = json!({"filename": path, "format": "png"});
        self.ask("screendump", arguments).await.map(drop)
    }
}

/// A line of the guest's network.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flow {
    /// `HOST_FORWARD`, `ESTABLISHED`, ...
    pub(super) state: String,
    /// The port of this machine.
    pub(super) here: u16,
    /// The address of the guest.
    pub(super) address: String,
    /// The port of the guest.
    pub(super) there: u16,
}

/// How the ports of one guest are reached.
#[derive(Clone)]
pub(super) struct Ports {
    /// Of the QEMU that forwards them.
    pub(super) monitor: Arc<Mutex<Monitor>>,
    /// The guest's, where that QEMU forwards for others, too.
    pub(super) address: Option<Ipv4Addr>,
}

impl Ports {
    /// What is known of a port of the guest.
    pub(super) async fn flows(&self, port: u16) -> Vec<Flow> {
        let mut flows = self.monitor.lock().await.network().await.unwrap_or_default();
        let own = self.address.map(|address| address.to_string());
        flows.retain(|flow| {
            flow.there == port && own.as_ref().is_none_or(|own| *own == flow.address)
        });
        flows
    }

    /// Where a port of the guest is reached on this machine.
    pub(super) async fn forward(&self, port: u16) -> Option<u16> {
        let flows = self.flows(port).await;
        flows.iter().find(|flow| flow.state == "HOST_FORWARD").map(|flow| flow.here)
    }
}

/// `TCP[STATE] FD ADDRESS PORT ADDRESS PORT QUEUE QUEUE`, one a line.
fn flows(text: &str) -> Vec<Flow> {
    let flow = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let state = words.first()?.strip_prefix("TCP[")?.strip_suffix(']')?;
        let (here, there) = (words.get(3)?.parse().ok()?, words.get(5)?.parse().ok()?);
        let address = (*words.get(4)?).to_owned();
        Some(Flow { state: state.to_owned(), here, address, there })
    };
    text.lines().filter_map(flow).collect()
}

/// Asks the guest's agent for a sign of life, once.
///
/// # Errors
/// When there is no agent that answers.
pub(super) async fn agent_answers(path: &Path) -> Result<()> {
    let mut agent = Lines::connect(path).await?;
    // What was left on the wire by an earlier question is no answer to this one.
    let number = u64::from(rand::random::<u32>());
    agent.say(&json!({"execute": "guest-sync", "arguments": {"id": number}})).await?;
    while agent.hear().await?["return"] != number {}
    agent.say(&json!({"execute": "guest-ping"})).await?;
    let pong = agent.hear().await?;
    if pong.get("return").is_none() {
        bail!("the agent refuses a ping");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_told_with_their_ports() {
        let text = "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   \
                    Dest. Address  Port RecvQ SendQ\r\n  TCP[ESTABLISHED]   12       127.0.0.1 \
                    40122       10.0.2.15    22     0     0\r\n  TCP[HOST_FORWARD]  9       \
                    127.0.0.1 38511       10.0.2.15    22     0     0\r\n";
        let address = "10.0.2.15".to_owned();
        let flow = |state: &str, here| Flow {
            state: state.into(),
            here,
            address: address.clone(),
            there: 22,
        };
        assert_eq!(flows(text), [flow("ESTABLISHED", 40122), flow("HOST_FORWARD", 38511)]);
        assert!(flows("").is_empty());
    }
}
