//! The volume on disk: written when something changed, whole or not at all.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use berth_cidata::volume::{Outcome, write_directory, write_iso_if_changed, write_reference};
use berth_cidata::{AgentKind, Cidata, build};
use flate2::Compression;
use flate2::write::GzEncoder;

mod support;
use support::{config, host_key, input, read_tree, run};

fn volume(agent: AgentKind) -> Cidata {
    let (config, keys, host_keys) = (config(), ["ssh-ed25519 AAAA me".to_owned()], [host_key()]);
    build(&input(&config, agent, &host_keys, &keys)).unwrap()
}

fn agent_in(dir: &Path) -> PathBuf {
    let path = dir.join("berth-guestagent");
    fs::write(&path, vec![7; 100_000]).unwrap();
    path
}

#[test]
fn an_unchanged_volume_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent_in(dir.path());
    let volume = volume(AgentKind::Berth(agent));
    let iso = dir.path().join("cidata.iso");
    assert_eq!(
        write_iso_if_changed(&volume, &iso).unwrap(),
        Outcome::Written
    );
    let before = fs::metadata(&iso).unwrap();
    assert_eq!(before.permissions().mode() & 0o7777, 0o600);
    assert_eq!(
        write_iso_if_changed(&volume, &iso).unwrap(),
        Outcome::Unchanged
    );
    assert_eq!(fs::metadata(&iso).unwrap().ino(), before.ino());
    assert!(!dir.path().join("cidata.iso.tmp").exists());
}

#[test]
fn every_kind_of_change_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent_in(dir.path());
    let mut volume = volume(AgentKind::Berth(agent.clone()));
    let iso = dir.path().join("cidata.iso");
    let written = |volume: &Cidata, why: &str| {
        assert_eq!(
            write_iso_if_changed(volume, &iso).unwrap(),
            Outcome::Written,
            "{why}"
        );
        assert_eq!(
            write_iso_if_changed(volume, &iso).unwrap(),
            Outcome::Unchanged,
            "after {why}"
        );
    };
    written(&volume, "the first time");
    // The same size, another file under the same name.
    let other = dir.path().join("other");
    fs::write(&other, vec![8; 100_000]).unwrap();
    fs::rename(&other, &agent).unwrap();
    written(&volume, "another agent");
    volume.entries.get_mut("boot.json").unwrap().executable = true;
    written(&volume, "another mode");
    volume.entries.remove("etc_environment");
    written(&volume, "a file less");
    fs::write(&iso, "what Lima wrote here").unwrap();
    written(&volume, "a volume of somebody else");
    fs::remove_file(&iso).unwrap();
    written(&volume, "no volume");
    fs::write(dir.path().join("cidata.iso.stamp"), "\0\u{fffd}").unwrap();
    written(&volume, "a stamp that is none");
}

#[test]
fn what_is_read_back_is_what_was_built() {
    let dir = tempfile::tempdir().unwrap();
    let gz = dir.path().join("lima-guestagent.Linux-x86_64.gz");
    let mut encoder = GzEncoder::new(fs::File::create(&gz).unwrap(), Compression::fast());
    let program = b"\x7fELF".repeat(50_000);
    encoder.write_all(&program).unwrap();
    encoder.finish().unwrap();

    let volume = volume(AgentKind::Lima(gz));
    let iso = dir.path().join("cidata.iso");
    write_iso_if_changed(&volume, &iso).unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    run(
        "bsdtar",
        &["-xf", iso.to_str().unwrap(), "-C", out.to_str().unwrap()],
        dir.path(),
    );
    let from_iso = read_tree(&out);
    assert_eq!(from_iso["lima-guestagent"], program);
    assert_eq!(from_iso.len(), volume.entries.len());

    let directory = dir.path().join("cidata");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("left over"), "").unwrap();
    write_directory(&volume, &directory).unwrap();
    assert_eq!(
        read_tree(&directory),
        from_iso,
        "the directory form has the same files"
    );
    for path in [
        "",
        "provision.system",
        "provision.system/00000000",
        "user-data",
    ] {
        let mode = fs::metadata(directory.join(path))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o700, "{path}");
    }
}

#[test]
fn a_missing_agent_leaves_the_old_volume_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent_in(dir.path());
    let volume = volume(AgentKind::Berth(agent.clone()));
    let iso = dir.path().join("cidata.iso");
    write_iso_if_changed(&volume, &iso).unwrap();
    let before = fs::read(&iso).unwrap();
    fs::remove_file(&agent).unwrap();
    let error = write_iso_if_changed(&volume, &iso).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot read {}", agent.display())
    );
    assert_eq!(fs::read(&iso).unwrap(), before);
    assert!(!dir.path().join("cidata.iso.tmp").exists());
}

#[test]
fn a_broken_gzip_names_the_file_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let gz = dir.path().join("agent.gz");
    fs::write(&gz, "not gzip").unwrap();
    let iso = dir.path().join("cidata.iso");
    let error = write_iso_if_changed(&volume(AgentKind::Lima(gz.clone())), &iso).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read {}", gz.display()));
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "only the input is left"
    );
}

#[test]
fn a_directory_that_is_missing_is_named() {
    let volume = volume(AgentKind::None);
    let error = write_iso_if_changed(&volume, Path::new("/nonexistent/cidata.iso")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot create /nonexistent/cidata.iso.tmp"
    );
}

#[test]
fn the_reference_copy_is_for_reading_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cloud-config.yaml");
    let volume = volume(AgentKind::Berth(PathBuf::from("/agent")));
    assert_eq!(write_reference(&volume, &path).unwrap(), Outcome::Written);
    assert_eq!(write_reference(&volume, &path).unwrap(), Outcome::Unchanged);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o444
    );
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("name: \"me\"") && !text.contains("PRIVATE KEY"),
        "{text}"
    );
}
