//! The guest listens, and the host is connected to.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use berth_config::model::PortForward;
use berth_forward::guest::{Access, Dialer, GuestStream, Reverse, ReverseListeners};
use berth_forward::reconcile::ForwardState;
use berth_relay::Copied;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::support::{Beginning, Forwards, Guest, LONG, to_socket};

const IN_GUEST: &str = "/home/user/agent.sock";

type Accepted = (u32, Box<dyn GuestStream>);

/// The listeners of a guest.
struct Listeners {
    listening: Mutex<BTreeMap<u32, String>>,
    refuses: Mutex<bool>,
    /// The guest does not answer any more.
    hangs: Mutex<bool>,
    session: watch::Sender<Option<u64>>,
    accepting: mpsc::UnboundedSender<Accepted>,
    accepted: tokio::sync::Mutex<mpsc::UnboundedReceiver<Accepted>>,
}

impl Listeners {
    fn new() -> Arc<Self> {
        let (accepting, accepted) = mpsc::unbounded_channel();
        Arc::new(Self {
            listening: Mutex::default(),
            refuses: Mutex::default(),
            hangs: Mutex::default(),
            session: watch::channel(None).0,
            accepting,
            accepted: accepted.into(),
        })
    }

    fn new_session(&self, number: u64) {
        self.listening.lock().unwrap().clear();
        self.session.send_replace(Some(number));
    }

    fn only(&self) -> Option<(u32, String)> {
        let listening = self.listening.lock().unwrap();
        assert!(listening.len() < 2, "{listening:?}");
        listening
            .iter()
            .next()
            .map(|(id, path)| (*id, path.clone()))
    }

    /// A program in the guest connects.
    fn connect(&self, id: u32) -> DuplexStream {
        let (near, far) = tokio::io::duplex(1024);
        assert!(self.accepting.send((id, Box::new(Copied(near)))).is_ok());
        far
    }
}

#[async_trait]
impl ReverseListeners for Listeners {
    async fn listen(&self, id: u32, path: &str) -> io::Result<()> {
        if *self.refuses.lock().unwrap() {
            return Err(io::Error::other("somebody listens there"));
        }
        let before = self.listening.lock().unwrap().insert(id, path.to_owned());
        assert_eq!(before, None, "ids are not used twice");
        Ok(())
    }

    async fn unlisten(&self, id: u32) -> io::Result<()> {
        let hangs = *self.hangs.lock().unwrap();
        if hangs {
            std::future::pending::<()>().await;
        }
        assert!(self.listening.lock().unwrap().remove(&id).is_some());
        Ok(())
    }

    async fn accept(&self) -> Option<Accepted> {
        self.accepted.lock().await.recv().await
    }

    fn session(&self) -> watch::Receiver<Option<u64>> {
        self.session.subscribe()
    }
}

struct Fixture {
    f: Forwards,
    listeners: Arc<Listeners>,
    socket: PathBuf,
}

fn fixture() -> Fixture {
    let listeners = Listeners::new();
    let mut beginning = Beginning::new([]);
    let socket = beginning.own_dir.path().join("host.sock");
    beginning.rules = vec![PortForward {
        reverse: true,
        ..to_socket(IN_GUEST, &socket)
    }];
    beginning.access = Some(Access::Agent {
        dialer: Arc::new(Guest::default()) as Arc<dyn Dialer>,
        reverse: Reverse::Agent(Arc::clone(&listeners) as Arc<dyn ReverseListeners>),
    });
    Fixture {
        f: beginning.start(),
        listeners,
        socket,
    }
}

async fn until_up(f: &Forwards) {
    f.until(
        "listening in the guest",
        |status| matches!(&status.forwards[..], [one] if one.state == ForwardState::Listening),
    )
    .await;
}

#[tokio::test]
async fn a_socket_in_the_guest_leads_to_one_on_the_host_in_every_session() {
    let Fixture {
        f,
        listeners,
        socket,
    } = fixture();
    let missing = f.handle.settled().await;
    assert!(
        matches!(&missing[0].state, ForwardState::Waiting { why } if why.contains("waiting for the connection")),
        "{missing:?}"
    );
    let host = UnixListener::bind(&socket).unwrap();
    for session in 1..=3 {
        listeners.new_session(session);
        until_up(&f).await;
        let deadline = tokio::time::Instant::now() + LONG;
        let (id, path) = loop {
            if let Some(known) = listeners.only() {
                break known;
            }
            assert!(tokio::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        };
        assert_eq!(path, IN_GUEST);
        let mut inside = listeners.connect(id);
        let (mut outside, _) = timeout(LONG, host.accept()).await.unwrap().unwrap();
        inside.write_all(b"ping").await.unwrap();
        inside.shutdown().await.unwrap();
        let mut heard = String::new();
        timeout(LONG, outside.read_to_string(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(heard, "ping");
        outside.write_all(b"pong").await.unwrap();
        drop(outside);
        let mut heard = String::new();
        timeout(LONG, inside.read_to_string(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(heard, "pong");
    }
    let status = f.handle.status();
    assert!(status.forwards[0].is_reverse && status.forwards[0].traffic.total == 3);
    timeout(LONG, f.handle.stop()).await.expect("stops");
    assert_eq!(listeners.only(), None, "the guest does not listen any more");
    assert!(socket.exists(), "the host's socket is its user's");
    f.stop().await;
}

#[tokio::test]
async fn connections_for_nobody_and_to_nobody_are_reset() {
    let Fixture { f, listeners, .. } = fixture();
    listeners.new_session(1);
    until_up(&f).await;
    let (id, _) = listeners.only().unwrap();
    for id in [id, id + 1, u32::MAX] {
        let mut inside = listeners.connect(id);
        let read = timeout(LONG, inside.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    let status = f
        .until("told", |status| {
            status.forwards[0].traffic.last_error.is_some()
        })
        .await;
    let why = status.forwards[0].traffic.last_error.clone().unwrap();
    assert!(why.starts_with("cannot connect to "), "{why}");
    f.stop().await;
}

#[tokio::test]
async fn a_guest_that_does_not_answer_does_not_hold_up_the_end() {
    let Fixture { f, listeners, .. } = fixture();
    listeners.new_session(1);
    until_up(&f).await;
    *listeners.hangs.lock().unwrap() = true;
    f.stop().await;
}

#[tokio::test]
async fn what_the_guest_refuses_is_tried_again() {
    let Fixture { f, listeners, .. } = fixture();
    *listeners.refuses.lock().unwrap() = true;
    listeners.new_session(1);
    f.until("failed", |status| {
        matches!(&status.forwards[..], [one] if matches!(&one.state, ForwardState::Failed { why } if why == "somebody listens there"))
    })
    .await;
    *listeners.refuses.lock().unwrap() = false;
    until_up(&f).await;
    // Before that, the first of them may have been that there was no session.
    let told = f.told();
    let [.., failed, forwarding] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(failed.starts_with("failed unix "), "{told:?}");
    assert!(forwarding.starts_with("forwarding unix "), "{told:?}");
    f.stop().await;
}
