//! What carries the forwards is killed, cut or frozen.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};

use rustix::process::Signal;
use serde_json::Value;

use super::guest_end::{Answer, GuestEnd};
use super::host_ports::{self, HostPort};
use super::port_events::{PortEvent, PortEvents};
use super::talk;
use crate::instance::{Home, Instance, Lines};
use crate::network::OwnNetwork;

/// Ports of the guest that are forwarded throughout: TCP, and UDP.
const TCP: u16 = 7001;
const UDP: u16 = 7002;

/// An instance, its log, and what the host listened on when it had no forwards.
struct Scene<'a, 'home> {
    instance: &'a Instance<'home>,
    log: Lines<'home>,
    events: PortEvents<'home>,
    before: BTreeSet<HostPort>,
}

impl<'a, 'home> Scene<'a, 'home> {
    #[track_caller]
    fn new(instance: &'a Instance<'home>) -> Self {
        Self {
            instance,
            log: instance.follow("ha.stderr.log"),
            events: PortEvents::follow(instance),
            before: host_ports::listening(),
        }
    }

    #[track_caller]
    fn until_says(&mut self, message: &'static str) {
        self.log
            .until(message, |line: &Value| line["msg"] == message);
    }

    /// Waits for a forward to the same port of the host's loopback.
    #[track_caller]
    fn until_forwarded(&mut self, protocol: &str, port: u16) {
        let address = format!("127.0.0.1:{port}");
        let event = PortEvent::new("forwarding", protocol, &address, Some(&address));
        self.events.until_all("a new port", [event]);
    }

    /// Listens on the ports that are forwarded throughout.
    #[track_caller]
    fn open(&mut self, guest: &mut GuestEnd<'home>) {
        for (protocol, port) in [("tcp", TCP), ("udp", UDP)] {
            guest.listen(protocol, &format!("127.0.0.1:{port}"), Answer::Label);
            self.until_forwarded(protocol, port);
        }
    }

    /// Checks that these TCP ports and [`UDP`] are forwarded, once each and nothing else, and that each of them carries.
    #[track_caller]
    fn check(&self, what: &str, ports: &[u16]) {
        let tcp = ports.iter().map(|port| ("tcp", *port));
        let mut wanted = self.before.clone();
        for (protocol, port) in tcp.chain([("udp", UDP)]) {
            wanted.insert((protocol, (Ipv4Addr::LOCALHOST, port).into()));
        }
        host_ports::await_exactly(what, &wanted);
        for port in ports {
            let answer = talk::tcp((Ipv4Addr::LOCALHOST, *port).into(), what);
            let wanted = format!("127.0.0.1:{port} got {what}");
            assert_eq!(
                answer.unwrap_or_else(|why| panic!("{what}: {port}: {why}")),
                wanted
            );
        }
        let answer = talk::udp((Ipv4Addr::LOCALHOST, UDP).into(), what);
        let wanted = format!("127.0.0.1:{UDP} got {what}");
        assert_eq!(
            answer.unwrap_or_else(|why| panic!("{what}: UDP: {why}")),
            wanted
        );
    }
}

/// A connection through the forward that waits for its answer.
#[track_caller]
fn pending() -> TcpStream {
    let mut stream = talk::connect((Ipv4Addr::LOCALHOST, TCP).into()).expect("a forward");
    stream.write_all(b"half a request").expect("it is taken");
    stream
}

/// A connection must break off, and not look as if the other end had ended it well.
#[track_caller]
fn assert_reset(mut stream: TcpStream, what: &str) {
    let why = stream.read(&mut [0]).expect_err(what);
    assert_eq!(why.kind(), ErrorKind::ConnectionReset, "{what}");
}

#[test]
fn whatever_dies_the_forwards_come_back() {
    let _network = OwnNetwork::enter();
    let home = Home::native();
    let instance = home.instance("x", "");
    let _ = instance.start(&[]).success();
    let mut scene = Scene::new(&instance);
    let mut guest = GuestEnd::start(&instance);
    scene.open(&mut guest);
    scene.check("at first", &[TCP]);

    kill_the_guest_agent(&mut scene, &mut guest);
    kill_the_ssh_master(&mut scene, &mut guest);
    cut_the_link(&mut scene, &mut guest);
    drop(guest);
    reboot(&mut scene);
    stop_while_the_guest_agent_is_frozen(&scene);
}

fn kill_the_guest_agent<'home>(scene: &mut Scene<'_, 'home>, guest: &mut GuestEnd<'home>) {
    let pending = pending();
    let kill = "sudo systemctl kill --signal=KILL lima-guestagent";
    let _ = scene.instance.shell(kill).success();
    scene.until_says("guest agent disconnected");
    assert_reset(
        pending,
        "a connection through the guest agent that was killed",
    );
    guest.listen("tcp", "127.0.0.1:7003", Answer::Label);
    scene.until_says("guest agent connected");
    scene.until_forwarded("tcp", 7003);
    scene.check("after the guest agent was killed", &[TCP, 7003]);
}

fn kill_the_ssh_master<'home>(scene: &mut Scene<'_, 'home>, guest: &mut GuestEnd<'home>) {
    let mut pending = pending();
    let master = scene.instance.ssh_master();
    master.signal(Signal::KILL);
    master.await_end();
    scene.check("without the ssh master", &[TCP, 7003]);
    guest.listen("tcp", "127.0.0.1:7004", Answer::Label);
    scene.until_forwarded("tcp", 7004);
    // What was under way does not notice.
    pending.write_all(b", and the rest").expect("it is taken");
    pending.shutdown(Shutdown::Write).expect("a connection");
    let answer = talk::read_all(pending).expect("an end");
    assert_eq!(answer, "127.0.0.1:7001 got half a request, and the rest");
    scene.until_says("logged in over ssh");
    assert_ne!(scene.instance.ssh_master().pid, master.pid);
    let _ = scene.instance.shell("true").success();
    scene.check("with another ssh master", &[TCP, 7003, 7004]);
}

/// The connection between the agent and the VM's port breaks, with nobody dead.
fn cut_the_link<'home>(scene: &mut Scene<'_, 'home>, guest: &mut GuestEnd<'home>) {
    let pending = pending();
    let carrier = scene.instance.path("ga-link.sock");
    scene.instance.agent().shut_down_connection_to(&carrier);
    scene.until_says("guest agent disconnected");
    assert_reset(pending, "a connection through the link that was cut");
    guest.listen("tcp", "127.0.0.1:7005", Answer::Label);
    scene.until_says("guest agent connected");
    scene.until_forwarded("tcp", 7005);
    scene.check("after the link was cut", &[TCP, 7003, 7004, 7005]);
}

fn reboot(scene: &mut Scene<'_, '_>) {
    // How the connection ends is a matter of luck.
    let _ = scene.instance.shell("sudo systemctl reboot");
    scene.until_says("guest agent disconnected");
    scene.until_says("guest agent connected");
    host_ports::await_exactly("after the reboot", &scene.before);
    scene.until_says("logged in over ssh");
    scene.events = PortEvents::follow(scene.instance);
    let mut guest = GuestEnd::start(scene.instance);
    scene.open(&mut guest);
    scene.check("listened on again after the reboot", &[TCP]);
}

/// Somebody waits for an answer that cannot come; `stop` does not.
fn stop_while_the_guest_agent_is_frozen(scene: &Scene<'_, '_>) {
    let mut guest = GuestEnd::start(scene.instance);
    guest.listen("tcp", &format!("127.0.0.1:{TCP}"), Answer::Label);
    let freeze = "sudo systemctl kill --signal=STOP lima-guestagent";
    let _ = scene.instance.shell(freeze).success();
    drop(guest);
    scene.instance.stop();
    assert_eq!(scene.instance.events().exit_errors(), Vec::<String>::new());
    scene.instance.home.assert_nothing_left();
    host_ports::await_exactly("stopped", &BTreeSet::new());
}
