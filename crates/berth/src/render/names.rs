//! The host resolver of an instance, for people.

use std::fmt::Write as _;

use berth_instance::info::NamesInfo;
use berth_process::escape::escape_untrusted;

use super::table::aligned;

/// What it has done, then the host's servers, one a line.
pub(crate) fn names(info: &NamesInfo) -> String {
    let safe = |text: &str| escape_untrusted(text.as_bytes());
    if !info.error.is_empty() {
        return format!(
            "NAMES  the host resolver does not work: {}\n",
            safe(&info.error)
        );
    }
    let answers = &info.answers;
    let mut text = format!(
        "NAMES  127.0.0.1 port {} (UDP), {} (TCP); ordinary names from: {}\n",
        info.udp_port,
        info.tcp_port,
        safe(&info.source)
    );
    let counts = [
        ("queries", info.udp_queries + info.tcp_queries),
        ("static", answers.static_names),
        ("hosts file", answers.hosts_file),
        ("cache", answers.cache),
        ("system", answers.system),
        ("servers", answers.servers),
        ("failed", info.failed),
        ("refused", info.refused),
        ("over limit", info.over_limit),
        ("rebinding", info.rebinding),
        ("forged", info.forged),
    ];
    let counts = counts
        .into_iter()
        .filter(|(name, count)| *count > 0 || *name == "queries");
    let counts: Vec<String> = counts
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "       {}", counts.join(", "));
    if info.servers.is_empty() {
        return text;
    }
    let mut rows = vec![
        ["NAME SERVER", "ASKED", "ANSWERED", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(info.servers.iter().map(|server| {
        let trouble = if server.silent { "silent" } else { "" };
        vec![
            safe(&server.address),
            server.asked.to_string(),
            server.answered.to_string(),
            trouble.to_owned(),
        ]
    }));
    text.push_str(&aligned(&rows));
    text
}

#[cfg(test)]
mod tests {
    use berth_instance::info::NameServerInfo;

    use super::*;

    #[test]
    fn what_it_did_and_whom_it_asks_is_shown() {
        let mut info = NamesInfo {
            udp_port: 1053,
            tcp_port: 1054,
            source: "servers".to_owned(),
            udp_queries: 7,
            tcp_queries: 2,
            failed: 1,
            ..NamesInfo::default()
        };
        info.answers.static_names = 4;
        info.servers.push(NameServerInfo {
            address: "10.0.0.1:53".to_owned(),
            asked: 5,
            answered: 3,
            silent: true,
        });
        let text = names(&info);
        assert!(text.contains("port 1053 (UDP), 1054 (TCP)"), "{text}");
        assert!(text.contains("queries 9, static 4, failed 1\n"), "{text}");
        let server = text.lines().last().unwrap();
        let words: Vec<&str> = server.split_whitespace().collect();
        assert_eq!(words, ["10.0.0.1:53", "5", "3", "silent"]);
        info.error = "no\x1b[2J".to_owned();
        let text = names(&info);
        assert!(
            text.contains("does not work: no") && !text.contains('\x1b'),
            "{text}"
        );
    }
}
