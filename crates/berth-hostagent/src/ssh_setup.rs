//! What SSH needs before a guest exists: the client, keys and trust. The address comes later.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_config::model::Config;
use berth_config::platform::{HostOs, HostPlatform};
use berth_instance::dir::InstanceDir;
use berth_link::boot::HostKey;
use berth_ssh::config_file::ConfigFile;
use berth_ssh::host_key::host_key;
use berth_ssh::keys::{KeyPair, dot_ssh_keys, user_key};
use berth_ssh::options::{HostTrust, OptionsInput, SshOptions, aes_is_fast};
use berth_ssh::session::Session;
use berth_ssh::tool::{Features, SshTool, find_sibling};

use crate::agent::GuestAgentKind;
use crate::error::AgentError;
use crate::serve::ServeOptions;

/// Where the abilities of the SSH client are remembered, in the cache directory.
const FEATURES_FILE: &str = "ssh-features.json";

/// The client, the keys and whom to trust.
#[derive(Debug)]
pub(crate) struct SshSetup {
    /// Public keys that may log in.
    pub(crate) authorized_keys: Vec<String>,
    /// Host keys to hand in; empty where the guest makes its own.
    pub(crate) host_keys: Vec<HostKey>,
    tool: SshTool,
    features: Features,
    user_key: KeyPair,
    more_keys: Vec<PathBuf>,
    trust: HostTrust,
    hostname: String,
    config: Arc<Config>,
    platform: Arc<HostPlatform>,
}

impl SshSetup {
    /// Finds the client, and finds or makes the keys.
    pub(crate) async fn prepare(
        options: &ServeOptions,
        dir: &InstanceDir,
        config: &Arc<Config>,
        agent: GuestAgentKind,
    ) -> Result<Self, AgentError> {
        let path = options.variable("PATH").unwrap_or_default();
        let tool = SshTool::find(options.variable("SSH"), path.as_ref())
            .map_err(AgentError::set_up("use ssh"))?;
        let keygen = find_sibling(&tool, "ssh-keygen", path.as_ref())
            .map_err(AgentError::set_up("use ssh-keygen"))?;
        let features = tool.features(&options.cache_dir.join(FEATURES_FILE)).await;
        let user_key = user_key(&options.home.config_dir(), &keygen)
            .await
            .map_err(AgentError::set_up("use the SSH key"))?;
        let mut authorized_keys = vec![user_key.public.clone()];
        let mut more_keys = Vec::new();
        if config.ssh.load_dot_ssh_pub_keys {
            let found = dot_ssh_keys(&options.platform.home.join(".ssh"))
                .map_err(AgentError::set_up("read the keys in ~/.ssh"))?;
            for key in found {
                authorized_keys.push(key.public);
                more_keys.extend(key.private);
            }
        }
        let hostname = options.name.hostname();
        let (host_keys, trust) = match agent {
            // Whoever applies boot.json puts the key in place before sshd answers.
            GuestAgentKind::Berth => {
                let pair = host_key(dir, &hostname, &keygen)
                    .await
                    .map_err(AgentError::set_up("make the guest's host key"))?;
                let trust = HostTrust::Pinned {
                    alias: hostname.clone(),
                    known_hosts: dir.known_hosts(),
                };
                let key = HostKey {
                    kind: "ed25519".into(),
                    private: pair.private,
                    public: pair.public,
                };
                (vec![key], trust)
            }
            GuestAgentKind::Lima | GuestAgentKind::None => (Vec::new(), HostTrust::Anybody),
        };
        Ok(Self {
            authorized_keys,
            host_keys,
            tool,
            features,
            user_key,
            more_keys,
            trust,
            hostname,
            config: Arc::clone(config),
            platform: Arc::clone(&options.platform),
        })
    }

    /// The private key that logs in.
    pub(crate) fn user_key(&self) -> &Path {
        &self.user_key.private
    }

    /// Writes `ssh.config` for the address, and describes the session.
    pub(crate) fn open(
        &self,
        dir: &InstanceDir,
        address: SocketAddr,
    ) -> Result<Session, AgentError> {
        let control_path = dir.ssh_sock();
        let options = SshOptions::new(&OptionsInput {
            user_key: &self.user_key.private,
            more_keys: &self.more_keys,
            user: &self.config.user.name,
            ssh: &self.config.ssh,
            control_path: &control_path,
            trust: &self.trust,
            features: self.features,
            aes_is_fast: aes_is_fast(),
            os: self.platform.os,
            unix_path_max: self.platform.unix_path_max(),
        })
        .map_err(AgentError::set_up("build the ssh options"))?;
        let file = ConfigFile {
            host: self.hostname.clone(),
            address,
            options: options.clone(),
        };
        file.write(&dir.ssh_config())
            .map_err(AgentError::set_up("write ssh.config"))?;
        // OpenSSH for Windows has no ControlMaster.
        let control_path = (self.platform.os != HostOs::Windows).then_some(control_path);
        Ok(Session::new(
            self.tool.clone(),
            options,
            control_path,
            address,
        ))
    }
}
