//! Vouchers: what tells a key slot that somebody with the secrets has made from one that whoever
//! can write to the destination has put there.
//!
//! A voucher covers the slot's name and all of its fields, as they stand in the JSON. It does not
//! keep anybody from putting a slot back that was removed, nor from removing one.

use data_encoding::BASE64;

use super::{KeySlot, PASSPHRASE, RECIPIENT, RepositoryId, base64};
use crate::crypto::Secrets;

/// What the voucher of a key slot says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voucher {
    /// It was made as it is, under this name, by somebody who had the secrets.
    Sound,
    /// There is none, or it is of a data epoch whose secret is not known here.
    Absent,
    /// It was not, or has been changed or renamed since.
    Wrong,
}

/// What a voucher covers: each field with its length before it, so that nothing can move from one
/// into the next.
fn covered(slot: &KeySlot, repository: RepositoryId, name: &str) -> Option<Vec<u8>> {
    let number = |number: u32| number.to_le_bytes().to_vec();
    let text = |text: &String| text.as_bytes().to_vec();
    let (label, _, created) = slot.describe();
    let (kind, rest): (&[u8], Vec<Vec<u8>>) = match slot {
        KeySlot::Passphrase { kdf, salt, wrapped, .. } => {
            let cost = [kdf.memory_kib, kdf.passes, kdf.lanes].map(number);
            (PASSPHRASE, cost.into_iter().chain([salt, wrapped].map(text)).collect())
        }
        KeySlot::Recipient { public, ephemeral, wrapped, tag, .. } => {
            (RECIPIENT, [public, ephemeral, wrapped, tag].map(text).to_vec())
        }
        KeySlot::Open { .. } => return None,
    };
    let mut fields = vec![repository.0.to_vec(), name.as_bytes().to_vec(), kind.to_vec()];
    fields.extend([label, created].map(|text| text.as_bytes().to_vec()));
    fields.push(number(slot.epoch()));
    fields.extend(rest);
    let mut all = Vec::new();
    for field in fields {
        all.extend_from_slice(&(field.len() as u32).to_le_bytes());
        all.extend_from_slice(&field);
    }
    Some(all)
}

impl KeySlot {
    /// The slot, vouched for under its name. `secrets` are those that it wraps; nothing changes in
    /// a slot in clear, which everybody can make.
    pub fn vouched(mut self, repository: RepositoryId, name: &str, secrets: &Secrets) -> Self {
        let Some(covered) = covered(&self, repository, name) else { return self };
        let made = secrets.vouch_for_slot(self.epoch(), &covered);
        if let (Self::Passphrase { voucher, .. } | Self::Recipient { voucher, .. }, Some(made)) =
            (&mut self, made)
        {
            *voucher = BASE64.encode(&made);
        }
        self
    }

    /// What its voucher says of the slot of this name.
    pub fn voucher(&self, repository: RepositoryId, name: &str, secrets: &Secrets) -> Voucher {
        let (Self::Passphrase { voucher, .. } | Self::Recipient { voucher, .. }) = self else {
            return Voucher::Absent;
        };
        let covered = covered(self, repository, name);
        let made = covered.and_then(|covered| secrets.vouch_for_slot(self.epoch(), &covered));
        let Some(made) = made.filter(|_| !voucher.is_empty()) else { return Voucher::Absent };
        match base64(voucher).is_ok_and(|voucher| voucher == made) {
            true => Voucher::Sound,
            false => Voucher::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KdfCost, RecoveryKey};
    use super::*;
    use crate::crypto::{EpochSecret, MasterKey};

    const CHEAP: KdfCost = KdfCost { memory_kib: 64, passes: 1, lanes: 1 };
    const ID: RepositoryId = RepositoryId([1; 16]);

    fn secrets(epochs: u8) -> Secrets {
        let mut secrets = Secrets::from(MasterKey([7; 32]));
        secrets.epochs = (0..epochs).map(|at| EpochSecret([at; 32])).collect();
        secrets
    }

    fn both(secrets: &Secrets) -> [KeySlot; 2] {
        let note = || ("main".to_owned(), "2026-01-01T00:00:00Z".to_owned());
        let recovery = RecoveryKey::new([9; 32]);
        [
            KeySlot::for_passphrase(ID, secrets, "words", CHEAP, [3; 28], note()).unwrap(),
            KeySlot::for_recovery(ID, secrets, &recovery, [3; 44], note()).unwrap(),
        ]
    }

    #[test]
    fn whoever_has_the_secrets_can_tell_what_was_made_with_them() {
        for epochs in [0, 2] {
            let known = secrets(epochs);
            for slot in both(&known) {
                assert_eq!(slot.voucher(ID, "a", &known), Voucher::Absent);
                let slot = slot.vouched(ID, "a", &known);
                let slot = KeySlot::decode(&slot.encode()).unwrap();
                assert_eq!(slot.voucher(ID, "a", &known), Voucher::Sound);
                // Who knows more epochs tells it as well; who knows fewer cannot.
                assert_eq!(slot.voucher(ID, "a", &secrets(epochs + 1)), Voucher::Sound);
                if epochs > 0 {
                    assert_eq!(slot.voucher(ID, "a", &secrets(epochs - 1)), Voucher::Absent);
                }
                assert_eq!(slot.voucher(ID, "b", &known), Voucher::Wrong, "another name");
                let epochs = known.epochs.clone();
                let strange = Secrets { master: MasterKey([6; 32]), epochs };
                assert_eq!(slot.voucher(ID, "a", &strange), Voucher::Wrong);
                assert_eq!(slot.voucher(RepositoryId([2; 16]), "a", &known), Voucher::Wrong);
            }
        }
    }

    #[test]
    fn no_field_can_be_changed_under_a_voucher() {
        let known = secrets(1);
        for slot in both(&known) {
            let slot = slot.vouched(ID, "a", &known);
            let document: serde_json::Value = serde_json::from_slice(&slot.encode()).unwrap();
            let fields: Vec<String> = document.as_object().unwrap().keys().cloned().collect();
            for field in fields.iter().filter(|field| !["check", "kind"].contains(&field.as_str()))
            {
                let mut changed = document.clone();
                match &mut changed[field] {
                    serde_json::Value::String(text) => text.push('x'),
                    serde_json::Value::Number(_) => changed[field] = 0.into(),
                    cost => cost["passes"] = 2.into(),
                }
                let changed = KeySlot::decode(changed.to_string().as_bytes()).unwrap();
                assert_eq!(changed.voucher(ID, "a", &known), Voucher::Wrong, "{field}");
            }
        }
    }

    #[test]
    fn what_one_field_loses_the_next_cannot_gain() {
        let known = secrets(0);
        let [slot, _] = both(&known);
        let slot = slot.vouched(ID, "a", &known);
        let KeySlot::Passphrase { label, created, kdf, salt, wrapped, epoch, voucher } = slot
        else {
            panic!("a passphrase")
        };
        let (label, moved) = label.split_at(2);
        let (label, created) = (label.to_owned(), format!("{moved}{created}"));
        let moved = KeySlot::Passphrase { label, created, kdf, salt, wrapped, epoch, voucher };
        assert_eq!(moved.voucher(ID, "a", &known), Voucher::Wrong);
    }
    /// Computed by another program, from the specification.
    #[test]
    fn vouchers_are_what_the_format_says() {
        let (label, created) = ("main".to_owned(), "2026-01-01T00:00:00Z".to_owned());
        let (salt, wrapped) = ("c2FsdA==".to_owned(), "d3JhcHBlZA==".to_owned());
        let passphrase = KeySlot::Passphrase {
            label: label.clone(),
            created: created.clone(),
            kdf: CHEAP,
            salt,
            wrapped: wrapped.clone(),
            epoch: 0,
            voucher: String::new(),
        };
        let recipient = KeySlot::Recipient {
            label,
            created,
            public: "cHVibGlj".into(),
            ephemeral: "ZXBoZW1lcmFs".into(),
            wrapped,
            epoch: 1,
            tag: "dGFn".into(),
            voucher: String::new(),
        };
        for (slot, expected) in
            [(passphrase, "aHO3iOmnzA1HkI5KxCjN2Q=="), (recipient, "KJJHtsErZefwQ3bahQbm4w==")]
        {
            let slot = slot.vouched(ID, "0a1b2c3d4e5f", &secrets(1));
            let text = String::from_utf8(slot.encode()).unwrap();
            assert!(text.contains(&format!("\"voucher\": \"{expected}\"")), "{text}");
        }
    }
}
