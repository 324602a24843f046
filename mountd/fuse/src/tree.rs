//! The folders and files there are, with their inode numbers.
//!
//! A tree is built anew from each listing. Inode numbers come from a table of paths that only
//! grows, so a file keeps its number for as long as the mount lives.

use std::collections::{BTreeMap, HashMap};

use fuser::FileType;

use crate::PointEntry;
use crate::name::{LATEST, file_name};

/// Inode number of the root.
pub(crate) const ROOT: u64 = 1;

/// What an inode is.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// The root, an instance, or a point.
    Folder,
    /// An image: instance, point and image as the catalogue knows them.
    Image { instance: String, point: String, image: String },
    /// A file whose content is known.
    Text(Vec<u8>),
    /// A link and its target.
    Link(String),
}

/// A file, folder, or link.
#[derive(Debug, Clone)]
pub(crate) struct Inode {
    pub(crate) number: u64,
    pub(crate) node: Node,
    pub(crate) size: u64,
    /// Space it takes, in bytes.
    pub(crate) used: u64,
    pub(crate) created_ms: u64,
    /// Names and numbers of what a folder holds.
    pub(crate) children: BTreeMap<String, u64>,
}

impl Inode {
    pub(crate) fn kind(&self) -> FileType {
        match self.node {
            Node::Folder => FileType::Directory,
            Node::Image { .. } | Node::Text(_) => FileType::RegularFile,
            Node::Link(_) => FileType::Symlink,
        }
    }
}

/// Numbers given to paths so far.
#[derive(Debug)]
pub(crate) struct Numbers {
    known: HashMap<String, u64>,
    next: u64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { known: HashMap::new(), next: ROOT + 1 }
    }
}

impl Numbers {
    fn of(&mut self, path: &str) -> u64 {
        if let Some(number) = self.known.get(path) {
            return *number;
        }
        let number = self.next;
        self.next += 1;
        self.known.insert(path.to_owned(), number);
        number
    }
}

/// All there is at a moment.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    inodes: HashMap<u64, Inode>,
}

impl Tree {
    /// The tree of these points.
    pub(crate) fn build(points: &[PointEntry], numbers: &mut Numbers) -> Self {
        let mut tree = Self::default();
        tree.add(None, "", ROOT, Node::Folder, (0, 0, 0));
        let mut newest: BTreeMap<String, &PointEntry> = BTreeMap::new();
        for point in points {
            let (instance, name) = (file_name(&point.instance), file_name(&point.name));
            let parent = numbers.of(&instance);
            if !tree.inodes.contains_key(&parent) {
                tree.add(Some(ROOT), &instance, parent, Node::Folder, (0, 0, point.created_ms));
            }
            if let Some(folder) = tree.inodes.get_mut(&parent) {
                folder.created_ms = folder.created_ms.max(point.created_ms);
            }
            tree.add_point(parent, &instance, &name, point, numbers);
            let latest = newest.entry(instance).or_insert(point);
            if (latest.created_ms, &latest.name) < (point.created_ms, &point.name) {
                *latest = point;
            }
        }
        for (instance, point) in newest {
            let target = file_name(&point.name);
            let number = numbers.of(&format!("{instance}/latest\0link"));
            let size = (target.len() as u64, 0, point.created_ms);
            let parent = numbers.of(&instance);
            tree.add(Some(parent), LATEST, number, Node::Link(target), size);
        }
        tree
    }

    fn add_point(
        &mut self,
        parent: u64,
        instance: &str,
        name: &str,
        point: &PointEntry,
        numbers: &mut Numbers,
    ) {
        let path = format!("{instance}/{name}");
        let (folder, created) = (numbers.of(&path), point.created_ms);
        self.add(Some(parent), name, folder, Node::Folder, (0, 0, created));
        for image in &point.images {
            let file = format!("{}.raw", file_name(&image.name));
            let node = Node::Image {
                instance: point.instance.clone(),
                point: point.name.clone(),
                image: image.name.clone(),
            };
            let number = numbers.of(&format!("{path}/{file}"));
            self.add(Some(folder), &file, number, node, (image.size, image.data_bytes, created));
        }
        let text = point.metadata.clone();
        let number = numbers.of(&format!("{path}/metadata.json"));
        let size = (text.len() as u64, text.len() as u64, created);
        self.add(Some(folder), "metadata.json", number, Node::Text(text), size);
    }

    fn add(
        &mut self,
        parent: Option<u64>,
        name: &str,
        number: u64,
        node: Node,
        (size, used, created_ms): (u64, u64, u64),
    ) {
        if let Some(parent) = parent.and_then(|parent| self.inodes.get_mut(&parent)) {
            parent.children.insert(name.to_owned(), number);
        }
        let children = BTreeMap::new();
        self.inodes.insert(number, Inode { number, node, size, used, created_ms, children });
    }

    /// The inode with this number.
    pub(crate) fn get(&self, number: u64) -> Option<&Inode> {
        self.inodes.get(&number)
    }

    /// What a folder has under this name.
    pub(crate) fn child(&self, folder: u64, name: &str) -> Option<&Inode> {
        self.get(*self.get(folder)?.children.get(name)?)
    }

    /// Number of inodes.
    pub(crate) fn len(&self) -> usize {
        self.inodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageEntry;

    fn point(instance: &str, name: &str, created_ms: u64) -> PointEntry {
        let images = vec![ImageEntry { name: "vda".into(), size: 100, data_bytes: 50 }];
        let metadata = b"{}".to_vec();
        PointEntry { instance: instance.into(), name: name.into(), created_ms, images, metadata }
    }

    #[test]
    fn numbers_stay_when_points_come_and_go() {
        let mut numbers = Numbers::default();
        let before = Tree::build(&[point("a", "p1", 1), point("a", "p2", 2)], &mut numbers);
        let after = Tree::build(&[point("a", "p2", 2), point("b", "p3", 3)], &mut numbers);
        let number = |tree: &Tree| {
            let instance = tree.child(ROOT, "a").unwrap().number;
            let point = tree.child(instance, "p2").unwrap().number;
            tree.child(point, "vda.raw").unwrap().number
        };
        assert_eq!(number(&before), number(&after));
        let a = after.child(ROOT, "a").unwrap().number;
        assert!(after.child(a, "p1").is_none());
        match &before.child(a, "latest").unwrap().node {
            Node::Link(target) => assert_eq!(target, "p2"),
            other => panic!("{other:?}"),
        }
    }
}
