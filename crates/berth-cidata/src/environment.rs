//! The guest's `/etc/environment` and the parameters of provision scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use berth_config::model::Config;

use crate::error::CidataError;
use crate::input::Proxies;

/// Lower-case names of the proxy variables. Each exists in upper case too.
const PROXY_NAMES: [&str; 4] = ["ftp_proxy", "http_proxy", "https_proxy", "no_proxy"];

/// The environment of the guest: the system's proxy settings, then `env`, then the host agent's proxy variables.
///
/// A proxy that is the host's own loopback address becomes `gateway`, the host as the guest sees it, if that is known. An empty proxy variable
/// is left out. Both spellings of a proxy variable get the same value; the lower-case one wins.
pub fn guest_environment(
    config: &Config,
    proxies: &Proxies,
    gateway: Option<IpAddr>,
) -> Result<BTreeMap<String, String>, CidataError> {
    let mut env = proxies.system.clone();
    env.extend(config.env.clone());
    if config.propagate_proxy_env {
        for name in proxy_variables() {
            if let Some(value) = proxies.host_env.get(&name) {
                env.insert(name, value.clone());
            }
        }
    }
    for name in proxy_variables() {
        let Some(value) = env.get_mut(&name) else {
            continue;
        };
        if value.is_empty() {
            env.remove(&name);
        } else if let Some(gateway) = gateway
            && !name.eq_ignore_ascii_case("no_proxy")
        {
            *value = reachable_from_guest(value, gateway, &proxies.loopback_names);
        }
    }
    for lower in PROXY_NAMES {
        let upper = lower.to_ascii_uppercase();
        match (env.get(lower).cloned(), env.get(&upper).cloned()) {
            (Some(value), other) => {
                if other.is_some_and(|other| other != value) {
                    tracing::warn!(lower, upper, "the two differ; the lower-case one is used");
                }
                env.insert(upper, value);
            }
            (None, Some(value)) => {
                env.insert(lower.to_owned(), value);
            }
            (None, None) => {}
        }
    }
    for (name, value) in &env {
        check_line("env", name, value)?;
    }
    Ok(env)
}

fn proxy_variables() -> impl Iterator<Item = String> {
    PROXY_NAMES
        .iter()
        .flat_map(|name| [(*name).to_owned(), name.to_ascii_uppercase()])
}

/// Replaces the host's own loopback address in a proxy's URL by the gateway.
fn reachable_from_guest(url: &str, gateway: IpAddr, loopback_names: &BTreeSet<String>) -> String {
    let begin = url.find("://").map_or(0, |at| at + 3);
    let rest = &url[begin..];
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let host_begin = authority.rfind('@').map_or(0, |at| at + 1);
    let host_port = &authority[host_begin..];
    let host_len = if host_port.starts_with('[') {
        host_port.find(']').map(|at| at + 1)
    } else {
        Some(host_port.find(':').unwrap_or(host_port.len()))
    };
    let Some(host_len) = host_len else {
        tracing::warn!(url, "not a URL; the proxy is passed on as it is");
        return url.to_owned();
    };
    let host = &host_port[..host_len];
    if !is_loopback(host, loopback_names) {
        return url.to_owned();
    }
    let at = begin + host_begin;
    let gateway = match gateway {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    format!("{}{gateway}{}", &url[..at], &url[at + host_len..])
}

fn is_loopback(host: &str, loopback_names: &BTreeSet<String>) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = host.parse::<IpAddr>() {
        return ip.is_loopback();
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || loopback_names.contains(&host)
}

/// Files of one `NAME=VALUE` a line cannot carry these.
fn check_line(key: &str, name: &str, value: &str) -> Result<(), CidataError> {
    let bad = |c: char| c == '\n' || c == '\r' || c == '\0';
    if name.is_empty() || name.contains('=') || name.contains(bad) || name.contains(' ') {
        return Err(CidataError::config(
            format!("{key}.{}", name.escape_debug()),
            "no name of a variable: use letters, digits and underscores",
        ));
    }
    if value.contains(bad) {
        return Err(CidataError::config(
            format!("{key}.{name}"),
            "the value has more than one line, which no environment file can carry",
        ));
    }
    Ok(())
}

/// Text of `etc_environment`: the block that goes into the guest's `/etc/environment`.
pub(crate) fn etc_environment(env: &BTreeMap<String, String>) -> String {
    let mut text = String::from("#LIMA-START\n");
    for (name, value) in env {
        writeln!(text, "{name}={value}").expect("a string takes all");
    }
    text.push_str("#LIMA-END\n");
    text
}

/// Text of `param.env`: one `PARAM_name=value` a line.
pub(crate) fn param_env(param: &BTreeMap<String, String>) -> Result<String, CidataError> {
    let mut text = String::new();
    for (name, value) in param {
        check_line("param", name, value)?;
        writeln!(text, "PARAM_{name}={value}").expect("a string takes all");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 5, 2));

    fn rewritten(url: &str) -> String {
        reachable_from_guest(url, GATEWAY, &BTreeSet::from(["me".to_owned()]))
    }

    #[test]
    fn loopback_proxies_become_the_gateway() {
        assert_eq!(
            rewritten("http://localhost:3128"),
            "http://192.168.5.2:3128"
        );
        assert_eq!(rewritten("http://127.1.2.3/a?b"), "http://192.168.5.2/a?b");
        assert_eq!(rewritten("http://[::1]:8080/"), "http://192.168.5.2:8080/");
        assert_eq!(
            rewritten("http://u:p@x@LOCALHOST.:1"),
            "http://u:p@x@192.168.5.2:1"
        );
        assert_eq!(rewritten("localhost:3128"), "192.168.5.2:3128");
        assert_eq!(rewritten("socks5h://me:1080"), "socks5h://192.168.5.2:1080");
    }

    #[test]
    fn other_proxies_stay() {
        for url in [
            "http://proxy.example:3128",
            "http://10.0.0.1",
            "http://localhost.example/",
            "http://[::1",
            "http://user@proxy/localhost",
            "",
        ] {
            assert_eq!(rewritten(url), url);
        }
    }

    #[test]
    fn files_of_lines_refuse_what_is_not_one_line() {
        let error = param_env(&BTreeMap::from([("A".to_owned(), "x\ny".to_owned())])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "param.A: the value has more than one line, which no environment file can carry"
        );
        assert!(check_line("env", "A=B", "").is_err());
        assert!(check_line("env", "", "").is_err());
        assert!(check_line("env", "A", "a # b = 'c'").is_ok());
    }
}
