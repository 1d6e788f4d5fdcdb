//! Serving a driver, as an independent client sees it (`driver_client.py`, with Python's gRPC), and as berth's own does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use berth_config::model::{Config, MountType, VmType};
use berth_driver::driver::{
    Carrier, Driver, DriverContext, DriverFeatures, DriverInfo, RunningVm, SnapshotAction, SshPort,
    StopLadder, VmExit,
};
use berth_driver::error::DriverError;
use berth_driver::external::server::{ServerOptions, serve};
use berth_process::identity::ProcessIdentity;
use serde_json::{Value, json};
use support::Instance;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a test waits for before it calls it a hang.
const HANG: Duration = Duration::from_secs(60);

/// What the toy was asked, and how it is to behave.
#[derive(Default)]
struct Toy {
    asked: Mutex<Vec<String>>,
    fails: bool,
    stopped: Notify,
    vm: Mutex<Option<watch::Sender<Option<VmExit>>>>,
}

impl Toy {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn end(&self, failure: Option<&str>) {
        if let Some(vm) = self.vm.lock().unwrap().take() {
            vm.send_replace(Some(VmExit {
                failure: failure.map(ToOwned::to_owned),
                stderr_tail: String::new(),
            }));
            self.stopped.notify_one();
        }
    }
}

/// A driver without a program.
struct ToyDriver {
    toy: Arc<Toy>,
    config: Arc<Config>,
    info: DriverInfo,
}

fn toy_driver(toy: &Arc<Toy>, context: &DriverContext) -> ToyDriver {
    let mut config = Config::clone(&context.config);
    config.mount_type = Some(MountType::NineP);
    config.video.vnc.display = String::from("127.0.0.1:0");
    toy.note(format!(
        "made for {} with {} CPUs",
        context.name, config.cpus
    ));
    ToyDriver {
        toy: Arc::clone(toy),
        config: Arc::new(config),
        info: DriverInfo {
            name: "qemu".to_owned(),
            vsock_port: 2222,
            features: DriverFeatures {
                can_run_gui: true,
                supported_image_formats: vec!["raw".to_owned()],
                ..DriverFeatures::default()
            },
            ..DriverInfo::default()
        },
    }
}

#[async_trait]
impl Driver for ToyDriver {
    fn info(&self) -> &DriverInfo {
        &self.info
    }
    fn config(&self) -> &Arc<Config> {
        &self.config
    }
    fn validate(&self) -> Result<Vec<String>, DriverError> {
        Err(DriverError::NoDisplay)
    }
    async fn prepare_disk(&self) -> Result<(), DriverError> {
        self.toy.note("disk");
        Ok(())
    }
    async fn start(&self) -> Result<RunningVm, DriverError> {
        if self.toy.fails {
            return Err(DriverError::Program {
                program: "toy".to_owned(),
                why: "no batteries".to_owned(),
            });
        }
        let (vm, exit) = watch::channel(None);
        *self.toy.vm.lock().unwrap() = Some(vm);
        let (events, receiver) = broadcast::channel(1);
        drop(events);
        Ok(RunningVm {
            identity: ProcessIdentity::current().unwrap(),
            exit,
            events: receiver,
        })
    }
    async fn ssh_address(&self, port: SshPort) -> Result<SocketAddr, DriverError> {
        self.toy.note(format!("{port:?}"));
        Ok(([127, 0, 0, 3], 22).into())
    }
    /// Says hello, then what it hears.
    async fn guest_agent_conn(&self) -> Result<Option<Box<dyn Carrier>>, DriverError> {
        let (near, mut far) = tokio::io::duplex(64);
        TaskTracker::new().spawn(async move {
            far.write_all(b"hello ").await.unwrap();
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.unwrap();
            far.write_all(&heard).await.unwrap();
        });
        Ok(Some(Box::new(near)))
    }
    async fn boot_scripts(&self) -> Result<BTreeMap<String, String>, DriverError> {
        Ok([("a".to_owned(), "b".to_owned())].into())
    }
    async fn change_display_password(&self, password: &str) -> Result<(), DriverError> {
        self.toy.note(format!("password {password}"));
        Ok(())
    }
    async fn display_port(&self) -> Result<u16, DriverError> {
        Ok(5900)
    }
    async fn screenshot(&self) -> Result<Vec<u8>, DriverError> {
        Err(DriverError::NoDisplay)
    }
    async fn stop(&self, _ladder: StopLadder) -> Result<(), DriverError> {
        self.toy.end(None);
        Ok(())
    }
    async fn snapshot(&self, action: SnapshotAction) -> Result<String, DriverError> {
        self.toy.note(format!("{action:?}"));
        Ok("the list".to_owned())
    }
}

/// A server of the toy.
struct Served {
    instance: Instance,
    toy: Arc<Toy>,
    stop: CancellationToken,
    server: JoinHandle<Result<(), DriverError>>,
}

impl Served {
    async fn new(toy: Toy) -> Self {
        let home = tempfile::Builder::new().prefix("x").tempdir().unwrap();
        let instance = Instance::in_directory(home, &[]);
        let (toy, stop) = (Arc::new(toy), CancellationToken::new());
        let context = instance.context(&json!({}));
        let making = Arc::clone(&toy);
        let options = ServerOptions {
            name: "berth-qemu".to_owned(),
            engine: VmType::Qemu,
            dir: instance.dir.clone(),
            platform: context.platform,
            env: context.env,
            make: Arc::new(move |context| Ok(Box::new(toy_driver(&making, &context)))),
        };
        let server = TaskTracker::new().spawn(serve(options, stop.clone()));
        // It listens before it waits for anything.
        tokio::task::yield_now().await;
        Self {
            instance,
            toy,
            stop,
            server,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.instance.dir.path().join(name)
    }

    /// Has Python's gRPC call the server.
    async fn call(&self, steps: &[&str]) -> Vec<Value> {
        let instance = json!({
            "name": "vm", "sshLocalPort": 60022, "later": {"a": [1]},
            "config": {"cpus": 3, "memory": "1GiB", "images": [{"location": "/i", "arch": "x86_64"}], "later": true}
        });
        let output = tokio::process::Command::new(support::python())
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/driver_client.py"
            ))
            .arg(self.at("berth-qemu.drv.sock"))
            .arg(instance.to_string())
            .args(steps)
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(HANG, output).await.unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// As SIGTERM does.
    async fn end(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(HANG, self.server).await;
        ended.unwrap().unwrap().unwrap();
        assert!(
            !self
                .instance
                .names()
                .iter()
                .any(|name| name.contains(".drv.sock"))
        );
    }
}

#[tokio::test]
async fn it_says_what_it_is_before_it_is_configured() {
    let served = Served::new(Toy::default()).await;
    let told = served
        .call(&["Info", "Validate", "Start", "Stop", "Nothing"])
        .await;
    assert_eq!(
        (&told[0]["name"], &told[0]["vsockPort"]),
        (&json!("berth-qemu"), &json!(2222))
    );
    let features = &told[0]["features"];
    assert_eq!(features["dynamicSSHAddress"], json!(false));
    assert_eq!(features["supportedImageFormats"], json!(["raw"]));
    assert_eq!(features.get("canRunGui"), None);
    assert_eq!(told[0].get("instanceDir"), None);
    assert_eq!(told[1]["code"], "FAILED_PRECONDITION");
    assert_eq!(
        told[2],
        "the driver is not configured: call Configure first"
    );
    assert_eq!(told[3], "");
    assert_eq!(told[4]["code"], "UNIMPLEMENTED");
    served.end().await;
}

#[tokio::test]
async fn a_configured_instance_comes_back_whole() {
    let served = Served::new(Toy::default()).await;
    let told = served
        .call(&[
            "Configure",
            "Info",
            "Validate",
            "Configure=[]",
            "Configure={\"config\":{\"cpus\":\"x\"}}",
            "big",
        ])
        .await;
    let wanted = json!({
        "name": "vm", "sshLocalPort": 60022, "later": {"a": [1]}, "vmType": "berth-qemu",
        "config": {
            "cpus": 3, "memory": "1GiB", "images": [{"location": "/i", "arch": "x86_64"}], "later": true,
            "mountType": "9p", "video": {"vnc": {"display": "127.0.0.1:0"}}, "vmType": "berth-qemu"
        }
    });
    assert_eq!(told[0], wanted);
    assert_eq!(served.toy.asked()[0], "made for vm with 3 CPUs");
    assert_eq!(told[1]["instanceDir"], json!(served.instance.dir.path()));
    assert_eq!(told[1]["features"]["canRunGui"], json!(true));
    assert_eq!(
        told[2],
        json!({"code": "UNKNOWN", "details": "instance has no display (video.display is \"none\")"})
    );
    for refused in &told[3..5] {
        assert_eq!(refused["code"], "UNKNOWN", "{refused}");
    }
    assert_eq!(told[5]["code"], "RESOURCE_EXHAUSTED");
    served.end().await;
}

#[tokio::test]
async fn a_whole_life() {
    let served = Served::new(Toy::default()).await;
    let steps = [
        "Configure",
        "Create",
        "CreateDisk",
        "BootScripts",
        "Start",
        "AdditionalSetupForSSH",
        "SSHAddress",
        "ForwardGuestAgent",
        "GuestAgentConn",
        "agent",
        "agent",
        "GuestAgentConn",
        "agent",
        "ChangeDisplayPassword=secret",
        "GetDisplayConnection",
        "CreateSnapshot=tag",
        "ListSnapshots",
        "Delete",
        "Stop",
        "end",
    ];
    let told = served.call(&steps).await;
    let wanted = json!([
        "",
        "",
        "0a060a0161120162",
        "success",
        "",
        "127.0.0.3",
        false,
        "",
        "hello echo",
        "hello echo",
        "",
        "hello echo",
        "",
        "5900",
        "",
        "the list",
        "",
        "",
        ["success"]
    ]);
    assert_eq!(told[1..], wanted.as_array().unwrap()[..]);
    let asked = served.toy.asked();
    assert_eq!(
        asked[1..],
        [
            "disk",
            "Configured(60022)",
            "Any",
            "password secret",
            "Create(\"tag\")",
            "List"
        ]
    );
    assert!(!served.at("ga.sock").exists() && !served.at("berth-qemu.pid").exists());
    served.end().await;
}

#[tokio::test]
async fn a_failed_start_is_told_twice() {
    let served = Served::new(Toy {
        fails: true,
        ..Toy::default()
    })
    .await;
    let told = served
        .call(&["Configure", "Start", "end", "Start", "end"])
        .await;
    for at in [1, 3] {
        assert_eq!(told[at], "toy: no batteries");
        assert_eq!(told[at + 1], json!(["INTERNAL"]));
    }
    served.end().await;
}

#[tokio::test]
async fn the_vm_ends_with_its_client() {
    let served = Served::new(Toy::default()).await;
    served.call(&["Configure", "Start", "cancel"]).await;
    tokio::time::timeout(HANG, served.toy.stopped.notified())
        .await
        .unwrap();
    // And when the client is gone altogether.
    served.call(&["Configure", "Start"]).await;
    tokio::time::timeout(HANG, served.toy.stopped.notified())
        .await
        .unwrap();
    served.end().await;
}

#[tokio::test]
async fn a_second_client_changes_nothing_of_a_running_vm() {
    let served = Served::new(Toy::default()).await;
    let first = served.call(&["Configure", "Start", "RunGUI", "end"]);
    let second = async {
        while served.toy.vm.lock().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(served.at("berth-qemu.pid").exists());
        let told = served
            .call(&["Configure={\"config\":{\"cpus\":7}}", "Start", "SSHAddress"])
            .await;
        assert_eq!(
            told[0]["config"]["mountType"], "9p",
            "it is answered all the same"
        );
        assert_eq!(told[1], "the VM runs already: stop it first");
        served.toy.end(Some("exit status 1"));
        told
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(second[2], "127.0.0.3");
    assert_eq!(first[3], json!(["the VM ended: exit status 1", "success"]));
    served.end().await;
}

#[tokio::test]
async fn a_server_that_ends_ends_its_vm() {
    let served = Served::new(Toy::default()).await;
    let toy = Arc::clone(&served.toy);
    let client = served.call(&["Configure", "Start", "end"]);
    let ending = async {
        while toy.vm.lock().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        served.stop.cancel();
    };
    let (told, ()) = tokio::join!(client, ending);
    assert_eq!(told[2], json!(["success"]));
    served.end().await;
}
