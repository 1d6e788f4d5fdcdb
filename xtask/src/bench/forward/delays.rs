//! How soon the host follows the guest: from `listen` to a port that can be connected to, and from `close` to a port that is
//! free again.
//!
//! Host and guest share the clock here; where they do not, nothing is measured. A connection is tried every 0.2 ms. That a
//! port is free is seen by binding it, without listening: a connection that is tried would be one more thing to forward, and the
//! kernel's table of sockets takes milliseconds to read.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt::set_socket_reuseaddr};

use super::Plan;
use super::sheet::{Measure, Sheet};
use super::side::{Helper, OPENED, Side};
use crate::bench::lab::Machine;
use crate::bench::stats::milliseconds;
use crate::traffic::ports::{Command, now};

/// Names of rows.
pub(super) const OPEN: &str = "bind and listen to connectable";
pub(super) const OPEN_LATE: &str = "listen 20 ms after bind to connectable";
pub(super) const CLOSE: &str = "close to port free";
pub(super) const OPEN_MANY: &str = "100 ports at once, all connectable";
pub(super) const CLOSE_MANY: &str = "100 ports closed, all free";

/// How many ports are many.
const MANY: u16 = 100;

/// How long the host may take: a limit against hanging.
const LIMIT: Duration = Duration::from_secs(20);

/// Between two tries to connect, and between two to bind.
const TRY: Duration = Duration::from_micros(200);
const LOOK: Duration = Duration::from_micros(500);

/// Ports one by one, then many at once.
pub(super) fn measure(plan: &Plan<'_>, sheet: &mut Sheet) -> Result<()> {
    if plan.args.guest != Machine::Native {
        println!("LEFT OUT: delays: this guest has a clock of its own");
        return Ok(());
    }
    for side in plan.sides() {
        let context = || format!("ports of {}", side.name);
        let mut guest = side.start_ports().with_context(context)?;
        let mut turn = |open, first, count, rows| {
            one_turn(&mut guest, side, open, (first, count), sheet, rows).with_context(context)
        };
        for number in 0..plan.args.ports {
            let port = side.port(OPENED + u16::try_from(number % 100)?);
            turn(Command::Open(port, 1), port, 1, (OPEN, CLOSE))?;
            turn(Command::OpenLate(port), port, 1, (OPEN_LATE, CLOSE))?;
        }
        for _ in 0..plan.args.ports.div_ceil(4) {
            let first = side.port(OPENED + MANY);
            turn(
                Command::Open(first, MANY),
                first,
                MANY,
                (OPEN_MANY, CLOSE_MANY),
            )?;
        }
    }
    Ok(())
}

/// Opens, waits, closes, waits; with pauses that fall into step with no timer.
fn one_turn(
    guest: &mut Helper,
    side: &Side,
    open: Command,
    (first, count): (u16, u16),
    sheet: &mut Sheet,
    (opened, closed): (&str, &str),
) -> Result<()> {
    guest.send(open)?;
    let seen = wait_until_connectable(first, count)?;
    add(sheet, side, opened, seen.saturating_sub(guest.moment()?));
    pause();
    guest.send(Command::Close)?;
    let seen = wait_until_free(first, count)?;
    add(sheet, side, closed, seen.saturating_sub(guest.moment()?));
    pause();
    Ok(())
}

fn add(sheet: &mut Sheet, side: &Side, row: &str, delay: Duration) {
    sheet.add(&Measure::new(row, "ms", 1), side.name, milliseconds(delay));
}

fn wait_until_connectable(first: u16, count: u16) -> Result<Duration> {
    let deadline = now() + LIMIT;
    let mut waiting: Vec<u16> = (first..first + count).collect();
    loop {
        waiting.retain(|port| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
            TcpStream::connect(address).is_err()
        });
        let moment = now();
        if waiting.is_empty() {
            return Ok(moment);
        }
        if moment > deadline {
            bail!(
                "{} of {count} ports were not forwarded in time",
                waiting.len()
            );
        }
        sleep(TRY);
    }
}

fn wait_until_free(first: u16, count: u16) -> Result<Duration> {
    let deadline = now() + LIMIT;
    let mut taken: Vec<u16> = (first..first + count).collect();
    loop {
        // The first that is taken decides; the others are looked at when it is free.
        while let Some(port) = taken.last() {
            if !is_free(*port)? {
                break;
            }
            taken.pop();
        }
        let moment = now();
        if taken.is_empty() {
            return Ok(moment);
        }
        if moment > deadline {
            bail!("{} of {count} ports were not let go in time", taken.len());
        }
        sleep(LOOK);
    }
}

/// Whether nothing listens on a port of the host. Connections that have ended do not count.
fn is_free(port: u16) -> Result<bool> {
    let probe = socket(AddressFamily::INET, SocketType::STREAM, None).context("make a socket")?;
    set_socket_reuseaddr(&probe, true).context("set an option")?;
    match bind(&probe, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
        Ok(()) => Ok(true),
        Err(Errno::ADDRINUSE) => Ok(false),
        Err(why) => Err(why).with_context(|| format!("bind port {port}")),
    }
}

/// Half a second to one and a half.
fn pause() {
    sleep(Duration::from_millis(
        500 + u64::from(now().subsec_micros()) % 1000,
    ));
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_are_found_and_missed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port).unwrap());
        wait_until_connectable(port, 1).unwrap();
        drop(listener);
        wait_until_free(port, 1).unwrap();
    }
}
