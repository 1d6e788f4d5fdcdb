use std::sync::Arc;

use berth_config::platform::HostOs;
use berth_instance::dir::InstanceDir;
use serde_json::{Value, json};

use super::*;
use crate::driver::{Driver as _, DriverContext};
use crate::kit::KitDriver;
use crate::testing::{config, merge, mount, platform};

/// An instance on a Mac, in a directory with a raw disk.
struct Scene {
    home: tempfile::TempDir,
    host: HostPlatform,
}

impl Scene {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("vm");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("disk"), [0; 512]).unwrap();
        let host = HostPlatform {
            os_version: "15.1".to_owned(),
            ..platform(HostOs::Darwin, Arch::Aarch64)
        };
        Self { home, host }
    }

    fn driver(&self, changes: Value) -> KitDriver {
        let mut value =
            json!({"vmType": "vz", "arch": "aarch64", "firmware": {"legacyBIOS": false}});
        merge(&mut value, changes);
        let context = DriverContext {
            name: "vm".to_owned(),
            dir: InstanceDir::new(self.home.path().join("vm")),
            config: Arc::new(config(value)),
            platform: Arc::new(self.host.clone()),
            env: Arc::default(),
        };
        KitDriver::new(context, &Vz)
    }

    /// The command line, with the instance's directory as `$INST`.
    fn line(&self, changes: Value) -> String {
        let words = self.driver(changes).command_line().unwrap();
        let words = words.as_slice().iter().map(|word| word.to_str().unwrap());
        let dir = self.home.path().join("vm");
        let line = words.collect::<Vec<_>>().join(" ");
        line.replace(dir.to_str().unwrap(), "$INST")
    }

    /// What is refused, without the program that is missing.
    fn refusals(&self, changes: Value) -> Vec<String> {
        let error = self.driver(changes).validate().unwrap_err();
        let errors = match error {
            DriverError::Several(errors) => errors,
            one => vec![one],
        };
        let texts = errors.iter().map(ToString::to_string);
        texts
            .filter(|text| !text.starts_with("vfkit: not found in PATH"))
            .collect()
    }
}

#[test]
fn the_usual_machine() {
    let scene = Scene::new();
    let mac = berth_config::mac::first_nic(&scene.host.machine_id, &scene.home.path().join("vm"));
    let line = scene.line(json!({}));
    let wanted = format!(
        "--cpus 2 --memory 1024 --bootloader efi,variable-store=$INST/vz-efi,create \
         --device virtio-blk,path=$INST/disk --device virtio-blk,path=$INST/cidata.iso,readonly \
         --device virtio-net,nat,mac={mac} \
         --device virtio-vsock,port=2222,socketURL=$INST/ga.sock,connect \
         --device virtio-vsock,port=22,socketURL=$INST/ssh-vsock.sock,connect \
         --device virtio-vsock,port=2223,socketURL=$INST/ga-bell.sock,listen \
         --device virtio-rng --device virtio-balloon --device virtio-serial,logFilePath=$INST/serialv.log \
         --restful-uri unix://$INST/vm.sock"
    );
    assert_eq!(line, wanted);
}

#[test]
fn everything_at_once() {
    let scene = Scene::new();
    let disk = scene.home.path().join("_disks/data-for-many-years");
    std::fs::create_dir_all(&disk).unwrap();
    std::fs::write(disk.join("datadisk"), [0; 512]).unwrap();
    std::fs::write(scene.home.path().join("vm/iso"), [0; 512]).unwrap();
    let line = scene.line(json!({
        "additionalDisks": [{"name": "data-for-many-years", "format": true, "fsType": "", "fsArgs": []}],
        "mounts": [mount("/Users/jane/a b", true)],
        "networks": [
            {"vzNAT": true, "macAddress": "52:55:55:00:00:01", "interface": "lima0", "metric": 100},
            {"socket": "/tmp/net.sock", "macAddress": "52:55:55:00:00:02", "interface": "lima1", "metric": 100}
        ],
        "video": {"display": "default"},
        "vmOpts": {"vz": {"rosetta": {"enabled": true, "binfmt": true}}},
        "nestedVirtualization": true,
    }));
    let disks = line.find("datadisk,deviceId=data-for-many-years").unwrap();
    assert!(
        disks < line.find("cidata.iso").unwrap(),
        "disks keep their names: {line}"
    );
    for part in [
        "--device usb-mass-storage,path=$INST/iso,readonly ",
        "--device virtio-net,nat,mac=52:55:55:00:00:01 ",
        "--device virtio-net,unixSocketPath=/tmp/net.sock,mac=52:55:55:00:00:02 ",
        "--device virtio-fs,sharedDir=/Users/jane/a b,mountTag=lima-",
        "--device rosetta,mountTag=vz-rosetta,install ",
        "--device virtio-gpu,width=1920,height=1200 --device virtio-input,keyboard --device virtio-input,pointing --gui ",
        "--nested --restful-uri",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn a_kernel_starts_without_firmware() {
    let scene = Scene::new();
    let dir = scene.home.path().join("vm");
    std::fs::write(dir.join("kernel"), "k").unwrap();
    std::fs::write(dir.join("initrd"), "i").unwrap();
    std::fs::write(
        dir.join("kernel.cmdline"),
        "console=hvc0 root=/dev/vda1,x\n",
    )
    .unwrap();
    let line = scene.line(json!({}));
    let wanted = "--bootloader linux,kernel=$INST/kernel,initrd=$INST/initrd,cmdline=\"console=hvc0 root=/dev/vda1,x\" ";
    assert!(line.contains(wanted), "{line}");
    std::fs::write(dir.join("kernel.cmdline"), "a=\"b\"").unwrap();
    let error = scene
        .driver(json!({}))
        .command_line()
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("images[].kernel.cmdline: has a quotation mark"),
        "{error}"
    );
}

#[test]
fn only_raw_disks_are_attached() {
    let scene = Scene::new();
    let mut qcow2 = vec![0; 512];
    qcow2[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    qcow2[20..24].copy_from_slice(&16_u32.to_be_bytes());
    qcow2[24..32].copy_from_slice(&(1_u64 << 20).to_be_bytes());
    qcow2[100..104].copy_from_slice(&104_u32.to_be_bytes());
    std::fs::write(scene.home.path().join("vm/disk"), qcow2).unwrap();
    let error = scene
        .driver(json!({}))
        .command_line()
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("disk: ") && error.contains("takes raw disks only"),
        "{error}"
    );
}

#[test]
fn directories_that_must_not_be_written_to_do_not_go_by_virtiofs() {
    use berth_config::model::MountType::{ReverseSshfs, Virtiofs};
    let scene = Scene::new();
    for (changes, wanted) in [
        (json!({}), Virtiofs),
        (json!({"mounts": [mount("/a", true)]}), Virtiofs),
        (
            json!({"mounts": [mount("/a", true), mount("/b", false)]}),
            ReverseSshfs,
        ),
        (json!({"mountTypesUnsupported": ["virtiofs"]}), ReverseSshfs),
    ] {
        assert_eq!(
            scene.driver(changes.clone()).config().mount_type,
            Some(wanted),
            "{changes}"
        );
    }
}

#[test]
fn what_vfkit_cannot_express_is_named_by_its_key() {
    let mut scene = Scene::new();
    scene.host.os_version = "14.5".to_owned();
    let network = |what: Value| {
        let mut network = json!({"macAddress": "", "interface": "lima0", "metric": 100});
        merge(&mut network, what);
        json!({"networks": [network]})
    };
    for (changes, key) in [
        (json!({"os": "Darwin"}), "os"),
        (json!({"os": "FreeBSD"}), "os"),
        (json!({"tpm": true}), "tpm"),
        (json!({"audio": {"device": "default"}}), "audio.device"),
        (json!({"video": {"display": "vnc"}}), "video.display"),
        (
            json!({"mountType": "9p", "mounts": [mount("/a", true)]}),
            "mountType",
        ),
        (
            json!({"mountType": "virtiofs", "mounts": [mount("/a", true), mount("/b", false)]}),
            "mounts[1].writable",
        ),
        (
            json!({"mounts": [mount("/a,b", true)]}),
            "mounts[0].location",
        ),
        (network(json!({"lima": "shared"})), "networks[0].lima"),
        (network(json!({"socket": "/a,b"})), "networks[0].socket"),
        (json!({"ssh": {"overVsock": false}}), "ssh.overVsock"),
        (
            json!({"hostResolver": {"hosts": {"a.b": "1.2.3.4"}}}),
            "hostResolver.hosts",
        ),
        (
            json!({"nestedVirtualization": true}),
            "nestedVirtualization",
        ),
        (
            json!({"vmOpts": {"vz": {"diskImageFormat": "asif"}}}),
            "vmOpts.vz.diskImageFormat",
        ),
        (json!({"vmOpts": {"vz": {"rosetta": 1}}}), "vmOpts.vz"),
        (
            json!({"firmware": {"images": [{"location": "/x", "arch": "aarch64", "vmType": "vz"}]}}),
            "firmware.images",
        ),
    ] {
        let found = scene.refusals(changes.clone());
        assert_eq!(found.len(), 1, "{changes}: {found:?}");
        assert!(found[0].starts_with(&format!("{key}: ")), "{found:?}");
    }
    assert!(scene.refusals(json!({})).is_empty());
}

#[test]
fn a_directory_that_cannot_be_in_a_url_is_refused() {
    let scene = Scene::new();
    let mut driver = scene.driver(json!({}));
    for (name, refused) in [
        ("a b", true),
        ("ü", true),
        ("100%", true),
        ("a,b", true),
        ("a.b-c_d", false),
    ] {
        let context = DriverContext {
            name: "vm".to_owned(),
            dir: InstanceDir::new(format!("/Users/jane/{name}").into()),
            config: Arc::clone(driver.config()),
            platform: Arc::new(scene.host.clone()),
            env: Arc::default(),
        };
        driver = KitDriver::new(context, &Vz);
        let error = driver.validate().unwrap_err().to_string();
        assert_eq!(error.contains("LIMA_HOME: "), refused, "{name}: {error}");
    }
}

#[test]
fn rosetta_is_for_apple_chips() {
    let mut scene = Scene::new();
    let changes = json!({"vmOpts": {"vz": {"rosetta": {"enabled": true, "binfmt": true}}}});
    let features = scene.driver(changes.clone()).info().features.clone();
    assert!(features.rosetta_enabled && features.rosetta_bin_fmt);
    scene.host.arch = Arch::X8664;
    let features = scene.driver(changes.clone()).info().features.clone();
    assert!(!features.rosetta_enabled && !features.rosetta_bin_fmt);
    assert!(!scene.line(changes).contains("rosetta"));
}
