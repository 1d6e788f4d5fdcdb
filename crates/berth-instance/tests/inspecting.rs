//! Instances in every state, as seen from outside.
#![cfg(unix)]

mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use berth_config::model::Config;
use berth_config::resolve::{ExternalDrivers, ResolveContext, resolve};
use berth_config::sources::Sources;
use berth_config::version::LimaVersion;
use berth_events::state::State;
use berth_instance::dir::InstanceDir;
use berth_instance::info::{self, InfoError};
use berth_instance::inspect::{AskDriver, InspectContext, InspectError, Inspection, inspect};
use berth_instance::lock::InstanceLock;
use berth_instance::pids::Processes;
use berth_instance::record::{Record, VmRecord};
use support::{Home, Process, platform};

const YAML: &str = "images: [{location: /image, arch: x86_64}]\ncpus: 2\nmemory: 1GiB\ndisk: 5GiB\n\
                    ssh: {localPort: 4022}\nmessage: hello\n";

/// An agent that gives one answer to each connection, as raw bytes.
struct Agent {
    thread: Option<JoinHandle<Vec<String>>>,
    socket: std::path::PathBuf,
}

impl Agent {
    fn answering(socket: &Path, answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        let listener = UnixListener::bind(socket).expect("bound");
        let thread = std::thread::spawn(move || {
            let mut requests = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("read") == 1
                {
                    request.push(byte[0]);
                }
                if request.is_empty() {
                    return requests;
                }
                requests.push(String::from_utf8(request).expect("text"));
                // The client may have heard enough.
                let _ = stream.write_all(&answer);
            }
        });
        Self {
            thread: Some(thread),
            socket: socket.to_owned(),
        }
    }

    fn json(socket: &Path, body: &str) -> Self {
        let length = body.len();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
        Self::answering(socket, format!("{head} {length}\r\n\r\n{body}"))
    }

    /// Ends it and gives what it was asked.
    fn requests(mut self) -> Vec<String> {
        drop(std::os::unix::net::UnixStream::connect(&self.socket).expect("connected"));
        self.thread.take().expect("once").join().expect("no panic")
    }
}

fn load(home: &Home, dir: &InstanceDir) -> Result<Config, String> {
    let platform = platform();
    let sources =
        Sources::read(home.home.path(), &dir.lima_yaml()).map_err(|why| why.to_string())?;
    let context = ResolveContext {
        platform: &platform,
        instance_name: "a",
        instance_dir: dir.path(),
        lima_home: home.home.path(),
        created_by: LimaVersion::current(),
        external_drivers: ExternalDrivers::default(),
    };
    resolve(&sources, &context)
        .map(|resolved| resolved.config)
        .map_err(|why| why.to_string())
}

fn look(home: &Home, name: &str) -> Result<Inspection, InspectError> {
    look_with(home, name, &|_, _| None)
}

fn look_with(
    home: &Home,
    name: &str,
    ask_driver: AskDriver<'_>,
) -> Result<Inspection, InspectError> {
    let platform = platform();
    let context = InspectContext {
        platform: &platform,
        load_config: &|dir| load(home, dir),
        render_message: &|message, instance| match message {
            "bad" => Err("no such field".into()),
            _ => Ok(format!("{message} from {}", instance.name)),
        },
        ask_driver,
    };
    inspect(&home.home, name, &context)
}

fn record_vm(dir: &InstanceDir, vm: &Process) {
    let vm = VmRecord {
        driver: "qemu".into(),
        identity: vm.identity(),
    };
    Record {
        vm: Some(vm),
        ..Record::default()
    }
    .save(dir)
    .expect("saved");
}

#[test]
fn a_driver_may_know_more_than_pid_files() {
    let home = Home::new();
    let dir = home.instance("a", &format!("{YAML}vmType: mine\n"));
    for (word, status, state) in [
        ("", "Stopped", Some(State::Stopped)),
        ("Running", "Running", Some(State::Running)),
        ("Installing", "Installing", None),
    ] {
        let answer = |config: &Config, known: &serde_json::Map<String, serde_json::Value>| {
            assert_eq!(config.vm_type.as_str(), "mine");
            assert_eq!(known["name"], "a");
            Some(Ok(word.to_owned()))
        };
        let seen = look_with(&home, "a", &answer).unwrap();
        assert_eq!((seen.status, seen.berth_state), (status, state));
    }
    let fails = |_: &Config, _: &serde_json::Map<_, _>| Some(Err("it hangs".to_owned()));
    let seen = look_with(&home, "a", &fails).unwrap();
    assert_eq!(
        (seen.status, &seen.errors[..]),
        ("Broken", &["it hangs".to_owned()][..])
    );
    let _lock = InstanceLock::try_acquire(&dir).unwrap();
    let never = |_: &Config, _: &serde_json::Map<_, _>| panic!("an agent of ours tells itself");
    look_with(&home, "a", &never).unwrap();
}

#[cfg(unix)]
#[test]
fn a_driver_server_counts_while_it_listens() {
    let home = Home::new();
    let dir = home.instance("a", YAML);
    let me = std::process::id();
    std::fs::write(dir.path().join("mine.drv.pid"), me.to_string()).unwrap();
    std::fs::write(dir.path().join("mine.pid"), me.to_string()).unwrap();
    let found = Processes::look(&dir, None);
    assert_eq!((found.vm, found.driver_server), (Some(me), None));
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("mine.drv.sock"));
    assert_eq!(Processes::look(&dir, None).driver_server, Some(me));
}

#[test]
fn a_stopped_instance() {
    let home = Home::new();
    let dir = home.instance("a", YAML);
    let seen = look(&home, "a").unwrap();
    assert_eq!(
        (seen.status, &seen.berth_state),
        ("Stopped", &Some(State::Stopped))
    );
    assert!(seen.errors.is_empty() && seen.is_stopped());
    assert_eq!(
        (seen.ssh_local_port, seen.lima_version.as_str()),
        (4022, "2.2.0")
    );
    assert_eq!(
        (seen.hostname.as_str(), seen.message.as_str()),
        ("lima-a", "hello from a")
    );
    assert!(!seen.protected);
    std::fs::write(dir.protected(), "").unwrap();
    assert!(look(&home, "a").unwrap().protected);
}

#[test]
fn what_is_no_instance_is_an_error() {
    let home = Home::new();
    assert_eq!(
        look(&home, "a").unwrap_err().to_string(),
        "instance \"a\" does not exist"
    );
    for name in ["../x", "", ".", "_config"] {
        assert_eq!(
            look(&home, name),
            Err(InspectError::NoInstance(name.into()))
        );
    }
    std::fs::create_dir(home.home.path().join("b")).unwrap();
    assert!(matches!(
        look(&home, "b"),
        Err(InspectError::NoConfig { .. })
    ));
}

#[test]
fn a_configuration_that_cannot_be_read_is_part_of_the_result() {
    let home = Home::new();
    home.instance("a", "cpus: [\n");
    let seen = look(&home, "a").unwrap();
    assert_eq!(
        (seen.status, seen.config.is_none(), seen.errors.len()),
        ("", true, 1)
    );
    assert!(seen.errors[0].contains("lima.yaml"), "{:?}", seen.errors);
}

#[test]
fn a_message_that_cannot_be_rendered_breaks_the_instance() {
    let home = Home::new();
    home.instance("a", &YAML.replace("hello", "bad"));
    let seen = look(&home, "a").unwrap();
    assert_eq!(
        (seen.status, seen.errors.as_slice()),
        ("Broken", &["message: no such field".to_owned()][..])
    );
}

#[test]
fn one_of_ours_tells_its_state() {
    let home = Home::new();
    let dir = home.instance("a", YAML);
    let _lock = InstanceLock::try_acquire(&dir).unwrap();
    let body = r#"{"sshLocalPort":60022,"berthState":{"state":"starting","phase":"essential"}}"#;
    let agent = Agent::json(&dir.ha_sock(), body);
    let before_the_vm = look(&home, "a").unwrap();
    let state = State::Starting {
        phase: "essential".into(),
    };
    assert_eq!(
        (before_the_vm.status, before_the_vm.berth_state),
        ("Stopped", Some(state.clone()))
    );
    let vm = Process::start();
    record_vm(&dir, &vm);
    let seen = look(&home, "a").unwrap();
    assert_eq!((seen.status, seen.berth_state), ("Running", Some(state)));
    assert_eq!(
        (seen.host_agent_pid, seen.driver_pid),
        (Some(std::process::id()), Some(vm.pid()))
    );
    assert_eq!((seen.ssh_local_port, seen.errors.len()), (60022, 0));
    let requests = agent.requests();
    assert!(requests[0].starts_with("GET /v1/info HTTP/1.0\r\nHost: lima-hostagent\r\n"));
}

#[test]
fn states_keep_lima_s_words() {
    for (body, status) in [
        (r#"{"berthState":{"state":"running"}}"#, "Running"),
        (
            r#"{"berthState":{"state":"degraded","causes":["x"]}}"#,
            "Running",
        ),
        (r#"{"berthState":{"state":"stopping"}}"#, "Running"),
        (r#"{"berthState":{"state":"failed","why":"x"}}"#, "Broken"),
    ] {
        let home = Home::new();
        let dir = home.instance("a", YAML);
        let _lock = InstanceLock::try_acquire(&dir).unwrap();
        let vm = Process::start();
        record_vm(&dir, &vm);
        let _agent = Agent::json(&dir.ha_sock(), body);
        assert_eq!(look(&home, "a").unwrap().status, status, "{body}");
    }
}

#[test]
fn an_agent_between_its_lock_and_its_socket_is_no_error() {
    let home = Home::new();
    let dir = home.instance("a", YAML);
    let _lock = InstanceLock::try_acquire(&dir).unwrap();
    let seen = look(&home, "a").unwrap();
    assert_eq!((seen.status, seen.errors.len()), ("Stopped", 0));
    assert!(matches!(seen.berth_state, Some(State::Starting { .. })) && !seen.is_stopped());
    // A socket that an earlier agent left: nobody listens.
    drop(UnixListener::bind(dir.ha_sock()).unwrap());
    assert_eq!(look(&home, "a").unwrap().errors.len(), 0);
}

#[test]
fn a_vm_without_its_agent_is_orphaned() {
    let home = Home::new();
    let dir = home.instance("a", YAML);
    let vm = Process::start();
    record_vm(&dir, &vm);
    let seen = look(&home, "a").unwrap();
    assert_eq!(
        (seen.status, seen.berth_state),
        ("Broken", Some(State::Orphaned))
    );
    assert_eq!(
        seen.errors,
        [format!(
            "the VM is alive (pid {}), its host agent is not",
            vm.pid()
        )]
    );
    vm.kill();
    assert!(look(&home, "a").unwrap().is_stopped());
}

#[test]
fn an_instance_that_lima_runs() {
    let home = Home::new();
    let dir = home.instance("a", YAML);
    let (ha, vm) = (Process::start(), Process::start());
    std::fs::write(dir.ha_pid(), format!("{}\n", ha.pid())).unwrap();
    let _agent = Agent::json(
        &dir.ha_sock(),
        r#"{"sshLocalPort":7,"autoStartedIdentifier":"u.service"}"#,
    );
    let early = look(&home, "a").unwrap();
    assert_eq!(
        early.status, "Broken",
        "Lima's word while its VM has no pid"
    );
    std::fs::write(dir.vm_pid("qemu"), format!("{}\n", vm.pid())).unwrap();
    let seen = look(&home, "a").unwrap();
    assert_eq!(
        (seen.status, seen.berth_state),
        ("Running", Some(State::Running))
    );
    assert_eq!(
        (seen.ssh_local_port, seen.auto_started_identifier.as_str()),
        (7, "u.service")
    );
}

#[test]
fn the_port_of_the_last_start_is_found_in_ssh_config() {
    let home = Home::new();
    let dir = home.instance("a", &YAML.replace("ssh: {localPort: 4022}\n", ""));
    assert_eq!(look(&home, "a").unwrap().ssh_local_port, 0);
    std::fs::write(
        dir.ssh_config(),
        "Host lima-a\n  Portable yes\n  Port x\n  Port 60023\n",
    )
    .unwrap();
    assert_eq!(look(&home, "a").unwrap().ssh_local_port, 60023);
    std::fs::remove_file(dir.ssh_config()).unwrap();
    std::fs::create_dir(dir.ssh_config()).unwrap();
    let seen = look(&home, "a").unwrap();
    assert_eq!(
        (seen.status, seen.errors.len()),
        ("Stopped", 1),
        "{:?}",
        seen.errors
    );
}

#[test]
fn answers_that_are_none_break_the_instance() {
    let huge = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(5 << 20));
    for (answer, why) in [
        ("", "no HTTP response"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP response"),
        (
            "HTTP/1.1 500 Internal Server Error\r\n\r\n{\"message\":\"x\"}",
            "HTTP status 500",
        ),
        ("HTTP/1.1 4\u{1b}4 x\r\n\r\n", "HTTP status 4\\u{1b}4"),
        ("HTTP/1.1 200 OK\r\n\r\n", "EOF"),
        ("HTTP/1.1 200 OK\r\n\r\n{\"sshLocalPort\":70000}", "70000"),
        (huge.as_str(), "too long"),
    ] {
        let home = Home::new();
        let dir = home.instance("a", YAML);
        let _lock = InstanceLock::try_acquire(&dir).unwrap();
        let _agent = Agent::answering(&dir.ha_sock(), answer);
        let seen = look(&home, "a").unwrap();
        assert_eq!((seen.status, seen.errors.len()), ("Broken", 1));
        assert!(
            seen.errors[0].contains(why),
            "{:?} does not say {why:?}",
            seen.errors
        );
    }
}

#[test]
fn an_agent_that_does_not_answer_is_given_up() {
    let home = Home::new();
    let socket = home.beside().join("ha.sock");
    // Accepts connections into its queue and never looks at them.
    let _listener = UnixListener::bind(&socket).unwrap();
    let why = info::ask(&socket, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(why, InfoError::Timeout { .. }), "{why}");
    assert!(why.to_string().ends_with("within 0.05 s"), "{why}");
}

#[test]
fn a_byte_now_and_then_does_not_extend_the_deadline() {
    let home = Home::new();
    let socket = home.beside().join("ha.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let dripping = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Until the client has gone. Slow enough not to reach its limit on bytes first.
        while stream.write_all(b"x").is_ok() {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    });
    let why = info::ask(&socket, Duration::from_millis(100)).unwrap_err();
    assert!(matches!(why, InfoError::Timeout { .. }), "{why}");
    dripping.join().unwrap();
}

#[test]
fn a_listener_whose_queue_is_full_is_given_up() {
    let home = Home::new();
    let socket = home.beside().join("ha.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let why = info::ask(&socket, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(why, InfoError::Timeout { .. }), "{why}");
}

#[test]
fn the_json_has_lima_s_keys_in_lima_s_order() {
    let home = Home::new();
    let dir = home.instance("a", YAML);
    let seen = look(&home, "a").unwrap();
    let json = seen.to_json(&home.home, &platform());
    let keys: Vec<_> = json.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "name",
            "hostname",
            "status",
            "dir",
            "vmType",
            "arch",
            "cpus",
            "memory",
            "disk",
            "message",
            "sshLocalPort",
            "sshConfigFile",
            "config",
            "sshAddress",
            "protected",
            "limaVersion",
            "HostOS",
            "HostArch",
            "LimaHome",
            "IdentityFile",
            "berthState"
        ]
    );
    assert_eq!(json["memory"], 1_073_741_824_u64);
    assert_eq!(json["HostOS"], "linux");
    assert_eq!(json["sshConfigFile"], dir.ssh_config().to_str().unwrap());
    assert_eq!(json["berthState"], serde_json::json!({"state": "stopped"}));
    assert!(
        json["config"].get("vmOpts").is_none(),
        "empty objects are left out"
    );
}

#[test]
fn the_json_of_a_busy_instance_has_the_rest() {
    let home = Home::new();
    let yaml = format!(
        "{YAML}additionalDisks: [data]\nnetworks: [{{socket: /s}}]\nparam: {{used: x}}\nenv: {{A: \"{{{{.Param.used}}}} PARAM_used\"}}\n\
         provision: [{{mode: system, script: 'echo $PARAM_used'}}]\n"
    );
    let dir = home.instance("a", &yaml);
    let vm = Process::start();
    record_vm(&dir, &vm);
    let json = look(&home, "a").unwrap().to_json(&home.home, &platform());
    let keys: Vec<_> = json.keys().map(String::as_str).collect();
    assert_eq!(
        keys[9..19],
        [
            "message",
            "additionalDisks",
            "network",
            "sshLocalPort",
            "sshConfigFile",
            "driverPID",
            "errors",
            "config",
            "sshAddress",
            "protected"
        ]
    );
    assert_eq!(json["param"], serde_json::json!({"used": "x"}));
    assert_eq!(json["driverPID"], vm.pid());
}

#[test]
fn the_json_of_an_unreadable_instance_keeps_the_fixed_keys() {
    let home = Home::new();
    home.instance("a", "cpus: [\n");
    let json = look(&home, "a").unwrap().to_json(&home.home, &platform());
    for key in ["status", "vmType", "arch"] {
        assert_eq!(json[key], "", "{key}");
    }
    assert!(json.get("cpus").is_none() && json["errors"].is_array());
}
