//! What a guest is told, for one configuration with awkward names in it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use berth_cidata::environment::guest_environment;
use berth_cidata::files::{Entry, Source};
use berth_cidata::input::{DnsPorts, Proxies, Subnet};
use berth_cidata::network::name_servers;
use berth_cidata::{AgentKind, Cidata, Input, build};
use berth_config::model::{CaCerts, Config, GuestOs, MountType};
use serde_json::{Value, json};

mod support;
use support::{config, host_key, input};

const BERTH: &str = "/host/berth-guestagent";

fn build_with(config: &Config, agent: AgentKind) -> Cidata {
    build_changed(config, agent, |_| {})
}

fn build_changed(config: &Config, agent: AgentKind, change: impl FnOnce(&mut Input<'_>)) -> Cidata {
    let (keys, host_keys) = (["ssh-ed25519 AAAA me\n".to_owned()], [host_key()]);
    let mut input = input(config, agent, &host_keys, &keys);
    change(&mut input);
    build(&input).unwrap()
}

fn text<'a>(volume: &'a Cidata, path: &str) -> &'a str {
    match &volume.entries[path] {
        Entry {
            source: Source::Text(text),
            ..
        } => text,
        other => panic!("{path} is {other:?}"),
    }
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn names(volume: &Cidata) -> Vec<&str> {
    volume.entries.keys().map(String::as_str).collect()
}

#[test]
fn user_data_with_our_agent_is_short() {
    let volume = build_with(&config(), AgentKind::Berth(PathBuf::from(BERTH)));
    assert_eq!(
        text(&volume, "user-data"),
        r#"#cloud-config
growpart:
  mode: "auto"
  devices:
    - "/"
users:
  - name: "me"
    uid: 501
    gecos: "Me, \"Myself\": & I"
    homedir: "/home/me.guest"
    shell: "/bin/bash"
    sudo: "ALL=(ALL) NOPASSWD:ALL"
    lock_passwd: true
    ssh_authorized_keys:
      - "ssh-ed25519 AAAA me"
ssh_deletekeys: false
ssh_keys:
  ed25519_private: |
    -----BEGIN OPENSSH PRIVATE KEY-----
    AAAA
    -----END OPENSSH PRIVATE KEY-----
  ed25519_public: "ssh-ed25519 AAAA lima-sample"
bootcmd:
  - - "sh"
    - "-c"
    - |
      mnt=/mnt/lima-cidata
      if ! grep -q " $mnt " /proc/mounts; then
        mkdir -p -m 0700 "$mnt"
        mount -t iso9660 -o ro,exec,overriderockperm,mode=0700,dmode=0700,uid=0 LABEL=cidata "$mnt" || exit 1
      fi
      exec "$mnt/berth-guestagent" install
  - - "env"
    - "PARAM_COLOUR=dark 'blue'"
    - "sh"
    - "-c"
    - |-
      echo "it's $PARAM_COLOUR"
      exit 3
"#
    );
    assert_eq!(
        names(&volume),
        [
            "berth-guestagent",
            "boot.json",
            "boot.sh",
            "etc_environment",
            "meta-data",
            "network-config",
            "param.env",
            "provision.data/00000002",
            "provision.system/00000000",
            "provision.user/00000003",
            "user-data",
        ]
    );
    assert_eq!(
        volume.entries["berth-guestagent"],
        Entry {
            source: Source::File(PathBuf::from(BERTH)),
            executable: true
        }
    );
}

#[test]
fn without_our_agent_cloud_init_and_a_script_do_the_work() {
    let mut config = config();
    config.upgrade_packages = true;
    config.ca_certs = CaCerts {
        remove_defaults: true,
        files: vec![],
        certs: vec!["  BEGIN\n\n  b64  \nEND\n\n".to_owned()],
    };
    let volume = build_changed(
        &config,
        AgentKind::Lima(PathBuf::from("/lima.gz")),
        |input| {
            input.host_keys = &[];
            input.dns_ports = Some(DnsPorts {
                udp: 1053,
                tcp: 1054,
            });
        },
    );
    let data = yaml(text(&volume, "user-data"));
    let keys: Vec<_> = data
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "growpart",
            "users",
            "package_update",
            "package_upgrade",
            "package_reboot_if_required",
            "mounts",
            "timezone",
            "manage_resolv_conf",
            "resolv_conf",
            "ca_certs",
            "write_files",
            "bootcmd",
        ]
    );
    let tag = berth_cidata::devices::mount_tag("/home/me".as_ref(), "/home/me: \"mine\"");
    assert_eq!(
        data["mounts"],
        json!([[
            tag,
            "/home/me: \"mine\"",
            "9p",
            "rw,trans=virtio,version=9p2000.L,msize=131072,cache=mmap,nofail",
            "0",
            "0"
        ]])
    );
    assert_eq!(
        data["ca_certs"],
        json!({"remove_defaults": true, "trusted": ["BEGIN\nb64\nEND\n"]})
    );
    assert_eq!(data["resolv_conf"], json!({"nameservers": ["192.168.5.3"]}));
    let launcher = &data["write_files"][0];
    assert_eq!(
        launcher["path"],
        "/var/lib/cloud/scripts/per-boot/00-lima.boot.sh"
    );
    assert!(
        launcher["content"]
            .as_str()
            .unwrap()
            .ends_with("exec \"$mnt/boot.sh\"\n")
    );
    assert_eq!(
        data["bootcmd"].as_array().unwrap().len(),
        1,
        "only the configuration's own"
    );

    assert_eq!(
        volume.entries["lima-guestagent"].source,
        Source::Gzip(PathBuf::from("/lima.gz"))
    );
}

#[test]
fn lima_env_has_the_lines_that_scripts_read() {
    let volume = build_changed(&config(), AgentKind::None, |input| {
        input.dns_ports = Some(DnsPorts {
            udp: 1053,
            tcp: 1054,
        });
    });
    let env = text(&volume, "lima.env");
    for line in [
        "IID=iid-0123",
        "USER=me",
        "COMMENT=Me, \"Myself\": & I",
        "HOSTHOME_MOUNTPOINT=/home/me: \"mine\"",
        "MOUNTS=1",
        "MOUNTTYPE=9p",
        "DISK_0_DEVICE=vdb",
        "DISK_0_FSARGS=-i size=64k",
        "DATAFILE_00000002_OVERWRITE=false",
        "DATAFILE_00000002_PATH=/etc/a b",
        "UDP_DNS_LOCAL_PORT=1053",
        "TCP_DNS_LOCAL_PORT=1054",
        "PLAIN=",
        "PASSWORDLESS_SUDO=1",
    ] {
        assert!(
            env.lines()
                .any(|found| found == format!("LIMA_CIDATA_{line}")),
            "{line}\n{env}"
        );
    }
}

#[test]
fn the_boot_spec_says_it_in_json() {
    let volume = build_with(&config(), AgentKind::Berth(PathBuf::from(BERTH)));
    let spec: berth_link::boot::BootSpec =
        serde_json::from_str(text(&volume, "boot.json")).unwrap();
    assert_eq!(spec.instance_id, "iid-0123");
    assert_eq!(spec.env["http_proxy"], "http://192.168.5.2:3128");
    assert_eq!(spec.hosts["host.lima.internal"], "192.168.5.2");
    assert_eq!(spec.dns, ["192.168.5.3"]);
    assert_eq!(spec.nics[1].mac, "52:55:55:aa:bb:cc");
    assert_eq!(
        spec.mounts[0].options,
        "rw,trans=virtio,version=9p2000.L,msize=131072,cache=mmap"
    );
    assert_eq!(spec.disks[0].serial, "data");
    let provision: Vec<_> = spec
        .provision
        .iter()
        .map(|entry| (entry.index, entry.mode.as_str(), entry.file.as_str()))
        .collect();
    assert_eq!(
        provision,
        [
            (0, "system", "provision.system/00000000"),
            (2, "data", "provision.data/00000002"),
            (3, "user", "provision.user/00000003"),
        ]
    );
}

#[test]
fn questions_go_to_the_host_resolver_where_the_guest_asks_the_network() {
    let resolver = |config: &Config, ports| {
        let kind = AgentKind::Berth(PathBuf::from(BERTH));
        let volume = build_changed(config, kind, |input| input.dns_ports = ports);
        let spec: berth_link::boot::BootSpec =
            serde_json::from_str(text(&volume, "boot.json")).unwrap();
        spec.host_resolver
    };
    let ports = Some(DnsPorts {
        udp: 1053,
        tcp: 1054,
    });
    let mut config = config();
    let found = resolver(&config, ports).unwrap();
    assert_eq!(found.address.to_string(), "192.168.5.3");
    assert_eq!(found.host.to_string(), "192.168.5.2");
    assert_eq!((found.udp_port, found.tcp_port), (1053, 1054));
    // It could not be bound.
    assert_eq!(resolver(&config, None), None);
    config.dns = vec!["1.1.1.1".parse().unwrap()];
    assert_eq!(resolver(&config, ports), None);
}

#[test]
fn network_config_names_and_finds_interfaces() {
    let mut config = config();
    config
        .param
        .insert("internal_netplanOptional".to_owned(), "true".to_owned());
    let volume = build_with(&config, AgentKind::None);
    assert_eq!(
        text(&volume, "network-config"),
        r#"version: 2
ethernets:
  eth0:
    match:
      macaddress: "52:55:55:01:02:03"
    dhcp4: true
    set-name: "eth0"
    dhcp4-overrides:
      route-metric: 200
    dhcp-identifier: "mac"
    optional: true
    nameservers:
      addresses:
        - "192.168.5.3"
  lima0:
    match:
      macaddress: "52:55:55:aa:bb:cc"
    dhcp4: true
    set-name: "lima0"
    dhcp4-overrides:
      route-metric: 100
    dhcp-identifier: "mac"
    optional: true
"#
    );
    assert_eq!(
        text(&volume, "meta-data"),
        "instance-id: \"iid-0123\"\nlocal-hostname: \"lima-sample\"\n"
    );
}

#[test]
fn name_servers_come_from_the_first_that_knows() {
    let host_dns = ["9.9.9.9".parse().unwrap()];
    let mut config = config();
    let mut servers = |subnet: Subnet, change: fn(&mut Config)| {
        change(&mut config);
        let found = name_servers(&config, &subnet, &host_dns);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(servers(Subnet::SLIRP, |_| {}), ["192.168.5.3"]);
    assert_eq!(
        servers(Subnet::SLIRP, |config| config.host_resolver.enabled = false),
        ["9.9.9.9"]
    );
    assert_eq!(
        servers(Subnet::VMNET, |_| {}),
        [""; 0],
        "DHCP knows, whatever the host's servers are"
    );
    assert_eq!(
        servers(Subnet::SLIRP, |config| config.dns =
            vec!["1.1.1.1".parse().unwrap()]),
        ["1.1.1.1"]
    );
}

#[test]
fn proxies_are_merged_in_order_and_spelled_both_ways() {
    let config = config();
    let volume = build_changed(&config, AgentKind::None, |input| {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        input.proxies.system = pairs(&[
            ("ftp_proxy", "http://ftp:1"),
            ("http_proxy", "http://sys:1"),
        ]);
        input.proxies.host_env = pairs(&[
            ("HTTPS_PROXY", "http://127.0.0.1:8080"),
            ("no_proxy", "localhost"),
            ("ftp_proxy", ""),
            ("UNRELATED", "secret"),
        ]);
    });
    assert_eq!(
        text(&volume, "etc_environment"),
        "#LIMA-START\n\
         EDITOR=vi # not emacs\n\
         HTTPS_PROXY=http://192.168.5.2:8080\n\
         HTTP_PROXY=http://192.168.5.2:3128\n\
         NO_PROXY=localhost\n\
         http_proxy=http://192.168.5.2:3128\n\
         https_proxy=http://192.168.5.2:8080\n\
         no_proxy=localhost\n\
         #LIMA-END\n"
    );
    assert_eq!(text(&volume, "param.env"), "PARAM_COLOUR=dark 'blue'\n");
}

#[test]
fn the_lower_case_proxy_wins() {
    let mut config = config();
    config
        .env
        .insert("HTTP_PROXY".to_owned(), "http://other:1".to_owned());
    let env = guest_environment(&config, &Proxies::default(), Subnet::SLIRP.gateway).unwrap();
    assert_eq!(env["HTTP_PROXY"], "http://192.168.5.2:3128");
}

#[test]
fn what_no_guest_can_be_given_is_refused_by_key() {
    let refused = |change: fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        build(&input(&config, AgentKind::None, &[], &[]))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(|config| config.user.name = "root".to_owned()),
        "user.name: \"root\" cannot be the user that berth makes: choose another name"
    );
    assert_eq!(
        refused(|config| config.user.uid = 0),
        "user.uid: 0 is root: choose another number"
    );
    assert_eq!(
        refused(|config| config.mounts[0].mount_point = "src".to_owned()),
        "mounts[0].mountPoint: \"src\" is no absolute path in the guest"
    );
    assert_eq!(
        refused(|config| config.os = GuestOs::FreeBSD),
        "os: FreeBSD guests are not supported yet: use Linux"
    );
    assert_eq!(
        refused(|config| drop(config.env.insert("A".to_owned(), "1\n2".to_owned()))),
        "env.A: the value has more than one line, which no environment file can carry"
    );
    assert_eq!(
        refused(|config| config.user.comment = "a\nb".to_owned()),
        "user.comment: the value must be one line"
    );
}

#[test]
fn drivers_and_guests_without_cloud_init_add_files() {
    let volume = build_changed(&config(), AgentKind::None, |input| {
        input.lima.no_cloud_init = true;
        input.nerdctl_archive = Some(PathBuf::from("/cache/nerdctl.tgz"));
        input.driver_scripts = [
            ("02-setup.sh".to_owned(), "#!/bin/sh\n".to_owned()),
            ("boot.FreeBSD/01.sh".to_owned(), "#!/bin/sh\n".to_owned()),
        ]
        .into();
    });
    assert!(volume.entries["boot.Linux/02-setup.sh"].executable);
    assert!(volume.entries["boot.FreeBSD/01.sh"].executable);
    assert_eq!(
        text(&volume, "ssh_authorized_keys"),
        "ssh-ed25519 AAAA me\n"
    );
    assert_eq!(
        volume.entries["nerdctl-full.tgz"].source,
        Source::File(PathBuf::from("/cache/nerdctl.tgz"))
    );
    assert!(!volume.entries.contains_key("lima-guestagent"));
}

#[test]
fn a_guest_of_wsl_is_told_what_nobody_else_prepares() {
    let mut config = config();
    config.mount_type = Some(MountType::Wsl2);
    config.mounts[0].location = PathBuf::from(r"C:\Users\me");
    let agent = AgentKind::Berth(PathBuf::from("/agent"));
    let volume = build_changed(&config, agent, |input| {
        input.lima.no_cloud_init = true;
        input.subnet = Subnet::UNKNOWN;
        input.ssh_port = 23022;
    });
    let spec: berth_link::boot::BootSpec =
        serde_json::from_str(text(&volume, "boot.json")).unwrap();
    assert!(spec.make_user);
    assert_eq!(spec.ssh_port, 23022);
    assert!(spec.nics.is_empty() && spec.hosts.is_empty() && spec.dns.is_empty());
    let mount = &spec.mounts[0];
    assert_eq!(
        (mount.tag.as_str(), mount.fs_type.as_str()),
        (r"C:\Users\me", "drvfs")
    );
}
