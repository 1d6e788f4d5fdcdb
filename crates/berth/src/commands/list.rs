//! `list`: the instances and how they are.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use berth_instance::inspect::{InspectError, Inspection};
use clap::Args;
use serde_json::Value;

use crate::context::{Context, Host};
use crate::instances;
use crate::output;
use crate::platform::arch_word;
use crate::render::instance::field_names;
use crate::render::table::{Row, TableLayout, table};
use crate::render::template::{InstanceTemplate, Unknown, yaml};
use crate::sys;

/// Instances that are looked at at the same time: agents that do not answer cost seconds each.
const AT_ONCE: usize = 16;

/// List instances.
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent flags of a command line"
)]
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Instances [default: all]
    #[arg(value_name = "INSTANCE")]
    pub(crate) instances: Vec<String>,
    /// table, json, yaml, or a Go template such as '{{.Name}} {{.Status}}'
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: String,
    /// One JSON object per instance, same as --format json
    #[arg(long, conflicts_with_all = ["quiet", "format"])]
    pub(crate) json: bool,
    /// Only the names
    #[arg(short, long, conflicts_with = "format")]
    pub(crate) quiet: bool,
    /// All fields of the table, whatever the width of the terminal
    #[arg(long)]
    pub(crate) all_fields: bool,
    /// The fields that a template can use
    #[arg(long)]
    pub(crate) list_fields: bool,
}

/// How to show the instances.
enum Style {
    Names,
    Table { every_field: bool },
    Json,
    Yaml,
    Template(InstanceTemplate),
}

impl Style {
    fn of(args: &ListArgs) -> anyhow::Result<Self> {
        Ok(match args.format.as_str() {
            _ if args.quiet => Self::Names,
            _ if args.json => Self::Json,
            "table" => Self::Table {
                every_field: args.all_fields,
            },
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            text => Self::Template(InstanceTemplate::parse(text, Unknown::Refused)?),
        })
    }
}

/// Lists the instances that were asked for. One that does not exist makes the command fail after the others are shown.
pub(crate) fn run(args: &ListArgs, context: &Context) -> anyhow::Result<ExitCode> {
    if args.list_fields {
        let names: Vec<_> = field_names().collect();
        return output::print(&(names.join("\n") + "\n"));
    }
    let style = Style::of(args)?;
    let host = context.host()?;
    let existing = host.home.instance_names()?;
    let (names, missing) = choose(&args.instances, existing);
    for name in &missing {
        tracing::warn!("No instance matching {name} found.");
    }
    let text = match style {
        Style::Names => names.iter().flat_map(|name| [name, "\n"]).collect(),
        style => show(&look_at_all(&host, &names), &style, &host)?,
    };
    if !names.is_empty() {
        output::print(&text)?;
    } else if missing.is_empty() {
        tracing::warn!(
            "No instance found. Run `{} start` to create an instance.",
            context.program
        );
    }
    anyhow::ensure!(missing.is_empty(), "unmatched instances");
    Ok(ExitCode::SUCCESS)
}

/// Those that exist among the wanted, and those that do not. Nothing wanted is everything.
fn choose(wanted: &[String], existing: Vec<String>) -> (Vec<String>, Vec<String>) {
    if wanted.is_empty() {
        return (existing, Vec::new());
    }
    wanted
        .iter()
        .cloned()
        .partition(|name| existing.contains(name))
}

/// Looks at the instances side by side. What is no instance after all is shown as a broken one.
fn look_at_all(host: &Host, names: &[String]) -> Vec<Inspection> {
    let look = |name: &String| match instances::look(host, name) {
        Ok(instance) => Some(instance),
        Err(InspectError::NoConfig { dir, .. }) => Some(without_config(name, dir)),
        // Deleted since the directory was read.
        Err(_) => None,
    };
    if names.len() == 1 {
        return names.iter().filter_map(look).collect();
    }
    let share = names.len().div_ceil(AT_ONCE).max(1);
    thread::scope(|scope| {
        let shares = names.chunks(share);
        let workers: Vec<_> = shares
            .map(|names| scope.spawn(move || names.iter().filter_map(look).collect::<Vec<_>>()))
            .collect();
        let results = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_default());
        results.flatten().collect()
    })
}

fn without_config(name: &str, dir: std::path::PathBuf) -> Inspection {
    Inspection {
        name: name.to_owned(),
        hostname: berth_config::name::hostname(name),
        errors: vec![format!("{} has no lima.yaml", dir.display())],
        dir: berth_instance::dir::InstanceDir::new(dir),
        status: "Broken",
        berth_state: None,
        ssh_local_port: 0,
        host_agent_pid: None,
        driver_pid: None,
        config: None,
        message: String::new(),
        protected: false,
        lima_version: String::new(),
        auto_started_identifier: String::new(),
        forwards: Vec::new(),
        names: None,
    }
}

fn show(instances: &[Inspection], style: &Style, host: &Host) -> anyhow::Result<String> {
    for instance in instances
        .iter()
        .filter(|instance| !instance.errors.is_empty())
    {
        let why = instance.errors.join("; ");
        tracing::warn!(
            instance = instance.name,
            "The instance has a problem: {why}"
        );
    }
    let json = |instance: &Inspection| instance.to_json(&host.home, &host.platform);
    match style {
        Style::Names => Ok(String::new()),
        Style::Table { every_field } => {
            let rows: Vec<_> = instances.iter().map(Row::of).collect();
            let width = if *every_field {
                None
            } else {
                sys::terminal_columns()
            };
            Ok(table(
                &rows,
                TableLayout {
                    width,
                    home: &host.platform.home.to_string_lossy(),
                    host_arch: arch_word(host.platform.arch),
                },
            ))
        }
        Style::Json => instances
            .iter()
            .map(|instance| json_text(&Value::Object(json(instance))))
            .collect(),
        Style::Yaml => instances
            .iter()
            .map(|instance| Ok(format!("---\n{}\n", yaml(&Value::Object(json(instance)))?)))
            .collect(),
        Style::Template(template) => instances
            .iter()
            .map(|instance| {
                let filled = template.fill(&json(instance));
                let filled = filled.with_context(|| format!("instance {:?}", instance.name))?;
                Ok(filled + "\n")
            })
            .collect(),
    }
}

/// One object on one line for programs, spread out for people.
fn json_text(value: &Value) -> anyhow::Result<String> {
    if !io::stdout().is_terminal() {
        return Ok(value.to_string() + "\n");
    }
    let mut text = Vec::new();
    let spread = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, spread);
    serde::Serialize::serialize(&value, &mut writer)?;
    text.push(b'\n');
    Ok(String::from_utf8(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_instances_keep_their_order_and_missing_ones_are_named() {
        let names = |list: &[&str]| {
            list.iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let existing = names(&["a", "b", "c"]);
        assert_eq!(
            choose(&[], existing.clone()),
            (existing.clone(), Vec::new())
        );
        assert_eq!(
            choose(&names(&["c", "x", "a"]), existing),
            (names(&["c", "a"]), names(&["x"]))
        );
    }
}
