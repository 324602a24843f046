//! Changing keys: of the ways in, and of the data. Whatever is interrupted, the repository
//! opens, and every point reads.

use std::sync::Arc;

use sluice_block::{BlockRead, ErrorKind as BlockKind};
use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Arbiter, Effect, Fault, Operation, Repaired, Rule};
use sluice_destination::{ByteRange, Destination, ErrorKind as DestinationKind, Key, list_all};
use sluice_engine::Change;
use sluice_repository::crypto::Secrets;
use sluice_repository::{
    Clock, Depth, ErrorKind, InitOptions, RecoveryKey, Repository, Result, RotateData, Standing,
    Unlock,
};

use crate::support::*;

fn word(text: &str) -> Unlock {
    Unlock::Passphrase(text.to_owned().into())
}

async fn with_recovery() -> (Arc<dyn Destination>, RecoveryKey) {
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let options = InitOptions { unlock: passphrase(), recovery: true, kdf: CHEAP, lock: None };
    let clock = Clock::system();
    let made = Repository::init(destination.clone(), clock, options, settings(None)).await;
    (destination, made.unwrap().1.unwrap())
}

async fn opens(destination: &Arc<dyn Destination>, unlock: Unlock) -> Result<Repository> {
    Repository::open(destination.clone(), Clock::system(), unlock, settings(None)).await
}

fn rotation() -> RotateData {
    let mine = "correct horse".to_owned().into();
    RotateData { passphrases: vec![mine], kdf: CHEAP, ..RotateData::default() }
}

async fn assert_points(repository: &Repository, disks: &[&[u8]]) {
    let points = repository.list(Some("vm")).await.unwrap().points;
    assert_eq!(points.len(), disks.len());
    for (point, bytes) in points.iter().zip(disks) {
        let image = repository.image(point, None).unwrap();
        assert!(read_all(&image).await == *bytes, "{point} differs");
    }
    let verified = repository.verify(None, Depth::Data, Arc::default()).await.unwrap();
    assert_eq!(verified.damage, []);
}

/// The data packs with the epoch their headers name.
async fn packs(destination: &Arc<dyn Destination>) -> Vec<(Key, u32)> {
    let mut found = Vec::new();
    for object in list_all(&**destination, "d/").await.unwrap() {
        let header = ByteRange::Span { offset: 48, length: 4 };
        let bytes = destination.get(&object.key, header).await.unwrap();
        found.push((object.key, u32::from_le_bytes(bytes[..].try_into().unwrap())));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn points_of_every_epoch_read_with_every_key_that_was_kept() {
    let (destination, recovery) = with_recovery().await;
    let (first, second, third) = (noise(1, 3 << 20), noise(2, 3 << 20), noise(3, 3 << 20));
    let mut disk = first.clone();
    back_up(&open(destination.clone()).await, &disk, Change::Rescan).await;
    let mut disks = vec![disk.clone()];
    for (epoch, new) in [(1, &second), (2, &third)] {
        let rotated = open(destination.clone()).await.rotate_data(&rotation()).await.unwrap();
        assert_eq!((rotated.epoch, rotated.kept.len(), rotated.dropped.len()), (epoch, 2, 0));
        let repository = open(destination.clone()).await;
        assert_eq!(repository.data_epoch(), epoch);
        // Half of the disk changes: the rest stays where it is, under its old epoch.
        let half = disk.len() / 2;
        disk[..half].copy_from_slice(&new[..half]);
        let point = back_up(&repository, &disk, Change::Rescan).await;
        assert_eq!(point.stats.new_bytes, half as u64);
        assert_eq!(point.stats.unchanged_bytes, half as u64);
        disks.push(disk.clone());
    }
    let disks: Vec<&[u8]> = disks.iter().map(Vec::as_slice).collect();
    for unlock in [passphrase(), Unlock::Recovery(recovery)] {
        assert_points(&opens(&destination, unlock).await.unwrap(), &disks).await;
    }
    let mut epochs: Vec<u32> = packs(&destination).await.iter().map(|(_, epoch)| *epoch).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, [0, 1, 2]);
    assert_eq!(list_all(&*destination, "keys/").await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn known_blocks_are_found_across_epochs_and_not_stored_again() {
    let folder = tempfile::tempdir().unwrap();
    let cached = || settings(Some(folder.path()));
    let (destination, repository) = new_repository().await;
    let disk = noise(5, 2 << 20);
    back_up(&repository, &disk, Change::Rescan).await;
    repository.rotate_data(&rotation()).await.unwrap();
    let clock = Clock::system();
    let after = Repository::open(destination.clone(), clock, passphrase(), cached()).await.unwrap();
    let images = vec![image("other", &disk, Change::Rescan)];
    let point = run(&after, images).await.unwrap().point;
    assert_eq!((point.stats.new_bytes, point.stats.dedup_bytes), (0, 2 << 20));
    let image = after.image(&point, None).unwrap();
    assert!(read_all(&image).await == disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_which_the_copy_of_format_failed_leaves_a_pair_that_opens() {
    let store = Fault::new(Arc::new(MemoryDestination::new()));
    let arbiter = Arc::new(MemoryDestination::new());
    let pair = Arc::new(Arbiter::new(store.clone(), arbiter));
    let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP, lock: None };
    let made = Repository::init(pair.clone(), Clock::system(), options, settings(None)).await;
    let repository = made.unwrap().0;
    back_up(&repository, &noise(1, 1 << 20), Change::Rescan).await;
    let away = Effect::Fail(DestinationKind::Unavailable);
    store.inject(Rule::new(away).on(Operation::PUTS).below("format").once());
    repository.rotate_data(&rotation()).await.unwrap();
    assert_eq!(store.injected(), 1);
    let opened = open(pair.clone()).await;
    assert_eq!(opened.data_epoch(), 1);
    assert_eq!(pair.repair_mirror().await.unwrap(), Repaired { copied: 1, removed: 0 });
    assert_points(&open(pair).await, &[&noise(1, 1 << 20)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_secrets_do_not_open_what_the_new_epoch_sealed() {
    let (destination, old) = new_repository().await;
    back_up(&old, &noise(1, 1 << 20), Change::Rescan).await;
    old.rotate_data(&rotation()).await.unwrap();
    let disk = noise(2, 1 << 20);
    let new = open(destination.clone()).await;
    back_up(&new, &disk, Change::Rescan).await;
    // It was opened before: it sees the point, and is not told that it is damaged.
    let points = old.list(Some("vm")).await.unwrap().points;
    let image = old.image(&points[1], None).unwrap();
    let error = image.read_at(0, &mut vec![0; 4096]).await.unwrap_err();
    assert!(format!("{error:?}").contains("data epoch 1"), "{error:?}");
    assert_ne!(error.kind(), BlockKind::Damaged);
    let error = old.verify(None, Depth::Data, Arc::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    // What it still writes is of its own epoch, and everybody reads that.
    let last = noise(3, 1 << 20);
    back_up(&old, &last, Change::Rescan).await;
    let epochs: Vec<u32> = packs(&destination).await.iter().map(|(_, epoch)| *epoch).collect();
    assert_eq!(epochs.iter().filter(|epoch| **epoch == 0).count(), 2);
    assert_points(&new, &[&noise(1, 1 << 20), &disk, &last]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_without_their_passphrase_are_dropped_only_when_asked_for() {
    let (destination, repository) = new_repository().await;
    let other = repository.add_passphrase("other", "another one", CHEAP).await.unwrap();
    let error = repository.rotate_data(&rotation()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains(&other), "{error}");
    for unlock in [passphrase(), word("another one")] {
        assert_eq!(opens(&destination, unlock).await.unwrap().data_epoch(), 0);
    }
    let mut both = rotation();
    both.passphrases.push("another one".to_owned().into());
    let rotated = repository.rotate_data(&both).await.unwrap();
    assert_eq!((rotated.kept.len(), rotated.dropped.len()), (2, 0));
    for unlock in [passphrase(), word("another one")] {
        assert_eq!(opens(&destination, unlock).await.unwrap().data_epoch(), 1);
    }
    let drop = RotateData { drop_others: true, ..rotation() };
    let rotated = open(destination.clone()).await.rotate_data(&drop).await.unwrap();
    assert_eq!((rotated.kept.len(), rotated.dropped.len()), (1, 1));
    assert_eq!(opens(&destination, passphrase()).await.unwrap().data_epoch(), 2);
    let error = opens(&destination, word("another one")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_slot_that_a_stranger_put_there_gets_no_new_secret() {
    let (destination, repository) = new_repository().await;
    // Whoever can write to the destination can put a slot there, but not vouch for it.
    let (_, strange) = new_repository().await;
    let (name, key) = strange.add_recovery("mine").await.unwrap();
    let path = Key::new(format!("keys/{name}")).unwrap();
    let forged = strange.destination().get(&path, ByteRange::Full).await.unwrap();
    destination.put(&path, forged).await.unwrap();
    let error = repository.rotate_data(&rotation()).await.unwrap_err();
    assert!(error.to_string().contains(&name), "{error}");
    let drop = RotateData { drop_others: true, ..rotation() };
    assert_eq!(repository.rotate_data(&drop).await.unwrap().dropped, [name]);
    let error = opens(&destination, Unlock::Recovery(key)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_change_the_data_key_one_wins_and_the_repository_opens() {
    let (destination, one) = new_repository().await;
    let two = open(destination.clone()).await;
    let late = open(destination.clone()).await;
    let choice = rotation();
    let (first, second) = tokio::join!(one.rotate_data(&choice), two.rotate_data(&choice));
    let won = [&first, &second].into_iter().filter(|done| done.is_ok()).count();
    assert_eq!(won, 1, "{first:?} {second:?}");
    assert_eq!(late.rotate_data(&choice).await.unwrap_err().kind(), ErrorKind::Conflict);
    let error = late.add_passphrase("late", "too late", CHEAP).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let after = open(destination.clone()).await;
    assert_eq!(after.data_epoch(), 1);
    let check = after.check_key().await.unwrap();
    assert_eq!(check.left_behind, Vec::<String>::new());
    assert_eq!(list_all(&*destination, "keys/").await.unwrap().len(), 1);
}

/// Changes a field of a key slot, as its bytes lie there; nothing takes it away.
async fn edit(destination: &dyn Destination, key: &Key, field: &str, value: Option<&str>) {
    let bytes = destination.get(key, ByteRange::Full).await.unwrap();
    let mut slot: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let fields = slot.as_object_mut().unwrap();
    fields.remove("check");
    match value {
        Some(value) => fields.insert(field.to_owned(), value.into()),
        None => fields.remove(field),
    };
    destination.put(key, slot.to_string().into()).await.unwrap();
}

async fn slots(destination: &dyn Destination) -> Vec<Key> {
    let all = list_all(destination, "keys/").await.unwrap();
    all.into_iter().map(|object| object.key).collect()
}

/// Takes the vouchers away: slots as an earlier version made them.
async fn as_before(destination: &dyn Destination) {
    for key in slots(destination).await {
        edit(destination, &key, "voucher", None).await;
    }
}

/// Puts a slot of another repository there, under this name.
async fn plant(destination: &dyn Destination, strange: &Repository, slot: &str, name: &str) -> Key {
    let from = Key::new(format!("keys/{slot}")).unwrap();
    let bytes = strange.destination().get(&from, ByteRange::Full).await.unwrap();
    let to = Key::new(format!("keys/{name}")).unwrap();
    destination.put(&to, bytes).await.unwrap();
    to
}

async fn standing(repository: &Repository, name: &str) -> Standing {
    let slots = repository.key_slots().await.unwrap();
    slots.into_iter().find(|slot| slot.name == name).unwrap().standing.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_slot_stays_whatever_a_stranger_puts_beside_it() {
    let (destination, _) = new_repository().await;
    let repository = open(destination.clone()).await;
    let (_, strange) = new_repository().await;
    let main = strange.add_passphrase("main", "mine", CHEAP).await.unwrap();
    let (recovery, _) = strange.add_recovery("recovery").await.unwrap();
    plant(&*destination, &strange, &main, "000000000001").await;
    let bare = plant(&*destination, &strange, &recovery, "000000000002").await;
    assert_eq!(standing(&repository, "000000000001").await, Standing::Forged);
    edit(&*destination, &bare, "voucher", None).await;
    assert_eq!(standing(&repository, "000000000002").await, Standing::Unknown);
    let own = repository.opened_by().to_owned();
    assert_eq!(standing(&repository, &own).await, Standing::Vouched);
    let refused = repository.remove_key_slot(&own).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("000000000002"), "{refused}");
    let check = repository.check_key().await.unwrap();
    assert_eq!((check.standing, check.not_vouched.len()), (Standing::Vouched, 2));
    // A real one beside it, and it may go; what the stranger put there as well.
    let other = repository.add_passphrase("other", "another one", CHEAP).await.unwrap();
    repository.remove_key_slot(&own).await.unwrap();
    let opened = opens(&destination, word("another one")).await.unwrap();
    for name in ["000000000001", "000000000002"] {
        opened.remove_key_slot(name).await.unwrap();
    }
    let refused = opened.remove_key_slot(&other).await.unwrap_err().to_string();
    assert!(refused.contains("last key slot"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_changed_or_renamed_is_not_counted_on() {
    let (destination, _) = with_recovery().await;
    let repository = opens(&destination, passphrase()).await.unwrap();
    let own = repository.opened_by().to_owned();
    let mut names = slots(&*destination).await.into_iter();
    let other = names.find(|key| !key.as_str().ends_with(&own)).unwrap();
    let name = other.as_str().trim_start_matches("keys/").to_owned();
    assert_eq!(standing(&repository, &name).await, Standing::Vouched);
    let sound = destination.get(&other, ByteRange::Full).await.unwrap();
    // Its public key stays what it was, so that alone tells nothing of what is wrapped for it.
    edit(&*destination, &other, "wrapped", Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")).await;
    assert_eq!(standing(&repository, &name).await, Standing::Forged);
    assert!(repository.remove_key_slot(&own).await.is_err());
    destination.put(&other, sound).await.unwrap();
    plant(&*destination, &repository, &name, "000000000001").await;
    destination.delete(&other).await.unwrap();
    assert_eq!(standing(&repository, "000000000001").await, Standing::Forged);
    assert!(repository.remove_key_slot(&own).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_of_an_earlier_version_are_made_anew_as_far_as_they_are_known() {
    let (destination, recovery) = with_recovery().await;
    let first = opens(&destination, passphrase()).await.unwrap();
    first.add_passphrase("other", "another one", CHEAP).await.unwrap();
    as_before(&*destination).await;
    let repository = opens(&destination, passphrase()).await.unwrap();
    let own = repository.opened_by().to_owned();
    assert_eq!(standing(&repository, &own).await, Standing::Opened);
    let done = repository.vouch(&[]).await.unwrap();
    assert_eq!((done.renewed.len(), done.unknown.len()), (2, 1));
    let other = done.unknown[0].clone();
    let refused = repository.vouch(std::slice::from_ref(&other)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "a passphrase is proven by itself");
    // Its holder vouches for the last one, and all open as before.
    let holder = opens(&destination, word("another one")).await.unwrap();
    assert_eq!(holder.vouch(&[]).await.unwrap().renewed[0].0, other);
    let again = opens(&destination, passphrase()).await.unwrap();
    assert_eq!(again.vouch(&[]).await.unwrap(), Default::default());
    for slot in again.key_slots().await.unwrap() {
        assert_eq!(slot.standing, Some(Standing::Vouched));
    }
    for unlock in [passphrase(), word("another one"), Unlock::Recovery(recovery)] {
        opens(&destination, unlock).await.unwrap();
    }
    assert_eq!(slots(&*destination).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn vouchers_are_of_the_epoch_that_their_slot_has() {
    let (destination, _) = with_recovery().await;
    let repository = opens(&destination, passphrase()).await.unwrap();
    let rotated = repository.rotate_data(&rotation()).await.unwrap();
    assert_eq!(rotated.kept.len(), 2);
    let after = opens(&destination, passphrase()).await.unwrap();
    for (_, name) in &rotated.kept {
        assert_eq!(standing(&after, name).await, Standing::Vouched);
        // Who has only the master key can neither tell nor make one.
        assert_eq!(standing(&repository, name).await, Standing::Unknown);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_key_is_not_given_a_stranger_s_key_that_was_wrapped_for_it() {
    for epochs in [0, 1] {
        let (destination, recovery) = with_recovery().await;
        let repository = opens(&destination, passphrase()).await.unwrap();
        let real = repository.key_slots().await.unwrap();
        let real = real.into_iter().find(|one| one.name != repository.opened_by()).unwrap();
        // The public key stands in the slot: whoever reads it can wrap anything for it.
        let (id, strange) = (repository.descriptor().id().unwrap(), Secrets::generate().unwrap());
        let forged = real.slot.unwrap().rewrapped(id, &strange, [5; 44]).unwrap().unwrap();
        for name in ["000000000000", "zzzzzzzzzzzz"] {
            let key = Key::new(format!("keys/{name}")).unwrap();
            destination.put(&key, forged.encode().into()).await.unwrap();
        }
        let refused = opens(&destination, Unlock::Recovery(recovery.clone())).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WrongKey, "nothing there tells which is right");
        assert!(refused.to_string().contains(&real.name), "{refused}");
        if epochs > 0 {
            let drop = RotateData { drop_others: true, ..rotation() };
            repository.rotate_data(&drop).await.unwrap();
        }
        let disk = noise(1, 1 << 20);
        back_up(&opens(&destination, passphrase()).await.unwrap(), &disk, Change::Rescan).await;
        for name in ["000000000000", "zzzzzzzzzzzz"] {
            let key = Key::new(format!("keys/{name}")).unwrap();
            destination.put(&key, forged.encode().into()).await.unwrap();
        }
        let opened = opens(&destination, Unlock::Recovery(recovery)).await.unwrap();
        assert_points(&opened, &[&disk]).await;
    }
}

/// Runs `change` with a crash at each of its writes, and looks at what is left.
async fn crashes<C, Fut>(effect: Effect, change: C, new_word: Option<&str>)
where
    C: Fn(Repository) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let (before, after) = (noise(1, 1 << 20), noise(2, 1 << 20));
    for step in 0.. {
        let (destination, recovery) = with_recovery().await;
        back_up(&open(destination.clone()).await, &before, Change::Rescan).await;
        let fault = Fault::new(destination.clone());
        fault.inject(Rule::new(effect).on(Operation::WRITES).skip(step).once());
        let faulty: Arc<dyn Destination> = fault.clone();
        let done = change(opens(&faulty, passphrase()).await.unwrap()).await;
        let mut ways = vec![opens(&destination, passphrase()).await];
        if let Some(new_word) = new_word {
            ways.push(opens(&destination, word(new_word)).await);
        }
        let opened = ways.into_iter().find_map(Result::ok);
        let opened = opened.unwrap_or_else(|| panic!("nothing opens after step {step}"));
        assert_points(&opened, &[&before]).await;
        // Both go on with it: who has the passphrase, and who has the recovery key.
        back_up(&opened, &after, Change::Rescan).await;
        let recovered = opens(&destination, Unlock::Recovery(recovery)).await.unwrap();
        assert_points(&recovered, &[&before, &after]).await;
        // What was interrupted can be done, and leaves nothing behind.
        let again = rotation();
        let mut options = again.clone();
        options.passphrases.extend(new_word.map(|word| word.to_owned().into()));
        let slots = opened.rotate_data(&options).await.unwrap();
        assert_eq!(slots.dropped.len() + slots.left_behind.len(), 0);
        let kept = list_all(&*destination, "keys/").await.unwrap().len();
        assert_eq!(kept, slots.kept.len());
        if done.is_ok() && !fault.is_dead() {
            assert!(step > 1, "nothing was interrupted");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_new_epoch_leaves_a_repository_that_opens() {
    let rotate = |one: Repository| async move { one.rotate_data(&rotation()).await.map(drop) };
    for effect in [Effect::Die, Effect::DieAfter] {
        crashes(effect, rotate, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_new_passphrase_leaves_a_repository_that_opens() {
    let change = |one: Repository| async move {
        one.change_passphrase(None, "battery staple", CHEAP).await.map(drop)
    };
    for effect in [Effect::Die, Effect::DieAfter] {
        crashes(effect, change, Some("battery staple")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_vouching_leaves_a_repository_that_opens() {
    let vouch = |one: Repository| async move {
        let destination = one.destination().clone();
        for key in slots(&*destination).await {
            let bytes = destination.get(&key, ByteRange::Full).await?;
            let text = String::from_utf8(bytes.to_vec()).unwrap().replace("voucher", "nothing");
            destination.put(&key, text.into()).await?;
        }
        opens(&destination, passphrase()).await?.vouch(&[]).await.map(drop)
    };
    for effect in [Effect::Die, Effect::DieAfter] {
        crashes(effect, vouch, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_passphrase_opens_and_the_old_one_does_not() {
    let (destination, _) = new_repository().await;
    let repository = open(destination.clone()).await;
    let (old, new) = repository.change_passphrase(None, "battery staple", CHEAP).await.unwrap();
    assert_ne!(old, new);
    assert_eq!(opens(&destination, passphrase()).await.unwrap_err().kind(), ErrorKind::WrongKey);
    let opened = opens(&destination, word("battery staple")).await.unwrap();
    assert_eq!(opened.opened_by(), new);
    assert_eq!(opened.check_key().await.unwrap().proven, Vec::<String>::new());
    back_up(&opened, &noise(1, 1 << 20), Change::Rescan).await;
    assert_eq!(opened.check_key().await.unwrap().proven.len(), 2);
    // The slot of a recovery key has no passphrase to change.
    let (slot, _) = opened.add_recovery("r").await.unwrap();
    let refused = opened.change_passphrase(Some(&slot), "x", CHEAP).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_check_finds_a_sealed_object_that_does_not_open() {
    let (destination, repository) = new_repository().await;
    back_up(&repository, &noise(1, 1 << 20), Change::Rescan).await;
    for prefix in ["d/", "r/"] {
        let object = list_all(&*destination, prefix).await.unwrap().remove(0).key;
        let sound = destination.get(&object, ByteRange::Full).await.unwrap();
        let mut bad = sound.to_vec();
        bad[200] ^= 1;
        destination.put(&object, bad.into()).await.unwrap();
        let error = open(destination.clone()).await.check_key().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{prefix}");
        destination.put(&object, sound).await.unwrap();
    }
    open(destination.clone()).await.check_key().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_epoch_record_does_not_take_the_backups_away() {
    let (destination, repository) = new_repository().await;
    repository.rotate_data(&rotation()).await.unwrap();
    let disk = noise(1, 1 << 20);
    back_up(&open(destination.clone()).await, &disk, Change::Rescan).await;
    let record = list_all(&*destination, "e/").await.unwrap().remove(0).key;
    destination.put(&record, "rubbish".into()).await.unwrap();
    let after = open(destination.clone()).await;
    assert_eq!(after.data_epoch(), 1);
    assert_points(&after, &[&disk]).await;
}
