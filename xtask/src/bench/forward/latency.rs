//! How long single things take: round trips, short connections, datagrams.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Plan;
use super::memory::{self, Watch};
use super::sheet::{Measure, Sheet};
use crate::traffic::{blast, client, ping};

/// Names of rows.
pub(super) const PING_MEDIAN: &str = "ping-pong of 64 B, p50";
pub(super) const PING_HIGH: &str = "ping-pong of 64 B, p99";
pub(super) const CONNECT_MEDIAN: &str = "connect + echo + close, p50";
pub(super) const CONNECT_HIGH: &str = "connect + echo + close, p99";
pub(super) const RATE: &str = "connections, 50 at once";

const MESSAGE: usize = 64;
const ROUND_TRIPS: usize = 5000;
const CONNECTIONS: usize = 1000;
const AT_ONCE: usize = 50;
const DATAGRAM: usize = 1200;
const WINDOW: u32 = 16;

/// Round trips on an open connection, and connections one after the other.
pub(super) fn measure(plan: &Plan<'_>, sheet: &mut Sheet) -> Result<()> {
    for _ in 0..plan.args.runs {
        for way in plan.ways {
            let context = || format!("round trips through {}", way.name);
            let mut stream = client::connect(way.target).with_context(context)?;
            let round_trips =
                client::ping_pong(&mut stream, MESSAGE, ROUND_TRIPS).with_context(context)?;
            let connections = client::connect_in_turn(way.target, CONNECTIONS)?;
            for (name, value) in [
                (PING_MEDIAN, round_trips.percentile(50)),
                (PING_HIGH, round_trips.percentile(99)),
                (CONNECT_MEDIAN, connections.percentile(50)),
                (CONNECT_HIGH, connections.percentile(99)),
            ] {
                sheet.add(&Measure::new(name, "µs", 0), way.name, value);
            }
        }
    }
    Ok(())
}

/// Many short connections at once.
#[allow(clippy::cast_precision_loss, reason = "few failures")]
pub(super) fn measure_rate(plan: &Plan<'_>, sheet: &mut Sheet) {
    let duration = Duration::from_secs(plan.args.seconds.into());
    for _ in 0..plan.args.runs {
        for way in plan.ways {
            let watch = way.side.map(|side| (side, Watch::begin(side)));
            let rate = client::connect_at_once(way.target, AT_ONCE, duration);
            if let Some((side, watch)) = watch {
                watch.end(sheet, side, memory::CONNECTIONS);
            }
            sheet.add(&Measure::new(RATE, "1/s", 0), way.name, rate.per_second);
            let failed = Measure::new("    of them failed", "", 0);
            sheet.add(&failed, way.name, rate.failed as f64);
        }
    }
}

/// Datagrams, which not every forwarder takes.
pub(super) fn measure_datagrams(plan: &Plan<'_>, sheet: &mut Sheet) {
    let duration = Duration::from_secs(plan.args.seconds.into());
    for way in plan.ways.iter().filter(|way| way.side.is_some()) {
        for _ in 0..plan.args.runs {
            let outcome = ping(way.target, MESSAGE, WINDOW, duration)
                .and_then(|echoed| Ok((echoed, blast(way.target, DATAGRAM, duration)?)));
            let Ok((echoed, sent)) = outcome else {
                println!("LEFT OUT: datagrams through {}: none came back", way.name);
                break;
            };
            for (name, unit, digits, value) in [
                (
                    "UDP of 64 B, echoed, 16 under way",
                    "1/s",
                    0,
                    echoed.per_second(),
                ),
                ("    lost", "%", 2, echoed.loss()),
                (
                    "UDP of 1200 B to the guest, unpaced",
                    "1/s",
                    0,
                    sent.per_second(),
                ),
                ("    lost of these", "%", 0, sent.loss()),
            ] {
                sheet.add(&Measure::new(name, unit, digits), way.name, value);
            }
        }
    }
}
