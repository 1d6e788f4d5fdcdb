//! A whole life of a host agent for each engine that this machine does not have: the host counts as a Mac or as Windows, the
//! engine's program is a fake that boots the native-speed guest (`berth-driver/tests/fake_kit.py`, `fake_wsl.py`), and
//! everything else is real.
//!
//! `cargo xtask test` builds what this needs, and says where it is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_config::model::Arch;
use berth_config::name::InstanceName;
use berth_config::platform::{HostOs, HostPlatform};
use berth_config::resolve::{ResolveContext, resolve};
use berth_config::size::Size;
use berth_config::sources::Sources;
use berth_config::version::LimaVersion;
use berth_driver::driver::{Driver, DriverContext};
use berth_events::clock::SystemClock;
use berth_events::event::Event;
use berth_events::follow::Follower;
use berth_hostagent::{ServeOptions, serve};
use berth_instance::dir::InstanceDir;
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
    os: HostOs,
    arch: Arch,
    _network: UnixDatagram,
}

impl Scene {
    /// An instance with a directory to share, whose disk is there already.
    fn new(vm_type: &str, program: &str) -> Self {
        let root = empty();
        let at = |name: &str| root.path().join(name);
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
            os: HostOs::Darwin,
            arch,
            _network: network,
        };
        let variables = [];
        scene.install(program, "fake_kit.py", &scene.at("log"), &variables);
        scene
    }

    /// An instance with a directory to share, on a drive of Windows, whose distribution is to be imported.
    fn windows() -> Self {
        let root = empty();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("hv")).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let yaml = format!(
            "vmType: wsl2\narch: x86_64\nssh: {{localPort: {port}}}\n\
             images: [{{location: 'C:\\rootfs.tar', arch: x86_64}}]\ncontainerd: {{system: false, user: false}}\n\
             mounts: [{{location: 'C:\\shared', mountPoint: /mnt/shared, writable: true}}]\n\
             provision: [{{mode: system, script: 'echo booted >> /var/booted'}}]\n"
        );
        fs::write(at("lima/engine/lima.yaml"), yaml).unwrap();
        fs::write(at("lima/engine/image"), [0; 10240]).unwrap();
        let scene = Self {
            os: HostOs::Windows,
            arch: Arch::X8664,
            _network: UnixDatagram::unbound().unwrap(),
            root,
        };
        let variables = [
            format!("BERTH_FAKE_SSH_PORT={port}"),
            format!("BERTH_HYPERV_SOCKETS={}", scene.at("hv").display()),
        ];
        for program in ["wsl.exe", "powershell.exe"] {
            let drive = scene.root.path();
            scene.install(program, "fake_wsl.py", drive, &variables);
        }
        scene
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Puts a fake in the place of the engine's program.
    fn install(&self, program: &str, fake: &str, place: &Path, variables: &[String]) {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../berth-driver/tests");
        let text = format!(
            "#!/bin/sh\nexport BERTH_FAKE_GUEST={} BERTH_TESTGUEST_ROOTFS={} {}\nexec /usr/bin/python3 {} {program} obeys {} \"$@\"\n",
            variable("BERTH_TEST_GUEST").display(),
            variable("BERTH_TESTGUEST_ROOTFS").display(),
            variables.join(" "),
            tests.join(fake).display(),
            place.display(),
        );
        let path = self.at("bin").join(program);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    /// The driver, as `berth start` makes it.
    async fn driver(&self) -> Box<dyn Driver> {
        let options = self.options();
        let dir = InstanceDir::new(self.at("lima/engine"));
        let context = ResolveContext {
            platform: &options.platform,
            instance_name: NAME,
            instance_dir: dir.path(),
            lima_home: options.home.path(),
            created_by: LimaVersion::current(),
            external_drivers: berth_config::resolve::ExternalDrivers::default(),
        };
        let sources = Sources::read(options.home.path(), &dir.lima_yaml()).unwrap();
        let config = resolve(&sources, &context).unwrap().config;
        let context = DriverContext {
            name: NAME.to_owned(),
            dir,
            config: Arc::new(config),
            platform: Arc::clone(&options.platform),
            env: Arc::clone(&options.env),
        };
        let external = &options.external_drivers;
        let driver = berth_driver::create_driver(context, &options.cache_dir, external);
        driver.await.unwrap()
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
                ("HOME".to_owned(), self.text("home")),
                ("BERTH_HYPERV_SOCKETS".to_owned(), self.text("hv")),
            ]),
            external_drivers: Arc::default(),
            cache_dir: self.at("cache"),
            stdout: fs::File::create(self.at("events")).unwrap(),
            clock: Arc::new(SystemClock::new(jiff::tz::TimeZone::UTC)),
            auto_started_identifier: String::new(),
        }
    }

    fn platform(&self) -> HostPlatform {
        HostPlatform {
            os: self.os,
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
            // As on Windows, whose OpenSSH cannot share a login.
            .args(["-o", "ControlPath=none", "lima-engine", command])
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

    /// From start to stop: ready, a command, a share, a forward. The agent is behind the engine's carrier.
    async fn life(&self, carrier: &str) {
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
            let unit = self.run(&format!("grep -o '[^=]*vsock:.*' {path}")).await;
            assert_eq!(unit.trim(), carrier);
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

impl Drop for Scene {
    /// A distribution runs on without whoever started it.
    fn drop(&mut self) {
        if self.os == HostOs::Windows {
            let mut wsl = std::process::Command::new(self.at("bin/wsl.exe"));
            wsl.args(["--terminate", "lima-engine"]);
            wsl.env("WSL_UTF8", "1").env("WSLENV", "");
            let quiet = std::process::Stdio::null;
            let _ = wsl.stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
        }
    }
}

/// The machine's directories.
fn empty() -> tempfile::TempDir {
    // Sockets need short paths.
    let root = tempfile::Builder::new()
        .prefix("berth")
        .tempdir_in("/tmp")
        .unwrap();
    for name in ["home", "bin", "lima", "shared", "lima/engine"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    fs::write(root.path().join("shared/file"), "from the host\n").unwrap();
    root
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
    on_one_thread(scene.life("vsock:2222"));
}

fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

#[test]
fn vz_through_vfkit() {
    live("vz", "vfkit");
}

#[test]
fn krunkit() {
    live("krunkit", "krunkit");
}

#[test]
fn wsl2_through_wsl_exe() {
    let scene = Scene::windows();
    on_one_thread(async {
        let driver = scene.driver().await;
        driver.prepare_disk().await.unwrap();
        let carrier = format!("hvsock:{}", driver.info().vsock_port);
        let boots = scene.at("lima/engine/ext4.vhdx.berth-guest/upper/var/booted");
        for boot in 1..=2 {
            scene.life(&carrier).await;
            let text = fs::read_to_string(&boots).unwrap();
            assert_eq!(
                text,
                "booted\n".repeat(boot),
                "provisioned once at each boot"
            );
        }
        let options = scene.options();
        let dir = InstanceDir::new(scene.at("lima/engine"));
        berth_driver::forget(&dir, &options.env).await.unwrap();
        assert!(!scene.at("lima/engine/ext4.vhdx").exists());
    });
}
