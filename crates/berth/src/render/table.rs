//! The table of `list`.

use std::collections::BTreeSet;

use berth_config::size::format_binary;
use berth_instance::inspect::Inspection;

use crate::platform::arch_word;

/// Columns that a field counts for when the width of the terminal is shared out.
const UNIT: usize = 8;
const GAP: usize = 4;

/// What the table shows of one instance.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    name: String,
    status: String,
    ssh: String,
    vm_type: String,
    arch: String,
    cpus: u32,
    /// Bytes.
    memory: u64,
    /// Bytes.
    disk: u64,
    dir: String,
}

impl Row {
    /// Takes from an inspection what the table shows.
    pub(crate) fn of(instance: &Inspection) -> Self {
        let config = instance.config.as_ref();
        Self {
            name: instance.name.clone(),
            status: instance.status.to_owned(),
            ssh: format!("{}:{}", Inspection::SSH_ADDRESS, instance.ssh_local_port),
            vm_type: config
                .map_or("", |config| config.vm_type.as_str())
                .to_owned(),
            arch: config
                .map_or("", |config| arch_word(config.arch))
                .to_owned(),
            cpus: config.map_or(0, |config| config.cpus),
            memory: config.map_or(0, |config| config.memory.bytes()),
            disk: config.map_or(0, |config| config.disk.bytes()),
            dir: instance.dir.path().display().to_string(),
        }
    }
}

/// What decides which columns are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TableLayout<'a> {
    /// Columns of the terminal; `None` shows every field.
    pub(crate) width: Option<usize>,
    /// Directory to show as `~`.
    pub(crate) home: &'a str,
    /// The host's own architecture, in Lima's word.
    pub(crate) host_arch: &'a str,
}

/// Lays the instances out, one a line below the headings.
pub(crate) fn table(instances: &[Row], layout: TableLayout<'_>) -> String {
    let columns = Columns::fitting(instances, layout);
    let mut rows = vec![columns.of(&HEADINGS.map(str::to_owned))];
    rows.extend(
        instances
            .iter()
            .map(|instance| columns.of(&cells(instance, layout.home))),
    );
    aligned(&rows)
}

const HEADINGS: [&str; 9] = [
    "NAME", "STATUS", "SSH", "VMTYPE", "ARCH", "CPUS", "MEMORY", "DISK", "DIR",
];

fn cells(instance: &Row, home: &str) -> [String; 9] {
    [
        instance.name.clone(),
        instance.status.clone(),
        instance.ssh.clone(),
        instance.vm_type.clone(),
        instance.arch.clone(),
        instance.cpus.to_string(),
        format_binary(instance.memory),
        format_binary(instance.disk),
        with_tilde(&instance.dir, home),
    ]
}

fn with_tilde(dir: &str, home: &str) -> String {
    match dir.strip_prefix(home) {
        Some(rest) if !home.is_empty() && rest.starts_with('/') => format!("~{rest}"),
        _ => dir.to_owned(),
    }
}

/// Which of the fields that can be left out are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Columns {
    vm_type: bool,
    arch: bool,
    dir: bool,
}

impl Columns {
    /// Leaves out what says nothing new, one field after the other, until the rest fits.
    fn fitting(instances: &[Row], layout: TableLayout<'_>) -> Self {
        let Some(width) = layout.width else {
            return Self {
                vm_type: true,
                arch: true,
                dir: true,
            };
        };
        let too_wide = |units: usize| units * UNIT > width;
        let types: BTreeSet<_> = instances.iter().map(|i| &i.vm_type).collect();
        let archs: BTreeSet<_> = instances.iter().map(|i| i.arch.as_str()).collect();
        // NAME counts for one unit, STATUS and SSH for two each.
        let mut used = 5;
        let vm_type = !(types.len() == 1 && too_wide(used + 7));
        used += usize::from(vm_type);
        let only_own_arch = archs.len() == 1 && archs.contains(layout.host_arch);
        let arch = !(only_own_arch && too_wide(used + 6));
        used += usize::from(arch);
        // CPUS, MEMORY and DISK are always shown.
        let dir = !too_wide(used + 3 + 2);
        Self { vm_type, arch, dir }
    }

    fn of(self, cells: &[String; 9]) -> Vec<String> {
        let shown = [
            true,
            true,
            true,
            self.vm_type,
            self.arch,
            true,
            true,
            true,
            self.dir,
        ];
        let cells = cells.iter().zip(shown);
        cells
            .filter(|(_, shown)| *shown)
            .map(|(cell, _)| cell.clone())
            .collect()
    }
}

/// Lays rows of cells out in columns.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let width_of = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| width_of(column).unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if index + 1 < row.len() {
                let gap = widths[index] - cell.chars().count() + GAP;
                out.extend(std::iter::repeat_n(' ', gap));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(name: &str) -> Row {
        Row {
            name: name.to_owned(),
            status: "Stopped".to_owned(),
            ssh: "127.0.0.1:0".to_owned(),
            vm_type: "qemu".to_owned(),
            arch: "x86_64".to_owned(),
            cpus: 4,
            memory: 4 << 30,
            disk: 100 << 30,
            dir: format!("/home/u/.lima/{name}"),
        }
    }

    fn layout(width: Option<usize>) -> TableLayout<'static> {
        TableLayout {
            width,
            home: "/home/u",
            host_arch: "x86_64",
        }
    }

    fn headings(instances: &[Row], width: usize) -> Vec<String> {
        let text = table(instances, layout(Some(width)));
        text.lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_field_is_shown_when_nothing_limits_the_width() {
        let mut running = example("longer-name");
        running.status = "Running".to_owned();
        running.ssh = "127.0.0.1:60022".to_owned();
        let text = table(&[example("a"), running], layout(None));
        assert_eq!(
            text,
            "\
NAME           STATUS     SSH                VMTYPE    ARCH      CPUS    MEMORY    DISK      DIR
a              Stopped    127.0.0.1:0        qemu      x86_64    4       4GiB      100GiB    ~/.lima/a
longer-name    Running    127.0.0.1:60022    qemu      x86_64    4       4GiB      100GiB    ~/.lima/longer-name
"
        );
    }

    #[test]
    fn a_narrow_terminal_loses_type_then_arch_then_directory() {
        let one = [example("a")];
        assert_eq!(headings(&one, 96).len(), 9);
        assert_eq!(
            headings(&one, 95).join(" "),
            "NAME STATUS SSH ARCH CPUS MEMORY DISK DIR"
        );
        assert_eq!(
            headings(&one, 87).join(" "),
            "NAME STATUS SSH CPUS MEMORY DISK DIR"
        );
        assert_eq!(
            headings(&one, 79).join(" "),
            "NAME STATUS SSH CPUS MEMORY DISK"
        );
    }

    #[test]
    fn a_field_that_tells_instances_apart_stays() {
        let mut other = example("b");
        other.arch = "aarch64".to_owned();
        other.vm_type = "vz".to_owned();
        let both = [example("a"), other.clone()];
        assert_eq!(
            headings(&both, 80).join(" "),
            "NAME STATUS SSH VMTYPE ARCH CPUS MEMORY DISK"
        );
        assert!(
            headings(&[other], 80).contains(&"ARCH".to_owned()),
            "not the host's own"
        );
    }

    #[test]
    fn only_whole_directories_become_a_tilde() {
        assert_eq!(with_tilde("/home/u/.lima/a", "/home/u"), "~/.lima/a");
        assert_eq!(
            with_tilde("/home/user/.lima", "/home/u"),
            "/home/user/.lima"
        );
        assert_eq!(with_tilde("/x", ""), "/x");
    }
}
