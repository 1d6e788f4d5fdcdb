//! The plan of a volume: which directories there are, and which short names stand for the real ones.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::directory;
use crate::files::Entry;

/// Levels of directories, the root being the first (ECMA-119 6.8.2.1).
const MAX_DEPTH: usize = 8;

/// What keeps files from being laid out as an ISO 9660 volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A path that names no file.
    #[error("{path:?} is no path of a file: components must not be empty, \".\" or \"..\"")]
    BadPath {
        /// The path.
        path: String,
    },
    /// One path is a file, another has it as a directory.
    #[error("{path:?} is both a file and a directory")]
    FileAndDirectory {
        /// The path.
        path: String,
    },
    /// The name has no room in a directory record.
    #[error("the name {name:?} is longer than {} bytes", directory::NAME_MAX)]
    NameTooLong {
        /// The name.
        name: String,
    },
    /// Too many levels.
    #[error("{path:?} lies deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// The path.
        path: String,
    },
    /// Path tables count directories in 16 bits.
    #[error("there are more than {} directories", u16::MAX)]
    TooManyDirectories,
    /// Lengths are counted in 32 bits.
    #[error("{name:?} is larger than 4 GiB, which the volume cannot hold")]
    FileTooLarge {
        /// Path in the volume.
        name: String,
    },
    /// Blocks are counted in 32 bits.
    #[error("the volume would be larger than 8 TiB")]
    VolumeTooLarge,
}

/// Where bytes lie in the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Extent {
    pub(super) block: u32,
    pub(super) bytes: u32,
}

/// Everything in the volume, in the order it is written.
#[derive(Debug)]
pub(super) struct Tree {
    /// Parents before their children; the root is the first. Also the order of the path tables.
    pub(super) directories: Vec<Directory>,
    /// In the order of the volume's paths.
    pub(super) files: Vec<FileNode>,
}

/// One directory.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) parent: usize,
    pub(super) short: ShortName,
    /// Sorted by short name.
    pub(super) children: Vec<Child>,
    pub(super) extent: Extent,
}

/// One file.
#[derive(Debug)]
pub(super) struct FileNode {
    pub(super) executable: bool,
    pub(super) extent: Extent,
}

/// An entry of a directory.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) name: String,
    pub(super) short: ShortName,
    pub(super) node: Node,
}

/// What an entry is, by its position in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Directory(usize),
    File(usize),
}

/// A name of up to eight and three capitals, digits and underscores, as plain ISO 9660 wants it. Ordered as ECMA-119 9.3 asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct ShortName {
    stem: String,
    extension: String,
}

impl Tree {
    pub(super) fn plan(files: &BTreeMap<String, Entry>) -> Result<Self, LayoutError> {
        let mut builder = Builder::default();
        for (path, entry) in files {
            builder.add(path, entry)?;
        }
        builder.finish()
    }
}

/// Collects the tree in the order of the paths.
#[derive(Debug)]
struct Builder {
    nodes: Vec<Directory>,
    /// Index in `nodes` by path.
    by_path: HashMap<String, usize>,
    files: Vec<FileNode>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: vec![Directory::default()],
            by_path: HashMap::from([(String::new(), 0)]),
            files: Vec::new(),
        }
    }
}

impl Builder {
    fn add(&mut self, path: &str, entry: &Entry) -> Result<(), LayoutError> {
        for name in path.split('/') {
            check_name(path, name)?;
        }
        let (parent_path, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.directory(parent_path, path)?;
        if self.by_path.contains_key(path) {
            return Err(LayoutError::FileAndDirectory {
                path: path.to_owned(),
            });
        }
        let node = Node::File(self.files.len());
        self.files.push(FileNode {
            executable: entry.executable,
            extent: Extent::default(),
        });
        self.nodes[parent].children.push(Child {
            name: name.to_owned(),
            short: ShortName::default(),
            node,
        });
        Ok(())
    }

    /// Finds or makes a directory. `of` is the file it is needed for.
    fn directory(&mut self, path: &str, of: &str) -> Result<usize, LayoutError> {
        if let Some(&index) = self.by_path.get(path) {
            return Ok(index);
        }
        // The root is a level of its own.
        if path.split('/').count() + 1 > MAX_DEPTH {
            return Err(LayoutError::TooDeep {
                path: of.to_owned(),
            });
        }
        let (parent_path, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.directory(parent_path, of)?;
        if self.nodes[parent]
            .children
            .iter()
            .any(|child| child.name == name)
        {
            return Err(LayoutError::FileAndDirectory {
                path: path.to_owned(),
            });
        }
        let index = self.nodes.len();
        self.nodes.push(Directory {
            parent,
            ..Directory::default()
        });
        self.by_path.insert(path.to_owned(), index);
        self.nodes[parent].children.push(Child {
            name: name.to_owned(),
            short: ShortName::default(),
            node: Node::Directory(index),
        });
        Ok(index)
    }

    fn finish(mut self) -> Result<Tree, LayoutError> {
        if self.nodes.len() > usize::from(u16::MAX) {
            return Err(LayoutError::TooManyDirectories);
        }
        for node in &mut self.nodes {
            assign_short_names(&mut node.children);
        }
        Ok(Tree {
            directories: level_order(self.nodes),
            files: self.files,
        })
    }
}

/// Path tables list directories level by level, each level by parent and then by name (ECMA-119 6.9.1): a breadth-first walk.
fn level_order(mut nodes: Vec<Directory>) -> Vec<Directory> {
    let mut order = vec![0];
    let mut at = 0;
    while let Some(&index) = order.get(at) {
        let children = nodes[index].children.iter();
        order.extend(children.filter_map(|child| match child.node {
            Node::Directory(index) => Some(index),
            Node::File(_) => None,
        }));
        at += 1;
    }
    let mut position = vec![0; nodes.len()];
    for (new, &old) in order.iter().enumerate() {
        position[old] = new;
    }
    let mut sorted = Vec::with_capacity(nodes.len());
    for old in order {
        let mut directory = std::mem::take(&mut nodes[old]);
        directory.parent = position[directory.parent];
        for child in &mut directory.children {
            if let Node::Directory(index) = &mut child.node {
                *index = position[*index];
            }
        }
        directory.extent.bytes = directory::size(&directory.children);
        sorted.push(directory);
    }
    for index in 0..sorted.len() {
        for child in sorted[index].children.clone() {
            if let Node::Directory(below) = child.node {
                sorted[below].short = child.short;
            }
        }
    }
    sorted
}

fn check_name(path: &str, name: &str) -> Result<(), LayoutError> {
    if name.is_empty() || name == "." || name == ".." || name.contains('\0') {
        return Err(LayoutError::BadPath {
            path: path.to_owned(),
        });
    }
    if name.len() > directory::NAME_MAX {
        return Err(LayoutError::NameTooLong {
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn assign_short_names(children: &mut [Child]) {
    let mut taken = HashSet::new();
    for child in children.iter_mut() {
        let wish = ShortName::wish(&child.name, matches!(child.node, Node::Directory(_)));
        let mut short = wish.clone();
        let mut number = 0;
        while !taken.insert(short.clone()) {
            number += 1;
            short = wish.numbered(number);
        }
        child.short = short;
    }
    children.sort_by(|a, b| a.short.cmp(&b.short));
}

impl ShortName {
    /// The short name that looks most like the real one.
    fn wish(name: &str, directory: bool) -> Self {
        let allowed = |c: char| match c.to_ascii_uppercase() {
            c @ ('A'..='Z' | '0'..='9') => c,
            _ => '_',
        };
        let (stem, extension) = match name.rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() && !directory => (stem, extension),
            _ => (name, ""),
        };
        Self {
            stem: stem.chars().take(8).map(allowed).collect(),
            extension: extension.chars().take(3).map(allowed).collect(),
        }
    }

    fn numbered(&self, number: u32) -> Self {
        let digits = number.to_string();
        let keep = self.stem.len().min(8_usize.saturating_sub(digits.len()));
        Self {
            stem: format!("{}{digits}", &self.stem[..keep]),
            extension: self.extension.clone(),
        }
    }

    /// The identifier as it stands in a directory record (ECMA-119 7.5, 7.6).
    pub(super) fn identifier(&self, node: Node) -> String {
        match node {
            Node::Directory(_) => self.directory(),
            Node::File(_) => format!("{}.{};1", self.stem, self.extension),
        }
    }

    /// The identifier of a directory.
    pub(super) fn directory(&self) -> String {
        self.stem.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short_names(names: &[&str]) -> Vec<String> {
        let mut children: Vec<Child> = names
            .iter()
            .map(|name| Child {
                name: (*name).to_owned(),
                short: ShortName::default(),
                node: Node::File(0),
            })
            .collect();
        assign_short_names(&mut children);
        children
            .iter()
            .map(|child| child.short.identifier(child.node))
            .collect()
    }

    #[test]
    fn short_names_are_allowed_and_unique() {
        assert_eq!(
            short_names(&[
                "user-data",
                "user-database",
                "a.tar.gz",
                ".hidden",
                "x",
                "ü.ß"
            ]),
            [
                "A_TAR.GZ;1",
                "USER_DA1.;1",
                "USER_DAT.;1",
                "X.;1",
                "_._;1",
                "_HIDDEN.;1"
            ]
            .map(str::to_owned)
            .to_vec()
        );
    }

    #[test]
    fn many_alike_names_stay_apart() {
        let names: Vec<String> = (0..1200).map(|n| format!("identical-prefix-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let shorts = short_names(&names);
        let unique: HashSet<_> = shorts.iter().collect();
        assert_eq!(unique.len(), names.len());
        assert!(
            shorts
                .iter()
                .all(|short| short.len() <= "12345678.;1".len())
        );
    }
}
