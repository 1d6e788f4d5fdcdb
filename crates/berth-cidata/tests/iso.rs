//! The ISO writer against readers that are not ours: bsdtar, xorriso, isoinfo and blkid.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::path::Path;

use berth_cidata::files::{Entry, Source};
use berth_cidata::iso::{self, IsoError};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

mod support;
use support::{read_tree, run};

type Files = BTreeMap<String, Entry>;

fn files<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Files {
    let entry = |text: &str| Entry {
        source: Source::Text(text.to_owned()),
        executable: false,
    };
    let pairs = pairs.into_iter();
    pairs
        .map(|(path, text)| (path.to_owned(), entry(text)))
        .collect()
}

fn image(files: &Files) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    iso::write(&mut out, "cidata", files).unwrap();
    out.into_inner()
}

fn refusal(files: &Files) -> String {
    let error = iso::write(&mut Cursor::new(Vec::new()), "cidata", files).unwrap_err();
    error.to_string()
}

/// What two independent readers find in the image must be what was put in.
fn assert_reads_back(dir: &Path, files: &Files) {
    let expected: BTreeMap<String, Vec<u8>> = files
        .iter()
        .map(|(path, entry)| match &entry.source {
            Source::Text(text) => (path.clone(), text.clone().into_bytes()),
            other => panic!("only texts are compared here, not {other:?}"),
        })
        .collect();
    std::fs::write(dir.join("a.iso"), image(files)).unwrap();
    for reader in ["bsdtar", "xorriso"] {
        let out = dir.join(reader);
        let _ = std::fs::remove_dir_all(&out);
        std::fs::create_dir(&out).unwrap();
        let target = out.to_str().unwrap();
        if reader == "bsdtar" {
            // Without -P it takes "A:" for a drive.
            run("bsdtar", &["-xPf", "a.iso", "-C", target], dir);
        } else {
            let options = [
                "-no_rc",
                "-abort_on",
                "WARNING",
                "-osirrox",
                "on",
                "-indev",
                "a.iso",
            ];
            run(
                "xorriso",
                &[&options[..], &["-extract", "/", target]].concat(),
                dir,
            );
        }
        assert_eq!(read_tree(&out), expected, "as {reader} reads it");
    }
}

#[test]
fn other_tools_find_label_names_and_modes() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = files([
        ("user-data", "#cloud-config\n"),
        ("empty", ""),
        ("provision.system/00000000", "#!/bin/sh\n"),
    ]);
    files
        .get_mut("provision.system/00000000")
        .unwrap()
        .executable = true;
    std::fs::write(dir.path().join("a.iso"), image(&files)).unwrap();

    let label = run(
        "blkid",
        &["-p", "-s", "LABEL", "-s", "TYPE", "-o", "export", "a.iso"],
        dir.path(),
    );
    assert!(
        label.contains("LABEL=cidata\n") && label.contains("TYPE=iso9660\n"),
        "{label}"
    );

    let listing = run("isoinfo", &["-R", "-l", "-i", "a.iso"], dir.path());
    let lines: Vec<String> = listing
        .lines()
        .filter(|line| line.starts_with(['-', 'd']))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!(
                "{} {} {} {} {}",
                words[0],
                words[1],
                words[2],
                words[4],
                words.last().unwrap()
            )
        })
        .filter(|line| !line.ends_with(" .."))
        .collect();
    assert_eq!(
        lines,
        [
            "drwxr-xr-x 3 0 2048 .",
            "-rw-r--r-- 1 0 0 empty",
            "drwxr-xr-x 2 0 2048 provision.system",
            "-rw-r--r-- 1 0 14 user-data",
            "drwxr-xr-x 2 0 2048 .",
            "-rwxr-xr-x 1 0 10 00000000",
        ],
        "{listing}"
    );

    let header = run("isoinfo", &["-d", "-i", "a.iso"], dir.path());
    assert!(header.contains("Volume id: cidata\n"), "{header}");
    assert!(header.contains("NO Joliet present"), "{header}");
    assert!(
        header.contains("Rock Ridge signatures version 1 found"),
        "{header}"
    );
}

#[test]
fn same_files_give_the_same_bytes() {
    let files = files([("b/c", "2"), ("a", "1")]);
    assert_eq!(image(&files), image(&files));
}

#[test]
fn any_tree_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let name =
        "[a-zA-Z0-9 ._'\"é*;:~-]{1,40}".prop_filter("no file", |name| name != "." && name != "..");
    let path = prop::collection::vec(name, 1..=8).prop_map(|names| names.join("/"));
    let text = prop_oneof![
        "[ -~\n]{0,80}",
        (0_usize..9000).prop_map(|n| "0123456789".repeat(n / 10) + "x")
    ];
    // Each case runs two other programs: a few dozen trees, each with many shapes in it.
    let config = Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&prop::collection::btree_map(path, text, 0..40), |tree| {
            let mut tree = files(
                tree.iter()
                    .map(|(path, text)| (path.as_str(), text.as_str())),
            );
            let paths: Vec<String> = tree.keys().cloned().collect();
            // A name cannot be file and directory at once.
            for path in &paths {
                let below = format!("{path}/");
                if paths.iter().any(|other| other.starts_with(&below)) {
                    tree.remove(path);
                }
            }
            assert_reads_back(dir.path(), &tree);
            Ok(())
        })
        .unwrap();
}

#[test]
fn directories_of_many_blocks_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..700)
        .map(|n| format!("many/{}-{n}", "n".repeat(n % 140)))
        .collect();
    assert_reads_back(
        dir.path(),
        &files(names.iter().map(|name| (name.as_str(), name.as_str()))),
    );
}

#[test]
fn names_as_long_as_they_may_be_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let longest = "x".repeat(153);
    assert_reads_back(
        dir.path(),
        &files([(longest.as_str(), "1"), (&format!("d/{longest}"), "2")]),
    );
    assert_eq!(
        refusal(&files([("x".repeat(154).as_str(), "")])),
        format!("the name {:?} is longer than 153 bytes", "x".repeat(154))
    );
}

#[test]
fn paths_that_are_none_are_refused() {
    for path in ["", "/a", "a//b", "a/", "./a", "a/..", "a\0b"] {
        let text = refusal(&files([(path, "")]));
        assert!(text.contains("is no path of a file"), "{path:?}: {text}");
    }
    assert_eq!(
        refusal(&files([("a", ""), ("a/b", "")])),
        "\"a\" is both a file and a directory"
    );
    assert_eq!(
        refusal(&files([("1/2/3/4/5/6/7/8/9", "")])),
        "\"1/2/3/4/5/6/7/8/9\" lies deeper than 8 levels"
    );
}

#[test]
fn a_file_of_4_gib_is_refused_before_it_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("big");
    File::create(&big).unwrap().set_len(1 << 32).unwrap();
    let files = Files::from([(
        "nerdctl-full.tgz".to_owned(),
        Entry {
            source: Source::File(big),
            executable: false,
        },
    )]);
    let mut out = Cursor::new(Vec::new());
    let error = iso::write(&mut out, "cidata", &files).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"nerdctl-full.tgz\" is larger than 4 GiB, which the volume cannot hold"
    );
    assert!(out.into_inner().len() < 1 << 20);
}

/// A device that is full after so many bytes.
struct Full {
    inner: Cursor<Vec<u8>>,
    room: usize,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.inner.get_ref().len() + bytes.len() > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Full {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn a_full_disk_is_an_error_and_leaves_no_volume() {
    let files = files([("a", "1"), ("b/c", "2")]);
    let whole = image(&files).len();
    for room in (0..whole).step_by(2048) {
        let mut out = Full {
            inner: Cursor::new(Vec::new()),
            room,
        };
        let error = iso::write(&mut out, "cidata", &files).unwrap_err();
        assert!(matches!(error, IsoError::Write(_)), "{error}");
        let bytes = out.inner.into_inner();
        assert!(
            !bytes.windows(5).any(|bytes| bytes == b"CD001"),
            "{room} bytes look like a volume"
        );
    }
}
