use super::*;
use sluice_scsi::Range;

const READ: Command = Command::Read { range: Range { lba: 0, blocks: 1 }, fua: false };
const WRITE: Command = Command::Write { range: Range { lba: 0, blocks: 1 }, fua: false };

fn ports() -> [Port; 3] {
    ["a", "b", "c"].map(Port::from)
}

fn keyed(key: u64, action_key: u64) -> OutParameters {
    OutParameters { key, action_key }
}

/// Three ports, the first two registered with keys 1 and 2.
fn registered() -> (Reservations, [Port; 3]) {
    let (mut all, ports) = (Reservations::default(), ports());
    for (port, key) in ports.iter().zip([1, 2]) {
        all.change(port, PersistentOut::Register, keyed(0, key)).unwrap();
    }
    (all, ports)
}

#[test]
fn each_type_keeps_out_whom_it_should() {
    use ReservationType::*;
    // What a registered port and a stranger may still do: read, write.
    for (kind, registrant, stranger) in [
        (WriteExclusive, (true, false), (true, false)),
        (ExclusiveAccess, (false, false), (false, false)),
        (WriteExclusiveRegistrants, (true, true), (true, false)),
        (ExclusiveAccessRegistrants, (true, true), (false, false)),
        (WriteExclusiveAll, (true, true), (true, false)),
        (ExclusiveAccessAll, (true, true), (false, false)),
    ] {
        let (mut all, [a, b, c]) = registered();
        all.change(&a, PersistentOut::Reserve(kind), keyed(1, 0)).unwrap();
        let may = |port| (all.allow(port, &READ), all.allow(port, &WRITE));
        assert_eq!(may(&a), (true, true), "{kind:?}");
        assert_eq!(may(&b), registrant, "{kind:?}");
        assert_eq!(may(&c), stranger, "{kind:?}");
        assert!(all.allow(&c, &Command::Inquiry { page: None, allocation: 0 }));
    }
}

#[test]
fn a_key_must_be_the_registered_one() {
    let (mut all, [a, _, c]) = registered();
    let kind = ReservationType::WriteExclusive;
    for (port, key) in [(&a, 9), (&c, 0)] {
        let refused = all.change(port, PersistentOut::Reserve(kind), keyed(key, 0));
        assert_eq!(refused, Err(Refusal::Conflict));
    }
    assert_eq!(all.change(&a, PersistentOut::Register, keyed(7, 8)), Err(Refusal::Conflict));
    assert_eq!(all.change(&c, PersistentOut::Register, keyed(7, 8)), Err(Refusal::Conflict));
    all.change(&c, PersistentOut::RegisterAndIgnore, keyed(7, 8)).unwrap();
    assert_eq!(all.report(PersistentIn::Keys).len(), 8 + 3 * 8);
}

#[test]
fn unregistering_gives_the_reservation_back_and_tells_the_others() {
    let (mut all, [a, b, c]) = registered();
    let kind = ReservationType::WriteExclusiveRegistrants;
    all.change(&a, PersistentOut::Reserve(kind), keyed(1, 0)).unwrap();
    let effects = all.change(&a, PersistentOut::Register, keyed(1, 0)).unwrap();
    assert_eq!(effects.notices, [(b, Sense::RESERVATIONS_RELEASED)]);
    assert!(all.allow(&c, &WRITE));
}

#[test]
fn what_all_hold_goes_with_the_last_of_them() {
    let (mut all, [a, b, c]) = registered();
    let kind = ReservationType::WriteExclusiveAll;
    all.change(&a, PersistentOut::Reserve(kind), keyed(1, 0)).unwrap();
    all.change(&a, PersistentOut::Register, keyed(1, 0)).unwrap();
    assert!(!all.allow(&c, &WRITE));
    all.change(&b, PersistentOut::Register, keyed(2, 0)).unwrap();
    assert!(all.allow(&c, &WRITE));
}

#[test]
fn only_the_holder_releases_and_only_what_it_holds() {
    let (mut all, [a, b, _]) = registered();
    let (kind, other) = (ReservationType::WriteExclusive, ReservationType::ExclusiveAccess);
    all.change(&a, PersistentOut::Reserve(kind), keyed(1, 0)).unwrap();
    all.change(&b, PersistentOut::Release(kind), keyed(2, 0)).unwrap();
    assert!(!all.allow(&b, &WRITE));
    let refused = all.change(&a, PersistentOut::Release(other), keyed(1, 0));
    assert_eq!(refused, Err(Refusal::Sense(Sense::INVALID_RELEASE)));
    all.change(&a, PersistentOut::Release(kind), keyed(1, 0)).unwrap();
    assert!(all.allow(&b, &WRITE));
}

#[test]
fn preempting_takes_registration_and_reservation() {
    let (mut all, [a, b, _]) = registered();
    let kind = ReservationType::ExclusiveAccess;
    all.change(&a, PersistentOut::Reserve(kind), keyed(1, 0)).unwrap();
    let effects = all.change(&b, PersistentOut::Preempt(kind), keyed(2, 1)).unwrap();
    assert_eq!(effects.removed, [Arc::clone(&a)]);
    assert_eq!(effects.notices, [(Arc::clone(&a), Sense::REGISTRATIONS_PREEMPTED)]);
    assert!(all.allow(&b, &WRITE) && !all.allow(&a, &READ));
    let nobody = all.change(&b, PersistentOut::Preempt(kind), keyed(2, 99));
    assert_eq!(nobody, Err(Refusal::Conflict));
}

#[test]
fn clearing_leaves_nothing() {
    let (mut all, [a, b, c]) = registered();
    all.change(&a, PersistentOut::Reserve(ReservationType::ExclusiveAccess), keyed(1, 0)).unwrap();
    let effects = all.change(&b, PersistentOut::Clear, keyed(2, 0)).unwrap();
    assert_eq!(effects.notices, [(a, Sense::RESERVATIONS_PREEMPTED)]);
    assert!(all.allow(&c, &WRITE));
    assert_eq!(all.report(PersistentIn::Keys)[4..], [0; 4]);
}

#[test]
fn the_older_kind_ends_with_its_owner() {
    let (mut all, [a, b, _]) = (Reservations::default(), ports());
    all.reserve_unit(&a);
    assert!(all.allow(&a, &WRITE) && !all.allow(&b, &READ) && !all.allow(&b, &Command::Reserve));
    assert!(all.allow(&b, &Command::Release));
    all.release_unit(&b);
    assert!(!all.allow(&b, &READ));
    all.release_unit(&a);
    assert!(all.allow(&b, &READ));
}

#[test]
fn the_two_kinds_do_not_mix() {
    let (all, [a, ..]) = registered();
    assert!(!all.allow(&a, &Command::Reserve));
}

#[test]
fn registrations_are_bounded() {
    let mut all = Reservations::default();
    for number in 0..MOST {
        let port = Port::from(number.to_string());
        all.change(&port, PersistentOut::Register, keyed(0, 1)).unwrap();
    }
    let refused = all.change(&Port::from("one more"), PersistentOut::Register, keyed(0, 1));
    assert_eq!(refused, Err(Refusal::Sense(Sense::NO_ROOM)));
}
