use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Pid, test_kill_process};
use tokio::time::timeout;

use super::services::Services;
use super::*;
use crate::boot::testing::Scene;

const HANG: Duration = Duration::from_secs(30);

fn service(event: &str, name: &str, spec: &str) -> String {
    let metadata = format!(r#"{{"name":"{name}","namespace":"default","labels":{{"a":"b"}}}}"#);
    format!(
        r#"{{"type":"{event}","object":{{"kind":"Service","metadata":{metadata},"spec":{spec}}}}}"#
    )
}

const WEB: &str = r#"{"type":"NodePort","clusterIP":"10.0.0.1","ipFamilies":["IPv4"],
    "ports":[{"protocol":"TCP","port":80,"nodePort":30080},{"protocol":"UDP","port":80,"nodePort":30080}]}"#;

fn texts(sockets: &BTreeSet<GuestSocket>) -> Vec<String> {
    sockets.iter().map(ToString::to_string).collect()
}

fn after(lines: &[String]) -> Vec<String> {
    let mut services = Services::default();
    for line in lines {
        services.apply(line.as_bytes()).unwrap();
    }
    texts(&services.sockets())
}

#[test]
fn ports_of_nodes_and_of_load_balancers_count() {
    let balancer = r#"{"type":"LoadBalancer","ipFamilies":["IPv6","IPv4"],"ports":[{"port":443,"nodePort":31000}]}"#;
    let old_ipv6 = r#"{"type":"NodePort","clusterIP":"fd00::1","ports":[{"nodePort":30001,"protocol":"UDP"}]}"#;
    let inside = r#"{"type":"ClusterIP","ports":[{"port":1,"nodePort":2}]}"#;
    let sctp =
        r#"{"type":"NodePort","ports":[{"protocol":"SCTP","nodePort":30002},{"nodePort":0}]}"#;
    let lines = [
        service("ADDED", "web", WEB),
        service("ADDED", "balancer", balancer),
        service("ADDED", "old", old_ipv6),
        service("ADDED", "inside", inside),
        service("ADDED", "sctp", sctp),
        r#"{"type":"BOOKMARK","object":{"kind":"Service"}}"#.to_owned(),
    ];
    let expected = [
        "tcp 0.0.0.0:443",
        "tcp 0.0.0.0:30080",
        "tcp [::]:443",
        "udp 0.0.0.0:30080",
        "udp [::]:30001",
    ];
    assert_eq!(after(&lines), expected);
}

#[test]
fn a_service_changes_and_goes() {
    let other = r#"{"type":"NodePort","ports":[{"nodePort":30081}]}"#;
    let inside = r#"{"type":"ClusterIP"}"#;
    let changed = [service("ADDED", "a", WEB), service("MODIFIED", "a", other)];
    assert_eq!(after(&changed), ["tcp 0.0.0.0:30081"]);
    for last in [
        service("DELETED", "a", WEB),
        service("MODIFIED", "a", inside),
    ] {
        assert!(after(&[service("ADDED", "a", WEB), last]).is_empty());
    }
}

#[test]
fn what_is_no_event_is_refused() {
    let mut services = Services::default();
    for line in [
        "",
        "Error from server",
        "{}",
        r#"{"type":"ADDED"}"#,
        r#"{"type":"ADDED","object":{"metadata":{}}}"#,
        r#"{"type":"ADDED","object":{"metadata":{"name":"a"},"spec":{"type":"NodePort","ports":[{"nodePort":70000}]}}}"#,
        r#"{"type":"ERROR","object":{"kind":"Status"}}"#,
    ] {
        assert!(services.apply(line.as_bytes()).is_err(), "{line}");
    }
    assert!(services.sockets().is_empty());
}

#[test]
fn a_flood_of_services_is_capped() {
    let mut services = Services::default();
    for name in 0..100 {
        let ports = (1..=100).map(|port| format!(r#"{{"nodePort":{}}}"#, name * 100 + port));
        let ports: Vec<_> = ports.collect();
        let spec = format!(r#"{{"type":"NodePort","ports":[{}]}}"#, ports.join(","));
        let line = service("ADDED", &name.to_string(), &spec);
        services.apply(line.as_bytes()).unwrap();
    }
    assert_eq!(services.sockets().len(), 4000);
    let last = service(
        "MODIFIED",
        "39",
        r#"{"type":"NodePort","ports":[{"nodePort":1}]}"#,
    );
    services.apply(last.as_bytes()).unwrap();
    assert_eq!(services.sockets().len(), 3900);
}

/// A cluster on this machine: its kubeconfig, its server's port, and a `kubectl` that is a script.
struct Cluster {
    scene: Scene,
    sockets: watch::Sender<Sockets>,
    services: watch::Sender<BTreeSet<GuestSocket>>,
}

impl Cluster {
    fn new(server: &str) -> Self {
        let scene = Scene::new();
        let config = format!(r#"{{"clusters":[{{"cluster":{{"server":"{server}"}}}}]}}"#);
        let kubectl = scene.path("/usr/bin/kubectl");
        scene.answer(&format!("{} config view", kubectl.display()), 0, &config);
        Self {
            scene,
            sockets: watch::Sender::default(),
            services: watch::Sender::default(),
        }
    }

    fn install(&self, script: &str) {
        self.scene
            .write("/usr/bin/kubectl.new", &format!("#!/bin/sh\n{script}\n"));
        let path = self.scene.path("/usr/bin/kubectl.new");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&path, self.scene.path("/usr/bin/kubectl")).unwrap();
    }

    /// A script that tells one service, and runs on.
    fn install_telling(&self) {
        let web = service("ADDED", "web", WEB).replace('\n', " ");
        let pid = self.scene.path("/run/kubectl.pid");
        self.install(&format!(
            "test \"$KUBECONFIG\" = {} || exit 9\necho $$ > {}\ncat <<'EOF'\n{web}\nEOF\nsleep 1000 & wait",
            self.scene.path(KUBECONFIGS[0]).display(),
            pid.display(),
        ));
    }

    fn start(&self) {
        self.scene.write(KUBECONFIGS[0], "clusters: []");
    }

    fn listen(&self, port: u16) {
        let socket = GuestSocket::new(Transport::Tcp, ([127, 0, 0, 1], port).into()).unwrap();
        self.sockets
            .send_replace(Arc::new(BTreeSet::from([socket])));
    }

    /// Follows it while `test` runs.
    async fn follow(&self, test: impl AsyncFnOnce(&mut watch::Receiver<BTreeSet<GuestSocket>>)) {
        let mut seen = self.services.subscribe();
        tokio::select! {
            () = follow(&self.scene.guest, self.sockets.subscribe(), &self.services) => {}
            () = test(&mut seen) => {}
        }
    }
}

async fn until(seen: &mut watch::Receiver<BTreeSet<GuestSocket>>, expected: &[&str]) {
    let reached = seen.wait_for(|services| texts(services) == expected);
    timeout(HANG, reached).await.expect("no hang").unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_cluster_is_followed_from_its_first_to_its_last_sign() {
    let cluster = Cluster::new("https://127.0.0.1:6443");
    cluster
        .follow(async |seen| {
            cluster.listen(6442);
            tokio::task::yield_now().await;
            cluster.install_telling();
            tokio::task::yield_now().await;
            cluster.start();
            while cluster.scene.commands().is_empty() {
                tokio::task::yield_now().await;
            }
            assert!(!cluster.scene.guest.has("/run/kubectl.pid"));
            cluster.listen(6443);
            until(seen, &["tcp 0.0.0.0:30080", "udp 0.0.0.0:30080"]).await;
            fs::remove_file(cluster.scene.path(KUBECONFIGS[0])).unwrap();
            until(seen, &[]).await;
        })
        .await;
    let pid = cluster.scene.read("/run/kubectl.pid");
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    let killed = async {
        while test_kill_process(pid).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(HANG, killed).await.expect("it lives on");
}

#[tokio::test(flavor = "current_thread")]
async fn services_are_forgotten_when_the_watch_ends() {
    let cluster = Cluster::new("https://localhost:6443");
    let web = service("ADDED", "web", WEB).replace('\n', " ");
    // It ends when it is told to.
    let end = cluster.scene.path("/run/end");
    let wait = format!(
        "until test -e {}; do sleep 0.01; done",
        Path::new(&end).display()
    );
    cluster.install(&format!("cat <<'EOF'\n{web}\nEOF\n{wait}"));
    cluster.start();
    cluster.listen(6443);
    cluster
        .follow(async |seen| {
            until(seen, &["tcp 0.0.0.0:30080", "udp 0.0.0.0:30080"]).await;
            fs::write(&end, "").unwrap();
            until(seen, &[]).await;
        })
        .await;
}

/// Keeps busy while it waits, so that a paused clock stays where it is.
async fn spin(mut is_reached: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !is_reached() {
        assert!(begin.elapsed() < HANG, "it hangs");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn services_outlive_a_watch_that_the_cluster_ends_after_a_while() {
    let cluster = Cluster::new("https://[::1]:6443");
    let [end, again] = ["/run/end", "/run/again"].map(|path| cluster.scene.path(path));
    let line = |name: &str, port: u16| {
        let spec = format!(r#"{{"type":"NodePort","ports":[{{"nodePort":{port}}}]}}"#);
        service("ADDED", name, &spec)
    };
    // The first tells two services and ends when it is told to; the next tells one and goes on.
    cluster.install(&format!(
        "echo '{}'\nif test -e {end}; then : > {again}; sleep 1000 & wait; fi\necho '{}'\n\
         until test -e {end}; do sleep 0.01; done",
        line("a", 1),
        line("b", 2),
        end = end.display(),
        again = again.display(),
    ));
    cluster.start();
    cluster.listen(6443);
    cluster
        .follow(async |seen| {
            spin(|| texts(&seen.borrow()) == ["tcp 0.0.0.0:1", "tcp 0.0.0.0:2"]).await;
            tokio::time::advance(Duration::from_secs(60)).await;
            fs::write(&end, "").unwrap();
            spin(|| {
                assert_eq!(seen.borrow().len(), 2);
                again.exists()
            })
            .await;
            tokio::time::advance(Duration::from_secs(9)).await;
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert_eq!(seen.borrow().len(), 2);
            tokio::time::advance(Duration::from_secs(2)).await;
            spin(|| texts(&seen.borrow()) == ["tcp 0.0.0.0:1"]).await;
            cluster.listen(6444);
            spin(|| seen.borrow().is_empty()).await;
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_too_long_or_no_event_ends_the_watch() {
    let scene = Scene::new();
    for (script, expected) in [
        ("echo hello; sleep 1000 & wait", "no event"),
        ("tr '\\0' x < /dev/zero", "more than 10 MiB"),
        ("printf '{'", "ended"),
    ] {
        scene.write("/kubectl", &format!("#!/bin/sh\n{script}\n"));
        let path = scene.path("/kubectl");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let kubectl = Kubectl::new(&path, Path::new("/none"));
        let services = watch::Sender::default();
        let end = timeout(HANG, kubectl.watch(&services)).await;
        let why = end.expect("no hang").why.to_string();
        assert!(why.contains(expected), "{why}");
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_cluster_elsewhere_is_not_asked() {
    let cluster = Cluster::new("https://192.0.2.1:6443");
    cluster.install_telling();
    cluster.start();
    cluster.listen(6443);
    cluster
        .follow(async |_| tokio::time::sleep(Duration::from_secs(600)).await)
        .await;
    assert!(cluster.services.borrow().is_empty());
    assert!(!cluster.scene.guest.has("/run/kubectl.pid"));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_kubectl_that_fails_is_asked_again_less_and_less_often() {
    let cluster = Cluster::new("no URL");
    cluster.install("exit 1");
    cluster.start();
    cluster
        .follow(async |_| tokio::time::sleep(Duration::from_secs(600)).await)
        .await;
    // After 0, 1, 3, 7, 15, 31 and 63 seconds, then each minute.
    assert_eq!(cluster.scene.commands().len(), 7 + 8);
}
