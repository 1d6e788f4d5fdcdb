//! The account in the guest.

use std::collections::BTreeMap;

use crate::model::{GuestOs, User};
use crate::render::Variables;

use super::Resolver;

/// Name and uid for hosts whose user cannot be the guest's.
const FALLBACK_NAME: &str = "lima";
const FALLBACK_UID: u32 = 1000;

impl Resolver<'_> {
    pub(super) fn user(&mut self, os: GuestOs, param: &BTreeMap<String, String>) -> User {
        let mut user = User {
            name: self
                .text(|yaml| yaml.user.name.as_deref())
                .unwrap_or_else(|| self.host_user_name()),
            comment: self.user_comment(),
            home: String::new(),
            shell: self
                .text(|yaml| yaml.user.shell.as_deref())
                .unwrap_or_else(|| default_shell(os).to_owned()),
            uid: self
                .sources
                .highest(|yaml| yaml.user.uid)
                .unwrap_or_else(|| self.host_uid()),
            passwordless_sudo: self.flag(|yaml| yaml.user.passwordless_sudo, os != GuestOs::Darwin),
        };
        let home = self
            .text(|yaml| yaml.user.home.as_deref())
            .unwrap_or_else(|| self.default_home(os));
        let variables = Variables::guest(self.ctx.instance_name, &user, param);
        user.home = self.render(&variables, "user.home", &home);
        user
    }

    fn is_host_root(&self) -> bool {
        self.ctx.platform.uid == 0
    }

    fn host_uid(&self) -> u32 {
        if self.is_host_root() {
            FALLBACK_UID
        } else {
            self.ctx.platform.uid
        }
    }

    fn host_user_name(&mut self) -> String {
        let name = self.ctx.platform.user.clone();
        if self.is_host_root() {
            return FALLBACK_NAME.to_owned();
        }
        if !is_unix_user_name(&name) {
            self.report.warn(
                "user.name",
                format!(
                    "the host's user name {name:?} is no Linux user name: using {FALLBACK_NAME:?}"
                ),
            );
            return FALLBACK_NAME.to_owned();
        }
        // Debian and Ubuntu have a group of this name, which keeps cloud-init from making the user.
        if name == "admin" && self.ctx.created_by.at_least(1, 0, 0) {
            return FALLBACK_NAME.to_owned();
        }
        name
    }

    fn user_comment(&mut self) -> String {
        let host = if self.is_host_root() {
            String::new()
        } else {
            self.ctx.platform.user_comment.clone()
        };
        self.text(|yaml| yaml.user.comment.as_deref())
            .unwrap_or(host)
            .chars()
            .filter(|letter| !letter.is_control())
            .collect()
    }

    fn default_home(&self, os: GuestOs) -> String {
        match os {
            GuestOs::Darwin => "/Users/{{.User}}.guest",
            _ if self.ctx.created_by.at_least(2, 1, 0) => "/home/{{.User}}.guest",
            _ => "/home/{{.User}}.linux",
        }
        .to_owned()
    }
}

fn default_shell(os: GuestOs) -> &'static str {
    match os {
        GuestOs::Linux => "/bin/bash",
        GuestOs::Darwin => "/bin/zsh",
        GuestOs::FreeBSD => "/bin/sh",
        GuestOs::Windows => "cmd.exe",
    }
}

/// `^[a-z_][a-z0-9_-]*$`.
fn is_unix_user_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
}
