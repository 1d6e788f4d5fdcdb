//! Copies through an `ssh` that runs everything here, with a `cat` and a `sudo` of our own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use berth_config::model::Ssh;
use berth_config::platform::HostOs;
use berth_ssh::options::{HostTrust, OptionsInput, SshOptions};
use berth_ssh::tool::{Features, SshTool, Version};

use super::*;

const SSH: &str = "while test \"$1\" != --; do shift; done; shift; exec /bin/sh -c \"$*\"";
const SUDO: &str = "test \"$1\" = -n && shift; AS_ROOT=1 exec \"$@\"";

struct Scene {
    root: tempfile::TempDir,
    session: Session,
}

impl Scene {
    /// A guest whose `cat` is this script.
    fn with_cat(cat: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let ssh = format!("PATH={}:$PATH; {SSH}", bin.display());
        for (name, text) in [("ssh", ssh.as_str()), ("sudo", SUDO), ("cat", cat)] {
            fs::write(bin.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(root.path().join("key"), "").unwrap();
        let options = SshOptions::new(&OptionsInput {
            user_key: &root.path().join("key"),
            more_keys: &[],
            user: "lima",
            ssh: &Ssh::default(),
            control_path: &root.path().join("ssh.sock"),
            trust: &HostTrust::Pinned {
                alias: "lima-x".to_owned(),
                known_hosts: root.path().join("known_hosts"),
            },
            features: Features {
                version: Version(9, 2, 1),
                gssapi: false,
            },
            aes_is_fast: true,
            os: HostOs::Linux,
            unix_path_max: 108,
        });
        let tool = SshTool::find(None, bin.as_os_str()).unwrap();
        let address = ([127, 0, 0, 1], 1).into();
        let session = Session::new(tool, options.unwrap(), None, address);
        Self { root, session }
    }

    /// A guest with an ordinary `cat`.
    fn new() -> Self {
        Self::with_cat("exec /bin/cat \"$@\"")
    }

    fn rule(&self, guest: &str) -> CopyToHost {
        CopyToHost {
            guest: self.root.path().join(guest).to_str().unwrap().to_owned(),
            host: self.root.path().join("to/here/file"),
            skip_if_missing: false,
            delete_on_stop: false,
        }
    }

    async fn copy(&self, rule: &CopyToHost) -> Result<Copied, CopyError> {
        copy(&self.session, rule, ".x.tmp", &[]).await
    }

    /// The names where copies go.
    fn copies(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.path().join("to/here")) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_file_arrives_whole_and_keeps_the_mode_that_its_place_had() {
    let scene = Scene::new();
    let odd = "it's $HOME; *";
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(scene.root.path().join(odd), &content).unwrap();
    let rule = scene.rule(odd);
    assert_eq!(scene.copy(&rule).await.unwrap(), Copied::Whole);
    assert!(fs::read(&rule.host).unwrap() == content);
    assert_eq!(mode(&rule.host), 0o600);
    assert_eq!(mode(rule.host.parent().unwrap()), 0o700);

    fs::set_permissions(&rule.host, fs::Permissions::from_mode(0o4644)).unwrap();
    fs::write(scene.root.path().join(odd), "short").unwrap();
    assert_eq!(scene.copy(&rule).await.unwrap(), Copied::Whole);
    assert_eq!(fs::read(&rule.host).unwrap(), b"short");
    assert_eq!(mode(&rule.host), 0o644);
    assert_eq!(scene.copies(), ["file"]);
}

#[tokio::test]
async fn what_the_user_may_not_read_is_read_as_root() {
    let cat = "test \"$AS_ROOT\" && exec /bin/cat \"$@\"\n\
               echo a part; echo \"cat: $2: Permission denied\" >&2; exit 1";
    let scene = Scene::with_cat(cat);
    fs::write(scene.root.path().join("secret"), "whole").unwrap();
    let rule = scene.rule("secret");
    assert_eq!(scene.copy(&rule).await.unwrap(), Copied::Whole);
    assert_eq!(fs::read(&rule.host).unwrap(), b"whole");
}

#[tokio::test]
async fn what_root_may_not_read_either_is_an_error() {
    let scene = Scene::with_cat("echo \"cat: $2: Permission denied\" >&2; exit 1");
    let why = scene.copy(&scene.rule("x")).await.unwrap_err().to_string();
    assert!(why.contains("Permission denied"), "{why}");
    assert_eq!(scene.copies(), Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_file_is_an_error_unless_it_may_be_missing() {
    let scene = Scene::new();
    let mut rule = scene.rule("none");
    let why = scene.copy(&rule).await.unwrap_err().to_string();
    assert!(why.contains("No such file or directory"), "{why}");
    rule.skip_if_missing = true;
    assert_eq!(scene.copy(&rule).await.unwrap(), Copied::Missing);
    assert_eq!(scene.copies(), Vec::<String>::new());
}

#[tokio::test]
async fn half_a_file_replaces_nothing() {
    let scene = Scene::with_cat("echo half; echo 'cat: Input/output error' >&2; exit 1");
    let rule = scene.rule("x");
    fs::create_dir_all(rule.host.parent().unwrap()).unwrap();
    fs::write(&rule.host, "old").unwrap();
    let why = scene.copy(&rule).await.unwrap_err().to_string();
    assert!(why.contains("Input/output error"), "{why}");
    assert_eq!(fs::read(&rule.host).unwrap(), b"old");
    assert_eq!(scene.copies(), ["file"]);
}

#[tokio::test]
async fn a_copy_that_is_given_up_leaves_nothing() {
    let scene = Scene::with_cat("echo half; exec sleep 1000");
    let rule = scene.rule("x");
    let begun = async {
        let file = scene.root.path().join("to/here/.x.tmp");
        while fs::metadata(&file).map_or(0, |file| file.len()) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = scene.copy(&rule) => panic!("{ended:?}"),
        () = begun => {}
    }
    assert_eq!(scene.copies(), Vec::<String>::new());
}

#[tokio::test]
async fn an_endless_file_is_cut_off() {
    let scene = Scene::new();
    let mut rule = scene.rule("x");
    rule.guest = "/dev/zero".to_owned();
    let place = Place::find(&rule.host, true, &[]).await.unwrap();
    let mut staged = Staged::begin(place, ".x.tmp").await.unwrap();
    assert!(staged.most > 0);
    staged.most = 1_000_000;
    let read = read(&scene.session, &rule, AS_USER, &mut staged).await;
    assert!(
        matches!(read, Err(ExecError::TooMuch(1_000_000))),
        "{read:?}"
    );
}

#[tokio::test]
async fn what_is_no_regular_file_is_neither_followed_nor_replaced() {
    let scene = Scene::new();
    fs::write(scene.root.path().join("new"), "new").unwrap();
    let precious = scene.root.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let rule = scene.rule("new");
    fs::create_dir_all(rule.host.parent().unwrap()).unwrap();
    symlink(&precious, &rule.host).unwrap();
    let why = scene.copy(&rule).await.unwrap_err();
    assert!(
        matches!(why, CopyError::Place(PlaceError::Occupied(_))),
        "{why}"
    );
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    assert_eq!(fs::read_link(&rule.host).unwrap(), precious);
}

#[tokio::test]
async fn a_copy_that_an_earlier_agent_left_half_is_swept_up() {
    let scene = Scene::new();
    fs::write(scene.root.path().join("new"), "new").unwrap();
    let rule = scene.rule("new");
    fs::create_dir_all(rule.host.parent().unwrap()).unwrap();
    fs::write(rule.host.with_file_name(".x.tmp"), "half").unwrap();
    assert_eq!(scene.copy(&rule).await.unwrap(), Copied::Whole);
    assert_eq!(scene.copies(), ["file"]);
}

#[tokio::test]
async fn files_are_removed_and_directories_are_not() {
    let root = tempfile::tempdir().unwrap();
    let remove = async |name: &str| {
        let place = Place::find(&root.path().join(name), false, &[]).await?;
        place.remove().await
    };
    fs::write(root.path().join("file"), "").unwrap();
    fs::create_dir(root.path().join("directory")).unwrap();
    remove("file").await.unwrap();
    remove("file").await.expect("nothing to do");
    assert!(remove("none/file").await.unwrap_err().is_missing());
    let why = chain(&remove("directory").await.unwrap_err());
    assert!(why.contains("cannot remove"), "{why}");
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(
        left[0].as_ref().unwrap().file_name(),
        OsStr::new("directory")
    );
}
