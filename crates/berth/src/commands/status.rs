//! `status`: what an instance is doing, and where its start spent its time.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use berth_events::state::State;
use berth_events::timeline::Timeline;
use berth_instance::dir::InstanceDir;
use berth_instance::files::write_atomic;
use berth_instance::inspect::Inspection;
use berth_process::escape::{escape_untrusted, escape_untrusted_lines};
use clap::Args;

use crate::context::Context;
use crate::instances;
use crate::output;
use crate::render::forwards::forwards;
use crate::render::names::names;
use crate::sys;

/// Columns where there is no terminal to ask.
const DEFAULT_WIDTH: usize = 100;

/// Show what an instance is doing and where its start spent its time.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Instance
    #[arg(value_name = "INSTANCE", default_value = "default")]
    pub(crate) instance: String,
    /// The last start, phase by phase
    #[arg(long)]
    pub(crate) timeline: bool,
    /// Draw the last start into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

pub(crate) fn run(args: &StatusArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = context.host()?;
    let instance = instances::look_at_existing(&host, &args.instance)?;
    if !args.timeline && args.svg.is_none() {
        return output::print(&summary(&instance));
    }
    let timeline = read_timeline(&instance.dir)?;
    if let Some(path) = &args.svg {
        draw(&timeline, path)?;
    }
    if args.timeline {
        let width = sys::terminal_columns().unwrap_or(DEFAULT_WIDTH);
        output::print(&timeline.render_text(width))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One fact a line, then the forwards, then the host resolver.
fn summary(instance: &Inspection) -> String {
    let mut text = String::new();
    let mut fact = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    fact("name", &instance.name);
    let state = instance
        .berth_state
        .as_ref()
        .map_or_else(|| "unknown".to_owned(), in_words);
    fact("state", &state);
    fact("directory", &instance.dir.path().to_string_lossy());
    if instance.ssh_local_port != 0 {
        let address = format!("{}:{}", Inspection::SSH_ADDRESS, instance.ssh_local_port);
        fact("ssh", &address);
    }
    let pids = [
        ("host agent", instance.host_agent_pid),
        ("VM", instance.driver_pid),
    ];
    for (who, pid) in pids {
        if let Some(pid) = pid {
            fact(who, &format!("pid {pid}"));
        }
    }
    for error in &instance.errors {
        fact("problem", &escape_untrusted_lines(error.as_bytes()));
    }
    if !instance.forwards.is_empty() {
        text.push('\n');
        text.push_str(&forwards(&instance.forwards));
    }
    if let Some(resolver) = &instance.names {
        text.push('\n');
        text.push_str(&names(resolver));
    }
    text
}

fn in_words(state: &State) -> String {
    let safe = |text: &str| escape_untrusted(text.as_bytes());
    match state {
        State::Stopped => "stopped".to_owned(),
        State::Starting { phase } if phase.is_empty() => "starting".to_owned(),
        State::Starting { phase } => format!("starting ({})", safe(phase)),
        State::Running => "running".to_owned(),
        State::Degraded { causes } => {
            let causes: Vec<_> = causes.iter().map(|cause| safe(cause)).collect();
            format!("running, but: {}", causes.join("; "))
        }
        State::Stopping => "stopping".to_owned(),
        State::Failed { why } => format!("failed: {}", safe(why)),
        State::Orphaned => "the VM is alive, its host agent is gone".to_owned(),
        State::Adopting => "a new host agent takes over the VM".to_owned(),
    }
}

fn read_timeline(dir: &InstanceDir) -> anyhow::Result<Timeline> {
    let path = dir.timeline();
    let text = std::fs::read(&path).with_context(|| {
        format!(
            "cannot read {}, which is written when a start is over",
            path.display()
        )
    })?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged; start the instance again", path.display()))
}

fn draw(timeline: &Timeline, path: &Path) -> anyhow::Result<()> {
    let drawing = timeline.render_svg();
    write_atomic(path, drawing.as_bytes(), 0o644)
        .with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!("Drew the last start into {}", path.display());
    Ok(())
}
