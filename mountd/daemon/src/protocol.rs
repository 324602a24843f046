//! What is said on the control socket: one line of JSON for each request and each answer.
//!
//! ```text
//! {"v":1,"do":"mount","spec":{...},"secrets":{},"lease_ms":60000}   {"v":1,"mounts":[{...}]}
//! {"v":1,"do":"list"}                                               {"v":1,"mounts":[...]}
//! {"v":1,"do":"renew","id":"k3v8","lease_ms":60000}                 {"v":1,"mounts":[{...}]}
//! {"v":1,"do":"supply","id":"k3v8","secrets":{...}}                {"v":1,"mounts":[{...}]}
//! {"v":1,"do":"stop","id":"k3v8"}                                   {"v":1,"failure":{...}}
//! ```
//!
//! An answer lists the mounts that the request was about, as they are now, or says what failed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metrics::Statistics;
use crate::runner::Failure;
use crate::table::State;

/// The version of requests and answers.
pub const VERSION: u32 = 1;
/// A request is not longer than this, in bytes: command lines and environments are not.
pub const LONGEST_REQUEST: usize = 256 << 10;
/// An answer is not longer than this, in bytes.
pub const LONGEST_ANSWER: usize = 16 << 20;

/// What a client asks for.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Start a mount, and answer once it can be used.
    Mount {
        /// What it is.
        spec: Value,
        /// Secrets by name; kept in memory only.
        #[serde(default)]
        secrets: BTreeMap<String, String>,
        /// How long it stays, in ms; for ever without.
        #[serde(default)]
        lease_ms: Option<u64>,
        /// What it told when it was first started, where that was by another daemon or one that
        /// has lost its state: it comes back with that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity: Option<Value>,
    },
    /// List all mounts.
    List,
    /// Let a mount's lease begin anew.
    Renew {
        /// Which.
        id: String,
        /// How long it stays from now on, in ms; for ever without.
        #[serde(default)]
        lease_ms: Option<u64>,
    },
    /// Give a mount the secrets that are gone since a restart. One that does not run is tried
    /// again at once.
    Supply {
        /// Which.
        id: String,
        /// Secrets by name; kept in memory only.
        secrets: BTreeMap<String, String>,
    },
    /// Stop a mount, and answer once nothing of it is left.
    Stop {
        /// Which.
        id: String,
    },
}

impl std::fmt::Debug for Request {
    /// Secrets are not shown, nor what may contain some.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mount { .. } => f.write_str("Mount"),
            Self::List => f.write_str("List"),
            Self::Renew { id, .. } => write!(f, "Renew({id:?})"),
            Self::Supply { id, .. } => write!(f, "Supply({id:?})"),
            Self::Stop { id } => write!(f, "Stop({id:?})"),
        }
    }
}

/// A mount as an answer shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Its name.
    pub id: String,
    /// What it is.
    pub spec: Value,
    /// What it told of itself when it was first started.
    pub identity: Value,
    /// When it was asked for, in ms since 1970.
    pub created_ms: u64,
    /// When it ends by itself, in ms since 1970.
    pub lease_end_ms: Option<u64>,
    /// How it is.
    pub state: State,
    /// Names of secrets without which it cannot come back.
    pub secret_names: Vec<String>,
    /// What it has done since it was last started, if it answers.
    pub statistics: Option<Statistics>,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done; the mounts that it was about.
    Mounts(Vec<Shown>),
    /// It failed.
    Failure(Failure),
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u32,
    #[serde(flatten)]
    said: T,
}

/// Only the version, which is looked at first.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// A [`Failure`] to answer with.
    pub fn decode(line: &[u8]) -> Result<Self, Failure> {
        decode(line, LONGEST_REQUEST)
    }

    /// Writes a line, with its end.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

impl Answer {
    /// Reads a line.
    ///
    /// # Errors
    /// A [`Failure`] that says what is wrong with it.
    pub fn decode(line: &[u8]) -> Result<Self, Failure> {
        decode(line, LONGEST_ANSWER)
    }

    /// Writes a line, with its end.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

fn decode<T: serde::de::DeserializeOwned>(line: &[u8], longest: usize) -> Result<T, Failure> {
    if line.len() > longest {
        return Err(Failure::new("protocol", format!("a line is longer than {longest} bytes")));
    }
    let wrong = |error| Failure::new("protocol", format!("this is no message of mountd: {error}"));
    let Version { v } = serde_json::from_slice(line).map_err(wrong)?;
    if v != VERSION {
        let text = format!("the message is of version {v}, and here version {VERSION} is spoken");
        return Err(Failure::new("protocol", text).with_help("use the same sluice on both sides"));
    }
    let message: Versioned<T> = serde_json::from_slice(line).map_err(wrong)?;
    Ok(message.said)
}

fn encode<T: Serialize>(said: T) -> Vec<u8> {
    // Strings, numbers and maps with strings as keys: this cannot fail.
    let mut line = serde_json::to_vec(&Versioned { v: VERSION, said }).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_go_there_and_back() {
        let requests = [
            Request::Mount {
                spec: json!({"argv": ["a", 1, null]}),
                secrets: [("A".to_owned(), "b\nc".to_owned())].into(),
                lease_ms: Some(u64::MAX),
                identity: Some(json!({"uri": "u"})),
            },
            Request::Supply { id: "x".into(), secrets: [("A".into(), "b".into())].into() },
            Request::List,
            Request::Renew { id: "x".into(), lease_ms: None },
            Request::Stop { id: "ä\"\\".into() },
        ];
        for request in requests {
            let line = request.encode();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
            assert_eq!(Request::decode(&line).unwrap(), request);
        }
        let stop = br#"{"do":"stop","id":"x","v":1}"#;
        assert_eq!(Request::decode(stop).unwrap(), Request::Stop { id: "x".into() });
    }

    #[test]
    fn answers_go_there_and_back() {
        let shown = Shown {
            id: "x".into(),
            spec: json!({}),
            identity: json!([1]),
            created_ms: 1,
            lease_end_ms: None,
            state: State::Waiting { failed: 1, again_ms: 2, reason: "r".into() },
            secret_names: vec![],
            statistics: Some(Statistics::default()),
        };
        for answer in [Answer::Mounts(vec![shown]), Answer::Failure(Failure::new("a", "b"))] {
            assert_eq!(Answer::decode(&answer.encode()).unwrap(), answer);
        }
    }

    #[test]
    fn what_is_no_request_is_a_failure_that_says_so() {
        for line in
            ["", "{", "null", "[]", "{}", r#"{"v":1}"#, r#"{"v":1,"do":"x"}"#, r#"{"v":-1}"#]
        {
            assert_eq!(Request::decode(line.as_bytes()).unwrap_err().kind, "protocol", "{line}");
        }
        let newer = Request::decode(br#"{"v":2,"do":"dance"}"#).unwrap_err();
        assert!(newer.message.contains("version 2"), "{newer:?}");
        let long = [b' '; LONGEST_REQUEST + 1];
        assert!(Request::decode(&long).unwrap_err().message.contains("longer"));
        let deep = [&br#"{"v":1,"do":"mount","spec":"#[..], &[b'['; 200_000]].concat();
        assert!(Request::decode(&deep).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let secrets = BTreeMap::from([("A".to_owned(), "horse".to_owned())]);
        let supply = Request::Supply { id: "x".into(), secrets: BTreeMap::clone(&secrets) };
        let spec = json!("horse");
        let mount = Request::Mount { spec, secrets, lease_ms: None, identity: None };
        for request in [supply, mount] {
            assert!(!format!("{request:?}").contains("horse"));
        }
    }
}
