//! What is counted, against a count that keeps every reference of every block in sets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::{ByteRange, Destination, list_all};

use super::{Share, StatOptions, StatProgress, StatReport};
use crate::format::FANOUT;
use crate::format::id::{PackId, PackKind};
use crate::format::page::{Entry, Page};
use crate::{
    Base, Clock, CommitInfo, InitOptions, KdfCost, Repository, RestorePoint, SessionOptions,
    Settings, Unlock,
};

const BLOCK: usize = 64 << 10;
const NAMES: [&str; 4] = ["a-1", "a-2", "b-1", "lone"];

async fn repository() -> (Arc<dyn Destination>, Repository) {
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let options =
        InitOptions { unlock: Unlock::Open, recovery: false, kdf: KdfCost::default(), lock: None };
    let settings = Settings { threads: 2, ..Settings::default() };
    let made = Repository::init(destination.clone(), Clock::system(), options, settings);
    (destination, made.await.unwrap().0)
}

/// A point of one image, whose blocks are filled with these bytes; 0 is a hole.
async fn back_up(
    repository: &Repository,
    instance: &str,
    metadata: Option<&str>,
    fill: &[u8],
) -> RestorePoint {
    let session = repository.begin(instance, &SessionOptions::default()).await.unwrap();
    let size = (fill.len() * BLOCK) as u64;
    let image = session.image("disk", "", size, BLOCK as u32, Base::Empty, true).unwrap();
    for (leaf, part) in fill.chunks(FANOUT).enumerate() {
        let content: Vec<u8> = part.iter().flat_map(|byte| vec![*byte; BLOCK]).collect();
        let parent = image.parent_leaf(leaf as u64).await.unwrap();
        let writer = image.clone();
        let store = move || writer.store(&content, 0, parent.as_deref(), None);
        let mut page = Page::empty(0);
        for (at, entry) in repository.pool().run(store).await.unwrap().unwrap().iter().enumerate() {
            page.set(at, *entry);
        }
        image.set_leaf(leaf as u64, page).await.unwrap();
    }
    let record = image.finish().await.unwrap();
    drop(image);
    let info = CommitInfo { metadata: metadata.map(str::to_owned), ..CommitInfo::default() };
    session.commit(vec![record], info).await.unwrap()
}

async fn stat(repository: &Repository) -> StatReport {
    let options = StatOptions { name_separator: Some("-".into()) };
    repository.stat(&options, &StatProgress::default()).await.unwrap()
}

/// Every slot, with its bytes and the instances that need it.
type Model = BTreeMap<(PackKind, PackId, u16), (u64, BTreeSet<String>)>;

fn reference(model: &mut Model, kind: PackKind, entry: &Entry, by: &str) {
    let at = (kind, entry.location.pack, entry.location.slot);
    let (bytes, all) = model.entry(at).or_default();
    *bytes = u64::from(entry.location.stored_len);
    all.insert(by.to_owned());
}

async fn model(repository: &Repository, points: &[RestorePoint]) -> Model {
    let mut model = Model::new();
    for point in points {
        let by = point.instance.as_str();
        for record in &point.images {
            let image = repository.shared.open_image(point, record).unwrap();
            for top in &image.inner.directory {
                let top = Entry { id: top.digest, location: top.location };
                reference(&mut model, PackKind::Meta, &top, by);
                for page in repository.shared.pages(&[top], 1, BLOCK as u32).await.unwrap() {
                    for (_, leaf) in page.iter() {
                        reference(&mut model, PackKind::Meta, leaf, by);
                        let leaves = repository.shared.pages(&[*leaf], 0, BLOCK as u32).await;
                        for (_, chunk) in leaves.unwrap()[0].iter() {
                            reference(&mut model, PackKind::Data, chunk, by);
                        }
                    }
                }
            }
        }
    }
    model
}

/// What a set of instances has alone and with others.
fn share(model: &Model, of: PackKind, who: &[&str]) -> Share {
    let mut share = Share::default();
    let mine = |by: &String| who.contains(&by.as_str());
    for ((_, _, _), (bytes, by)) in model.iter().filter(|((kind, _, _), _)| *kind == of) {
        match (by.iter().any(mine), by.iter().all(mine)) {
            (true, true) => share.unique += bytes,
            (true, false) => share.shared += bytes,
            (false, _) => {}
        }
    }
    share
}

async fn counts_as_the_model(plan: Vec<(usize, Vec<u8>)>) {
    let (_, repository) = repository().await;
    let mut points = Vec::new();
    for (who, fill) in plan {
        points.push(back_up(&repository, NAMES[who], None, &fill).await);
    }
    let model = model(&repository, &points).await;
    let report = stat(&repository).await;
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    for one in &report.instances {
        let mine = points.iter().filter(|point| point.instance == one.name);
        let data = mine.clone().map(|point| point.images[0].data_blocks * BLOCK as u64).sum();
        let logical = mine.clone().map(|point| point.images[0].size).sum();
        let latest = mine.clone().map(|point| point.images[0].size).next_back().unwrap();
        let blocks = model
            .iter()
            .filter(|((kind, _, _), (_, by))| *kind == PackKind::Data && by.contains(&one.name));
        assert_eq!((one.points, one.instances), (mine.count() as u64, 1));
        assert_eq!((one.logical, one.latest, one.data), (logical, latest, data), "{one:?}");
        assert_eq!(one.content, (blocks.count() * BLOCK) as u64, "{one:?}");
        assert_eq!(one.chunks, share(&model, PackKind::Data, &[&one.name]), "{one:?}");
        assert_eq!(one.maps, share(&model, PackKind::Meta, &[&one.name]), "{one:?}");
    }
    for project in &report.projects {
        let of = |name: &&str| name.split_once('-').map(|(first, _)| first.to_owned());
        let names: Vec<&str> = NAMES.into_iter().filter(|n| of(n) == project.project).collect();
        let mine = points.iter().filter(|point| names.contains(&point.instance.as_str()));
        assert_eq!(project.points, mine.count() as u64, "{project:?}");
        assert_eq!(project.chunks, share(&model, PackKind::Data, &names), "{project:?}");
        assert_eq!(project.maps, share(&model, PackKind::Meta, &names), "{project:?}");
    }
    let all = share(&model, PackKind::Data, &NAMES);
    assert_eq!(all, Share { unique: report.chunks, shared: 0 });
    let names: BTreeSet<&str> = points.iter().map(|point| point.instance.as_str()).collect();
    assert_eq!(report.instances.len(), names.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn instances_and_projects_have_what_sets_of_references_say(
        plan in proptest::collection::vec(
            (0..NAMES.len(), proptest::collection::vec(0u8..6, 1..12)), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(counts_as_the_model(plan));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_point_names_the_project_and_a_name_helps_where_none_does() {
    let (_, repository) = repository().await;
    back_up(&repository, "a-1", Some(r#"{"project": "old"}"#), &[1]).await;
    back_up(&repository, "a-1", Some(r#"{"cpus": 2, "project": "shop"}"#), &[2]).await;
    back_up(&repository, "b-1", Some(r#"{"project": 7}"#), &[3]).await;
    back_up(&repository, "lone", Some(r#"["project"]"#), &[4]).await;
    let projects = |report: StatReport| -> Vec<(String, Option<String>)> {
        report.instances.into_iter().map(|one| (one.name, one.project)).collect()
    };
    let pair = |name: &str, project: Option<&str>| (name.into(), project.map(str::to_owned));
    assert_eq!(
        projects(stat(&repository).await),
        [pair("lone", None), pair("b-1", Some("b")), pair("a-1", Some("shop"))]
    );
    let plain = repository.stat(&StatOptions::default(), &StatProgress::default()).await.unwrap();
    assert_eq!(plain.projects.len(), 2);
    assert_eq!(projects(plain), [pair("b-1", None), pair("lone", None), pair("a-1", Some("shop"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_removed_point_had_is_unreferenced() {
    let (_, repository) = repository().await;
    let gone = back_up(&repository, "a-1", None, &[1, 2, 3]).await;
    back_up(&repository, "a-1", None, &[1]).await;
    let before = stat(&repository).await;
    repository.forget(&gone, "test", "").await.unwrap();
    let after = stat(&repository).await;
    assert_eq!((before.instances[0].points, after.instances[0].points), (2, 1));
    let freed = before.chunks + before.maps - after.chunks - after.maps;
    assert!(freed > 0);
    assert!(after.unreferenced >= before.unreferenced + freed, "{after:?}");
    assert_eq!(after.pending, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_and_the_rest_is_counted() {
    let (destination, repository) = repository().await;
    let broken = back_up(&repository, "a-1", None, &[1, 2]).await;
    back_up(&repository, "b-1", None, &[3]).await;
    let session = broken.images[0].packs[0].session();
    for object in list_all(&*destination, "m/").await.unwrap() {
        let pack = super::parse_pack_key(&object.key).unwrap().0.1;
        if pack.session() == session {
            let mut bytes = destination.get(&object.key, ByteRange::Full).await.unwrap().to_vec();
            bytes[100..].iter_mut().for_each(|byte| *byte ^= 1);
            destination.put(&object.key, bytes.into()).await.unwrap();
        }
    }
    let fresh =
        Repository::open(destination.clone(), Clock::system(), Unlock::Open, Settings::default());
    let report = stat(&fresh.await.unwrap()).await;
    assert!(!report.damage.is_empty());
    let [broken, sound] = &report.instances[..] else { panic!("{report:?}") };
    assert!(broken.damaged && !sound.damaged);
    assert_eq!((broken.content, sound.content), (0, BLOCK as u64));
    assert!(sound.chunks.unique > 0);
}
