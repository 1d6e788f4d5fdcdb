use std::path::{Path, PathBuf};

use berth_config::model::{
    Arch, Config, GuestOs, HostIp, MountType, Proto, ProvisionMode, QemuOpts, VmType,
};
use berth_config::platform::HostOs;
use berth_config::version::LimaVersion;
use berth_config::{Sources, resolve};
use proptest::prelude::*;

use super::{context, lines, linux, resolve_on, resolved, sources};

fn merged(default: &str, instance: &str, over: &str) -> Config {
    let platform = linux();
    resolve(&sources(default, instance, over), &context(&platform))
        .expect("resolves")
        .config
}

#[test]
fn a_broken_template_is_kept_as_it_is_and_warned_about() {
    let resolved =
        resolved("provision:\n- script: docker ps --format '{{.Names}}'\n- script: 'a {{ b'\n");
    let scripts: Vec<&str> = resolved
        .config
        .provision
        .iter()
        .map(|entry| entry.script.as_str())
        .collect();
    assert_eq!(scripts, ["docker ps --format '<no value>'", "a {{ b"]);
    let warnings = lines(&resolved.warnings);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with(
        "lima.yaml:2:11: field `provision[0].script`: a template variable is unknown"
    ));
    assert!(warnings[1].starts_with(
        "lima.yaml:3:11: field `provision[1].script`: the template is used unrendered: "
    ));
}

#[test]
fn an_unused_parameter_is_warned_about() {
    let resolved = resolved(
        "param: {A: 1, B: 2, C: 3, AB: 4, internal_netplanOptional: 'true'}\nuser: {home: '/h/{{.Param.A}}'}\nprobes: [{script: '#!/bin/sh $PARAM_B'}]\n",
    );
    assert_eq!(
        lines(&resolved.warnings),
        [
            "lima.yaml:1:31: field `param.AB`: not used: write {{.Param.AB}} in a template or $PARAM_AB in a script, or remove it",
            "lima.yaml:1:24: field `param.C`: not used: write {{.Param.C}} in a template or $PARAM_C in a script, or remove it",
        ]
    );
    assert_eq!(resolved.config.user.home, "/h/1");
}

#[test]
fn keys_that_only_the_instance_may_set_are_warned_about_elsewhere() {
    let platform = linux();
    let sources = sources(
        "message: d\ncpuType: {x86_64: a}\n",
        "",
        "minimumLimaVersion: 1.0.0\n",
    );
    let resolved = resolve(&sources, &context(&platform)).expect("resolves");
    assert_eq!(resolved.config.message, "");
    assert_eq!(resolved.config.minimum_lima_version, None);
    assert_eq!(resolved.config.vm_opts.qemu, None);
    let ignored = "ignored in this file: only the instance's own lima.yaml may set it";
    assert_eq!(
        lines(&resolved.warnings),
        [
            format!("override.yaml:1:1: field `minimumLimaVersion`: {ignored}"),
            format!("default.yaml:1:1: field `message`: {ignored}"),
            format!("default.yaml:2:1: field `cpuType`: {ignored}"),
        ]
    );
}

#[test]
fn deprecated_keys_are_read_and_warned_about() {
    let resolved = resolved(
        "cpuType: {x86_64: a, aarch64: b}\nrosetta: {enabled: true}\nvmOpts: {qemu: {cpuType: {x86_64: c}, nope: 1}}\n",
    );
    let qemu = resolved.config.vm_opts.qemu.expect("qemu");
    assert_eq!(qemu.cpu_type[&Arch::X8664], "c");
    assert_eq!(qemu.cpu_type[&Arch::Aarch64], "b");
    assert_eq!(
        resolved.config.vm_opts.others["vz"],
        serde_json::json!({"rosetta": {"enabled": true, "binfmt": false}})
    );
    assert_eq!(
        lines(&resolved.warnings),
        [
            "lima.yaml:3:45: field `vmOpts.qemu.nope`: unknown key, ignored: check the spelling",
            "lima.yaml:1:10: field `cpuType`: deprecated: write it as `vmOpts.qemu.cpuType`",
            "lima.yaml:1:19: field `cpuType.x86_64`: ignored: `vmOpts.qemu.cpuType` says \"c\"",
            "lima.yaml:2:10: field `rosetta`: deprecated: write it as `vmOpts.vz.rosetta`",
        ]
    );
}

#[test]
fn nulls_in_driver_options_set_nothing() {
    let yaml = "vmOpts: {qemu: {minimumVersion: null, cpuType: null}, vz: null}\n";
    assert_eq!(
        resolved(yaml).config.vm_opts.qemu,
        Some(QemuOpts::default())
    );
    let yaml = "vmOpts: {qemu: {cpuType: {x86_64: null, aarch64: max}}}\n";
    let qemu = resolved(yaml).config.vm_opts.qemu.expect("qemu");
    assert_eq!(
        qemu.cpu_type.into_iter().collect::<Vec<_>>(),
        [(Arch::Aarch64, "max".to_owned())]
    );
    assert_eq!(
        resolved("vmOpts: {qemu: null}\n").config.vm_opts.qemu,
        Some(QemuOpts::default())
    );
}

#[test]
fn a_playbook_may_use_any_parameter() {
    let resolved = resolved("param: {A: 1}\nprovision: [{mode: ansible, playbook: p.yml}]\n");
    assert!(resolved.warnings.is_empty(), "{:?}", resolved.warnings);
}

#[test]
fn an_empty_document_gets_lima_s_defaults() {
    let config = resolved("").config;
    assert_eq!(config.vm_type, VmType::Qemu);
    assert_eq!((config.os, config.arch), (GuestOs::Linux, Arch::X8664));
    assert_eq!(config.cpus, 4);
    assert_eq!(config.memory.text(), "3GiB");
    assert_eq!(config.disk.text(), "100GiB");
    assert_eq!(config.mount_type, None);
    assert_eq!(config.ssh.local_port, None);
    assert_eq!(config.video.display, "none");
    assert_eq!(config.guest_install_prefix, "/usr/local");
    assert_eq!(config.timezone, "Europe/Berlin");
    assert!(config.host_resolver.enabled && !config.host_resolver.ipv6);
    assert!(config.propagate_proxy_env && !config.plain && !config.tpm);
    assert!(config.containerd.user && !config.containerd.system);
    assert_eq!(config.containerd.archives.len(), 2);
    assert_eq!(config.user.name, "jane");
    assert_eq!(config.user.comment, "Jane Doe");
    assert_eq!(config.user.home, "/home/jane.guest");
    assert_eq!(config.user.shell, "/bin/bash");
    assert_eq!(config.user.uid, 501);
    assert!(config.user.passwordless_sudo);
}

#[test]
fn defaults_follow_host_and_guest() {
    let mut mac = linux();
    mac.os = HostOs::Darwin;
    mac.cpus = 2;
    let resolve = |platform: &_, yaml: &str| resolve_on(platform, yaml).expect("resolves").config;
    assert_eq!(resolve(&mac, "").vm_type, VmType::Vz);
    assert_eq!(resolve(&mac, "").cpus, 2);
    assert_eq!(resolve(&mac, "arch: aarch64\n").vm_type, VmType::Qemu);
    let darwin = resolve(&mac, "os: Darwin\n");
    assert_eq!(darwin.user.home, "/Users/jane.guest");
    assert_eq!(darwin.user.shell, "/bin/zsh");
    assert!(!darwin.user.passwordless_sudo && !darwin.containerd.user);
    assert!(!resolve(&mac, "arch: riscv64\n").containerd.user);
    for word in ["default", "''"] {
        let yaml = format!("os: {word}\narch: {word}\nvmType: {word}\nmountType: {word}\n");
        assert_eq!(resolve(&mac, &yaml), resolve(&mac, ""), "{word}");
    }
}

#[test]
fn the_guest_s_user_is_never_one_that_cannot_be_made() {
    let user = |name: &str, uid: u32, created_by: LimaVersion| {
        let mut platform = linux();
        platform.user = name.to_owned();
        platform.uid = uid;
        let mut ctx = context(&platform);
        ctx.created_by = created_by;
        resolve(&Sources::default(), &ctx)
            .expect("resolves")
            .config
            .user
    };
    let now = LimaVersion::current();
    let root = user("root", 0, now);
    assert_eq!(
        (root.name.as_str(), root.uid, root.comment.as_str()),
        ("lima", 1000, "")
    );
    assert_eq!(user("Jane.Doe", 501, now).name, "lima");
    assert_eq!(user("Jane.Doe", 501, now).uid, 501);
    assert_eq!(user("admin", 501, now).name, "lima");
    assert_eq!(user("admin", 501, LimaVersion::BeforeAll).name, "admin");
    assert_eq!(user("_x-9", 501, now).name, "_x-9");
    assert_eq!(
        user("jane", 501, LimaVersion::parse("2.0.3")).home,
        "/home/jane.linux"
    );
    assert_eq!(
        user("jane", 501, LimaVersion::parse("2.0.3-4-gabc")).home,
        "/home/jane.linux"
    );
    assert_eq!(
        user("jane", 501, LimaVersion::parse("2.1.0")).home,
        "/home/jane.guest"
    );
}

#[test]
fn the_highest_document_that_says_anything_wins() {
    let config = merged(
        "cpus: 1\ntimezone: d\nplain: true\n",
        "cpus: 2\nplain: false\n",
        "cpus: 3\n",
    );
    assert_eq!(
        (config.cpus, config.timezone.as_str(), config.plain),
        (3, "d", false)
    );
    // An empty value in the override hides the instance's and yields the built-in default.
    let config = merged(
        "",
        "cpus: 2\nmemory: 1GiB\ndisk: 1GiB\n",
        "cpus: 0\nmemory: ''\ndisk: ''\n",
    );
    assert_eq!(
        (config.cpus, config.memory.text(), config.disk.text()),
        (4, "3GiB", "100GiB")
    );
}

#[test]
fn lists_are_joined_override_first() {
    let list = |file: &str| {
        format!(
            "images: [{{location: /{file}}}]\nprovision: [{{script: {file}}}]\nprobes: [{{script: {file}}}]\nadditionalDisks: [{file}]\n"
        )
    };
    let config = merged(&list("d"), &list("y"), &list("o"));
    let images: Vec<&str> = config
        .images
        .iter()
        .map(|image| image.file.location.as_str())
        .collect();
    assert_eq!(images, ["/o", "/y", "/d"]);
    let scripts: Vec<&str> = config
        .provision
        .iter()
        .map(|entry| entry.script.as_str())
        .collect();
    assert_eq!(scripts, ["o", "y", "d"]);
    let probes: Vec<&str> = config
        .probes
        .iter()
        .map(|probe| probe.description.as_str())
        .collect();
    assert_eq!(
        probes,
        ["user probe 1/3", "user probe 2/3", "user probe 3/3"]
    );
    assert_eq!(config.additional_disks[0].name, "o");
    assert!(config.additional_disks[0].format);
    assert_eq!(config.additional_disks[0].fs_type, "ext4");
}

#[test]
fn maps_are_laid_over_each_other_and_dns_is_replaced() {
    let config = merged(
        "env: {A: d, B: d}\ndns: [1.1.1.1]\nvmOpts: {qemu: {minimumVersion: '8'}, x: 1}\n",
        "env: {B: y, C: y}\ndns: [2.2.2.2, 3.3.3.3]\nvmOpts: {qemu: {cpuType: {x86_64: max}}}\n",
        "env: {C: o}\n",
    );
    assert_eq!(config.env.values().collect::<Vec<_>>(), ["d", "y", "o"]);
    assert_eq!(config.dns.len(), 2);
    let qemu = config.vm_opts.qemu.expect("qemu");
    assert_eq!(
        qemu.minimum_version, None,
        "a driver's options are replaced as a whole"
    );
    assert_eq!(config.vm_opts.others["x"], 1);
}

#[test]
fn certificates_are_collected_without_duplicates() {
    let config = merged(
        "caCerts: {files: [~/a], certs: [x]}\n",
        "caCerts: {files: [/home/jane/a, /b], certs: [x, y]}\n",
        "caCerts: {removeDefaults: true}\n",
    );
    assert_eq!(
        config.ca_certs.files,
        [Path::new("/home/jane/a"), Path::new("/b")]
    );
    assert_eq!(config.ca_certs.certs, ["x", "y"]);
    assert!(config.ca_certs.remove_defaults);
}

#[test]
fn mounts_of_one_mount_point_are_one() {
    let config = merged(
        "mounts: [{location: /a, writable: true, sshfs: {cache: false}}, {location: '~'}]\n",
        "mounts: [{location: /b, mountPoint: '/{{if true}}a{{end}}', writable: false, 9p: {cache: none}}]\n",
        "mounts: [{location: '{{.GlobalTempDir}}/{{.Name}}'}]\n",
    );
    let places: Vec<(&Path, &str)> = config
        .mounts
        .iter()
        .map(|mount| (mount.location.as_path(), mount.mount_point.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            (Path::new("/a"), "/a"),
            (Path::new("/home/jane"), "/home/jane"),
            (Path::new("/tmp/a.b"), "/tmp/a.b"),
        ]
    );
    let first = &config.mounts[0];
    assert!(!first.writable && !first.sshfs.cache);
    assert_eq!(first.nine_p.cache, "none");
    assert_eq!(config.mounts[1].nine_p.cache, "fscache");
    assert_eq!(config.mounts[1].nine_p.msize.bytes(), 128 << 10);
    // `printf %s /a:/a | sha256sum`.
    assert_eq!(first.tag(), "lima-cedb597ba0288b74");
}

#[test]
fn networks_of_one_interface_are_one() {
    let config = merged(
        "networks: [{interface: a, lima: l}, {vzNAT: true}]\n",
        "networks: [{interface: a, socket: /s, metric: 7}, {vzNAT: true}]\n",
        "networks: [{interface: a, macAddress: '02:00:00:00:00:01'}]\n",
    );
    let [a, second, third] = config.networks.as_slice() else {
        panic!("{:?}", config.networks);
    };
    assert_eq!(
        (a.lima.as_deref(), a.socket.as_deref()),
        (None, Some(Path::new("/s")))
    );
    assert_eq!((a.metric, a.mac_address.as_str()), (7, "02:00:00:00:00:01"));
    assert_eq!(
        (second.interface.as_str(), third.interface.as_str()),
        ("lima1", "lima2")
    );
    assert_eq!((second.metric, third.metric), (100, 100));
    // `printf %s '0123456789abcdef/lima/a.b/lima.yaml#1' | sha256sum`.
    assert_eq!(second.mac_address, "52:55:55:da:d4:0e");
}

#[test]
fn port_forwards_are_filled_as_by_lima() {
    let rules = resolved(
        "portForwards:\n- {}\n- {guestPort: 80}\n- {guestPort: 80, hostPort: 8080, proto: tcp}\n- {guestPortRange: [1, 9], guestIP: 0.0.0.0, hostIP: '::'}\n- {guestIPMustBeZero: true, guestPort: 1}\n- {guestSocket: '/run/user/{{.UID}}/x.sock', hostSocket: 'x.sock'}\n- {guestPort: 1, hostSocket: '{{.Dir}}/x'}\n- {guestIP: '::', guestPort: 1}\n",
    )
    .config
    .port_forwards;
    let ranges: Vec<_> = rules
        .iter()
        .map(|rule| (rule.guest_port_range, rule.host_port_range))
        .collect();
    assert_eq!(
        ranges,
        [
            ([1, 65535], [1, 65535]),
            ([80, 80], [80, 80]),
            ([80, 80], [8080, 8080]),
            ([1, 9], [1, 9]),
            ([1, 1], [1, 1]),
            ([1, 65535], [0, 0]),
            ([1, 1], [0, 0]),
            ([1, 1], [1, 1]),
        ]
    );
    let addresses: Vec<_> = rules
        .iter()
        .map(|rule| (rule.guest_ip.to_string(), rule.guest_ip_must_be_zero))
        .collect();
    let loopback = ("127.0.0.1".to_owned(), false);
    let zero = ("0.0.0.0".to_owned(), true);
    assert_eq!(addresses[0], loopback);
    assert_eq!(addresses[3], zero);
    assert_eq!(addresses[4], zero);
    assert_eq!(addresses[7], ("::".to_owned(), false));
    assert_eq!((rules[0].proto, rules[2].proto), (Proto::Any, Proto::Tcp));
    assert_eq!(rules[5].guest_socket, "/run/user/501/x.sock");
    assert_eq!(
        rules[5].host_socket,
        Some(PathBuf::from("/lima/a.b/sock/x.sock"))
    );
    assert_eq!(rules[6].host_socket, Some(PathBuf::from("/lima/a.b/x")));
}

/// Lima's template offers `{guestIP: 0.0.0.0, ignore: true}` as the way to forward nothing; with what Lima fills in it does not.
#[test]
fn ignoring_every_address_is_meant_as_it_reads() {
    let rules = resolved(
        "portForwards:\n- {guestIP: 0.0.0.0, ignore: true}\n- {guestIP: 0.0.0.0, guestIPMustBeZero: true, ignore: true}\n- {guestIPMustBeZero: true, ignore: true}\n- {guestIP: 0.0.0.0}\n",
    )
    .config
    .port_forwards;
    let must_be_zero: Vec<_> = rules
        .iter()
        .map(|rule| rule.guest_ip_must_be_zero)
        .collect();
    assert_eq!(must_be_zero, [false, true, true, true]);
}

#[test]
fn localhost_is_a_place_of_its_own_and_addresses_stay_as_lima_reads_them() {
    let rules = resolved(
        "portForwards:\n- {guestPort: 80, hostIP: localhost}\n- {guestPort: 81, hostIP: '::1'}\n- {guestPort: 82}\n",
    )
    .config
    .port_forwards;
    assert_eq!(rules[0].host_ip, HostIp::Localhost);
    let shown: Vec<_> = rules
        .iter()
        .map(|rule| serde_json::to_value(rule).expect("JSON")["hostIP"].clone())
        .collect();
    assert_eq!(shown, ["localhost", "::1", "127.0.0.1"]);
}

#[test]
fn provisioning_is_filled_by_its_mode() {
    let config = resolved(
        "provision:\n- script: a\n- {mode: data, content: '{{.User}}', path: '{{.Home}}/x', permissions: 0600}\n- {mode: yq, expression: .a = 1, path: /x, owner: '{{.User}}'}\n- {mode: dependency, script: d, skipDefaultDependencyResolution: true}\n",
    )
    .config;
    let [system, data, yq, dependency] = config.provision.as_slice() else {
        panic!("four entries");
    };
    assert_eq!(
        (system.mode, system.owner.as_str(), system.overwrite),
        (ProvisionMode::System, "", false)
    );
    assert_eq!(data.script, "jane");
    assert_eq!(data.path, "/home/jane.guest/x");
    assert_eq!(
        (
            data.owner.as_str(),
            data.permissions.as_str(),
            data.overwrite
        ),
        ("root:root", "0600", true)
    );
    assert_eq!(
        (yq.script.as_str(), yq.owner.as_str(), yq.format.as_str()),
        (".a = 1", "jane", "auto")
    );
    assert!(dependency.skip_default_dependency_resolution);
}

#[test]
fn templates_see_merged_parameters() {
    let config = merged(
        "param: {A: d, B: d}\n",
        "param: {A: y}\nuser: {home: '/{{.Param.A}}/{{.Param.B}}'}\n",
        "param: {A: o}\n",
    );
    assert_eq!(config.user.home, "/o/d");
    assert_eq!(config.param["A"], "o");
}

#[test]
fn plain_mode_takes_things_out() {
    let resolved = resolved(
        "plain: true\nmountType: virtiofs\nmounts: [{location: /a}]\ncontainerd: {system: true}\nportForwards: [{guestPort: 1}, {guestPort: 22, static: true}]\n",
    );
    let config = &resolved.config;
    assert!(config.mounts.is_empty());
    assert!(!config.containerd.system && !config.containerd.user);
    assert_eq!(config.timezone, "");
    assert_eq!(config.mount_type, Some(MountType::Virtiofs));
    assert_eq!(config.port_forwards.len(), 1);
    let position = resolved
        .origins
        .position("portForwards[0].guestPort")
        .expect("written");
    assert_eq!(
        (position.line, position.column),
        (5, 44),
        "places follow what is left"
    );
}

#[test]
fn windows_hosts_have_their_own_paths() {
    let mut windows = linux();
    windows.os = HostOs::Windows;
    windows.home = PathBuf::from(r"C:\Users\jane");
    let config = resolve_on(
        &windows,
        "mounts: [{location: '~'}, {location: 'D:/data'}]\n",
    )
    .expect("resolves")
    .config;
    assert_eq!(config.mounts[0].mount_point, "/c/Users/jane");
    assert_eq!(config.mounts[1].mount_point, "/d/data");
}

#[test]
fn a_resolved_configuration_survives_json() {
    let config = resolved(
        "images: [{location: /i, kernel: {location: /k, cmdline: c}, initrd: {location: /r}}]\nmounts: [{location: /a}]\nprovision: [{script: s}]\nprobes: [{script: s}]\nportForwards: [{guestSocket: /a, hostSocket: b}]\nnetworks: [{vzNAT: true}]\nvmOpts: {qemu: {accel: tcg}, y: 2}\nosOpts: {Windows: {a: 1}}\nadditionalDisks: [a]\ncopyToHost: [{guest: /a, host: /b}]\n",
    )
    .config;
    let json = serde_json::to_string(&config).expect("serialises");
    assert_eq!(
        serde_json::from_str::<Config>(&json).expect("reads back"),
        config
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn merging_with_nothing_changes_nothing(
        cpus in 1_u32..64,
        names in proptest::collection::vec("[a-z]{1,4}", 0..5),
        layer in 0_usize..3,
    ) {
        let yaml = format!("cpus: {cpus}\nadditionalDisks: {names:?}\nenv: {{A: '{cpus}'}}\nmounts: [{{location: /m{cpus}}}]\n");
        let mut layers = ["", "", ""];
        layers[layer] = &yaml;
        let config = merged(layers[0], layers[1], layers[2]);
        prop_assert_eq!(config, merged("", &yaml, ""));
    }

    #[test]
    fn lists_keep_every_entry_and_scalars_one(
        lists in proptest::array::uniform3(proptest::collection::vec("[a-z]{1,4}", 0..4)),
        cpus in proptest::array::uniform3(proptest::option::of(1_u32..64)),
    ) {
        let layers: Vec<String> = lists
            .iter()
            .zip(&cpus)
            .map(|(names, cpus)| {
                let cpus = cpus.map_or_else(|| "null".to_owned(), |cpus| cpus.to_string());
                format!("additionalDisks: {names:?}\ncpus: {cpus}\n")
            })
            .collect();
        let config = merged(&layers[0], &layers[1], &layers[2]);
        let [d, y, o] = lists;
        let joined: Vec<String> = [o, y, d].concat();
        let names: Vec<String> = config.additional_disks.into_iter().map(|disk| disk.name).collect();
        prop_assert_eq!(names, joined);
        let [d, y, o] = cpus;
        prop_assert_eq!(config.cpus, o.or(y).or(d).unwrap_or(4));
    }
}
