//! The forwards of an instance, for people.

use berth_config::size::format_binary;
use berth_instance::info::ForwardInfo;
use berth_process::escape::escape_untrusted;

use super::table::aligned;

const HEADINGS: [&str; 6] = [
    "FORWARD",
    "HOST",
    "GUEST",
    "CONNECTIONS",
    "TO GUEST",
    "TO HOST",
];

/// One a line below the headings, with what is wrong with it on a line of its own. Empty without forwards.
pub(crate) fn forwards(forwards: &[ForwardInfo]) -> String {
    if forwards.is_empty() {
        return String::new();
    }
    let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
    rows.extend(forwards.iter().map(cells));
    let lines = aligned(&rows);
    let mut lines = lines.lines();
    // Every line of the table is followed by its trouble.
    let heading = lines.next().unwrap_or_default().to_owned() + "\n";
    let with_trouble = lines.zip(forwards).map(|(line, forward)| {
        if forward.last_error.is_empty() {
            return format!("{line}\n");
        }
        let trouble = escape_untrusted(forward.last_error.as_bytes());
        format!("{line}\n    {}: {trouble}\n", forward.state)
    });
    std::iter::once(heading).chain(with_trouble).collect()
}

fn cells(forward: &ForwardInfo) -> Vec<String> {
    let safe = |text: &str| escape_untrusted(text.as_bytes());
    vec![
        safe(&forward.transport),
        safe(&forward.host),
        safe(&forward.guest),
        if forward.state == "listening" {
            format!("{} of {}", forward.connections, forward.total)
        } else {
            safe(&forward.state)
        },
        format_binary(forward.bytes_to_guest),
        format_binary(forward.bytes_to_host),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_forward_has_a_line_and_its_trouble_another() {
        let web = ForwardInfo {
            transport: "tcp".to_owned(),
            guest: "0.0.0.0:80".to_owned(),
            host: "127.0.0.1:80".to_owned(),
            state: "listening".to_owned(),
            connections: 2,
            total: 17,
            bytes_to_guest: 2048,
            bytes_to_host: 5 << 20,
            last_error: String::new(),
        };
        let taken = ForwardInfo {
            state: "waiting".to_owned(),
            last_error: "port 80 is taken by nginx\x1b[2J (pid 7)".to_owned(),
            ..web.clone()
        };
        let text = forwards(&[web, taken]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].starts_with("FORWARD"), "{text}");
        assert!(
            lines[1].contains("2 of 17") && lines[1].contains("5MiB"),
            "{text}"
        );
        assert!(
            lines[3].starts_with("    waiting: port 80 is taken by nginx"),
            "{text}"
        );
        assert!(!text.contains('\x1b'));
        assert_eq!(forwards(&[]), "");
    }
}
