//! The machine's front: the process that a host agent takes for QEMU. It owns the character devices and the monitors,
//! and watches the guest.

mod commands;
mod console;
mod disk;
mod guest;
mod human;
mod monitor;
mod start;

use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::arguments::Hardware;
use crate::cgroup::MachineGroup;
use crate::forward_rule::ForwardRule;
use crate::inside::Boot;
use crate::relay::{self, Relay};
use console::SerialLine;
use disk::Changes;
use guest::{Guest, Outcome};
use monitor::{Monitor, Refusal};
use start::VncServer;

/// What a host agent sees of the guest's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunState {
    Running,
    Paused,
    Shutdown,
}

impl RunState {
    fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Why the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest reset itself, and `-no-reboot` makes that the end.
    GuestReset,
    /// QMP `quit`.
    Quit,
    /// SIGTERM, SIGINT or SIGHUP.
    Signal,
    /// The guest did not come up, or crashed.
    Failure,
}

/// A port of the host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Forward {
    listen: SocketAddrV4,
    target: SocketAddrV4,
}

impl Forward {
    /// Listens, and has the relay accept.
    fn open(relay: &Relay, rule: &ForwardRule) -> Result<Self> {
        let refused = || anyhow!("Could not set up host forwarding rule '{}'", rule.text);
        let (listener, listen) = relay::listen(rule.listen).map_err(|_| refused())?;
        let target = rule.target;
        relay.forward(listen, listener, target);
        Ok(Self { listen, target })
    }
}

/// A running machine.
#[derive(Debug)]
pub(crate) struct Machine {
    hardware: Hardware,
    boot: Boot,
    signals: OwnedFd,
    monitors: Vec<Monitor>,
    lines: Vec<SerialLine>,
    console: Option<usize>,
    relay: Relay,
    forwards: Vec<Forward>,
    vnc: Option<VncServer>,
    group: MachineGroup,
    guest: Guest,
    run_state: RunState,
    end: Option<End>,
    /// Sockets and the pid file, which only we may remove.
    files: Vec<PathBuf>,
    _changes: Option<Changes>,
}

/// Something to wait for.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    PortChanges,
    Report,
    Console,
    Exit,
    Monitor(usize),
    Line(usize),
}

impl Machine {
    /// Runs until the machine ends, and returns QEMU's exit code.
    pub(crate) fn run(mut self) -> ExitCode {
        while self.end.is_none() {
            if let Err(error) = self.turn() {
                crate::complain(&error);
                self.end(End::Failure);
            }
        }
        self.take_down()
    }

    fn turn(&mut self) -> Result<()> {
        for source in self.wait()? {
            match source {
                Source::Signals => self.end(End::Signal),
                Source::PortChanges => self.tell_port_changes(),
                Source::Report => self.take_report()?,
                Source::Console => self.read_console(),
                Source::Exit => self.boot_ended()?,
                Source::Monitor(number) => self.attend_monitor(number),
                Source::Line(number) => self.lines[number].attend(),
            }
        }
        Ok(())
    }

    /// Sources that are ready, in an order in which a guest's last words come before its end.
    fn wait(&self) -> Result<Vec<Source>> {
        let input = PollFlags::IN;
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = vec![
            (Source::Signals, self.signals.as_fd(), input),
            (Source::PortChanges, self.relay.changes().as_fd(), input),
        ];
        if let Some(report) = self.guest.report() {
            sources.push((Source::Report, report.as_fd(), input));
        }
        sources.push((Source::Console, self.guest.console().as_fd(), input));
        for (number, monitor) in self.monitors.iter().enumerate() {
            let (fd, flags) = monitor.interest();
            sources.push((Source::Monitor(number), fd, flags));
        }
        for (number, line) in self.lines.iter().enumerate() {
            if let Some((fd, flags)) = line.interest() {
                sources.push((Source::Line(number), fd, flags));
            }
        }
        sources.push((Source::Exit, self.guest.exit().as_fd(), input));
        let mut polled: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for something to happen"),
        }
        let ready = polled
            .iter()
            .zip(&sources)
            .filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, (source, ..))| *source).collect())
    }

    fn attend_monitor(&mut self, number: usize) {
        self.monitors[number].attend();
        while let Some(command) = self.monitors[number].next_command() {
            let result = self.execute(&command.name, &command.arguments);
            self.monitors[number].answer(command, result);
        }
    }

    /// Tells every monitor of an event.
    fn tell(&mut self, name: &str, data: Option<&Value>) {
        for monitor in &mut self.monitors {
            monitor.tell(name, data);
        }
    }

    fn tell_port_changes(&mut self) {
        while let Some(change) = self.relay.next_change() {
            let device = self.hardware.ports[change.port].device.clone();
            if let Some(id) = device {
                self.tell(
                    "VSERPORT_CHANGE",
                    Some(&json!({ "open": change.open, "id": id })),
                );
            }
        }
    }

    fn take_report(&mut self) -> Result<()> {
        for (number, guests) in self.guest.take_report()?.into_iter().enumerate() {
            self.relay.attach_port(number, guests);
        }
        Ok(())
    }

    fn read_console(&mut self) {
        let mut buffer = [0; 16384];
        while let Ok(length @ 1..) = rustix::io::read(self.guest.console(), &mut buffer) {
            if let Some(number) = self.console {
                self.lines[number].print(&buffer[..length]);
            }
        }
    }

    fn boot_ended(&mut self) -> Result<()> {
        match self.guest.reap()? {
            Outcome::PowerOff => self.end(End::GuestShutdown),
            Outcome::Reboot if self.hardware.no_reboot => self.end(End::GuestReset),
            Outcome::Reboot => {
                self.tell(
                    "RESET",
                    Some(&json!({ "guest": true, "reason": "guest-reset" })),
                );
                self.guest = Guest::boot(&self.boot)?;
            }
            Outcome::NotStarted => return Err(anyhow!("the guest could not be started")),
            Outcome::Crashed(code) => return Err(anyhow!("the guest crashed with code {code}")),
        }
        Ok(())
    }

    fn pause(&mut self, pause: bool) -> Result<(), Refusal> {
        let wanted = if pause {
            RunState::Paused
        } else {
            RunState::Running
        };
        if self.run_state == wanted {
            return Ok(());
        }
        self.group
            .freeze(pause)
            .map_err(|error| Refusal::generic(format!("{error:#}")))?;
        self.run_state = wanted;
        self.tell(if pause { "STOP" } else { "RESUME" }, None);
        Ok(())
    }

    fn press_power_button(&self) {
        self.guest.press_power_button();
    }

    /// Returns when every process of the guest is gone: the one inside, which may not have joined the group yet, and
    /// those of the group.
    fn kill_guest(&mut self) -> Result<()> {
        self.guest.kill()?;
        self.group.kill()
    }

    /// Kills the guest and boots it again.
    fn reset(&mut self) -> Result<(), Refusal> {
        let again = self.kill_guest().and_then(|()| {
            self.group.freeze(false)?;
            Guest::boot(&self.boot)
        });
        self.guest = again.map_err(|error| Refusal::generic(format!("{error:#}")))?;
        self.run_state = RunState::Running;
        let data = json!({ "guest": false, "reason": "host-qmp-system-reset" });
        self.tell("RESET", Some(&data));
        Ok(())
    }

    /// Adds a forward to a running machine.
    fn add_rule(&mut self, rule: &ForwardRule) -> Result<()> {
        self.forwards.push(Forward::open(&self.relay, rule)?);
        Ok(())
    }

    /// Closes the forward that listens there; `false`: there is none.
    fn close_forward(&mut self, listen: SocketAddrV4) -> bool {
        let found = self
            .forwards
            .iter()
            .position(|forward| forward.listen == listen);
        if let Some(position) = found {
            self.forwards.remove(position);
            self.relay.unforward(listen);
        }
        found.is_some()
    }

    /// Ends the machine after this turn; the first reason counts.
    fn end(&mut self, why: End) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(why);
        self.run_state = RunState::Shutdown;
        let (by_guest, reason) = match why {
            End::GuestShutdown => (true, "guest-shutdown"),
            End::GuestReset => (true, "guest-reset"),
            End::Quit => (false, "host-qmp-quit"),
            End::Signal => (false, "host-signal"),
            End::Failure => (true, "guest-panic"),
        };
        self.tell(
            "SHUTDOWN",
            Some(&json!({ "guest": by_guest, "reason": reason })),
        );
    }

    /// Ends every process of the guest, then removes what we made, whatever fails on the way.
    fn take_down(mut self) -> ExitCode {
        let mut clean = self.end != Some(End::Failure);
        for done in [self.kill_guest(), self.group.remove()] {
            if let Err(error) = done {
                crate::complain(&error);
                clean = false;
            }
        }
        self.read_console();
        for path in &self.files {
            let _ = std::fs::remove_file(path);
        }
        self.monitors.into_iter().for_each(Monitor::close);
        if clean {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
