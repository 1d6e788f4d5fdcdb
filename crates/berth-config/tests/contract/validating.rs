use berth_config::problem::ConfigError;
use berth_config::validate::cautions;
use berth_config::{resolve, validate};

use super::{context, lines, linux, refusals, resolved, sources};

const IMAGE: &str = "images: [{location: /i}]\n";

/// Each block of the file is a document with one mistake in it, and behind `=> ` the only thing there is to say about it.
#[test]
fn each_mistake_makes_one_message_that_says_what_to_do() {
    for block in include_str!("mistakes.txt").split("\n\n") {
        let (yaml, expected) = block.split_once("\n=> ").expect(block);
        let document = format!("{yaml}\n{IMAGE}");
        let expected = format!("lima.yaml:{}", expected.trim_end());
        assert_eq!(refusals(&document), [expected], "{yaml}");
    }
}

#[test]
fn images_and_their_parts_must_fit() {
    let digest = "sha256:".to_owned() + &"0".repeat(64);
    for (yaml, expected) in [
        (
            "{}",
            "field `images`: must have at least one entry: name a disk image to boot",
        ),
        (
            "images: [{arch: x86_64}]",
            "lima.yaml:1:10: field `images[0].location`: missing: write a URL or a path",
        ),
        (
            "images: [{location: /i, digest: abc}]",
            "lima.yaml:1:33: field `images[0].digest`: \"abc\" is no digest: write `sha256:` and 64 hexadecimal digits",
        ),
        (
            "images: [{location: /i, digest: 'md5:00'}]",
            "lima.yaml:1:33: field `images[0].digest`: algorithm \"md5\" is not supported: use sha256, sha384 or sha512",
        ),
        (
            "images: [{location: /i, digest: 'sha256:00'}]",
            "lima.yaml:1:33: field `images[0].digest`: a sha256 digest has 64 hexadecimal digits in lower case, this has 2 characters",
        ),
        (
            "images: [{location: /i, kernel: {location: /k, arch: aarch64}}]",
            "lima.yaml:1:54: field `images[0].kernel.arch`: must be the architecture of the image it boots",
        ),
    ] {
        assert_eq!(refusals(yaml), [expected], "{yaml:?}");
    }
    assert_eq!(
        refusals(&format!(
            "images: [{{location: /i, digest: '{digest}', arch: aarch64, initrd: {{location: /r}}}}]"
        )),
        Vec::<String>::new()
    );
}

/// All at once, in Lima's order and not in the order of the file.
#[test]
fn every_problem_is_reported_in_lima_s_order() {
    let found = refusals(
        "tpm: true\nportForwards: [{guestPort: 0, proto: x}, {guestPort: 22}]\ndisk: 1\ncpus: -1\narch: s390x\nos: Linux2\n",
    );
    let keys: Vec<&str> = found
        .iter()
        .filter_map(|line| line.split('`').nth(1))
        .collect();
    assert_eq!(
        keys,
        [
            "os",
            "images",
            "cpus",
            "disk",
            "portForwards[0].proto",
            "portForwards[1].guestPort",
            "tpm"
        ]
    );
}

/// A stored configuration that has become invalid can still be listed and stopped.
#[test]
fn what_can_be_expressed_resolves_although_it_must_not_start() {
    let platform = linux();
    let resolved = resolved("user: {uid: 0}\n");
    assert!(!validate(&resolved, &context(&platform)).is_empty());
    let error = resolve(&sources("", "arch: x\n", ""), &context(&platform));
    assert!(matches!(error, Err(ConfigError::Invalid { problems }) if problems.len() == 2));
}

#[test]
fn places_name_the_file_that_wrote_the_value() {
    let platform = linux();
    let sources = sources(
        "images: [{location: /d}]\nprobes: [{script: d}]\n",
        "probes:\n- script: '#!y'\n- script: y\n",
        "memory: 1\nprobes: [{script: o}]\n",
    );
    let resolved = resolve(&sources, &context(&platform)).expect("resolves");
    assert_eq!(
        lines(&validate(&resolved, &context(&platform))),
        [
            "override.yaml:1:9: field `memory`: \"1\" is 1 bytes: did you mean \"1GiB\"?",
            "override.yaml:2:19: field `probes[0].script`: must start with `#!`, such as `#!/bin/sh`",
            "lima.yaml:3:11: field `probes[2].script`: must start with `#!`, such as `#!/bin/sh`",
            "default.yaml:2:19: field `probes[3].script`: must start with `#!`, such as `#!/bin/sh`",
        ]
    );
}

#[test]
fn a_mount_must_be_a_directory_if_it_is_there() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("write");
    let yaml = format!(
        "mounts: [{{location: {}, mountPoint: /m}}, {{location: {}, mountPoint: /n}}]\n{IMAGE}",
        dir.path().display(),
        file.display()
    );
    let found = refusals(&yaml);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`mounts[1].location`"), "{found:?}");
    assert!(
        found[0].ends_with("is no directory: only directories can be mounted"),
        "{found:?}"
    );
}

#[test]
fn sockets_with_long_paths_are_refused() {
    let fits = "x".repeat(107 - "/lima/a.b/sock/".len());
    let yaml =
        |name: &str| format!("portForwards: [{{guestPort: 80, hostSocket: {name}}}]\n{IMAGE}");
    assert_eq!(refusals(&yaml(&fits)), Vec::<String>::new());
    let found = refusals(&yaml(&format!("{fits}x")));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("has 108 bytes, and a unix socket allows 107"),
        "{found:?}"
    );
}

#[test]
fn external_drivers_are_known_by_name() {
    let platform = linux();
    let drivers = ["mine".to_owned()];
    let searched = ["/opt/drivers".into(), "/usr/libexec/lima".into()];
    let mut ctx = context(&platform);
    ctx.external_drivers.searched = &searched;
    let sources = sources("", &format!("vmType: mine\n{IMAGE}"), "");
    let resolved = resolve(&sources, &ctx).expect("resolves");
    let found = lines(&validate(&resolved, &ctx));
    let places = "lima-driver-mine was looked for in /opt/drivers, /usr/libexec/lima";
    assert!(found[0].ends_with(places), "{found:?}");
    ctx.external_drivers.names = &drivers;
    assert_eq!(lines(&validate(&resolved, &ctx)), Vec::<String>::new());
}

#[test]
fn what_is_only_odd_is_cautioned_about() {
    let platform = linux();
    let resolved = resolved(
        "arch: riscv64\nmountInotify: true\nmounts: [{location: /nowhere}]\nprovision: [{script: echo $LIMA_CIDATA_USER}, {mode: ansible, playbook: p}]\nportForwards: [{guestPort: 80, hostSocket: s, proto: udp}]\n",
    );
    assert_eq!(
        lines(&cautions(&resolved, &context(&platform))),
        [
            "lima.yaml:1:7: field `arch`: experimental with this value",
            "lima.yaml:2:15: field `mountInotify`: experimental with this value",
            "lima.yaml:3:21: field `mounts[0].location`: /nowhere does not exist: it will be made",
            "lima.yaml:4:13: field `provision[0]`: uses LIMA_CIDATA variables, which may change: use template variables such as {{.User}}",
            "lima.yaml:4:54: field `provision[1].mode`: `ansible` is deprecated: run the playbook yourself after the start",
            "lima.yaml:5:54: field `portForwards[0].proto`: a unix socket carries no datagrams: this rule forwards nothing",
        ]
    );
}
