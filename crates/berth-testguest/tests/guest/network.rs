//! The user network: forwarded ports into the guest, and the gateway out of it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;

use serde_json::json;

use crate::machine::{Machine, PATIENCE, Parts};

/// In the guest: upper-cases what it is sent, after the sender has finished.
const SHOUTER: &str = r#"cat >/root/shout.py <<'END'
import socketserver
class Shout(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read().upper())
socketserver.ThreadingTCPServer.request_queue_size = 1024
server = socketserver.ThreadingTCPServer(("", 7007), Shout)
import os
if os.fork(): os._exit(0)
os.setsid()
for fd in 0, 1, 2: os.dup2(os.open("/dev/null", os.O_RDWR), fd)
server.serve_forever()
END
python3 /root/shout.py"#;

/// Sends, ends, and reads the answer to its end.
fn shout(port: u16, text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The port of this host that leads to one of the guest, as `info usernet` lists it.
fn forwarded(machine: &mut Machine, guest_port: &str) -> u16 {
    let table = machine.human("info usernet");
    let mut rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.get(5) == Some(&guest_port));
    row.expect("a row for the port")[3].parse().unwrap()
}

#[test]
fn ports_are_forwarded_from_the_start_and_on_command() {
    let mut machine = Parts::new()
        .with_network(",hostfwd=tcp:127.0.0.1:0-:7007")
        .boot();
    machine.output(SHOUTER);
    let port = forwarded(&mut machine, "7007");
    assert_eq!(shout(port, "half-closed").unwrap(), "HALF-CLOSED");

    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let rule = format!("tcp:{}-:7007", busy.local_addr().unwrap());
    assert_eq!(
        machine.human(&format!("hostfwd_add net0 {rule}")),
        format!("Could not set up host forwarding rule '{rule}'\r\n")
    );
    drop(busy);
    assert_eq!(machine.human(&format!("hostfwd_add net0 {rule}")), "");
    let (listen, _) = rule.split_once('-').unwrap();
    let second = listen.rsplit_once(':').unwrap().1.parse().unwrap();
    assert_eq!(shout(second, "again").unwrap(), "AGAIN");
    assert_eq!(
        machine.human(&format!("hostfwd_remove net0 {listen}")),
        format!("host forwarding rule for {listen} removed\r\n")
    );
    assert!(shout(second, "gone").is_err());
    TcpListener::bind(("127.0.0.1", second)).expect("a removed forward frees its port");
    assert_eq!(
        machine.human(&format!("hostfwd_remove net0 {listen}")),
        format!("host forwarding rule for {listen} not found\r\n")
    );
    assert_eq!(
        machine.human("hostfwd_add other tcp::0-:1"),
        "unrecognized netdev id 'other'\r\n"
    );
}

#[test]
fn many_connections_at_once_all_end_and_leave_no_descriptor() {
    let mut machine = Parts::new()
        .with_network(",hostfwd=tcp:127.0.0.1:0-:7007")
        .boot();
    machine.output(SHOUTER);
    let port = forwarded(&mut machine, "7007");
    let descriptors = format!("/proc/{}/fd", machine.child.id());
    let count = || std::fs::read_dir(&descriptors).unwrap().count();
    let before = count();
    let text = "x".repeat(100_000);
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let text = text.clone();
            thread::spawn(move || (0..10).all(|_| shout(port, &text).unwrap().len() == text.len()))
        })
        .collect();
    assert!(clients.into_iter().all(|client| client.join().unwrap()));
    // The last pairs end when their two FINs have crossed; another connection through the same thread comes after that.
    let deadline = std::time::Instant::now() + PATIENCE;
    while shout(port, "last").is_ok() && count() > before + 64 {
        assert!(
            std::time::Instant::now() < deadline,
            "{} descriptors are open",
            count()
        );
    }
}

#[test]
fn the_gateway_is_this_hosts_loopback() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut guest, _) = tcp.accept().unwrap();
        let mut question = [0; 5];
        guest.read_exact(&mut question).unwrap();
        guest.write_all(b"host says ").unwrap();
        guest.write_all(&question).unwrap();
    });
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let udp_port = udp.local_addr().unwrap().port();
    let mut machine = Parts::new().boot();
    let ask_tcp = format!(
        "python3 -c 'import socket; s = socket.create_connection((\"192.168.5.2\", {port})); s.sendall(b\"hello\"); \
         print(s.makefile().read())'"
    );
    assert_eq!(machine.output(&ask_tcp), "host says hello");
    server.join().unwrap();

    machine.ask(&format!(
        "python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60)\n\
         for i in range(3): s.sendto(b\"%d\" % i, (\"192.168.5.2\", {udp_port})); print(*s.recvfrom(9))'"
    ));
    for _ in 0..3 {
        let mut buffer = [0; 9];
        let (length, from) = udp.recv_from(&mut buffer).unwrap();
        udp.send_to(&[b"re", &buffer[..length]].concat(), from)
            .unwrap();
    }
    let (code, output) = machine.answer();
    assert_eq!(code, 0, "{output}");
    let want = format!("b're2' ('192.168.5.2', {udp_port})");
    assert!(output.ends_with(&format!("{want}\n")), "{output}");

    let nobody = "python3 -c 'import socket; s = socket.create_connection((\"192.168.5.2\", 1)); exit(s.recv(1) != b\"\")'";
    let (code, output) = machine.run(nobody);
    assert!(code != 0 && output.contains("reset"), "{code} {output}");
    let outside = machine
        .run("python3 -c 'import socket; socket.create_connection((\"198.51.100.1\", 80))'")
        .1;
    assert!(outside.contains("unreachable"), "{outside}");
}

#[test]
fn without_a_network_the_guest_has_only_loopback() {
    let machine = Parts::new();
    let mut machine = machine.without_network().boot();
    assert_eq!(machine.output("ls /sys/class/net"), "lo");
    assert_eq!(
        machine.human("hostfwd_add tcp::0-:1"),
        "no user mode network stack is in use\r\n"
    );
    let _ = machine.qmp("quit", &json!({}));
}
