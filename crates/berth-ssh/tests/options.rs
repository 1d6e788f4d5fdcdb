//! Options and `ssh.config`, byte by byte, and as OpenSSH itself reads them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_config::model::Ssh;
use berth_config::platform::HostOs;
use berth_ssh::config_file::{ConfigFile, Format};
use berth_ssh::options::{HostTrust, OptionsError, OptionsInput, SshOptions};
use berth_ssh::tool::{Features, Version};

mod support;

struct Case {
    dir: tempfile::TempDir,
    trust: HostTrust,
    ssh: Ssh,
    version: Version,
    gssapi: bool,
    aes_is_fast: bool,
    user: &'static str,
    more_keys: Vec<PathBuf>,
    os: HostOs,
    unix_path_max: usize,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("a b").tempdir().unwrap();
        fs::write(dir.path().join("user"), "").unwrap();
        Self {
            dir,
            trust: HostTrust::Anybody,
            ssh: Ssh::default(),
            version: Version(9, 2, 1),
            gssapi: true,
            aes_is_fast: true,
            user: "me",
            more_keys: vec![],
            os: HostOs::Linux,
            unix_path_max: 108,
        }
    }

    fn pinned() -> Self {
        let mut case = Self::new();
        case.trust = HostTrust::Pinned {
            alias: "lima-default".to_owned(),
            known_hosts: case.path("known_hosts"),
        };
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn options(&self) -> Result<SshOptions, OptionsError> {
        SshOptions::new(&OptionsInput {
            user_key: &self.path("user"),
            more_keys: &self.more_keys,
            user: self.user,
            ssh: &self.ssh,
            control_path: &self.path("ssh.sock"),
            trust: &self.trust,
            features: Features {
                version: self.version,
                gssapi: self.gssapi,
            },
            aes_is_fast: self.aes_is_fast,
            os: self.os,
            unix_path_max: self.unix_path_max,
        })
    }

    fn config(&self) -> ConfigFile {
        ConfigFile {
            host: "lima-default".to_owned(),
            address: "127.0.0.1:60022".parse().unwrap(),
            options: self.options().unwrap(),
        }
    }

    /// The text with the directory's name taken out.
    fn stable(&self, text: &str) -> String {
        text.replace(self.dir.path().to_str().unwrap(), "DIR")
    }
}

/// What OpenSSH makes of a configuration file: `key value` in lower case, without quotes.
fn as_ssh_reads(file: &Path, host: &str) -> Vec<String> {
    let output = Command::new("ssh")
        .arg("-G")
        .arg("-F")
        .arg(file)
        .arg(host)
        .output();
    let output = output.expect("openssh-client is needed for this test");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn assert_has(lines: &[String], expected: &[&str]) {
    for line in expected {
        assert!(
            lines.iter().any(|found| found == line),
            "{line:?} is missing in {lines:#?}"
        );
    }
}

#[test]
fn without_a_pinned_key_the_lines_are_limas() {
    let mut case = Case::new();
    case.ssh = Ssh {
        forward_agent: true,
        forward_x11: true,
        forward_x11_trusted: true,
        ..Ssh::default()
    };
    case.more_keys = vec![case.path("id_rsa")];
    let text = case.config().text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[..3].iter().all(|line| line.starts_with("# ")),
        "{text}"
    );
    assert_eq!(
        case.stable(&lines[3..].join("\n")),
        r#"Host lima-default
  IdentityFile "DIR/user"
  IdentityFile "DIR/id_rsa"
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  NoHostAuthenticationForLocalhost yes
  PreferredAuthentications publickey
  Compression no
  BatchMode yes
  IdentitiesOnly yes
  GSSAPIAuthentication no
  Ciphers "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
  User me
  ControlMaster auto
  ControlPath "DIR/ssh.sock"
  ControlPersist yes
  ForwardAgent yes
  ForwardX11 yes
  ForwardX11Trusted yes
  Hostname 127.0.0.1
  Port 60022"#
    );
    assert!(text.ends_with("Port 60022\n"));
}

#[test]
fn a_pinned_key_changes_four_lines_and_no_other() {
    let (lima, ours) = (Case::new(), Case::pinned());
    let (lima, ours) = (
        lima.stable(&lima.config().text()),
        ours.stable(&ours.config().text()),
    );
    let only_in = |a: &str, b: &str| -> Vec<String> {
        let other: Vec<&str> = b.lines().collect();
        a.lines()
            .filter(|line| !other.contains(line))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        only_in(&ours, &lima),
        [
            "  HostKeyAlias lima-default",
            "  StrictHostKeyChecking yes",
            "  UserKnownHostsFile \"DIR/known_hosts\"",
            "  NoHostAuthenticationForLocalhost no",
        ]
    );
    assert_eq!(only_in(&lima, &ours).len(), 3);
}

#[test]
fn features_decide_two_lines() {
    let mut case = Case::new();
    (case.gssapi, case.aes_is_fast) = (false, false);
    let options = case.options().unwrap();
    assert_eq!(options.get("GSSAPIAuthentication"), None);
    assert_eq!(
        options.get("Ciphers"),
        Some("\"^chacha20-poly1305@openssh.com\"")
    );
    case.version = Version(8, 0, 9);
    assert_eq!(case.options().unwrap().get("Ciphers"), None);
}

#[test]
fn openssh_reads_the_file_as_it_is_meant() {
    let case = Case::pinned();
    let file = case.path("ssh.config");
    case.config().write(&file).unwrap();
    let dir = case.dir.path().display();
    assert_has(
        &as_ssh_reads(&file, "lima-default"),
        &[
            "hostname 127.0.0.1",
            "port 60022",
            "user me",
            "hostkeyalias lima-default",
            "stricthostkeychecking true",
            "nohostauthenticationforlocalhost no",
            "batchmode yes",
            "identitiesonly yes",
            "controlmaster auto",
            "controlpersist yes",
            "preferredauthentications publickey",
            &format!("controlpath {dir}/ssh.sock"),
            &format!("identityfile {dir}/user"),
        ],
    );
    // The file is for this host only.
    let other = as_ssh_reads(&file, "elsewhere");
    assert!(
        other.contains(&"hostname elsewhere".to_owned()),
        "{other:#?}"
    );
}

#[test]
fn the_file_is_private_and_written_only_when_it_changes() {
    let case = Case::new();
    let file = case.path("ssh.config");
    case.config().write(&file).unwrap();
    let first = fs::metadata(&file).unwrap();
    assert_eq!(first.permissions().mode() & 0o7777, 0o600);
    case.config().write(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().ino(), first.ino());
    let mut moved = case.config();
    moved.address.set_port(60023);
    moved.write(&file).unwrap();
    assert_ne!(fs::metadata(&file).unwrap().ino(), first.ino());
    let missing = moved
        .write(Path::new("/nonexistent/ssh.config"))
        .unwrap_err();
    assert_eq!(missing.to_string(), "cannot write /nonexistent/ssh.config");
}

#[test]
fn what_was_written_is_read_back() {
    let case = Case::pinned();
    let file = case.path("ssh.config");
    case.config().write(&file).unwrap();
    assert_eq!(ConfigFile::read(&file).unwrap(), case.config());
    fs::write(&file, "Host lima-x\n  Hostname 127.0.0.1\n  Port none\n").unwrap();
    let error = ConfigFile::read(&file).unwrap_err().to_string();
    assert!(
        error.contains("has no line \"Port\": start the instance again"),
        "{error}"
    );
}

#[test]
fn show_ssh_answers_in_four_forms() {
    let mut case = Case::new();
    (case.gssapi, case.version) = (false, Version::default());
    let config = case.config();
    let shown = |format| case.stable(&config.show(format));
    let arguments = "-o 'IdentityFile=\"DIR/user\"' -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -o NoHostAuthenticationForLocalhost=yes -o PreferredAuthentications=publickey -o Compression=no \
         -o BatchMode=yes -o IdentitiesOnly=yes -o User=me -o ControlMaster=auto -o 'ControlPath=\"DIR/ssh.sock\"' \
         -o ControlPersist=yes -o Hostname=127.0.0.1 -o Port=60022";
    assert_eq!(
        shown(Format::Cmd),
        format!("ssh {arguments} lima-default\n")
    );
    assert_eq!(shown(Format::Args), format!("{arguments}\n"));
    assert!(
        shown(Format::Options).ends_with("ControlPersist=yes\nHostname=127.0.0.1\nPort=60022\n")
    );
    assert!(shown(Format::Config).starts_with("Host lima-default\n  IdentityFile \"DIR/user\"\n"));
    assert!(config.text().ends_with(&config.show(Format::Config)));
}

#[test]
fn options_that_cannot_be_written_are_refused() {
    let mut case = Case::new();
    case.user = "me\n  ProxyCommand touch /tmp/owned";
    assert_eq!(
        case.options().unwrap_err().to_string(),
        "the value \"me\\n  ProxyCommand touch /tmp/owned\" of the ssh option User must be one line"
    );
    let mut case = Case::new();
    case.unix_path_max = case.path("ssh.sock").as_os_str().len();
    let error = case.options().unwrap_err().to_string();
    assert!(
        error.contains("is too long for a socket") && error.contains("shorter LIMA_HOME"),
        "{error}"
    );
    let case = Case::new();
    fs::remove_file(case.path("user")).unwrap();
    let error = case.stable(&case.options().unwrap_err().to_string());
    assert_eq!(error, "the private key DIR/user is missing");
}

#[test]
fn windows_has_its_own_quotes_and_no_master() {
    let mut case = Case::new();
    case.os = HostOs::Windows;
    let options = case.options().unwrap();
    assert!(options.get("IdentityFile").unwrap().starts_with('\''));
    assert_eq!(
        options.get("Ciphers"),
        Some("^aes128-gcm@openssh.com,aes256-gcm@openssh.com")
    );
    assert_eq!(options.without_control().get("ControlPath"), None);
}

#[test]
fn variants_override_the_master_first() {
    let case = Case::new();
    let own = case.options().unwrap().without_master();
    let first: Vec<_> = own.iter().take(3).collect();
    assert_eq!(
        first,
        [
            ("ControlMaster", "no"),
            ("ControlPath", "none"),
            ("ControlPersist", "no")
        ]
    );
    assert_eq!(
        own.iter()
            .filter(|(key, _)| key.starts_with("Control"))
            .count(),
        3
    );
    let args = case.options().unwrap().args();
    assert_eq!(args[..3], ["-F", "/dev/null", "-o"]);
}
