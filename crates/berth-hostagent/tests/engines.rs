//! A whole life of a host agent for each engine that this machine does not have: the host counts as a Mac, the engine's program is
//! a fake that boots the native-speed guest (`berth-driver/tests/fake_kit.py`), and everything else is real.
//!
//! `cargo xtask test` builds what this needs, and says where it is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_config::model::Arch;
use berth_config::name::InstanceName;
use berth_config::platform::{HostOs, HostPlatform};
use berth_config::size::Size;
use berth_events::clock::SystemClock;
use berth_events::event::Event;
use berth_events::follow::Follower;
use berth_hostagent::{ServeOptions, serve};
use berth_instance::home::LimaHome;
use berth_process::adopt::Adopted;
use berth_process::exit::Signal;
use berth_process::identity::ProcessIdentity;

/// What a test waits for before it calls it a hang.
const HANG: Duration = Duration::from_secs(150);
const NAME: &str = "engine";

fn variable(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    value
        .unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test`"))
        .into()
}

/// A machine with nobody on it but the test.
struct Scene {
    root: tempfile::TempDir,
    arch: Arch,
    _network: UnixDatagram,
}

impl Scene {
    /// An instance with a directory to share, whose disk is there already.
    fn new(vm_type: &str, program: &str) -> Self {
        // Sockets need short paths.
        let root = tempfile::Builder::new()
            .prefix("berth")
            .tempdir_in("/tmp")
            .unwrap();
        let at = |name: &str| root.path().join(name);
        for name in ["home", "bin", "lima", "shared", "lima/engine"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("shared/file"), "from the host\n").unwrap();
        let network = UnixDatagram::bind(at("net.sock")).unwrap();
        let networks = match vm_type {
            "krunkit" => format!("networks: [{{socket: {}}}]\n", at("net.sock").display()),
            _ => String::new(),
        };
        // The guest's programs are this machine's own, whatever the configuration calls them.
        let (arch, word) = match vm_type {
            "krunkit" => (Arch::Aarch64, "aarch64"),
            _ => (Arch::X8664, "x86_64"),
        };
        let yaml = format!(
            "vmType: {vm_type}\narch: {word}\ncpus: 2\nmemory: 1GiB\ndisk: 64MiB\n{networks}\
             images: [{{location: /no/image, arch: {word}}}]\ncontainerd: {{system: false, user: false}}\n\
             mounts: [{{location: {}, mountPoint: /mnt/shared}}]\n",
            at("shared").display()
        );
        fs::write(at("lima/engine/lima.yaml"), yaml).unwrap();
        let disk = fs::File::create(at("lima/engine/disk")).unwrap();
        disk.set_len(64 << 20).unwrap();
        let scene = Self {
            root,
            arch,
            _network: network,
        };
        scene.install(program);
        scene
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Puts the fake in the place of the engine's program.
    fn install(&self, program: &str) {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../berth-driver/tests/fake_kit.py");
        let text = format!(
            "#!/bin/sh\nexport BERTH_FAKE_GUEST={} BERTH_TESTGUEST_ROOTFS={}\nexec /usr/bin/python3 {} {program} obeys {} \"$@\"\n",
            variable("BERTH_TEST_GUEST").display(),
            variable("BERTH_TESTGUEST_ROOTFS").display(),
            script.display(),
            self.at("log").display(),
        );
        let path = self.at("bin").join(program);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn options(&self) -> ServeOptions {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.at("bin").display());
        let agent = variable("BERTH_TEST_DIST").join("share/berth/berth-guestagent.Linux-x86_64");
        ServeOptions {
            home: LimaHome::at(&self.at("lima")).unwrap(),
            name: InstanceName::parse(NAME).unwrap(),
            pidfile: Some(self.at("lima/engine/ha.pid")),
            socket: self.at("lima/engine/ha.sock"),
            guest_agent: Some(agent),
            nerdctl_archive: None,
            progress: false,
            debug: false,
            platform: Arc::new(self.platform()),
            env: Arc::new(vec![
                ("PATH".to_owned(), path),
                (
                    "HOME".to_owned(),
                    self.at("home").to_str().unwrap().to_owned(),
                ),
            ]),
            cache_dir: self.at("cache"),
            stdout: fs::File::create(self.at("events")).unwrap(),
            clock: Arc::new(SystemClock::new(jiff::tz::TimeZone::UTC)),
            auto_started_identifier: String::new(),
        }
    }

    fn platform(&self) -> HostPlatform {
        HostPlatform {
            os: HostOs::Darwin,
            arch: self.arch,
            os_version: "15.1".to_owned(),
            cpus: 2,
            memory: Size::from_bytes(4 << 30),
            home: self.at("home"),
            user: "jane".to_owned(),
            user_comment: String::new(),
            uid: 501,
            machine_id: "0123456789abcdef".to_owned(),
            timezone: "Etc/UTC".to_owned(),
            temp_dir: "/tmp".into(),
        }
    }

    /// Waits for an event that is wanted.
    async fn event(&self, follower: &mut Follower, wanted: impl Fn(&Event) -> bool) -> Event {
        let found = async {
            loop {
                let line = follower.next().await.unwrap();
                match Event::parse(&line.bytes) {
                    Ok(Some(event)) if wanted(&event) => return event,
                    Ok(Some(event)) if event.status.exiting => panic!("{:?}", event.status),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(HANG, found).await.unwrap()
    }

    /// Runs a command in the guest.
    async fn run(&self, command: &str) -> String {
        let output = tokio::process::Command::new("ssh")
            .arg("-F")
            .arg(self.at("lima/engine/ssh.config"))
            .args(["lima-engine", command])
            .output();
        let output = tokio::time::timeout(HANG, output).await.unwrap().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a life leaves behind in the instance's directory.
    fn remains(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("lima/engine")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| {
                [".sock", ".pid"]
                    .iter()
                    .any(|ending| name.ends_with(ending))
            })
            .collect()
    }

    /// From start to stop: ready, a command, a share, a forward.
    async fn life(&self) {
        let agent = serve(self.options());
        let person = async {
            let mut events = Follower::from_start(self.at("events")).unwrap();
            let running = self.event(&mut events, |event| event.status.running).await;
            assert_eq!(running.status.errors, [""; 0]);
            assert!(!running.status.degraded);

            assert_eq!(
                self.run("id -un; cat /mnt/shared/file").await,
                "jane\nfrom the host\n"
            );
            let path = "/etc/systemd/system/lima-guestagent.service";
            let unit = self.run(&format!("grep -o 'vsock:.*' {path}")).await;
            assert_eq!(
                unit, "vsock:2222\n",
                "the agent is behind the engine's carrier"
            );
            self.run(
                "sudo systemd-run --quiet python3 -m http.server 8123 --bind 127.0.0.1 -d /mnt",
            )
            .await;
            let forwarded = |event: &Event| {
                let forward = event.status.port_forward.as_ref();
                forward.is_some_and(|forward| forward.host_addr == "127.0.0.1:8123")
            };
            self.event(&mut events, forwarded).await;
            let answer = tokio::task::spawn_blocking(ask).await.unwrap();
            assert!(answer.contains("200 OK"), "{answer}");

            let ourselves = Adopted::open(ProcessIdentity::current().unwrap());
            ourselves
                .unwrap()
                .unwrap()
                .signal(Signal::Interrupt)
                .unwrap();
        };
        let (ended, ()) = tokio::join!(agent, person);
        ended.unwrap();
        assert_eq!(self.remains(), [""; 0]);
    }
}

/// Asks the guest's web server through the forward.
fn ask() -> String {
    let mut stream = TcpStream::connect("127.0.0.1:8123").unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn live(vm_type: &str, program: &str) {
    let scene = Scene::new(vm_type, program);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(scene.life());
}

#[test]
fn vz_through_vfkit() {
    live("vz", "vfkit");
}

#[test]
fn krunkit() {
    live("krunkit", "krunkit");
}
