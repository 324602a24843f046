use sluice_catalog::{
    ErrorKind, MOST_CHALLENGES, MOST_PASSKEYS, NewChallenge, NewPasskey, PasskeyPurpose,
    PasskeyUse, Sealer, UserId,
};

use crate::support::{Lab, on_both};

on_both! {
    passkeys_are_their_owners_and_unique
    a_counter_never_goes_back
    a_question_is_answered_once
    recovery_codes_last_as_long_as_a_second_factor
}

fn new(name: &str, credential: &str) -> NewPasskey {
    NewPasskey {
        name: name.to_owned(),
        credential: credential.to_owned(),
        key: "key".to_owned(),
        counter: 0,
        model: "00".repeat(16),
        transports: "usb,nfc".to_owned(),
        verified: false,
        backup_eligible: true,
        backed_up: false,
    }
}

async fn passkeys_are_their_owners_and_unique(Lab { catalog, .. }: Lab) {
    let mut tx = catalog.begin().await.unwrap();
    let anna = tx.add_user("anna", "hash", 7).await.unwrap().id;
    let otto = tx.add_user("otto", "hash", 7).await.unwrap().id;
    assert!(!tx.has_second_factor(anna).await.unwrap());
    let made = tx.add_passkey(anna, &new("blue", "c1"), 8).await.unwrap();
    assert_eq!((made.user, made.created_ms, made.used_ms), (anna, 8, None));
    assert_eq!(tx.passkey_by_credential("c1").await.unwrap(), Some(made.clone()));
    assert!(tx.has_second_factor(anna).await.unwrap());
    tx.add_session("s", anna, "", 10, 20).await.unwrap();
    assert!(tx.who("s", 11).await.unwrap().second_factor);
    for (user, name, credential) in [(anna, "blue", "c2"), (otto, "blue", "c1")] {
        let told = tx.add_passkey(user, &new(name, credential), 8).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Conflict, "{name} {credential}");
    }
    let told = tx.add_passkey(anna, &new(" ", "c2"), 8).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Invalid);
    let red = tx.add_passkey(anna, &new("red", "c2"), 9).await.unwrap().id;
    let told = tx.rename_passkey(anna, red, "blue").await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Conflict);
    let told = tx.rename_passkey(otto, red, "green").await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::NotFound);
    tx.rename_passkey(anna, red, "red").await.unwrap();
    tx.rename_passkey(anna, red, "green").await.unwrap();
    let names = tx.passkeys(anna).await.unwrap().into_iter().map(|one| one.name);
    assert_eq!(names.collect::<Vec<_>>(), ["blue", "green"]);
    assert_eq!(tx.remove_passkeys(otto, Some(red)).await.unwrap(), 0, "it is not theirs");
    assert_eq!(tx.remove_passkeys(anna, Some(red)).await.unwrap(), 1);
    for number in 1..MOST_PASSKEYS {
        let name = format!("n{number}");
        tx.add_passkey(anna, &new(&name, &name), 9).await.unwrap();
    }
    let told = tx.add_passkey(anna, &new("more", "more"), 9).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Conflict);
    assert_eq!(tx.remove_passkeys(anna, None).await.unwrap(), MOST_PASSKEYS as u64);
    tx.add_passkey(otto, &new("blue", "c1"), 9).await.unwrap();
    tx.delete_user(otto).await.unwrap();
    assert!(tx.passkey_by_credential("c1").await.unwrap().is_none());
}

async fn a_counter_never_goes_back(Lab { catalog, .. }: Lab) {
    let mut tx = catalog.begin().await.unwrap();
    let anna = tx.add_user("anna", "hash", 7).await.unwrap().id;
    let id = tx.add_passkey(anna, &new("blue", "c1"), 8).await.unwrap().id;
    let mut told = Vec::new();
    for counter in [0, 0, 5, 5, 4, 0, 6, u32::MAX, u32::MAX] {
        let used = PasskeyUse { counter, verified: counter == 5, backed_up: counter == 6 };
        told.push(tx.use_passkey(id, &used, u64::from(counter) + 10).await.unwrap());
    }
    assert_eq!(told, [true, true, true, false, false, false, true, true, false]);
    let known = tx.passkey_by_credential("c1").await.unwrap().unwrap();
    assert_eq!((known.counter, known.verified, known.backed_up), (u32::MAX, true, false));
    assert_eq!(known.used_ms, Some(u64::from(u32::MAX) + 10));
}

fn asked<'a>(
    hash: &'a str,
    purpose: PasskeyPurpose,
    (user, session): (Option<UserId>, &'a str),
    address: &'a str,
    expires_ms: u64,
) -> NewChallenge<'a> {
    NewChallenge { hash, purpose, user, session, challenge: "random", address, expires_ms }
}

async fn a_question_is_answered_once(Lab { catalog, .. }: Lab) {
    use PasskeyPurpose::{Confirm, Login, Register};
    let mut tx = catalog.begin().await.unwrap();
    let anna = UserId::new(1);
    let mine = (Some(anna), "s1");
    tx.begin_challenge(&asked("h1", Register, mine, "a", 10), 1).await.unwrap();
    tx.begin_challenge(&asked("h2", Login, (None, ""), "b", 20), 1).await.unwrap();
    tx.begin_challenge(&asked("h3", Login, (None, ""), "b", 20), 1).await.unwrap();
    for (address, now, many) in [("a", 9, 1), ("a", 10, 0), ("b", 10, 2), ("c", 1, 0)] {
        assert_eq!(tx.count_challenges(address, now).await.unwrap(), many, "{address} {now}");
    }
    for (hash, purpose, now) in [("h1", Confirm, 9), ("h1", Register, 10), ("no", Login, 9)] {
        let told = tx.take_challenge(hash, purpose, now).await.unwrap();
        assert_eq!(told, None, "{hash} {purpose:?} {now}");
    }
    let taken = tx.take_challenge("h1", Register, 9).await.unwrap().unwrap();
    assert_eq!((taken.user, &*taken.session, &*taken.challenge), (Some(anna), "s1", "random"));
    assert_eq!(tx.take_challenge("h1", Register, 9).await.unwrap(), None);
    // The last question of a session counts; those of others stay.
    tx.begin_challenge(&asked("h4", Register, mine, "a", 30), 2).await.unwrap();
    tx.begin_challenge(&asked("h5", Confirm, mine, "a", 30), 2).await.unwrap();
    tx.begin_challenge(&asked("h6", Register, mine, "a", 30), 2).await.unwrap();
    assert_eq!(tx.take_challenge("h4", Register, 3).await.unwrap(), None);
    assert!(tx.take_challenge("h5", Confirm, 3).await.unwrap().is_some());
    assert!(tx.take_challenge("h6", Register, 3).await.unwrap().is_some());
    assert!(tx.take_challenge("h2", Login, 3).await.unwrap().is_some());
    for number in 1..MOST_CHALLENGES {
        let hash = number.to_string();
        tx.begin_challenge(&asked(&hash, Login, (None, ""), "c", 30), 3).await.unwrap();
    }
    let full = tx.begin_challenge(&asked("more", Login, (None, ""), "c", 40), 3).await;
    assert_eq!(full.unwrap_err().kind(), ErrorKind::Unavailable);
    // What is over makes room.
    tx.begin_challenge(&asked("more", Login, (None, ""), "c", 40), 30).await.unwrap();
}

async fn recovery_codes_last_as_long_as_a_second_factor(Lab { catalog, .. }: Lab) {
    let sealer = Sealer::new(&[1; 32]);
    let mut tx = catalog.begin().await.unwrap();
    let anna = tx.add_user("anna", "hash", 7).await.unwrap().id;
    let id = tx.add_passkey(anna, &new("blue", "c1"), 8).await.unwrap().id;
    tx.set_recovery_codes(anna, &["a".into(), "b".into()]).await.unwrap();
    tx.begin_totp(&sealer, anna, "SECRET").await.unwrap();
    tx.confirm_totp(anna).await.unwrap();
    tx.set_recovery_codes(anna, &["c".into(), "d".into()]).await.unwrap();
    assert_eq!(tx.recovery_codes_left(anna).await.unwrap(), 2, "new ones replace the others");
    assert!(!tx.use_recovery_code(anna, "a").await.unwrap());
    assert!(tx.remove_totp(anna).await.unwrap());
    assert_eq!(tx.recovery_codes_left(anna).await.unwrap(), 2, "there is a passkey");
    tx.begin_totp(&sealer, anna, "SECRET").await.unwrap();
    assert_eq!(tx.remove_passkeys(anna, Some(id)).await.unwrap(), 1);
    assert_eq!(tx.recovery_codes_left(anna).await.unwrap(), 0, "the app was not confirmed");
    assert!(!tx.has_second_factor(anna).await.unwrap());
}
