//! Through `ssh`, for guests without an agent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use berth_config::model::PortForward;
use berth_forward::address::GuestTarget;
use berth_forward::guest::{Access, SshControl, SshForwarding};
use berth_forward::reconcile::ForwardState;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::{Beginning, Forwards, Guest, LONG, ask, connect, one, rule, to_socket};

/// A ControlMaster whose forwards lead into a guest that is a value.
struct Ssh {
    guest: Arc<Guest>,
    master: watch::Sender<Option<u64>>,
    /// Forwards of the running master, and how they end.
    forwards: Mutex<BTreeMap<PathBuf, CancellationToken>>,
    reverse: Mutex<Vec<String>>,
    /// What it was asked.
    asked: Mutex<Vec<String>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    tracker: TaskTracker,
}

impl Ssh {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            guest: Arc::default(),
            master: watch::channel(None).0,
            forwards: Mutex::default(),
            reverse: Mutex::default(),
            asked: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            tracker: TaskTracker::new(),
        })
    }

    /// The master dies, with all of its forwards; their files stay.
    fn dies(&self) {
        self.master.send_replace(None);
        let forwards = std::mem::take(&mut *self.forwards.lock().unwrap());
        for token in forwards.into_values() {
            token.cancel();
        }
        self.reverse.lock().unwrap().clear();
    }

    fn starts(&self, number: u64) {
        self.master.send_replace(Some(number));
    }

    fn listen(&self, socket: &PathBuf, guest: GuestTarget) -> Result<(), String> {
        // The real adapter removes what an earlier `ssh` left.
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).map_err(|why| why.to_string())?;
        let token = CancellationToken::new();
        let before = self
            .forwards
            .lock()
            .unwrap()
            .insert(socket.clone(), token.clone());
        assert!(before.is_none(), "{} twice", socket.display());
        let service = Arc::clone(&self.guest);
        let tracker = self.tracker.clone();
        self.tracker.spawn(async move {
            let serving = async {
                while let Ok((mut near, _)) = listener.accept().await {
                    // Like `ssh`: connected first, and closed when the guest refuses.
                    use berth_forward::guest::Dialer as _;
                    if let Ok(mut far) = service.dial(&guest).await {
                        tracker.spawn(async move {
                            tokio::io::copy_bidirectional(&mut near, &mut far).await
                        });
                    }
                }
            };
            token.run_until_cancelled(serving).await;
        });
        Ok(())
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

#[async_trait]
impl SshControl for Ssh {
    async fn forward(&self, forwarding: &SshForwarding) -> Result<(), String> {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        if self.master.borrow().is_none() {
            return Err("no master".to_owned());
        }
        match forwarding {
            SshForwarding::FromHost { socket, guest } => {
                self.asked.lock().unwrap().push(format!("forward {guest}"));
                self.listen(socket, guest.clone())
            }
            SshForwarding::FromGuest { guest, .. } => {
                self.reverse.lock().unwrap().push(guest.clone());
                Ok(())
            }
        }
    }

    async fn cancel(&self, forwarding: &SshForwarding) -> Result<(), String> {
        match forwarding {
            SshForwarding::FromHost { socket, guest } => {
                self.asked.lock().unwrap().push(format!("cancel {guest}"));
                let token = self.forwards.lock().unwrap().remove(socket);
                token.ok_or("no such forward")?.cancel();
                std::fs::remove_file(socket).map_err(|why| why.to_string())
            }
            SshForwarding::FromGuest { guest, .. } => {
                self.reverse.lock().unwrap().retain(|known| known != guest);
                Ok(())
            }
        }
    }

    fn master(&self) -> watch::Receiver<Option<u64>> {
        self.master.subscribe()
    }
}

fn start(rules: impl IntoIterator<Item = PortForward>) -> (Forwards, Arc<Ssh>) {
    let ssh = Ssh::new();
    let mut beginning = Beginning::new(rules);
    beginning.access = Some(Access::Ssh(Arc::clone(&ssh) as Arc<dyn SshControl>));
    let mut f = beginning.start();
    f.guest = Arc::clone(&ssh.guest);
    (f, ssh)
}

#[tokio::test]
async fn connections_go_through_each_master_that_there_is() {
    let (f, ssh) = start([one(80, "127.77.4.1", 20080)]);
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until_listening(&["127.77.4.1:20080"]).await;
    let early = connect("127.77.4.1:20080").await;
    drop(early);
    for master in 1..=3 {
        ssh.starts(master);
        for _ in 0..3 {
            let answer = ask("127.77.4.1:20080").await.unwrap();
            assert_eq!(answer, "127.0.0.1:80\nhello bye");
        }
        assert_eq!(
            ssh.asked(),
            ["forward 127.0.0.1:80"],
            "once for each master"
        );
        ssh.dies();
    }
    assert!(ask("127.77.4.1:20080").await.is_err(), "no master");
    f.stop().await;
}

#[tokio::test]
async fn a_new_master_gets_all_forwards_that_were_used_and_not_too_many_at_once() {
    let (f, ssh) = start([rule([1000, 1040], "127.77.4.2", [21000, 21040])]);
    ssh.starts(1);
    let ports: Vec<String> = (1000..1020).map(|n| format!("tcp 127.0.0.1:{n}")).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    f.reports(&ports);
    f.until("all", |status| status.forwards.len() == 20).await;
    let asking = (21000..21020).map(|n| async move { ask(&format!("127.77.4.2:{n}")).await });
    let answers = futures_util::future::join_all(asking).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(ssh.asked().len(), 20);
    ssh.dies();
    ssh.starts(2);
    let deadline = tokio::time::Instant::now() + LONG;
    while ssh.forwards.lock().unwrap().len() < 20 {
        assert!(tokio::time::Instant::now() < deadline, "not all came back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(ssh.most_under_way.load(Ordering::SeqCst) <= 4);
    // Those that are not wanted any more go.
    ssh.asked();
    f.reports(&ports[..18]);
    let deadline = tokio::time::Instant::now() + LONG;
    while ssh.forwards.lock().unwrap().len() > 18 {
        assert!(tokio::time::Instant::now() < deadline, "they stay");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut asked = ssh.asked();
    asked.sort();
    assert_eq!(asked, ["cancel 127.0.0.1:1018", "cancel 127.0.0.1:1019"]);
    let own = f.own_dir.path().to_owned();
    let left = || std::fs::read_dir(&own).unwrap().count();
    assert_eq!(left(), 18);
    timeout_stop(f, left).await;
    assert!(ssh.forwards.lock().unwrap().is_empty());
}

async fn timeout_stop(f: Forwards, left: impl Fn() -> usize) {
    tokio::time::timeout(LONG, f.handle.stop())
        .await
        .expect("stops");
    assert_eq!(left(), 0, "no file is left");
    f.stop().await;
}

#[tokio::test]
async fn datagrams_stay_inside_and_that_is_said_once() {
    let (f, ssh) = start([]);
    ssh.starts(1);
    let port = crate::support::free_port();
    let udp = format!("udp 127.0.0.1:{port}");
    for _ in 0..3 {
        f.reports(&[&udp]);
        f.until("told", |_| !f.notices.lock().unwrap().is_empty())
            .await;
    }
    assert_eq!(
        f.told(),
        [format!(
            "not forwarding udp 127.0.0.1:{port}: SSH carries no UDP"
        )]
    );
    assert!(f.handle.status().forwards.is_empty());
    f.stop().await;
}

#[tokio::test]
async fn sockets_go_both_ways_and_come_back_with_a_new_master() {
    let dir = tempfile::tempdir().unwrap();
    let (there, back) = (dir.path().join("docker.sock"), dir.path().join("back.sock"));
    let (f, ssh) = start([
        to_socket("/run/docker.sock", &there),
        PortForward {
            reverse: true,
            ..to_socket("/home/user/back.sock", &back)
        },
    ]);
    f.guest.serves(&["/run/docker.sock"]);
    let missing = f.handle.settled().await;
    assert_eq!(missing.len(), 1, "the one in the guest waits: {missing:?}");
    for master in 1..=2 {
        ssh.starts(master);
        f.until("both listen", |status| {
            let listening =
                |f: &berth_forward::reconcile::ForwardStatus| f.state == ForwardState::Listening;
            status.forwards.iter().all(listening)
                && *ssh.reverse.lock().unwrap() == ["/home/user/back.sock"]
        })
        .await;
        let mut stream = tokio::net::UnixStream::connect(&there).await.unwrap();
        let answer = crate::support::converse(&mut stream).await.unwrap();
        assert_eq!(answer, "/run/docker.sock\nhello bye");
        ssh.dies();
    }
    f.stop().await;
}
