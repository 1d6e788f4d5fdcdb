//! Keys: made once, whoever comes first, and refused when they cannot work.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use berth_instance::dir::InstanceDir;
use berth_ssh::host_key::host_key;
use berth_ssh::keys::{dot_ssh_keys, is_public_key, user_key};

mod support;
use support::{keygen, script};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_user_key_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("home/_config");
    let made = user_key(&config, &keygen()).await.unwrap();
    assert_eq!(made.private, config.join("user"));
    assert!(
        is_public_key(&made.public) && made.public.ends_with(" lima"),
        "{}",
        made.public
    );
    assert_eq!((mode(&config), mode(&made.private)), (0o700, 0o600));
    assert_eq!(
        user_key(&config, Path::new("/nonexistent")).await.unwrap(),
        made
    );
    let names: Vec<_> = fs::read_dir(&config)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[tokio::test]
async fn many_at_once_agree_on_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("_config");
    let keygen = keygen();
    let attempts = (0..8).map(|_| user_key(&config, &keygen));
    let keys = futures_util::future::join_all(attempts).await;
    let first = keys[0].as_ref().unwrap();
    assert!(
        keys.iter().all(|key| key.as_ref().unwrap() == first),
        "{keys:?}"
    );
}

#[tokio::test]
async fn a_lost_public_key_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let made = user_key(dir.path(), &keygen()).await.unwrap();
    fs::remove_file(dir.path().join("user.pub")).unwrap();
    let again = user_key(dir.path(), &keygen()).await.unwrap();
    let without_comment = |key: &str| key.split(' ').take(2).collect::<Vec<_>>().join(" ");
    assert_eq!(
        without_comment(&again.public),
        without_comment(&made.public)
    );
}

#[tokio::test]
async fn what_an_interrupted_attempt_left_is_no_key() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("user.new"), "half").unwrap();
    fs::write(dir.path().join("user.new.pub"), "half").unwrap();
    user_key(dir.path(), &keygen()).await.unwrap();
    assert!(!dir.path().join("user.new").exists() && !dir.path().join("user.new.pub").exists());
}

#[tokio::test]
async fn keys_that_cannot_work_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let key = user_key(dir.path(), &keygen()).await.unwrap().private;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = user_key(dir.path(), &keygen())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("run `chmod 600 ") && error.ends_with("/user`"),
        "{error}"
    );

    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(dir.path().join("user.pub"), "what is this?").unwrap();
    let error = user_key(dir.path(), &keygen())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("user.pub is no public key: remove it"),
        "{error}"
    );

    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    assert!(user_key(dir.path(), &keygen()).await.is_err());
}

#[tokio::test]
async fn a_failing_keygen_is_quoted_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("_config");
    let text = "#!/bin/sh\nfor last; do :; done\necho half >\"$last\"\nprintf 'No space\\033[2J left' >&2\nexit 1\n";
    let broken = script(&dir.path().join("ssh-keygen"), text);
    let error = user_key(&config, &broken).await.unwrap_err().to_string();
    assert!(
        error.ends_with("_config/user: exit status 1, No space\\u{1b}[2J left"),
        "{error}"
    );
    assert_eq!(fs::read_dir(&config).unwrap().count(), 0);
    let error = user_key(&config, Path::new("/nonexistent/keygen"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"/nonexistent/keygen\" was not found"),
        "{error}"
    );
}

#[tokio::test]
async fn the_host_key_is_pinned_under_its_alias() {
    let dir = tempfile::tempdir().unwrap();
    let instance = InstanceDir::new(dir.path().to_path_buf());
    let made = host_key(&instance, "lima-default", &keygen())
        .await
        .unwrap();
    assert!(
        made.private
            .starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    );
    assert!(
        made.private
            .ends_with("-----END OPENSSH PRIVATE KEY-----\n")
    );
    assert!(made.public.ends_with(" lima-default"), "{}", made.public);
    assert_eq!(mode(&instance.host_key()), 0o600);
    let pinned = fs::read_to_string(instance.known_hosts()).unwrap();
    assert_eq!(
        pinned,
        format!(
            "{}\n",
            format!("lima-default {}", made.public)
                .rsplit_once(' ')
                .unwrap()
                .0
        )
    );

    fs::write(instance.known_hosts(), "something else\n").unwrap();
    assert_eq!(
        host_key(&instance, "lima-default", Path::new("/nonexistent"))
            .await
            .unwrap(),
        made
    );
    assert_eq!(fs::read_to_string(instance.known_hosts()).unwrap(), pinned);
}

#[tokio::test]
async fn keys_of_dot_ssh_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(dot_ssh_keys(&dir.path().join("none")).unwrap(), []);
    let key = user_key(&dir.path().join("_config"), &keygen())
        .await
        .unwrap();
    let ssh = dir.path().join(".ssh");
    fs::create_dir(&ssh).unwrap();
    for (name, text) in [
        ("id_b.pub", key.public.as_str()),
        ("id_b", "private"),
        ("id_a.pub", key.public.as_str()),
        ("junk.pub", "hello"),
        ("two.pub", &format!("{0}\n{0}\n", key.public)),
        ("config", "Host *"),
    ] {
        fs::write(ssh.join(name), text).unwrap();
    }
    let found = dot_ssh_keys(&ssh).unwrap();
    let private: Vec<_> = found.iter().map(|key| key.private.clone()).collect();
    assert_eq!(private, [None, Some(ssh.join("id_b"))]);
    assert!(found.iter().all(|found| found.public == key.public));
}
