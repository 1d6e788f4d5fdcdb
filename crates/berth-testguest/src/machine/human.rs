//! Commands of QEMU's human monitor. What goes wrong is said in the text of the answer.

use std::fmt::Write as _;

use super::{Machine, RunState};
use crate::answers::{PACKAGE, VERSION};
use crate::forward_rule::ForwardRule;

impl Machine {
    /// Carries out a line and returns what QEMU would print, each line ended by CR and LF.
    pub(super) fn human(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let printed = match words.as_slice() {
            ["hostfwd_add" | "hostfwd_remove", rest @ ..] if !matches!(rest.len(), 1 | 2) => {
                let command = words[0];
                format!("{command}: string expected\nTry \"help {command}\" for more information\n")
            }
            ["hostfwd_add", rest @ ..] => self.with_network(rest, Self::add_forward),
            ["hostfwd_remove", rest @ ..] => self.with_network(rest, Self::remove_forward),
            ["info", "status"] => self.info_status(),
            ["info", "name"] => format!("{}\n", self.hardware.name),
            ["info", "version"] => {
                let (major, minor, micro) = VERSION;
                format!("{major}.{minor}.{micro}{PACKAGE}\n")
            }
            ["info", "usernet"] => self.info_usernet(),
            ["info", "snapshots"] => "no block device can store vmstate for snapshot\n".to_owned(),
            ["savevm" | "loadvm", ..] => {
                "Error: no block device can store vmstate for snapshot\n".to_owned()
            }
            ["delvm", ..] | [] => String::new(),
            _ => format!("unknown command: '{}'\n", line.trim()),
        };
        printed.replace('\n', "\r\n")
    }

    /// Takes the optional netdev id off, and checks it.
    fn with_network(
        &mut self,
        words: &[&str],
        command: fn(&mut Self, &str) -> Result<String, String>,
    ) -> String {
        let known = self
            .hardware
            .network
            .as_ref()
            .map(|network| network.id.as_str());
        let result = match (words, known) {
            (_, None) => Err("no user mode network stack is in use".to_owned()),
            ([id, _], Some(known)) if *id != known => Err(format!("unrecognized netdev id '{id}'")),
            ([_, rule] | [rule], _) => command(self, rule),
            _ => unreachable!("one or two words"),
        };
        match result {
            Ok(text) => text,
            Err(text) => format!("{text}\n"),
        }
    }

    fn add_forward(&mut self, text: &str) -> Result<String, String> {
        let network = self
            .hardware
            .network
            .as_ref()
            .expect("checked by the caller");
        let rule = ForwardRule::parse(text, network.guest).map_err(|error| error.to_string())?;
        self.add_rule(&rule).map_err(|error| error.to_string())?;
        Ok(String::new())
    }

    fn remove_forward(&mut self, text: &str) -> Result<String, String> {
        let listen = ForwardRule::parse_listen(text).ok_or("invalid format")?;
        let found = if self.close_forward(listen) {
            "removed"
        } else {
            "not found"
        };
        Ok(format!("host forwarding rule for {text} {found}\n"))
    }

    fn info_status(&self) -> String {
        match self.run_state {
            RunState::Running => "VM status: running\n".to_owned(),
            RunState::Paused => "VM status: paused\n".to_owned(),
            RunState::Shutdown => "VM status: paused (shutdown)\n".to_owned(),
        }
    }

    fn info_usernet(&self) -> String {
        let Some(network) = &self.hardware.network else {
            return String::new();
        };
        let mut text = format!("Hub -1 ({}):\n", network.id);
        text += "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n";
        for forward in self.forwards.iter().rev() {
            let (from, to) = (forward.listen, forward.target);
            let source = match from.ip() {
                ip if ip.is_unspecified() => "*".to_owned(),
                ip => ip.to_string(),
            };
            let _ = writeln!(
                text,
                "  TCP[HOST_FORWARD]  {:<3}{source:>15} {:>5} {:>15} {:>5}     0     0",
                0,
                from.port(),
                to.ip(),
                to.port(),
            );
        }
        text
    }
}
