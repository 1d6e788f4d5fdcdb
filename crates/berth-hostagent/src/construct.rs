//! `HostAgent::new`: everything is loaded, checked, bound and written before anything runs.
//!
//! The order is the order of the functions below: config, SSH port, driver, host resolver, keys, cidata, rules, forwarders. Nothing here starts
//! a process that outlives it (an external driver's ends with the driver), so dropping the future at any point leaves only files behind that the next start uses or replaces.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_cidata::input::{LimaFacts, Proxies, Subnet};
use berth_cidata::{AgentKind, Input, volume};
use berth_config::model::{Config, GuestOs, PortForward};
use berth_config::resolve::{ExternalDrivers, ResolveContext, resolve};
use berth_config::sources::Sources;
use berth_config::validate::validate;
use berth_config::version::LimaVersion;
use berth_driver::driver::{DefaultNetwork, Driver, DriverContext, DriverFeatures, SshPort};
use berth_events::board::Board;
use berth_events::timeline::Outcome;
use berth_forward::forwarders::{Carrier, Forwarders};
use berth_instance::dir::InstanceDir;
use berth_instance::record::Record;
use berth_process::identity::ProcessIdentity;

use crate::agent::{GuestAgentKind, HostAgent, Live, SshSetup, Tasks};
use crate::cleanup::Cleanups;
use crate::error::AgentError;
use crate::names::{self, HostResolver};
use crate::ports;
use crate::serve::ServeOptions;

/// Where sshd listens in a guest that was not told another port.
const GUEST_SSH_PORT: u16 = 22;

impl HostAgent {
    /// Loads, checks, binds and writes everything. The caller holds the instance's lock.
    pub async fn new(
        options: &ServeOptions,
        dir: InstanceDir,
        board: Arc<Board>,
        tasks: Tasks,
    ) -> Result<Self, AgentError> {
        let shown = board.phase_started("prepare");
        let mut record = Record::load(&dir).map_err(AgentError::set_up("read the record"))?;
        record.agent = ProcessIdentity::current().ok();
        let created_by = created_by(&dir);
        let loaded = load(options, &dir, created_by)?;

        let legacy_port = options.name.as_str() == "default" && !created_by.at_least(2, 0, 0);
        let ssh_port = ports::ssh_port(loaded.ssh.local_port, record.ssh_local_port, legacy_port);
        ports::check_configured(ssh_port)?;
        let driver = make_driver(options, &dir, loaded).await?;
        let config = Arc::clone(driver.config());
        let network = driver.info().network;
        let resolver = HostResolver::bind(options, &config, network, &mut record)?;

        let agent = which_agent(options, &config, driver.as_ref())?;
        let agent_kind = GuestAgentKind::of(&agent);
        let features = &driver.info().features;
        require_our_agent(features, agent_kind)?;
        let ssh_port = if features.static_ssh_port {
            ports::in_guest(ssh_port, dir.path())
        } else {
            ssh_port
        };
        choose_instance_id(&mut record, agent_kind, options);

        let ssh = SshSetup::prepare(options, &dir, &config, agent_kind).await?;
        let facts = VolumeFacts {
            agent,
            record: &record,
            ssh: &ssh,
            ssh_port: match ssh_port {
                SshPort::Configured(port) if features.static_ssh_port => port,
                _ => GUEST_SSH_PORT,
            },
            resolver: &resolver,
        };
        write_volume(options, &dir, &config, driver.as_ref(), facts).await?;
        record
            .save(&dir)
            .map_err(AgentError::set_up("write the record"))?;

        let carrier = carrier(options, agent_kind);
        let port = record.ssh_local_port.unwrap_or(0);
        let rules = forwarded(&config.port_forwards, features);
        let forwarders = Forwarders::new(rules, port, carrier);
        shown.finish(Outcome::Ok);
        Ok(Self {
            name: options.name.to_string(),
            home: options.home.clone(),
            dir,
            config,
            host_os: options.platform.os,
            host_uid: options.platform.uid,
            path: options.variable("PATH").unwrap_or_default().to_owned(),
            record: record.into(),
            driver,
            agent_kind,
            ssh_port,
            resolver,
            forwarders,
            ssh,
            progress: options.progress,
            board,
            cleanups: Arc::new(Cleanups::default()),
            tasks,
            live: Live::default(),
        })
    }
}

fn created_by(dir: &InstanceDir) -> LimaVersion {
    let text = std::fs::read_to_string(dir.lima_version()).ok();
    LimaVersion::of_existing_instance(text.as_deref())
}

fn load(
    options: &ServeOptions,
    dir: &InstanceDir,
    created_by: LimaVersion,
) -> Result<Config, AgentError> {
    let ctx = ResolveContext {
        platform: &options.platform,
        instance_name: options.name.as_str(),
        instance_dir: dir.path(),
        lima_home: options.home.path(),
        created_by,
        external_drivers: ExternalDrivers {
            names: options.external_drivers.names(),
            searched: options.external_drivers.searched(),
        },
    };
    let invalid = AgentError::set_up("use the configuration");
    let resolved = Sources::read(options.home.path(), &dir.lima_yaml())
        .and_then(|sources| resolve(&sources, &ctx))
        .map_err(invalid)?;
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    let problems = validate(&resolved, &ctx);
    if !problems.is_empty() {
        return Err(AgentError::Config(
            problems.iter().map(ToString::to_string).collect(),
        ));
    }
    Ok(resolved.config)
}

async fn make_driver(
    options: &ServeOptions,
    dir: &InstanceDir,
    config: Config,
) -> Result<Arc<dyn Driver>, AgentError> {
    let driver = berth_driver::create_driver(
        DriverContext {
            name: options.name.to_string(),
            dir: dir.clone(),
            config: Arc::new(config),
            platform: Arc::clone(&options.platform),
            env: Arc::clone(&options.env),
        },
        &options.cache_dir,
        &options.external_drivers,
    )
    .await?;
    for warning in driver.validate()? {
        tracing::warn!("{warning}");
    }
    Ok(Arc::from(driver))
}

/// Ours and Lima's are told apart by the file name that Lima gives its own.
fn which_agent(
    options: &ServeOptions,
    config: &Config,
    driver: &dyn Driver,
) -> Result<AgentKind, AgentError> {
    let Some(path) = options.guest_agent.clone() else {
        return Ok(AgentKind::None);
    };
    if config.plain || config.os != GuestOs::Linux {
        return Ok(AgentKind::None);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("lima-guestagent") {
        Ok(AgentKind::Lima(path))
    } else if driver.has_agent_carrier() {
        Ok(AgentKind::Berth(path))
    } else {
        Err(AgentError::Config(vec![format!(
            "vmType: driver {:?} reaches its guest over SSH only, where berth's guest agent does not listen: give it Lima's \
             (lima-guestagent.Linux-ARCH) with --guestagent",
            driver.info().name
        )]))
    }
}

/// cloud-init repeats its first-boot work whenever the id changes. Our agent applies changes itself, so the id stays; without
/// it a new id is the only way to have them applied.
fn choose_instance_id(record: &mut Record, agent: GuestAgentKind, options: &ServeOptions) {
    if agent != GuestAgentKind::Berth {
        record.instance_id = None;
    }
    record.instance_id_or_new(options.clock.now().wall.as_second());
    record.boots += 1;
}

/// Without cloud-init nobody but our agent makes the user, and starts anything else.
fn require_our_agent(features: &DriverFeatures, agent: GuestAgentKind) -> Result<(), AgentError> {
    if !features.no_cloud_init || agent == GuestAgentKind::Berth {
        return Ok(());
    }
    Err(AgentError::Config(vec![
        "vmType: this driver needs berth's guest agent, and another one was found, or none: install berth with its guest agents, or use `--guestagent`"
            .to_owned(),
    ]))
}

/// The rules that this driver's instances have: some forward no sockets, as the driver has told.
fn forwarded(rules: &[PortForward], features: &DriverFeatures) -> Vec<PortForward> {
    let is_socket =
        |rule: &&PortForward| !rule.guest_socket.is_empty() || rule.host_socket.is_some();
    let kept = rules
        .iter()
        .filter(|rule| !features.skip_socket_forwarding || !is_socket(rule));
    kept.cloned().collect()
}

/// What the volume says beside the configuration.
struct VolumeFacts<'a> {
    agent: AgentKind,
    record: &'a Record,
    ssh: &'a SshSetup,
    ssh_port: u16,
    resolver: &'a HostResolver,
}

async fn write_volume(
    options: &ServeOptions,
    dir: &InstanceDir,
    config: &Config,
    driver: &dyn Driver,
    facts: VolumeFacts<'_>,
) -> Result<(), AgentError> {
    let info = driver.info();
    let features = &info.features;
    let ca_files = read_texts(&config.ca_certs.files)?;
    let wants_containerd = config.containerd.user || config.containerd.system;
    let host_dns = names::servers_for_a_guest(options, config);
    let input = Input {
        name: options.name.as_str(),
        instance_id: facts.record.instance_id.as_deref().unwrap_or_default(),
        hostname: &options.name.hostname(),
        config,
        authorized_keys: &facts.ssh.authorized_keys,
        host_keys: &facts.ssh.host_keys,
        mac: &berth_config::mac::first_nic(&options.platform.machine_id, dir.path()),
        subnet: match info.network {
            DefaultNetwork::User => Subnet::SLIRP,
            DefaultNetwork::Nat => Subnet::VMNET,
            DefaultNetwork::Ready => Subnet::UNKNOWN,
        },
        host_dns: &host_dns,
        dns_ports: facts.resolver.ports(),
        proxies: Proxies {
            host_env: options.env.iter().cloned().collect(),
            ..Proxies::default()
        },
        ca_files: &ca_files,
        agent: facts.agent,
        nerdctl_archive: options.nerdctl_archive.clone().filter(|_| wants_containerd),
        driver_scripts: driver.boot_scripts().await?,
        ssh_port: facts.ssh_port,
        lima: LimaFacts {
            vsock_port: info.vsock_port,
            virtio_port: String::new(),
            rosetta_enabled: features.rosetta_enabled && !config.plain,
            rosetta_binfmt: features.rosetta_bin_fmt && !config.plain,
            no_cloud_init: features.no_cloud_init,
        },
        host_home: options.platform.home.clone(),
        debug: options.debug,
    };
    let built = berth_cidata::build(&input).map_err(AgentError::set_up("build cidata"))?;
    let (dir, as_directory) = (dir.clone(), features.no_cloud_init);
    // The agent's binary and the nerdctl archive are large; the API must go on answering.
    let written = tokio::task::spawn_blocking(move || {
        volume::write_reference(&built, &dir.cloud_config())?;
        if as_directory {
            volume::write_directory(&built, &dir.cidata_dir())
        } else {
            volume::write_iso_if_changed(&built, &dir.cidata_iso()).map(drop)
        }
    });
    written
        .await
        .map_err(AgentError::set_up("write cidata"))?
        .map_err(AgentError::set_up("write cidata"))
}

fn read_texts(paths: &[PathBuf]) -> Result<Vec<String>, AgentError> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|why| AgentError::io("read", Path::new(path), why))
    };
    paths.iter().map(read).collect()
}

/// `LIMA_SSH_PORT_FORWARDER` in Go's boolean syntax; guests without an agent leave no choice.
fn carrier(options: &ServeOptions, agent: GuestAgentKind) -> Carrier {
    let asked = options
        .variable("LIMA_SSH_PORT_FORWARDER")
        .unwrap_or_default();
    match asked {
        _ if agent == GuestAgentKind::None => Carrier::Ssh,
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Carrier::Ssh,
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Carrier::Link,
        other => {
            tracing::warn!(
                value = other,
                "LIMA_SSH_PORT_FORWARDER is no boolean; ignored"
            );
            Carrier::Link
        }
    }
}
