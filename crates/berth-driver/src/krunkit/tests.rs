use std::sync::Arc;

use berth_config::model::Arch;
use berth_config::platform::HostOs;
use berth_instance::dir::InstanceDir;
use serde_json::{Value, json};

use super::*;
use crate::driver::{Driver as _, DriverContext};
use crate::kit::KitDriver;
use crate::testing::{config, merge, mount, platform};

fn network(socket: &str) -> Value {
    json!({"socket": socket, "macAddress": "52:55:55:00:00:01", "interface": "lima0", "metric": 100})
}

fn driver(home: &std::path::Path, changes: Value) -> KitDriver {
    let mut value = json!({
        "vmType": "krunkit", "arch": "aarch64", "firmware": {"legacyBIOS": false},
        "networks": [network("/tmp/gvproxy.sock")]
    });
    merge(&mut value, changes);
    let context = DriverContext {
        name: "vm".to_owned(),
        dir: InstanceDir::new(home.join("vm")),
        config: Arc::new(config(value)),
        platform: Arc::new(platform(HostOs::Darwin, Arch::Aarch64)),
        env: Arc::default(),
    };
    KitDriver::new(context, &Krunkit)
}

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("vm");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("disk"), [0; 512]).unwrap();
    home
}

fn line(home: &std::path::Path, changes: Value) -> String {
    let words = driver(home, changes).command_line().unwrap();
    let words = words.as_slice().iter().map(|word| word.to_str().unwrap());
    let line = words.collect::<Vec<_>>().join(" ");
    line.replace(home.join("vm").to_str().unwrap(), "$INST")
}

#[test]
fn the_usual_machine() {
    let home = home();
    let mac = berth_config::mac::first_nic("0123456789abcdef", &home.path().join("vm"));
    let wanted = format!(
        "--cpus 2 --memory 1024 \
         --device virtio-blk,path=$INST/disk,format=raw --device virtio-blk,path=$INST/cidata.iso,format=raw \
         --device virtio-net,unixSocketPath=/tmp/gvproxy.sock,mac={mac} \
         --device virtio-vsock,port=2222,socketURL=$INST/ga.sock,connect \
         --device virtio-vsock,port=22,socketURL=$INST/ssh-vsock.sock,connect \
         --device virtio-vsock,port=2223,socketURL=$INST/ga-bell.sock,listen \
         --device virtio-fs,sharedDir=/a,mountTag={} \
         --device virtio-rng --device virtio-serial,logFilePath=$INST/serialv.log \
         --nested --restful-uri unix://$INST/vm.sock",
        crate::device_names::mount_tag(std::path::Path::new("/a"), "/mnt/x")
    );
    let changes = json!({"mounts": [mount("/a", true)], "nestedVirtualization": true});
    assert_eq!(line(home.path(), changes), wanted);
}

#[test]
fn the_first_network_is_the_guests_default_one() {
    let home = home();
    let changes = json!({"networks": [network("/tmp/one"), network("/tmp/two")]});
    let driver = driver(home.path(), changes.clone());
    let left = &driver.config().networks;
    assert_eq!(left.len(), 1, "the guest is told of one beside eth0");
    assert_eq!(
        left[0].socket.as_deref(),
        Some(std::path::Path::new("/tmp/two"))
    );
    let line = line(home.path(), changes);
    assert!(line.contains("/tmp/two,mac=52:55:55:00:00:01"), "{line}");
    assert!(!line.contains("/tmp/one,mac=52:55:55:00:00:01"), "{line}");
}

#[test]
fn what_krunkit_cannot_express_is_named_by_its_key() {
    let home = home();
    for (changes, key) in [
        (json!({"networks": []}), "networks"),
        (
            json!({"networks": [{"vzNAT": true, "macAddress": "", "interface": "lima0", "metric": 1}]}),
            "networks[0].socket",
        ),
        (json!({"networks": [network("/a=b")]}), "networks[0].socket"),
        (json!({"video": {"display": "default"}}), "video.display"),
        (json!({"cpus": 256}), "cpus"),
        (json!({"memory": "61GiB"}), "memory"),
        (json!({"tpm": true}), "tpm"),
        (
            json!({"additionalDisks": [{"name": "data", "format": true, "fsType": "", "fsArgs": []}]}),
            "additionalDisks",
        ),
        (
            json!({"mounts": [mount("/a=b", true)]}),
            "mounts[0].location",
        ),
        (
            json!({"mountType": "virtiofs", "mounts": [mount("/a", false)]}),
            "mounts[0].writable",
        ),
    ] {
        let error = driver(home.path(), changes.clone()).validate().unwrap_err();
        let DriverError::Several(errors) = error else {
            panic!("{changes}: {error}");
        };
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2, "{changes}: {texts:?}");
        assert!(texts[0].starts_with(&format!("{key}: ")), "{texts:?}");
        assert!(
            texts[1].starts_with("krunkit: not found in PATH"),
            "{texts:?}"
        );
    }
}

#[test]
fn it_starts_from_a_disk_by_uefi_only() {
    let home = home();
    for (name, key) in [("iso", "images[].location"), ("kernel", "images[].kernel")] {
        let path = home.path().join("vm").join(name);
        std::fs::write(&path, "x").unwrap();
        let error = driver(home.path(), json!({}))
            .command_line()
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(&format!("{key}: ")), "{error}");
        std::fs::remove_file(path).unwrap();
    }
}
