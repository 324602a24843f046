//! What both sides agree on with text keys ("Login/Text Operational Text Keys"), from the target's
//! side: the initiator offers, and each offer is answered at once.

use std::collections::BTreeSet;

use crate::{Digest, WireError, text};

/// How the two sides speak after login. The defaults are those of the RFC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Digest of headers.
    pub header_digest: Digest,
    /// Digest of data segments.
    pub data_digest: Digest,
    /// Bytes of data that one message to the peer may have.
    pub most_to_peer: u32,
    /// Bytes of data in one sequence.
    pub max_burst: u32,
    /// Bytes of data that may come without being asked for.
    pub first_burst: u32,
    /// Whether the target must ask before data comes in messages of its own.
    pub initial_r2t: bool,
    /// Whether data may come together with its command.
    pub immediate_data: bool,
    /// Requests to transfer that a task may have at a time.
    pub outstanding_r2t: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            header_digest: Digest::None,
            data_digest: Digest::None,
            most_to_peer: 8192,
            max_burst: 262_144,
            first_burst: 65_536,
            initial_r2t: true,
            immediate_data: true,
            outstanding_r2t: 1,
        }
    }
}

/// A negotiation of the target, which has its own wishes.
#[derive(Debug, Clone)]
pub struct Negotiation {
    wishes: Parameters,
    agreed: Parameters,
    most_to_us: u32,
    seen: BTreeSet<&'static str>,
    declared: bool,
}

/// How values of a key are found.
#[derive(Clone, Copy)]
enum Rule {
    /// The first of the initiator's list that is known.
    HeaderDigest,
    DataDigest,
    /// The smaller of two numbers inside a range.
    MaxBurst,
    FirstBurst,
    Outstanding,
    Connections,
    Level,
    Retain,
    /// The larger of two numbers.
    Wait,
    /// A number that each side states for itself.
    MostToPeer,
    /// Either wish makes it so.
    InitialR2t,
    Ordered,
    /// Both must wish it.
    ImmediateData,
    /// Of an older protocol; not offered.
    Marker,
    Interval,
    /// How aborted tasks are reported: as in the first version.
    Reporting,
    Protocol,
}

const RULES: [(&str, Rule); 19] = [
    ("HeaderDigest", Rule::HeaderDigest),
    ("DataDigest", Rule::DataDigest),
    ("MaxBurstLength", Rule::MaxBurst),
    ("FirstBurstLength", Rule::FirstBurst),
    ("MaxOutstandingR2T", Rule::Outstanding),
    ("MaxConnections", Rule::Connections),
    ("ErrorRecoveryLevel", Rule::Level),
    ("DefaultTime2Retain", Rule::Retain),
    ("DefaultTime2Wait", Rule::Wait),
    ("MaxRecvDataSegmentLength", Rule::MostToPeer),
    ("InitialR2T", Rule::InitialR2t),
    ("DataPDUInOrder", Rule::Ordered),
    ("DataSequenceInOrder", Rule::Ordered),
    ("ImmediateData", Rule::ImmediateData),
    ("OFMarker", Rule::Marker),
    ("IFMarker", Rule::Marker),
    ("OFMarkInt", Rule::Interval),
    ("TaskReporting", Rule::Reporting),
    ("iSCSIProtocolLevel", Rule::Protocol),
];

/// Lengths are numbers from 512 up to this ("MaxRecvDataSegmentLength").
const MOST: u32 = (1 << 24) - 1;

impl Negotiation {
    /// Begins a negotiation in which `wishes` are the most that the target agrees to, and up to
    /// `most_to_us` bytes of data per message are accepted.
    pub fn new(wishes: Parameters, most_to_us: u32) -> Self {
        Self {
            wishes,
            agreed: Parameters::default(),
            most_to_us,
            seen: BTreeSet::new(),
            declared: false,
        }
    }

    /// Answers an offer into `answer`. Returns whether the key is one of those negotiated here.
    ///
    /// # Errors
    /// [`WireError::Invalid`] when the key was offered before.
    pub fn offer(
        &mut self,
        key: &str,
        value: &str,
        answer: &mut Vec<u8>,
    ) -> Result<bool, WireError> {
        let Some(&(key, rule)) = RULES.iter().find(|(name, _)| *name == key) else {
            return Ok(false);
        };
        if !self.seen.insert(key) {
            return Err(WireError::Invalid { what: "a key that was offered twice" });
        }
        if let Some(value) = self.agree(rule, value) {
            text::encode(answer, key, &value);
        }
        Ok(true)
    }

    /// States what the target states without being asked, once.
    pub fn declare(&mut self, answer: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.declared, true) {
            let most = self.most_to_us.to_string();
            text::encode(answer, "MaxRecvDataSegmentLength", &most);
        }
    }

    /// What was agreed; keys that were not offered have their defaults.
    pub fn agreed(&self) -> Parameters {
        let mut agreed = self.agreed.clone();
        // "FirstBurstLength MUST NOT exceed MaxBurstLength."
        agreed.first_burst = agreed.first_burst.min(agreed.max_burst);
        agreed
    }

    /// Agrees on a value and returns the answer; none for a key that is only stated.
    fn agree(&mut self, rule: Rule, value: &str) -> Option<String> {
        let (wishes, agreed) = (&self.wishes, &mut self.agreed);
        let smaller = |into: &mut u32, wish: u32, from: u32, to: u32| {
            let found = number(value).filter(|number| (from..=to).contains(number))?;
            *into = found.min(wish);
            Some(into.to_string())
        };
        let mut unused = 0;
        let found = match rule {
            Rule::HeaderDigest => choose(value, &mut agreed.header_digest),
            Rule::DataDigest => choose(value, &mut agreed.data_digest),
            Rule::MaxBurst => smaller(&mut agreed.max_burst, wishes.max_burst, 512, MOST),
            Rule::FirstBurst => smaller(&mut agreed.first_burst, wishes.first_burst, 512, MOST),
            Rule::Outstanding => {
                smaller(&mut agreed.outstanding_r2t, wishes.outstanding_r2t, 1, 65_535)
            }
            Rule::Connections => smaller(&mut unused, 1, 1, 65_535),
            Rule::Level => smaller(&mut unused, 0, 0, 2),
            // Nothing is kept of a session whose connection is gone.
            Rule::Retain => smaller(&mut unused, 0, 0, 3600),
            Rule::Wait => number(value).filter(|number| *number <= 3600).map(|n| n.to_string()),
            Rule::MostToPeer => {
                return match number(value).filter(|number| (512..=MOST).contains(number)) {
                    Some(number) => {
                        agreed.most_to_peer = number;
                        None
                    }
                    None => Some("Reject".to_owned()),
                };
            }
            Rule::InitialR2t => boolean(value).map(|theirs| {
                agreed.initial_r2t = theirs || wishes.initial_r2t;
                yes_or_no(agreed.initial_r2t)
            }),
            Rule::Ordered => boolean(value).map(|_| yes_or_no(true)),
            Rule::ImmediateData => boolean(value).map(|theirs| {
                agreed.immediate_data = theirs && wishes.immediate_data;
                yes_or_no(agreed.immediate_data)
            }),
            Rule::Marker => boolean(value).map(|_| yes_or_no(false)),
            Rule::Interval => None,
            Rule::Reporting => {
                value.split(',').find(|offer| *offer == "RFC3720").map(str::to_owned)
            }
            Rule::Protocol => {
                number(value).filter(|level| *level <= 31).map(|n| n.min(1).to_string())
            }
        };
        Some(found.unwrap_or_else(|| "Reject".to_owned()))
    }
}

/// A number, decimal or hexadecimal.
fn number(text: &str) -> Option<u32> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match hexadecimal {
        // A sign is no digit, though Rust takes one.
        Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16).ok(),
        None if !text.starts_with('+') => text.parse().ok(),
        _ => None,
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn yes_or_no(value: bool) -> String {
    if value { "Yes" } else { "No" }.to_owned()
}

/// The first digest of a list that is known.
fn choose(list: &str, into: &mut Digest) -> Option<String> {
    list.split(',').find_map(|name| {
        *into = match name {
            "None" => Digest::None,
            "CRC32C" => Digest::Crc32c,
            _ => return None,
        };
        Some(name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiation() -> Negotiation {
        let wishes = Parameters {
            max_burst: 1 << 20,
            first_burst: 65_536,
            initial_r2t: false,
            ..Parameters::default()
        };
        Negotiation::new(wishes, 262_144)
    }

    /// The answer to one offer.
    fn ask(negotiation: &mut Negotiation, key: &str, value: &str) -> String {
        let mut answer = Vec::new();
        assert!(negotiation.offer(key, value, &mut answer).unwrap());
        String::from_utf8(answer).unwrap().trim_end_matches('\0').to_owned()
    }

    #[test]
    fn each_kind_of_key_follows_its_rule() {
        let n = &mut negotiation();
        for (key, value, answer) in [
            ("HeaderDigest", "SHA,CRC32C,None", "CRC32C"),
            ("DataDigest", "None,CRC32C", "None"),
            ("MaxBurstLength", "16776192", "1048576"),
            ("FirstBurstLength", "0x2000", "8192"),
            ("MaxOutstandingR2T", "8", "1"),
            ("MaxConnections", "4", "1"),
            ("ErrorRecoveryLevel", "2", "0"),
            ("DefaultTime2Wait", "2", "2"),
            ("DefaultTime2Retain", "20", "0"),
            ("InitialR2T", "No", "No"),
            ("ImmediateData", "Yes", "Yes"),
            ("DataPDUInOrder", "No", "Yes"),
            ("IFMarker", "Yes", "No"),
            ("iSCSIProtocolLevel", "2", "1"),
        ] {
            assert_eq!(ask(n, key, value), format!("{key}={answer}"));
        }
        assert_eq!(ask(n, "MaxRecvDataSegmentLength", "65536"), "", "stated, not negotiated");
        let expected = Parameters {
            header_digest: Digest::Crc32c,
            data_digest: Digest::None,
            most_to_peer: 65_536,
            max_burst: 1 << 20,
            first_burst: 8192,
            initial_r2t: false,
            immediate_data: true,
            outstanding_r2t: 1,
        };
        assert_eq!(n.agreed(), expected);
    }

    #[test]
    fn values_outside_their_range_are_rejected_and_leave_the_default() {
        for (key, value) in [
            ("MaxBurstLength", "511"),
            ("MaxBurstLength", "+600"),
            ("FirstBurstLength", "16777216"),
            ("MaxRecvDataSegmentLength", "0"),
            ("HeaderDigest", "MD5"),
            ("InitialR2T", "yes"),
            ("ErrorRecoveryLevel", "x"),
        ] {
            let n = &mut negotiation();
            assert_eq!(ask(n, key, value), format!("{key}=Reject"));
            assert_eq!(n.agreed(), Parameters::default());
        }
    }

    #[test]
    fn a_key_offered_twice_breaks_the_protocol() {
        let n = &mut negotiation();
        ask(n, "InitialR2T", "No");
        assert!(n.offer("InitialR2T", "No", &mut Vec::new()).is_err());
        assert!(!n.offer("X-other", "1", &mut Vec::new()).unwrap());
    }

    #[test]
    fn the_first_burst_stays_within_a_burst() {
        let n = &mut negotiation();
        ask(n, "MaxBurstLength", "4096");
        assert_eq!(n.agreed().first_burst, 4096);
    }

    #[test]
    fn the_target_states_its_length_once() {
        let (n, mut text) = (&mut negotiation(), Vec::new());
        n.declare(&mut text);
        n.declare(&mut text);
        assert_eq!(text, b"MaxRecvDataSegmentLength=262144\0");
    }
}
