//! Proof of knowing a secret, without telling it (RFC 1994, and "Challenge Handshake Authentication
//! Protocol" of iSCSI).

use md5::Md5;
use rand::Rng;
use sha2::{Digest, Sha256};
use sluice_iscsi_wire::{decode_binary, encode_binary, text};

use crate::config::{Chap, Credentials};

/// Bytes of a challenge: as many as the longest response has.
const CHALLENGE: usize = 32;

/// A hash that both sides know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Md5,
    Sha256,
}

impl Hash {
    /// The first of the initiator's list that is known.
    fn choose(list: &str) -> Option<Self> {
        list.split(',').find_map(|number| match number {
            "5" => Some(Self::Md5),
            "7" => Some(Self::Sha256),
            _ => None,
        })
    }

    fn number(self) -> &'static str {
        match self {
            Self::Md5 => "5",
            Self::Sha256 => "7",
        }
    }

    fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
            parts.iter().fold(D::new(), |hash, part| hash.chain_update(part)).finalize().to_vec()
        }
        let parts = [&[identifier][..], secret, challenge];
        match self {
            Self::Md5 => hash::<Md5>(parts),
            Self::Sha256 => hash::<Sha256>(parts),
        }
    }
}

/// One authentication, from the target's side.
#[derive(Debug)]
pub(crate) struct Authentication {
    chap: Chap,
    state: State,
}

#[derive(Debug)]
enum State {
    Begun,
    Challenged { hash: Hash, identifier: u8, challenge: [u8; CHALLENGE] },
    Done,
}

/// The initiator is not who it says, or does not speak CHAP.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unproven(pub(crate) &'static str);

impl Authentication {
    pub(crate) fn new(chap: Chap) -> Self {
        Self { chap, state: State::Begun }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Takes the initiator's keys and answers them.
    pub(crate) fn step(
        &mut self,
        keys: &[(&str, &str)],
        answer: &mut Vec<u8>,
    ) -> Result<(), Unproven> {
        let find = |name| keys.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        match (&self.state, find("CHAP_A"), find("CHAP_R")) {
            (State::Begun, Some(list), None) => {
                let hash = Hash::choose(list).ok_or(Unproven("no hash in common"))?;
                let identifier: u8 = rand::rng().random();
                let challenge: [u8; CHALLENGE] = rand::rng().random();
                text::encode(answer, "CHAP_A", hash.number());
                text::encode(answer, "CHAP_I", &identifier.to_string());
                text::encode(answer, "CHAP_C", &encode_binary(&challenge));
                self.state = State::Challenged { hash, identifier, challenge };
                Ok(())
            }
            (State::Challenged { hash, identifier, challenge }, None, Some(response)) => {
                let (hash, challenge) = (*hash, *challenge);
                let user = find("CHAP_N").ok_or(Unproven("no name"))?;
                prove(hash, *identifier, &challenge, &self.chap.initiator, user, response)?;
                if let (Some(identifier), Some(theirs)) = (find("CHAP_I"), find("CHAP_C")) {
                    self.reply(hash, &challenge, identifier, theirs, answer)?;
                }
                self.state = State::Done;
                Ok(())
            }
            // Nothing about CHAP: the initiator has not begun, or goes on to other things.
            (_, None, None) => Ok(()),
            _ => Err(Unproven("keys out of turn")),
        }
    }

    /// Proves the target to the initiator.
    fn reply(
        &self,
        hash: Hash,
        ours: &[u8],
        identifier: &str,
        challenge: &str,
        answer: &mut Vec<u8>,
    ) -> Result<(), Unproven> {
        let target = self.chap.target.as_ref();
        let target = target.ok_or(Unproven("the target has no secret to prove itself with"))?;
        let identifier: u8 = identifier.parse().map_err(|_| Unproven("a bad identifier"))?;
        let challenge = decode_binary(challenge).map_err(|_| Unproven("a bad challenge"))?;
        if challenge == ours {
            // Whoever sends our own challenge back wants us to answer it ourselves.
            return Err(Unproven("a reflected challenge"));
        }
        let response = hash.response(identifier, &target.secret, &challenge);
        text::encode(answer, "CHAP_N", &target.user);
        text::encode(answer, "CHAP_R", &encode_binary(&response));
        Ok(())
    }
}

fn prove(
    hash: Hash,
    identifier: u8,
    challenge: &[u8],
    known: &Credentials,
    user: &str,
    response: &str,
) -> Result<(), Unproven> {
    let response = decode_binary(response).map_err(|_| Unproven("a bad response"))?;
    let expected = hash.response(identifier, &known.secret, challenge);
    // Both are looked at, so that it cannot be told from the time which one was wrong.
    let proven = same(&expected, &response);
    if same(user.as_bytes(), known.user.as_bytes()) & proven {
        Ok(())
    } else {
        Err(Unproven("a wrong name or secret"))
    }
}

/// Compares without ending early.
fn same(left: &[u8], right: &[u8]) -> bool {
    let differences = left.iter().zip(right).fold(0, |all, (left, right)| all | (left ^ right));
    std::hint::black_box(differences) == 0 && left.len() == right.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authentication(mutual: bool) -> Authentication {
        let target = mutual.then(|| Credentials::new("target", "the target's secret"));
        let initiator = Credentials::new("user", "the user's secret");
        Authentication::new(Chap { initiator, target })
    }

    /// Sends keys and returns the answer's.
    fn step(
        a: &mut Authentication,
        keys: &[(&str, &str)],
    ) -> Result<Vec<(String, String)>, Unproven> {
        let mut answer = Vec::new();
        a.step(keys, &mut answer)?;
        let pairs = text::decode(&answer).unwrap();
        Ok(pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Begins, and returns the right response for `secret`.
    fn begin(a: &mut Authentication, list: &str, hash: Hash, secret: &str) -> (String, String) {
        let challenge = step(a, &[("CHAP_A", list)]).unwrap();
        assert_eq!(challenge[0], ("CHAP_A".to_owned(), hash.number().to_owned()));
        let identifier = challenge[1].1.parse().unwrap();
        let bytes = decode_binary(&challenge[2].1).unwrap();
        let response = encode_binary(&hash.response(identifier, secret.as_bytes(), &bytes));
        (response, challenge[2].1.clone())
    }

    #[test]
    fn the_hash_is_that_of_the_standard() {
        // MD5 of the byte 1, "secret" and the bytes 2 and 3, computed with md5sum.
        let response = Hash::Md5.response(1, b"secret", &[2, 3]);
        assert_eq!(encode_binary(&response), "0xf506c24f35d1c70e450edb8fdf933478");
    }

    #[test]
    fn who_knows_the_secret_is_let_in() {
        for (list, hash) in [("6,5", Hash::Md5), ("8,7,5", Hash::Sha256)] {
            let a = &mut authentication(false);
            let (response, _) = begin(a, list, hash, "the user's secret");
            assert!(!a.is_done());
            assert_eq!(step(a, &[("CHAP_N", "user"), ("CHAP_R", &response)]), Ok(vec![]));
            assert_eq!(step(a, &[]), Ok(vec![]), "what follows is about other things");
            assert!(a.is_done());
        }
    }

    #[test]
    fn who_does_not_is_not() {
        let good = "the user's secret";
        for (user, secret) in [("user", "another secret"), ("other", good), ("", good)] {
            let a = &mut authentication(false);
            let (response, _) = begin(a, "5", Hash::Md5, secret);
            assert!(step(a, &[("CHAP_N", user), ("CHAP_R", &response)]).is_err());
            assert!(!a.is_done());
        }
        for response in ["0x00", "nonsense"] {
            let a = &mut authentication(false);
            begin(a, "5", Hash::Md5, good);
            assert!(step(a, &[("CHAP_N", "user"), ("CHAP_R", response)]).is_err());
        }
        let a = &mut authentication(false);
        assert!(step(a, &[("CHAP_A", "6,8")]).is_err(), "no hash in common");
        assert!(step(a, &[("CHAP_N", "user"), ("CHAP_R", "0x00")]).is_err(), "not challenged yet");
    }

    #[test]
    fn the_target_proves_itself_when_asked_and_able() {
        let a = &mut authentication(true);
        let (response, _) = begin(a, "7", Hash::Sha256, "the user's secret");
        let keys =
            [("CHAP_N", "user"), ("CHAP_R", &*response), ("CHAP_I", "9"), ("CHAP_C", "0x0102")];
        let answer = step(a, &keys).unwrap();
        assert_eq!(answer[0].1, "target");
        let expected = Hash::Sha256.response(9, b"the target's secret", &[1, 2]);
        assert_eq!(answer[1].1, encode_binary(&expected));

        let a = &mut authentication(false);
        let (response, _) = begin(a, "7", Hash::Sha256, "the user's secret");
        let keys = [("CHAP_N", "user"), ("CHAP_R", &*response), keys[2], keys[3]];
        assert!(step(a, &keys).is_err());
    }

    #[test]
    fn a_challenge_that_is_sent_back_is_not_answered() {
        let a = &mut authentication(true);
        let (response, challenge) = begin(a, "5", Hash::Md5, "the user's secret");
        let keys =
            [("CHAP_N", "user"), ("CHAP_R", &*response), ("CHAP_I", "1"), ("CHAP_C", &challenge)];
        assert_eq!(step(a, &keys), Err(Unproven("a reflected challenge")));
    }
}
