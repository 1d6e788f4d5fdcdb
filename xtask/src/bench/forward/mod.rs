//! `bench forward`: forwarded ports, side by side with Lima's two forwarders on the same kind of guest when LIMACTL names a
//! `limactl`, and with what the kernel can do by itself.

mod delays;
mod goals;
mod latency;
mod leaks;
pub(super) mod lima;
mod limits;
mod memory;
mod sheet;
mod side;
mod throughput;

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::instance::Instance;
use super::lab::{Lab, LabArgs, Machine, describe_machine, load};
use crate::binaries::Binaries;
use crate::workspace::Workspace;
use lima::{Forwarder, Lima};
use limits::Chain;
use sheet::Sheet;
use side::Side;

/// Arguments of `cargo xtask bench forward`.
#[derive(Debug, Args)]
pub(super) struct ForwardArgs {
    /// What runs the guest.
    #[arg(long, value_enum, default_value = "native")]
    guest: Machine,
    /// Only these measurements.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often throughput and latency are measured, in turns.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// About how long one transfer takes, in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// How often a port is opened and closed.
    #[arg(long, default_value_t = 20)]
    ports: u32,
    #[command(flatten)]
    lab: LabArgs,
}

/// A group of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From `listen` and `close` in the guest to the host.
    Delays,
    /// Round trips and short connections.
    Latency,
    /// Connections in a second, 50 at once.
    Connections,
    /// Datagrams.
    Udp,
    /// Bulk, with the processor time that it takes.
    Throughput,
    /// Descriptors after 20,000 short connections.
    Leaks,
}

/// Names of columns.
const BERTH: &str = "berth";
const MACHINE: &str = "hostfwd";
const TWO_RELAYS: &str = "2 relays";
const THREE_RELAYS: &str = "3 relays";

/// How long everything is left alone before its memory counts as idle: berth gives memory back 10 s after the last flow.
const SETTLE: Duration = Duration::from_secs(15);

/// First ports of the sides.
const FIRST_PORTS: [u16; 3] = [21000, 22000, 23000];

/// A way from the host to a server.
#[derive(Debug, Clone, Copy)]
struct Way<'a> {
    name: &'static str,
    target: SocketAddr,
    /// The forwarder, if it is one.
    side: Option<&'a Side>,
}

/// What is measured, and with what effort.
#[derive(Debug, Clone, Copy)]
struct Plan<'a> {
    args: &'a ForwardArgs,
    /// Everything that a byte can be sent through.
    ways: &'a [Way<'a>],
}

/// Measures and prints.
pub(super) fn run(workspace: &Workspace, args: &ForwardArgs) -> Result<()> {
    let lab = Lab::set_up(workspace, &args.lab, args.guest)?;
    let program = Binaries::traffic(workspace)?;
    let before = load();
    println!("bench: start berth's instance");
    let instance = Instance::create(&lab)?;
    let [first, lima_ports @ ..] = FIRST_PORTS;
    let directory = instance.directory();
    let mut sides = vec![Side::new(
        BERTH,
        &directory,
        "berth-guestagent",
        first,
        &program,
    )?];
    let mut lima = find_lima(&lab)?;
    if let Some(lima) = &mut lima {
        println!("bench: {}", lima.version()?);
        for (forwarder, port) in [Forwarder::Grpc, Forwarder::Ssh]
            .into_iter()
            .zip(lima_ports)
        {
            println!("bench: start an instance of {}", forwarder.name());
            let directory = lima.start(forwarder)?;
            let agent = "lima-guestagent";
            sides.push(Side::new(
                forwarder.name(),
                &directory,
                agent,
                port,
                &program,
            )?);
        }
    }
    let by_machine = limits::forward_by_machine(&directory, sides[0].target().port())?;
    let (two, three) = (Chain::start(&lab, 2)?, Chain::start(&lab, 3)?);
    let limits = [
        (THREE_RELAYS, three.target()),
        (TWO_RELAYS, two.target()),
        (MACHINE, by_machine),
    ];
    let limits = limits.map(|(name, target)| Way {
        name,
        target,
        side: None,
    });
    // Ours has its limits as neighbours.
    let mut ways: Vec<Way<'_>> = sides.iter().map(Way::through).collect();
    ways.splice(1..1, limits);
    let plan = Plan { args, ways: &ways };
    let (sheet, processors) = plan.measure()?;
    println!(
        "\nForwarded ports, {}; {}",
        args.guest.title(),
        describe_machine()
    );
    println!("Load average {before} before, {} after. Medians.\n", load());
    println!("{sheet}\nProcessor seconds for each GB:\n\n{processors}");
    for (name, goal) in goals::all(&sheet, &processors) {
        println!("{name:<66}{goal}");
    }
    drop(sides);
    instance.stop()?;
    Ok(())
}

/// Lima needs the native-speed guest's help to run at all here.
fn find_lima(lab: &Lab) -> Result<Option<Lima<'_>>> {
    if lab.machine != Machine::Native {
        println!("LEFT OUT: Lima, which this bench runs on the native-speed guest only");
        return Ok(None);
    }
    let lima = Lima::find(lab).context("prepare Lima")?;
    if lima.is_none() {
        println!("LEFT OUT: Lima: LIMACTL names no `limactl`");
    }
    Ok(lima)
}

impl<'a> Way<'a> {
    fn through(side: &'a Side) -> Self {
        Self {
            name: side.name,
            target: side.target(),
            side: Some(side),
        }
    }
}

impl Plan<'_> {
    fn measure(&self) -> Result<(Sheet, Sheet)> {
        let mut sheet = Sheet::new(self.ways.iter().map(|way| way.name).collect());
        let mut processors = Sheet::new(self.sides().map(|side| side.name).collect());
        sleep(SETTLE);
        memory::now(self, &mut sheet, memory::IDLE)?;
        if self.wants(Part::Delays) {
            delays::measure(self, &mut sheet)?;
        }
        if self.wants(Part::Latency) {
            latency::measure(self, &mut sheet)?;
        }
        if self.wants(Part::Connections) {
            latency::measure_rate(self, &mut sheet);
        }
        if self.wants(Part::Udp) {
            latency::measure_datagrams(self, &mut sheet);
        }
        if self.wants(Part::Throughput) {
            throughput::measure(self, &mut sheet, &mut processors)?;
        }
        if self.wants(Part::Leaks) {
            leaks::measure(self, &mut sheet)?;
        }
        sleep(SETTLE);
        memory::now(self, &mut sheet, memory::AFTERWARDS)?;
        Ok((sheet, processors))
    }

    fn wants(&self, part: Part) -> bool {
        let wanted = self.args.only.is_empty() || self.args.only.contains(&part);
        if wanted {
            println!("bench: {part:?}");
        }
        wanted
    }

    fn sides(&self) -> impl Iterator<Item = &Side> {
        self.ways.iter().filter_map(|way| way.side)
    }
}
