//! `dns query`: asks an instance's host resolver what its guest would ask.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use berth_dns::client;
use berth_dns::wire::message::Message;
use berth_dns::wire::name::Name;
use berth_dns::wire::query::Transport;
use berth_dns::wire::{Rcode, RecordType, show};
use berth_process::escape::escape_untrusted;
use clap::{Args, Subcommand};

use crate::context::Context;
use crate::instances;
use crate::output;

/// Ask what the guest asks for names.
#[derive(Debug, Args)]
pub(crate) struct DnsArgs {
    #[command(subcommand)]
    command: DnsCommand,
}

#[derive(Debug, Subcommand)]
enum DnsCommand {
    /// Ask the host resolver of an instance for a name, as its guest would
    Query(QueryArgs),
}

#[derive(Debug, Args)]
struct QueryArgs {
    /// Name to ask for
    #[arg(value_name = "NAME")]
    name: String,
    /// Instance whose resolver is asked
    #[arg(long, value_name = "INSTANCE", default_value = "default")]
    instance: String,
    /// Types of records, by name or number
    #[arg(
        short = 't',
        long = "type",
        value_name = "TYPE",
        value_delimiter = ',',
        default_value = "A,AAAA"
    )]
    kinds: Vec<RecordType>,
    /// Ask over a connection
    #[arg(long)]
    tcp: bool,
}

pub(crate) fn run(args: &DnsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    match &args.command {
        DnsCommand::Query(args) => query(args, context),
    }
}

/// Succeeds when every type was answered, with records or with none.
fn query(args: &QueryArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = context.host()?;
    let name: Name = args.name.parse()?;
    let instance = instances::look_at_existing(&host, &args.instance)?;
    let Some(resolver) = &instance.names else {
        bail!(
            "instance {:?} has no host resolver: it does not run, or hostResolver.enabled is false in its lima.yaml",
            instance.name
        );
    };
    if !resolver.error.is_empty() {
        bail!(
            "the host resolver of instance {:?} does not work: {}",
            instance.name,
            escape_untrusted(resolver.error.as_bytes())
        );
    }
    let transport = if args.tcp {
        Transport::Tcp
    } else {
        Transport::Udp
    };
    let ports = (resolver.udp_port, resolver.tcp_port);
    let mut is_answered = true;
    for kind in &args.kinds {
        let answer = client::ask(ports, &name, *kind, transport)
            .with_context(|| format!("cannot ask 127.0.0.1:{} for {kind} of {name}", ports.0))?;
        let message = Message::check(&answer).context("the answer is malformed")?;
        is_answered &= matches!(message.rcode(), Rcode::NO_ERROR | Rcode::NX_DOMAIN);
        output::print(&format!("{name} {kind}: {}", show::describe(&message)))?;
    }
    Ok(if is_answered {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
