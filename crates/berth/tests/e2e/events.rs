//! The agent's events, read as any program would read them: JSON, one object on each line.

use std::path::Path;

use serde_json::Value;

/// The events of one life of an agent, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events(Vec<Value>);

impl Events {
    /// Reads what has been written so far.
    #[track_caller]
    pub(crate) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("ha.stdout.log");
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "half a line: {text}"
        );
        let parsed = text.lines().map(|line| match serde_json::from_str(line) {
            Ok(event) => event,
            Err(why) => panic!("no JSON object ({why}): {line}"),
        });
        let events = Self(parsed.collect());
        events.assert_in_order();
        events
    }

    /// Times have fractions of a second, and never run backwards.
    #[track_caller]
    fn assert_in_order(&self) {
        let times = self
            .0
            .iter()
            .map(|event| event["time"].as_str().expect("a time"));
        let stamps: Vec<jiff::Timestamp> = times
            .map(|time| {
                assert!(time.contains('.'), "whole seconds: {time}");
                time.parse().expect("RFC 3339")
            })
            .collect();
        assert!(stamps.is_sorted(), "time runs backwards: {self:#?}");
    }

    /// The events as short words: `+phase`, `phase=outcome`, `ssh`, `running`, `degraded`, `exiting`. Those about ports are left
    /// out: they come when the guest's own services do.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut ssh_known = false;
        let mut words = Vec::new();
        let about_ports = |event: &&Value| event["status"]["portForward"].is_object();
        for event in self.0.iter().filter(|event| !about_ports(event)) {
            let status = &event["status"];
            let is = |key: &str| status[key] == true;
            if let Some(name) = event["phase"]["name"].as_str() {
                words.push(match event["phase"]["outcome"].as_str() {
                    Some("started") => format!("+{name}"),
                    outcome => format!("{name}={}", outcome.expect("an outcome")),
                });
            } else if is("exiting") {
                words.push("exiting".to_owned());
            } else if is("running") {
                words.push(
                    if is("degraded") {
                        "degraded"
                    } else {
                        "running"
                    }
                    .to_owned(),
                );
            } else if status["sshLocalPort"].is_u64() && !ssh_known {
                ssh_known = true;
                words.push("ssh".to_owned());
            }
        }
        words
    }

    /// The port that the guest's sshd has on the host, which every event but the last repeats once it is known.
    #[track_caller]
    pub(crate) fn ssh_port(&self) -> u16 {
        let known = |event: &&Value| event["status"]["sshLocalPort"].is_u64();
        let with_port: Vec<_> = self.0.iter().skip_while(|event| !known(event)).collect();
        let ports: Vec<_> = with_port
            .iter()
            .filter(|event| event["status"]["exiting"] != true)
            .map(|event| event["status"]["sshLocalPort"].as_u64())
            .collect();
        let first = ports.first().copied().flatten();
        assert!(
            ports.iter().all(|port| *port == first),
            "another port: {self:#?}"
        );
        u16::try_from(first.expect("an event with the port")).expect("a port")
    }

    /// `errors` of the last event, which says that the agent exits and nothing else.
    #[track_caller]
    pub(crate) fn exit_errors(&self) -> Vec<String> {
        let last = self.0.last().expect("events");
        let mut status = last["status"].as_object().expect("a status").clone();
        assert_eq!(
            status.remove("exiting"),
            Some(Value::Bool(true)),
            "not the end: {last}"
        );
        let errors = status.remove("errors");
        assert!(status.is_empty(), "an exiting agent says more: {last}");
        let exits = self
            .0
            .iter()
            .filter(|event| event["status"]["exiting"] == true);
        assert_eq!(exits.count(), 1, "one exit");
        texts(errors.as_ref())
    }

    /// `errors` of the event that says that the instance runs, and that something does not work.
    #[track_caller]
    pub(crate) fn degraded_errors(&self) -> Vec<String> {
        let degraded = self
            .0
            .iter()
            .find(|event| event["status"]["degraded"] == true);
        let Some(event) = degraded else {
            panic!("never degraded: {self:#?}")
        };
        assert_eq!(event["status"]["running"], true, "degraded means running");
        texts(event["status"].get("errors"))
    }

    /// Whether an event says so, e.g. `running`.
    pub(crate) fn any(&self, key: &str) -> bool {
        self.0.iter().any(|event| event["status"][key] == true)
    }
}

fn texts(array: Option<&Value>) -> Vec<String> {
    let array = array.and_then(Value::as_array).into_iter().flatten();
    array
        .map(|text| text.as_str().expect("a text").to_owned())
        .collect()
}

/// Whether an event begins the phase `name`.
pub(crate) fn begins(name: &str) -> impl Fn(&Value) -> bool {
    move |event| event["phase"]["name"] == name && event["phase"]["outcome"] == "started"
}

/// Whether an event says that the instance runs.
pub(crate) fn running(event: &Value) -> bool {
    event["status"]["running"] == true
}
