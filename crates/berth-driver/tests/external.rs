//! External drivers as a client sees them, against a program that keeps or breaks Lima's contract on demand (`fake_driver.py`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use berth_config::model::MountType;
use berth_driver::driver::{Driver, DriverContext, SnapshotAction, SshPort, StopLadder};
use berth_driver::error::DriverError;
use berth_driver::external::client::{ExternalDriver, Limits};
use berth_driver::external::discovery::{ExternalDrivers, Found};
use berth_driver::external::inspect_status;
use berth_driver::stop_orphan;
use berth_process::adopt::Adopted;
use berth_process::identity::ProcessIdentity;
use serde_json::{Value, json};
use support::{Instance, exit_of, ladder, patient};
use tokio::io::AsyncReadExt as _;

/// What a test waits for before it calls it a hang.
const HANG: Duration = Duration::from_secs(60);

/// Long enough for whoever answers at all.
const PATIENT: Limits = Limits {
    socket: HANG,
    answer: HANG,
    validate: HANG,
};

/// For those who never do.
const SHORT: Duration = Duration::from_millis(300);

/// An instance whose driver behaves in one way.
struct Fake {
    instance: Instance,
    log: PathBuf,
    found: Found,
}

impl Fake {
    fn new(behaviour: &str) -> Self {
        let home = tempfile::Builder::new().prefix("x").tempdir().unwrap();
        let (log, bin) = (home.path().join("log"), home.path().join("bin"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_driver.py");
        let words = [
            support::python(),
            script,
            behaviour,
            log.to_str().unwrap(),
            "mine",
        ];
        std::fs::create_dir(&bin).unwrap();
        let program = bin.join("lima-driver-mine");
        let text = format!("#!/bin/sh\nexec {} \"$@\"\n", shell_words::join(words));
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let drivers = ExternalDrivers::discover(Some(bin.as_os_str()), &[]);
        Self {
            found: drivers.find("mine").unwrap().clone(),
            instance: Instance::in_directory(home, &[]),
            log,
        }
    }

    fn context(&self) -> DriverContext {
        self.instance.context(&json!({"vmType": "mine"}))
    }

    async fn open(&self, limits: Limits) -> Result<ExternalDriver, DriverError> {
        ExternalDriver::open(self.context(), self.found.clone(), limits).await
    }

    async fn opened(&self) -> ExternalDriver {
        self.open(PATIENT).await.unwrap()
    }

    fn logged(&self, kind: &str) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.strip_prefix(kind));
        lines.map(|line| line.trim().to_owned()).collect()
    }

    /// The last process of a kind.
    fn process(&self, kind: &str) -> Option<ProcessIdentity> {
        let pid = self.logged(kind).last()?.parse().unwrap();
        ProcessIdentity::of(pid).ok()
    }

    fn is_alive(&self, kind: &str) -> bool {
        self.process(kind).is_some_and(|process| process.is_alive())
    }

    /// Waits for the end of a process that is on its way out.
    async fn gone(&self, kind: &str) {
        if let Some(identity) = self.process(kind)
            && let Some(mut process) = Adopted::open(identity).unwrap()
        {
            tokio::time::timeout(HANG, process.wait()).await.unwrap();
        }
    }

    /// Neither processes nor files of a life.
    fn assert_gone(&self) {
        assert!(!self.is_alive("run"), "the driver's process");
        assert!(!self.is_alive("vm"), "the VM's process");
        let mut left = self.instance.names();
        let of_a_life = [".sock", ".pid"];
        left.retain(|name| of_a_life.iter().any(|ending| name.ends_with(ending)));
        assert_eq!(left, [""; 0]);
    }

    async fn refusal(&self, limits: Limits) -> String {
        let error = self.open(limits).await.unwrap_err();
        self.assert_gone();
        let text = error.to_string();
        assert!(!text.contains('\x1b'), "{text:?}");
        text
    }
}

#[tokio::test]
async fn a_whole_life() {
    let fake = Fake::new("obeys");
    let driver = fake.opened().await;
    driver.validate().unwrap();
    assert_eq!(
        fake.logged("session"),
        [""; 0],
        "it has a session of its own"
    );
    let told: Value = serde_json::from_str(&fake.logged("configure")[0]).unwrap();
    assert_eq!(
        (&told["name"], &told["vmType"]),
        (&json!("vm"), &json!("mine"))
    );
    assert_eq!(driver.config().mount_type, Some(MountType::NineP));
    assert_eq!(driver.info().name, "mine", "not what it calls itself");
    assert_eq!(driver.info().vsock_port, 2222);
    assert!(!driver.forward_guest_agent() && driver.has_agent_carrier());
    let scripts = driver.boot_scripts().await.unwrap();
    assert_eq!(scripts["boot.Linux/05-x.sh"], "#!/bin/sh\n");
    driver.prepare_disk().await.unwrap();

    let mut vm = driver.start().await.unwrap();
    assert_eq!(Some(&vm.identity), fake.process("run").as_ref());
    let pid_file = fake.instance.dir.path().join("mine.drv.pid");
    let pid = std::fs::read_to_string(pid_file).unwrap();
    assert_eq!(pid.trim(), vm.identity.pid.to_string());
    let address = driver.ssh_address(SshPort::Any).await.unwrap();
    assert_eq!(json!(address.port()), told["sshLocalPort"]);
    for _ in 0..3 {
        let mut agent = driver.guest_agent_conn().await.unwrap().unwrap();
        let mut hello = [0; 5];
        agent.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
    }
    driver.change_display_password("secret").await.unwrap();
    assert_eq!(fake.logged("password"), ["secret"]);
    assert_eq!(driver.display_port().await.unwrap(), 5901);
    driver
        .snapshot(SnapshotAction::Create("tag".into()))
        .await
        .unwrap();
    assert_eq!(fake.logged("snapshot"), ["tag"]);
    let list = driver.snapshot(SnapshotAction::List).await.unwrap();
    assert_eq!(list, "ID TAG\n1 \\u{1b}one\n");
    assert!(driver.start().await.is_err(), "one VM at a time");

    driver.stop(patient()).await.unwrap();
    assert_eq!(exit_of(&mut vm).await.failure, None);
    let calls = fake.logged("call");
    let once = |method: &str| calls.iter().filter(|call| *call == method).count();
    assert_eq!((once("Configure"), once("Start"), once("Stop")), (1, 1, 1));
    fake.assert_gone();
    driver.stop(patient()).await.unwrap();
}

#[tokio::test]
async fn one_that_only_prepares_is_let_go() {
    let fake = Fake::new("obeys");
    let driver = fake.opened().await;
    driver.prepare_disk().await.unwrap();
    driver.stop(ladder(Duration::ZERO, HANG).0).await.unwrap();
    assert!(!fake.logged("call").contains(&"Stop".to_owned()));
    assert_eq!(fake.logged("signal"), ["SIGTERM"]);
    fake.assert_gone();
    fake.opened().await.stop(patient()).await.unwrap();
}

#[tokio::test]
async fn one_that_is_dropped_ends() {
    let fake = Fake::new("obeys");
    drop(fake.opened().await);
    fake.gone("run").await;
}

#[tokio::test]
async fn what_an_earlier_life_left_is_in_nobodys_way() {
    let fake = Fake::new("obeys");
    for name in ["mine.drv.sock", "mine.drv.pid", "mine.pid"] {
        std::fs::write(fake.instance.dir.path().join(name), "stale").unwrap();
    }
    let driver = fake.opened().await;
    driver.start().await.unwrap();
    driver.stop(patient()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn a_server_that_was_left_behind_is_replaced() {
    let fake = Fake::new("obeys");
    let first = fake.opened().await;
    let old = fake.process("run").unwrap();
    // As after the agent's kill -9: its server is there, and another agent comes.
    let second = fake.opened().await;
    assert!(!old.is_alive());
    assert!(second.start().await.is_ok());
    second.stop(patient()).await.unwrap();
    drop(first);
    fake.assert_gone();
}

#[tokio::test]
async fn failures_of_the_process_are_named() {
    let limits = Limits {
        socket: SHORT,
        ..PATIENT
    };
    let error = Fake::new("silent").refusal(limits).await;
    assert!(
        error.contains("waited 0 s for") && error.contains("mine.drv.sock"),
        "{error}"
    );
    let error = Fake::new("exits").refusal(PATIENT).await;
    assert!(
        error.contains("exit status 3") && error.contains("no licence\\u{1b}[2J"),
        "{error}"
    );
    let missing = Found {
        name: "mine".into(),
        path: "/no/such/lima-driver-mine".into(),
    };
    let fake = Fake::new("obeys");
    let error = ExternalDriver::open(fake.context(), missing, PATIENT)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("/no/such/lima-driver-mine"),
        "{error}"
    );
}

#[tokio::test]
async fn a_driver_that_talks_nonsense_is_refused() {
    let error = Fake::new("garbage").refusal(PATIENT).await;
    assert!(
        error.contains("the connection to the external driver broke"),
        "{error}"
    );
    let error = Fake::new("no_json").refusal(PATIENT).await;
    assert!(
        error.contains("answer to Configure: it is no JSON object"),
        "{error}"
    );
    let error = Fake::new("bad_config").refusal(PATIENT).await;
    assert!(
        error.contains("answer to Configure: its configuration is none"),
        "{error}"
    );
    let error = Fake::new("bad_info").refusal(PATIENT).await;
    assert!(error.contains("answer to Info"), "{error}");
    let error = Fake::new("floods").refusal(PATIENT).await;
    assert!(error.contains("a message above 16 MiB"), "{error}");
}

#[tokio::test]
async fn who_does_not_answer_is_not_waited_for() {
    let short = Limits {
        answer: SHORT,
        ..PATIENT
    };
    let error = Fake::new("mute").refusal(short).await;
    assert!(
        error.contains("did not answer Configure within 300ms"),
        "{error}"
    );
    // Python takes longer than that to load gRPC, but not to answer once it listens.
    let patient_enough = Limits {
        answer: Duration::from_secs(3),
        ..PATIENT
    };
    let error = Fake::new("hangs").refusal(patient_enough).await;
    assert!(error.contains("did not answer Info within 3s"), "{error}");
}

#[tokio::test]
async fn calls_that_block_by_design_have_no_deadline() {
    let fake = Fake::new("slow");
    // Half a second less than the disk takes.
    let limits = Limits {
        answer: Duration::from_secs(3),
        ..PATIENT
    };
    let driver = fake.open(limits).await.unwrap();
    driver.prepare_disk().await.unwrap();
    driver.stop(patient()).await.unwrap();
}

#[tokio::test]
async fn a_refused_configuration_is_told_by_validate() {
    let fake = Fake::new("refuses");
    let driver = fake.opened().await;
    let error = driver.validate().unwrap_err().to_string();
    assert!(
        error.contains("refuses the configuration: field `tpm` is\\u{1b} not for me"),
        "{error}"
    );
    driver.stop(patient()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn a_failed_start_says_why() {
    let fake = Fake::new("fails");
    let driver = fake.opened().await;
    let error = driver.start().await.unwrap_err().to_string();
    assert!(
        error.contains("did not start the VM: no firmware\\u{1b}[2J\nlook again"),
        "{error}"
    );
    driver.stop(patient()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_is_taken_back() {
    let fake = Fake::new("never_starts");
    let driver = fake.opened().await;
    let mut watched = std::time::Instant::now();
    tokio::select! {
        started = driver.start() => panic!("{started:?}"),
        () = async {
            while fake.logged("starting").is_empty() {
                assert!(watched.elapsed() < HANG);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        } => {}
    }
    watched = std::time::Instant::now();
    while fake.logged("cancelled").is_empty() {
        assert!(watched.elapsed() < HANG);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    driver.stop(StopLadder::at_once()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn the_end_of_the_vm_is_told() {
    let fake = Fake::new("vm_dies");
    let driver = fake.opened().await;
    let mut vm = driver.start().await.unwrap();
    let failure = exit_of(&mut vm).await.failure.unwrap();
    assert_eq!(failure, "exit status 1: \\u{1b}kernel panic");
    driver.stop(patient()).await.unwrap();
    fake.assert_gone();

    let fake = Fake::new("cut");
    let driver = fake.opened().await;
    let mut vm = driver.start().await.unwrap();
    let failure = exit_of(&mut vm).await.failure.unwrap();
    assert!(failure.contains("without a word"), "{failure}");
    driver.stop(patient()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn a_crash_of_the_driver_is_the_end_of_the_vm() {
    let fake = Fake::new("leaves_vm");
    let driver = fake.opened().await;
    let mut vm = driver.start().await.unwrap();
    let pid = vm.identity.pid.to_string();
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid])
        .status();
    assert!(killed.unwrap().success());
    let failure = exit_of(&mut vm).await.failure.unwrap();
    assert_eq!(
        failure,
        "the external driver ended (killed by signal 9 (SIGKILL))"
    );
    assert!(fake.is_alive("vm"), "the crash left it behind");
    let error = driver.guest_agent_conn().await.err().unwrap().to_string();
    assert!(error.contains("killed by signal 9"), "{error}");
    driver.stop(patient()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn a_stop_that_hangs_is_cut_short() {
    let fake = Fake::new("stop_hangs");
    let driver = fake.opened().await;
    let mut vm = driver.start().await.unwrap();
    let (ladder, hurry) = ladder(HANG, HANG);
    let stop = driver.stop(ladder);
    tokio::pin!(stop);
    tokio::select! {
        stopped = &mut stop => panic!("{stopped:?}"),
        () = tokio::time::sleep(SHORT) => {}
    }
    hurry.send_replace(true);
    stop.await.unwrap();
    assert!(exit_of(&mut vm).await.failure.is_some());
    fake.gone("vm").await;
    fake.assert_gone();
}

#[tokio::test]
async fn ssh_is_where_the_driver_says() {
    let fake = Fake::new("elsewhere");
    let driver = fake.opened().await;
    let error = driver
        .ssh_address(SshPort::Any)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("the VM is not running"), "{error}");
    driver.start().await.unwrap();
    let address = driver.ssh_address(SshPort::Any).await.unwrap();
    assert_eq!(address.ip().to_string(), "127.0.0.2");
    let error = driver.display_port().await.unwrap_err().to_string();
    assert!(
        error.contains("\"no port\\\\u{1b}\" is no TCP port"),
        "{error}"
    );
    driver.stop(patient()).await.unwrap();

    let fake = Fake::new("takes_port");
    let driver = fake.opened().await;
    driver.start().await.unwrap();
    let error = driver
        .ssh_address(SshPort::Any)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("took the SSH port"), "{error}");
    driver.stop(patient()).await.unwrap();
}

#[tokio::test]
async fn nobody_waits_for_ssh_of_a_vm_that_is_gone() {
    let fake = Fake::new("ssh_waits");
    let driver = fake.opened().await;
    driver.start().await.unwrap();
    let error = driver
        .ssh_address(SshPort::Any)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("AdditionalSetupForSSH: the VM has ended"),
        "{error}"
    );
    driver.stop(patient()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn a_window_lasts_as_long_as_the_vm() {
    let fake = Fake::new("window");
    let driver = fake.opened().await;
    assert!(driver.info().features.can_run_gui);
    let mut vm = driver.start().await.unwrap();
    driver.stop(patient()).await.unwrap();
    assert_eq!(exit_of(&mut vm).await.failure, None);
    fake.assert_gone();
}

#[tokio::test]
async fn what_goes_over_ssh_has_no_carrier() {
    let fake = Fake::new("forwards");
    let driver = fake.opened().await;
    assert!(driver.forward_guest_agent() && !driver.has_agent_carrier());
    driver.start().await.unwrap();
    assert!(driver.guest_agent_conn().await.unwrap().is_none());
    driver.stop(patient()).await.unwrap();
}

#[tokio::test]
async fn boot_scripts_stay_where_they_belong() {
    let fake = Fake::new("bad_script");
    let driver = fake.opened().await;
    let error = driver.boot_scripts().await.unwrap_err().to_string();
    assert!(error.contains("is no name of a boot script"), "{error}");
    driver.stop(patient()).await.unwrap();
}

#[tokio::test]
async fn an_orphan_is_ended_by_its_identity() {
    let fake = Fake::new("leaves_vm");
    let driver = fake.opened().await;
    let vm = driver.start().await.unwrap();
    stop_orphan("mine", &fake.instance.dir, &vm.identity, &patient(), &[])
        .await
        .unwrap();
    fake.assert_gone();
    // Again: there is nothing left to end.
    stop_orphan("mine", &fake.instance.dir, &vm.identity, &patient(), &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_pid_that_is_somebody_elses_is_left_alone() {
    let fake = Fake::new("obeys");
    let driver = fake.opened().await;
    driver.start().await.unwrap();
    // Older than the server, so it is not its VM.
    let me = std::process::id();
    std::fs::write(fake.instance.dir.path().join("mine.pid"), me.to_string()).unwrap();
    let mut other = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    std::fs::write(
        fake.instance.dir.path().join("mine.drv.pid"),
        other.id().to_string(),
    )
    .unwrap();
    driver.stop(patient()).await.unwrap();
    assert_eq!(other.try_wait().unwrap(), None, "nobody has touched it");
    other.kill().unwrap();
    other.wait().unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn one_that_is_not_there_is_looked_for_in_named_places() {
    let fake = Fake::new("obeys");
    let drivers =
        ExternalDrivers::discover(Some("/opt/nothing".as_ref()), &["/usr/bin/berth".into()]);
    let cache = fake.instance.cache();
    let error = berth_driver::create_driver(fake.context(), &cache, &drivers);
    let error = error.await.err().unwrap().to_string();
    for place in [
        "lima-driver-mine",
        "/opt/nothing",
        "/usr/libexec/lima",
        "/usr/lib/lima",
    ] {
        assert!(error.contains(place), "{error}");
    }
}

#[test]
fn a_status_is_asked_for() {
    let instance = json!({"name": "vm", "status": "Stopped"});
    let ask = |behaviour: &str, limit| {
        let fake = Fake::new(behaviour);
        let asked = inspect_status::ask(&fake.found.path, &instance, limit);
        assert!(!fake.is_alive("run"));
        asked.map_err(|error| error.to_string())
    };
    assert_eq!(ask("obeys", HANG).unwrap(), "Installing");
    let error = ask("lies", HANG).unwrap_err();
    assert!(
        error.contains("the unknown status \"On\\\\u{1b}Fire\""),
        "{error}"
    );
    let error = ask("hangs", SHORT).unwrap_err();
    assert!(error.contains("did not answer within 0 s"), "{error}");
    let missing = inspect_status::ask("/no/such".as_ref(), &instance, HANG);
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("cannot run /no/such")
    );
}
