//! The host's name server is gone for a minute, while the guest goes on asking.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use super::upstream::Upstream;
use super::{ask, until};
use crate::forwarding::patience::comes_true;
use crate::instance::Instance;
use crate::processes::Process;

/// How the questions ended: `ask.py` says it when all have.
const HOW_THEY_ENDED: &str = "while ! grep . /tmp/asked; do sleep 0.2; done";

/// A guest that asks for another name twice in a second, for a minute.
pub(crate) struct Outage<'a> {
    instance: &'a Instance<'a>,
    agent: Process,
    descriptors: usize,
    at: SocketAddrV4,
    /// Takes questions, and says nothing.
    silent: UdpSocket,
}

impl<'a> Outage<'a> {
    /// The server at `at` has ended just now.
    #[track_caller]
    pub(crate) fn begin(instance: &'a Instance<'a>, at: SocketAddrV4) -> Self {
        let agent = instance.agent();
        let descriptors = agent.descriptor_numbers().len();
        let silent = UdpSocket::bind(at).expect("its port");
        let script = format!("nohup {} >/tmp/asked 2>&1 </dev/null &", ask("--steady 60"));
        let _ = instance.shell(&script).success();
        Self {
            instance,
            agent,
            descriptors,
            at,
            silent,
        }
    }

    /// Every question was answered all along: that it failed. Then there is a server again, which gives every name this address.
    #[track_caller]
    pub(crate) fn end(self, answer: Ipv4Addr) -> Upstream {
        let said = self.instance.shell(HOW_THEY_ENDED).success();
        assert_eq!(said.trim(), "120 SERVFAIL");
        drop(self.silent);
        let upstream = Upstream::start(self.at, answer);
        let answer = answer.to_string();
        let said = self.instance.shell(&ask("back.example.com"));
        assert_eq!(said.success().trim(), answer, "the first that is asked");
        // The guest's own resolver may have grown cautious meanwhile.
        for script in [
            "musl-lookup musl.back.example.com",
            "getent ahostsv4 getent.back.example.com | awk '/STREAM/ {print $1}'",
        ] {
            until(self.instance, script, &answer);
        }
        let left = || self.agent.descriptor_numbers().len();
        let is_at_rest = comes_true(|| left() <= self.descriptors);
        assert!(
            is_at_rest,
            "{} descriptors instead of {}",
            left(),
            self.descriptors
        );
        upstream
    }
}

/// Ordinary names are not found, static ones are.
#[track_caller]
pub(crate) fn nothing_else_is_hurt(instance: &Instance<'_>) {
    for script in [
        "getent ahostsv4 lost.example.com",
        "musl-lookup lost.example.com",
    ] {
        let said = instance.shell(script);
        assert!(
            said.code != Some(0) && said.stdout.is_empty(),
            "{script}: {said:#?}"
        );
    }
    for script in [
        "getent ahostsv4 db.corp.example | awk '/STREAM/ {print $1}'",
        "musl-lookup db.corp.example",
        &ask("db.corp.example"),
    ] {
        let said = instance.shell(script).success();
        assert_eq!(said.trim(), "10.0.0.5", "{script}");
    }
}
