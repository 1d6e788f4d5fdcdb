//! What is measured, and how it is printed.

mod chain;
mod ends;
mod streams;

use std::time::Duration;

/// Bytes of one throughput figure, unless asked for otherwise.
const BULK: u64 = 2_000_000_000;

/// Which way bulk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToGuest,
    ToHost,
}

/// What one run took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    took: Duration,
    cpu: Duration,
}

impl Cost {
    fn print(self, what: &str, bytes: u64) {
        let megabytes = bytes as f64 / 1e6;
        let speed = megabytes / self.took.as_secs_f64();
        let cpu = self.cpu.as_secs_f64() / megabytes * 1e3;
        println!("{what:44} {speed:6.0} MB/s   {cpu:5.2} CPU s/GB");
    }
}

pub(crate) fn run() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let bulk = asked.iter().find_map(|it| it.parse::<u64>().ok());
    let bulk = bulk.map_or(BULK, |megabytes| megabytes * 1_000_000);
    let asks_all = asked.iter().all(|it| it.parse::<u64>().is_ok());
    let is_asked = |what: &str| asks_all || asked.iter().any(|it| it == what);
    if is_asked("streams") {
        for (way, streams) in all_ways() {
            let cost = streams::bulk(way, streams, bulk);
            cost.print(&format!("streams, {way:?}, {streams} at once"), bulk);
        }
    }
    for (way, streams) in all_ways() {
        let name = format!("{way:?}, {streams} at once");
        if is_asked("splice") {
            chain::spliced(streams, bulk).print(&format!("two splicing relays, {name}"), bulk);
        }
        if is_asked("relay") {
            let cost = chain::linked(way, streams, bulk, chain::Copies::None);
            cost.print(&format!("relay, link, relay, {name}"), bulk);
        }
        if is_asked("copy") {
            let cost = chain::linked(way, streams, bulk, chain::Copies::One);
            cost.print(&format!("copying relays, {name}"), bulk);
        }
    }
    if is_asked("ping") {
        let (p50, p99) = streams::ping(20_000);
        println!("64 bytes there and back: p50 {p50:?}, p99 {p99:?}");
    }
    if is_asked("open") {
        for at_once in [1, 50] {
            let (count, cost) = streams::open_and_close(20_000, at_once);
            let rate = f64::from(count) / cost.took.as_secs_f64();
            let cpu = cost.cpu / count;
            println!(
                "open + echo + close, {at_once} at once: {rate:.0} a second, {cpu:?} of CPU each"
            );
        }
    }
}

fn all_ways() -> impl Iterator<Item = (Way, u32)> {
    [Way::ToGuest, Way::ToHost]
        .into_iter()
        .flat_map(|way| [1, 8].map(|streams| (way, streams)))
}
