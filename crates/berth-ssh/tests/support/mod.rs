//! A real sshd on a free port of loopback, one process for each connection, with keys of its own.
#![allow(dead_code, reason = "each test binary uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_config::model::Ssh;
use berth_config::platform::HostOs;
use berth_instance::dir::InstanceDir;
use berth_ssh::host_key::{HostKeyPair, host_key};
use berth_ssh::keys::{KeyPair, user_key};
use berth_ssh::options::{HostTrust, OptionsInput, SshOptions};
use berth_ssh::session::Session;
use berth_ssh::tool::{Features, SshTool, Version};

/// Long enough never to matter unless something hangs.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// The alias of the instance's host key.
pub(crate) const ALIAS: &str = "lima-test";

/// The path list of the tests.
pub(crate) fn path_variable() -> std::ffi::OsString {
    "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into()
}

/// The real `ssh`.
pub(crate) fn ssh() -> SshTool {
    SshTool::find(None, &path_variable()).expect("openssh-client is needed for this test")
}

/// The real `ssh-keygen`.
pub(crate) fn keygen() -> PathBuf {
    berth_ssh::tool::find_sibling(&ssh(), "ssh-keygen", &path_variable()).unwrap()
}

/// Makes a shell script that can be run.
pub(crate) fn script(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_path_buf()
}

/// Everything an instance has on disk, and an sshd in place of its guest.
pub(crate) struct Guest {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) instance: InstanceDir,
    pub(crate) user_key: KeyPair,
    pub(crate) host_key: HostKeyPair,
    pub(crate) sshd: Sshd,
}

impl Guest {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instance with a % in it");
        fs::create_dir(&path).unwrap();
        let instance = InstanceDir::new(path);
        let user_key = user_key(&dir.path().join("_config"), &keygen())
            .await
            .unwrap();
        let host_key = host_key(&instance, ALIAS, &keygen()).await.unwrap();
        let sshd = Sshd::start(dir.path(), &host_key.private, &user_key.public);
        Self {
            dir,
            instance,
            user_key,
            host_key,
            sshd,
        }
    }

    pub(crate) fn options(&self, ssh: &Ssh) -> SshOptions {
        SshOptions::new(&OptionsInput {
            user_key: &self.user_key.private,
            more_keys: &[],
            user: &user_name(),
            ssh,
            control_path: &self.instance.ssh_sock(),
            trust: &HostTrust::Pinned {
                alias: ALIAS.to_owned(),
                known_hosts: self.instance.known_hosts(),
            },
            features: Features {
                version: Version(9, 2, 1),
                gssapi: true,
            },
            aes_is_fast: true,
            os: HostOs::Linux,
            unix_path_max: 108,
        })
        .unwrap()
    }

    pub(crate) fn session(&self) -> Session {
        self.session_at(self.sshd.address)
    }

    pub(crate) fn session_at(&self, address: SocketAddr) -> Session {
        self.session_with(ssh(), address)
    }

    pub(crate) fn session_with(&self, tool: SshTool, address: SocketAddr) -> Session {
        let options = self.options(&Ssh::default());
        Session::new(tool, options, Some(self.instance.ssh_sock()), address)
    }
}

fn user_name() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// One connection, and the sshd that it was handed to.
struct Connection {
    stream: TcpStream,
    sshd: Child,
}

/// sshd on a port that the kernel chose: it is handed each connection, and so needs no port of its own.
pub(crate) struct Sshd {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<Connection>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Sshd {
    fn start(dir: &Path, host_key: &str, authorized: &str) -> Self {
        let config = dir.join("sshd_config");
        let keys = [dir.join("sshd_host_key"), dir.join("authorized_keys")];
        for (path, text) in keys.iter().zip([host_key, authorized]) {
            fs::write(path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let text = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nPrintMotd no\n",
            keys[0].display(),
            keys[1].display()
        );
        fs::write(&config, text).unwrap();
        Self::serve(dir, TcpListener::bind(("127.0.0.1", 0)).unwrap())
    }

    /// Hands the listener's connections to sshd, with the configuration that a guest has made in `dir`.
    pub(crate) fn serve(dir: &Path, listener: TcpListener) -> Self {
        let config = dir.join("sshd_config");
        // Where sshd starts as root it insists on this directory.
        let _ = fs::create_dir("/run/sshd");
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::spawn({
            let (stop, connections) = (stop.clone(), connections.clone());
            let log = dir.join("sshd.log");
            move || {
                for connection in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let stream = connection.unwrap();
                    let log = fs::OpenOptions::new()
                        .append(true)
                        .create(true)
                        .open(&log)
                        .unwrap();
                    let [input, output] = [&stream; 2].map(|stream| stream.try_clone().unwrap());
                    let sshd = Command::new("/usr/sbin/sshd")
                        .args(["-i", "-e", "-f"])
                        .arg(&config)
                        .stdin(Stdio::from(OwnedFd::from(input)))
                        .stdout(Stdio::from(OwnedFd::from(output)))
                        .stderr(log)
                        .spawn()
                        .expect("openssh-server is needed for this test");
                    connections
                        .lock()
                        .unwrap()
                        .push(Connection { stream, sshd });
                }
            }
        });
        Self {
            address,
            stop,
            connections,
            thread: Some(thread),
        }
    }

    /// Cuts every connection, as a guest that is reset does.
    pub(crate) fn kill_connections(&self) {
        for mut connection in self.connections.lock().unwrap().drain(..) {
            // Descendants of sshd may hold it open.
            let _ = connection.stream.shutdown(Shutdown::Both);
            let _ = connection.sshd.kill();
            let _ = connection.sshd.wait();
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.kill_connections();
    }
}
