//! What a reader proves damaged is recorded beside the reading, and the next backup heals it with
//! no verification in between.

use std::sync::Arc;

use bytes::Bytes;
use sluice_block::BlockRead;
use sluice_destination::wrap::{Effect, Fault, Operation, Rule};
use sluice_destination::{ByteRange, Destination, ErrorKind, Key, list_all};
use sluice_engine::Change;
use sluice_repository::{Depth, Recorded, Repository, RestorePoint};

use crate::support::*;

/// A repository with one point, a harmed pack, and another way to it that can misbehave.
struct Patient {
    destination: Arc<dyn Destination>,
    bytes: Vec<u8>,
    first: RestorePoint,
    pack: Key,
    was: Bytes,
    fault: Arc<Fault>,
    reader: Repository,
}

impl Patient {
    async fn new(prefix: &str) -> Self {
        let (destination, repository) = new_repository().await;
        let mut bytes = vec![0; 20 << 20];
        bytes[..1 << 20].copy_from_slice(&noise(1, 1 << 20));
        bytes[17 << 20..18 << 20].copy_from_slice(&noise(2, 1 << 20));
        let first = back_up(&repository, &bytes, Change::Rescan).await;
        let pack = keys(&destination, prefix).await.remove(0);
        let was = destination.get(&pack, ByteRange::Full).await.unwrap();
        let fault = Fault::new(destination.clone());
        let reader = open(fault.clone()).await;
        Self { destination, bytes, first, pack, was, fault, reader }
    }

    /// Flips a bit in the first slot.
    async fn harm(&self) {
        let mut bytes = self.was.to_vec();
        bytes[70] ^= 1;
        self.destination.put(&self.pack, bytes.into()).await.unwrap();
    }

    /// Reads the image piece by piece, past what fails; how many pieces failed.
    async fn read(&self) -> usize {
        let image = self.reader.image(&self.first, None).unwrap();
        let mut piece = vec![0; BLOCK as usize];
        let mut failed = 0;
        for offset in (0..image.size()).step_by(BLOCK as usize) {
            match image.read_at(offset, &mut piece).await {
                Ok(()) => assert!(piece == self.bytes[offset as usize..][..BLOCK as usize]),
                Err(_) => failed += 1,
            }
        }
        failed
    }

    async fn records(&self) -> usize {
        keys(&self.destination, "b/").await.len()
    }

    async fn heals(&self, what: &str) {
        let fresh = open(self.destination.clone()).await;
        let second = back_up(&fresh, &self.bytes, Change::Regions).await;
        let fresh = open(self.destination.clone()).await;
        let report =
            fresh.verify(Some(vec![second.clone()]), Depth::Data, Arc::default()).await.unwrap();
        assert_eq!(report.damage, [], "{what}");
        assert!(read_all(&fresh.image(&second, None).unwrap()).await == self.bytes, "{what}");
    }
}

async fn keys(destination: &Arc<dyn Destination>, prefix: &str) -> Vec<Key> {
    let objects = list_all(&**destination, prefix).await.unwrap();
    objects.into_iter().map(|object| object.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_meets_is_healed_by_the_next_backup() {
    for prefix in ["d/", "m/"] {
        let patient = Patient::new(prefix).await;
        patient.harm().await;
        assert!(patient.read().await > 0, "{prefix}");
        let once = Recorded { bad: 1, healed: 0 };
        assert_eq!(patient.reader.settle_damage_met().await, once, "{prefix}");
        assert_eq!(patient.records().await, 1, "{prefix}");
        // Neither this process nor another one says it twice.
        assert!(patient.read().await > 0, "{prefix}");
        assert_eq!(patient.reader.settle_damage_met().await, once, "{prefix}");
        let other = open(patient.destination.clone()).await;
        let mut all = vec![0; patient.bytes.len()];
        other.image(&patient.first, None).unwrap().read_at(0, &mut all).await.unwrap_err();
        assert_eq!(other.settle_damage_met().await, Recorded::default(), "{prefix}");
        assert_eq!(patient.records().await, 1, "{prefix}");
        patient.heals(prefix).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_pack_is_recorded_unless_its_point_was_removed() {
    for removed in [false, true] {
        let patient = Patient::new("d/").await;
        let image = patient.reader.image(&patient.first, None).unwrap();
        patient.destination.delete(&patient.pack).await.unwrap();
        if removed {
            patient.reader.forget(&patient.first, "test", "").await.unwrap();
        }
        let mut bytes = vec![0; BLOCK as usize];
        image.read_at(0, &mut bytes).await.unwrap_err();
        let recorded = patient.reader.settle_damage_met().await;
        assert_eq!(recorded.bad, usize::from(!removed), "{removed}");
        assert_eq!(patient.records().await, usize::from(!removed), "{removed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_network_does_to_a_read_is_not_recorded() {
    let effects = [
        Effect::FlipBit(8 * 1000),
        Effect::Truncate(100),
        Effect::Fail(ErrorKind::Unavailable),
        Effect::Fail(ErrorKind::AccessDenied),
    ];
    for effect in effects {
        let patient = Patient::new("d/").await;
        patient.fault.inject(Rule::new(effect).on(&[Operation::Get]).below("d/").once());
        assert!(patient.read().await > 0, "{effect:?}");
        assert_eq!(patient.reader.settle_damage_met().await, Recorded::default(), "{effect:?}");
        assert_eq!(patient.records().await, 0, "{effect:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_write_reads_on_and_asks_once() {
    for kind in [ErrorKind::AccessDenied, ErrorKind::ReadOnly] {
        let patient = Patient::new("d/").await;
        patient.harm().await;
        patient.fault.inject(Rule::new(Effect::Fail(kind)).on(Operation::WRITES));
        assert_eq!(patient.read().await, 1, "the one block that is damaged fails");
        assert_eq!(patient.reader.settle_damage_met().await, Recorded::default());
        assert_eq!(patient.fault.injected(), 1, "one record was tried");
        // With a pin it is known before.
        let other = open(patient.fault.clone()).await;
        let pin = other.pin(&patient.first, "test").await.unwrap();
        let mut all = vec![0; patient.bytes.len()];
        other.image(&patient.first, None).unwrap().read_at(0, &mut all).await.unwrap_err();
        assert_eq!(other.settle_damage_met().await, Recorded::default());
        assert_eq!(patient.fault.injected(), 2, "the pin was tried");
        pin.release().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_stalls_holds_up_no_read_and_one_that_fails_is_tried_again() {
    let patient = Patient::new("d/").await;
    patient.harm().await;
    patient.fault.inject(Rule::new(Effect::Stall).below("b/").once());
    // Also the damaged block fails as it always does.
    assert_eq!(patient.read().await, 1);
    assert_eq!(patient.read().await, 1);
    assert_eq!(patient.records().await, 0);

    let patient = Patient::new("d/").await;
    patient.harm().await;
    let lost = Rule::new(Effect::Fail(ErrorKind::Unavailable)).on(Operation::PUTS).below("b/");
    patient.fault.inject(lost.once());
    assert_eq!(patient.read().await, 1);
    assert_eq!(patient.reader.settle_damage_met().await, Recorded::default());
    assert_eq!(patient.read().await, 1);
    assert_eq!(patient.reader.settle_damage_met().await, Recorded { bad: 1, healed: 0 });
    patient.heals("tried again").await;
}
