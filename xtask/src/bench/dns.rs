//! `bench dns`: the host resolver beside dnsmasq, and beside Lima's when LIMACTL names a `limactl`.
//!
//! Load comes from dnsperf (Debian's package of the name), latency from a client of our own that asks one question after the other.
//! Forwarded names are each asked once, so that no cache helps, of an nsd that this bench starts.

mod client;
mod programs;
mod soak;

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use super::forward::lima::{Forwarder, Lima};
use super::instance::Instance;
use super::lab::{Lab, LabArgs, Machine, describe_machine, load};
use super::processes::Process;
use super::stats::{Goal, Samples};
use crate::program::{self, Program};
use crate::workspace::Workspace;
use programs::{Dnsmasq, Nsd};
use soak::Soak;

/// Arguments of `cargo xtask bench dns`.
#[derive(Debug, Args)]
pub(super) struct DnsArgs {
    /// How often each is measured, in turns.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// How long dnsperf sends, in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// How long 200 clients then put berth's under full load, in seconds; 0: not at all.
    #[arg(long, default_value_t = 60)]
    soak: u32,
    #[command(flatten)]
    lab: LabArgs,
}

/// A name that all of them answer by themselves.
const STATIC: &str = "host.lima.internal";
/// Domain whose names are forwarded.
const FORWARDED: &str = "bench.test";
/// How many names of it are asked for in one run, at most.
const NAMES: u32 = 400_000;
/// Questions whose latency is measured.
const QUESTIONS: u32 = 20_000;

/// A resolver that is measured.
struct Side {
    name: &'static str,
    process: Process,
    udp: u16,
    tcp: u16,
}

/// What dnsperf is to do.
struct Load {
    /// Sockets.
    clients: u32,
    /// Questions on their way.
    waiting: u32,
    seconds: u32,
}

/// What one run of dnsperf says, and what it cost.
struct Run {
    completed: f64,
    rate: f64,
    lost: f64,
    /// Processor time per 1,000 questions, in milliseconds.
    cost: f64,
}

/// Everything about one side.
#[derive(Default)]
struct Numbers {
    static_rate: Samples,
    static_cost: Samples,
    median: Samples,
    high: Samples,
    forwarded_rate: Samples,
    forwarded_cost: Samples,
    forwarded_median: Samples,
    pipelined: Samples,
    lost: Samples,
}

/// Measures and prints.
pub(super) fn run(workspace: &Workspace, args: &DnsArgs) -> Result<()> {
    if program::find("dnsperf").is_none() || program::find("dnsmasq").is_none() {
        bail!("this needs dnsperf and dnsmasq: install Debian's packages dnsperf and dnsmasq-base");
    }
    let mut lab = Lab::set_up(workspace, &args.lab, Machine::Native)?;
    let directory = lab.make_directory("names")?;
    let _upstream = Nsd::start(&directory, FORWARDED)?;
    let resolv_conf = directory.join("resolv.conf");
    write(&resolv_conf, &format!("nameserver {}\n", Nsd::ADDRESS))?;
    lab.set("BERTH_RESOLV_CONF", resolv_conf.clone());
    let dnsmasq = Dnsmasq::start(&directory, Nsd::ADDRESS, STATIC)?;
    let before = load();
    println!("bench: start berth's instance");
    let instance = Instance::create(&lab)?;
    let (udp, tcp) = ports_of_berth(&instance.directory())?;
    let mut sides = vec![
        Side {
            name: "berth",
            process: instance.host_agent()?,
            udp,
            tcp,
        },
        Side {
            name: "dnsmasq",
            process: dnsmasq.process(),
            udp: dnsmasq.port(),
            tcp: dnsmasq.port(),
        },
    ];
    let mut lima = Lima::find(&lab)?;
    if let Some(lima) = &mut lima {
        println!("bench: {}", lima.version()?);
        lima.set_resolv_conf(resolv_conf);
        let directory = lima.start(Forwarder::Grpc)?;
        let process = Process::of_pid_file(&directory.join("ha.pid"))?;
        let (udp, tcp) = ports_of_lima(process)?;
        sides.push(Side {
            name: "Lima",
            process,
            udp,
            tcp,
        });
    }
    let queries = Queries::write(&directory)?;
    let idle = instance.host_agent()?.memory()?;
    let mut numbers: Vec<Numbers> = sides.iter().map(|_| Numbers::default()).collect();
    let mut echo = Samples::default();
    for run in 0..args.runs {
        echo.push(client::echo_latency(QUESTIONS)?.median);
        for (side, numbers) in sides.iter().zip(&mut numbers) {
            println!("bench: run {}: {}", run + 1, side.name);
            measure(side, numbers, &queries, args)?;
        }
    }
    let after = instance.host_agent()?.memory()?;
    let soak = if args.soak > 0 {
        println!("bench: many clients");
        Some(Soak::run(&sides[0], &queries, args.soak)?)
    } else {
        None
    };
    print(&sides, &numbers, (idle, after), &before);
    if let Some(soak) = &soak {
        soak.print();
    }
    let of_soak = soak.iter().flat_map(Soak::goals);
    println!(
        "bare echo, p50: {:.2} us",
        echo.median().unwrap_or(f64::NAN)
    );
    for (name, goal) in goals(&sides, &numbers, &echo, (idle, after))
        .into_iter()
        .chain(of_soak)
    {
        println!("{name:<52}{goal}");
    }
    Ok(())
}

/// Files of questions for dnsperf.
struct Queries {
    fixed: PathBuf,
    forwarded: PathBuf,
    next: std::cell::Cell<u32>,
}

impl Queries {
    fn write(directory: &Path) -> Result<Self> {
        let fixed = directory.join("static.txt");
        write(&fixed, &format!("{STATIC} A\n"))?;
        Ok(Self {
            fixed,
            forwarded: directory.join("forwarded.txt"),
            next: std::cell::Cell::new(0),
        })
    }

    /// Names that nobody has asked for yet.
    fn fresh(&self) -> Result<&Path> {
        self.write_fresh("")
    }

    /// The same, and the static name before each.
    fn mixed(&self) -> Result<&Path> {
        self.write_fresh(&format!("{STATIC} A\n"))
    }

    fn write_fresh(&self, before_each: &str) -> Result<&Path> {
        let round = self.next.replace(self.next.get() + 1);
        let mut text = String::new();
        for name in 0..NAMES {
            writeln!(text, "{before_each}n{name}.r{round}.{FORWARDED} A")?;
        }
        write(&self.forwarded, &text)?;
        Ok(&self.forwarded)
    }
}

fn measure(side: &Side, numbers: &mut Numbers, queries: &Queries, args: &DnsArgs) -> Result<()> {
    let load = |waiting| Load {
        clients: 4,
        waiting,
        seconds: args.seconds,
    };
    let fixed = dnsperf(side, &queries.fixed, &load(100))?;
    numbers.static_rate.push(fixed.rate);
    numbers.static_cost.push(fixed.cost);
    numbers.lost.push(fixed.lost);
    let latency = client::latency(side.udp, QUESTIONS, |_| STATIC.to_owned())?;
    numbers.median.push(latency.median);
    numbers.high.push(latency.high);
    if let Some(rate) = client::pipelined(side.tcp, QUESTIONS, STATIC)? {
        numbers.pipelined.push(rate);
    }
    let forwarded = dnsperf(side, queries.fresh()?, &load(20))?;
    numbers.forwarded_rate.push(forwarded.rate);
    numbers.forwarded_cost.push(forwarded.cost);
    let round = queries.next.replace(queries.next.get() + 1);
    let name = |n: u32| format!("l{n}.r{round}.{FORWARDED}");
    let latency = client::latency(side.udp, QUESTIONS / 10, name)?;
    numbers.forwarded_median.push(latency.median);
    Ok(())
}

fn dnsperf(side: &Side, file: &Path, load: &Load) -> Result<Run> {
    let before = side.process.processor()?;
    let said = Program::new("dnsperf")
        .args([
            "-s",
            "127.0.0.1",
            "-p",
            &side.udp.to_string(),
            "-c",
            &load.clients.to_string(),
            "-T",
            "1",
        ])
        .args(["-q", &load.waiting.to_string()])
        .args(["-l", &load.seconds.to_string(), "-d"])
        .arg(file)
        .read()?;
    let spent = side.process.processor()?.saturating_sub(before);
    let number = |name: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.and_then(|word| word.parse::<f64>().ok())
            .with_context(|| format!("dnsperf does not say {name:?}:\n{said}"))
    };
    let completed = number("Queries completed:")?;
    Ok(Run {
        completed,
        rate: number("Queries per second:")?,
        lost: number("Queries lost:")?,
        cost: spent.as_secs_f64() * 1e6 / completed.max(1.0),
    })
}

fn ports_of_berth(directory: &Path) -> Result<(u16, u16)> {
    let path = directory.join("berth.json");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let record: Value = serde_json::from_str(&text).context("understand berth.json")?;
    let port = |key: &str| {
        let number = record[key]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        number.with_context(|| format!("{} has no {key}", path.display()))
    };
    Ok((port("dnsUdpPort")?, port("dnsTcpPort")?))
}

/// Lima tells them to nobody but its guest. Its agent has one UDP socket on loopback; of its TCP sockets, the one that answers.
fn ports_of_lima(process: Process) -> Result<(u16, u16)> {
    let listening = |flags: &str| -> Result<Vec<u16>> {
        let said = Program::new("ss").arg(flags).read()?;
        let of_process = format!("pid={},", process.pid());
        let lines = said.lines().filter(|line| line.contains(&of_process));
        let ports = lines.filter_map(|line| {
            let address = line
                .split_whitespace()
                .find(|word| word.starts_with("127.0.0.1:"))?;
            address.rsplit_once(':')?.1.parse().ok()
        });
        Ok(ports.collect())
    };
    let answers = |port: &u16, tcp: bool| client::answers(*port, tcp, STATIC);
    let udp = listening("-Hunap")?
        .into_iter()
        .find(|port| answers(port, false));
    let tcp = listening("-Htnlp")?
        .into_iter()
        .find(|port| answers(port, true));
    Ok((
        udp.context("Lima's agent has no name server over UDP")?,
        tcp.context("Lima's agent has no name server over TCP")?,
    ))
}

/// Name and unit of a measure, and where its samples are.
type Row = (&'static str, &'static str, fn(&Numbers) -> &Samples);

fn print(sides: &[Side], numbers: &[Numbers], (idle, after): (u64, u64), before: &str) {
    println!("\nhost resolver, {}", describe_machine());
    println!("load before {before}, after {}\n", load());
    let rows: [Row; 9] = [
        ("static, dnsperf", "q/s", |n| &n.static_rate),
        ("static, processor", "us/q", |n| &n.static_cost),
        ("static, p50", "us", |n| &n.median),
        ("static, p99", "us", |n| &n.high),
        ("static, one TCP connection", "q/s", |n| &n.pipelined),
        ("forwarded, dnsperf", "q/s", |n| &n.forwarded_rate),
        ("forwarded, processor", "us/q", |n| &n.forwarded_cost),
        ("forwarded, p50", "us", |n| &n.forwarded_median),
        ("lost", "questions", |n| &n.lost),
    ];
    print!("{:<28}", "");
    for side in sides {
        print!("{:>12}", side.name);
    }
    println!();
    for (name, unit, of) in rows {
        print!("{:<28}", format!("{name}, {unit}"));
        for numbers in numbers {
            match of(numbers).median() {
                Some(value) if value < 100.0 => print!("{value:>12.2}"),
                Some(value) => print!("{value:>12.0}"),
                None => print!("{:>12}", "-"),
            }
        }
        println!();
    }
    println!(
        "\nmemory of the agent: {} KiB before, {} KiB after\n",
        idle / 1024,
        after / 1024
    );
}

fn goals(
    sides: &[Side],
    numbers: &[Numbers],
    echo: &Samples,
    memory: (u64, u64),
) -> Vec<(String, Goal)> {
    let ours = &numbers[0];
    let mut goals = Vec::new();
    let median = |samples: &Samples| samples.median().unwrap_or(f64::NAN);
    for (side, theirs) in sides.iter().zip(numbers).skip(1) {
        // Processor time, not rate: with two processors dnsperf has only one of them.
        let ratio = median(&theirs.static_cost) / median(&ours.static_cost);
        let goal = if side.name == "Lima" { 1.5 } else { 1.0 };
        let name = format!("static names per core / {}", side.name);
        goals.push((name, Goal::at_least(goal, ratio, " x", 2)));
        let ratio = median(&theirs.forwarded_cost) / median(&ours.forwarded_cost);
        let name = format!("forwarded names per core / {}", side.name);
        goals.push((name, Goal::at_least(1.0, ratio, " x", 2)));
    }
    goals.push((
        "static names, p50".to_owned(),
        Goal::at_most(12.0, median(&ours.median), " us", 1),
    ));
    goals.push((
        "the same / a bare echo".to_owned(),
        Goal::at_most(1.2, median(&ours.median) / median(echo), " x", 2),
    ));
    let grown = (kibibytes(memory.1) - kibibytes(memory.0)) / 1024.0;
    goals.push((
        "memory after the load, above idle".to_owned(),
        Goal::at_most(2.0, grown, " MiB", 1),
    ));
    goals
}

/// Of memory: as a number that loses nothing.
fn kibibytes(bytes: u64) -> f64 {
    u32::try_from(bytes / 1024).map_or(f64::NAN, f64::from)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Where a server listens, and the limit for its start.
const PATIENCE: Duration = Duration::from_secs(30);

fn loopback(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}
