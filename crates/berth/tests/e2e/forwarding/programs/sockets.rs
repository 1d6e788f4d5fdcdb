//! Unix sockets: an API like Docker's in the guest for clients of the host, and the other way round.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::super::guest_end::{Answer, GuestEnd};
use super::super::patience::comes_true;
use super::super::talk;
use super::{API, Lab};
use crate::instance::Home;
use crate::monitor::http_get;

/// Relative paths of the host are in the instance's `sock`.
pub(super) fn rules(home: &Home) -> String {
    format!(
        "- {{guestSocket: '{{{{.Home}}}}/docker.sock', hostSocket: docker.sock}}\n\
         - {{guestSocket: '{{{{.Home}}}}/docker.sock', guestPortRange: [5, 5], hostPort: 2375}}\n\
         - {{guestSocket: /run/secret.sock, hostSocket: secret.sock}}\n\
         - {{guestSocket: '{{{{.Home}}}}/host.sock', hostSocket: {}, reverse: true}}\n",
        host_api(home).display()
    )
}

fn host_api(home: &Home) -> PathBuf {
    home.path("host-api.sock")
}

/// A server in the guest, asked from the host: by its socket, and by a port.
pub(super) fn of_the_guest(lab: &Lab<'_, '_>) {
    let script = format!(
        "cd && (setsid python3 -c {} docker.sock </dev/null >/dev/null 2>&1 &) && {}",
        shell_words::quote(API),
        await_socket("docker.sock")
    );
    let _ = lab.instance.shell(&script).success();
    let socket = lab.instance.path("sock/docker.sock");
    check(&socket);

    let mut stream = talk::connect("127.0.0.1:2375".parse().expect("an address"))
        .expect("a port that leads to the socket");
    let request = b"GET /version HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n";
    stream.write_all(request).expect("it is taken");
    let answer = talk::read_all(stream).expect("an end");
    assert!(answer.ends_with("{\"ApiVersion\":\"1.43\"}"), "{answer}");

    // What the guest's user may not open stays shut for the host as well.
    let mut guest = GuestEnd::start(lab.instance);
    let _ = guest.listen("unix", "/run/secret.sock", Answer::Label);
    let secret = lab.instance.path("sock/secret.sock");
    let answer = talk::unix(&secret, "open up");
    assert!(
        !matches!(&answer, Ok(text) if text.contains("got")),
        "{answer:?}"
    );
}

/// A server on the host, asked from the guest.
pub(super) fn of_the_host(lab: &Lab<'_, '_>) {
    let path = host_api(lab.instance.home);
    let mut server = Server::start(&path);
    let script = format!(
        "cd && {} && ls -l host.sock | cut -c 1-10 && curl --silent --show-error --unix-socket host.sock http://d/version http://d/events",
        await_socket("host.sock")
    );
    let said = lab.instance.shell(&script).success();
    assert_eq!(
        said,
        "srw-------\n{\"ApiVersion\":\"1.43\"}event 0\nevent 1\nevent 2\n"
    );
    server.end();
    assert!(path.symlink_metadata().is_ok(), "the user's socket stays");
}

/// Asks, follows and attaches.
#[track_caller]
fn check(socket: &Path) {
    let metadata = socket.symlink_metadata().expect("a socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(
        http_get(socket, "/version"),
        (200, json!({"ApiVersion": "1.43"}))
    );
    let (status, _) = http_get(socket, "/events");
    assert_eq!(status, 200);

    let mut stream = talk::connect_unix(socket).expect("a connection");
    stream
        .write_all(
            b"POST /attach HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello",
        )
        .expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("a connection");
    let answer = talk::read_all(stream).expect("an end");
    assert!(
        answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nHELLO"),
        "{answer}"
    );
}

/// Lines of a script that wait for a socket.
fn await_socket(path: &str) -> String {
    format!(
        "{{ for i in $(seq 300); do test -S {path} && break; sleep 0.1; done; test -S {path}; }}"
    )
}

/// The API on the host.
struct Server(Child);

impl Server {
    #[track_caller]
    fn start(path: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", API]).arg(path).stdin(Stdio::null());
        let server = Self(command.stderr(Stdio::null()).spawn().expect("python3"));
        let up = comes_true(|| talk::connect_unix(path).is_ok());
        assert!(up, "the server on the host does not start");
        server
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
