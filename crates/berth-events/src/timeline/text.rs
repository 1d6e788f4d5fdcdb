//! A timeline as a table with bars.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Outcome, Phase, Timeline, printable, seconds};

/// Narrowest bar column that says anything.
const MIN_BARS: usize = 10;
/// Longer names are cut.
const MAX_NAME: usize = 32;

pub(super) fn render(timeline: &Timeline, width: usize) -> String {
    let length = timeline.length();
    let names = timeline.phases.iter().map(|phase| &phase.name);
    let names = names.chain(timeline.guest.iter().map(|stage| &stage.name));
    let name_width = names.map(|name| name.chars().count()).max().unwrap_or(0);
    let name_width = (name_width + 2).clamp("PHASE".len(), MAX_NAME);
    // Name, two columns of nine for the times, and the gaps between them.
    let bars = width.saturating_sub(name_width + 22).max(MIN_BARS);
    let mut table = Table {
        text: String::new(),
        name_width,
        bars,
        length,
    };
    table.row("PHASE", "START", "TOOK", "");
    for phase in &timeline.phases {
        table.phase(phase);
    }
    if !timeline.guest.is_empty() {
        table.row("guest", "", "", "");
    }
    for stage in &timeline.guest {
        let bar = table.bar(stage.at, stage.at, '◆');
        table.row(
            &format!("  {}", printable(&stage.name)),
            &seconds(stage.at),
            "",
            &bar,
        );
    }
    if let Some(ready) = timeline.ready {
        let bar = table.bar(ready, ready, '▲');
        table.row("ready", &seconds(ready), "", &bar);
    }
    table.text
}

struct Table {
    text: String,
    name_width: usize,
    bars: usize,
    length: Duration,
}

impl Table {
    fn row(&mut self, name: &str, start: &str, took: &str, bar: &str) {
        let name_width = self.name_width;
        let name: String = name.chars().take(name_width).collect();
        let line = format!("{name:name_width$}  {start:>8}  {took:>8}  {bar}");
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{}", line.trim_end());
    }

    fn phase(&mut self, phase: &Phase) {
        let end = phase.end.unwrap_or(self.length).max(phase.start);
        let bar = match phase.outcome {
            Some(Outcome::Skipped) => String::new(),
            Some(Outcome::Failed(_)) => self.bar(phase.start, end, '▒'),
            Some(Outcome::Ok | Outcome::Degraded(_)) => self.bar(phase.start, end, '█'),
            None => self.bar(phase.start, end, '░'),
        };
        let took = match &phase.outcome {
            Some(Outcome::Skipped) => "skipped".to_owned(),
            Some(_) => seconds(end.saturating_sub(phase.start)),
            None => "…".to_owned(),
        };
        self.row(&printable(&phase.name), &seconds(phase.start), &took, &bar);
        match &phase.outcome {
            Some(Outcome::Degraded(causes)) => {
                for cause in causes {
                    self.remark("degraded", cause);
                }
            }
            Some(Outcome::Failed(why)) => self.remark("failed", why),
            Some(Outcome::Ok | Outcome::Skipped) | None => {}
        }
    }

    /// Lines below a row, indented, never in place of one.
    fn remark(&mut self, word: &str, text: &str) {
        for (i, line) in text.lines().enumerate() {
            let lead = if i == 0 {
                format!("{word}: ")
            } else {
                String::new()
            };
            let _ = writeln!(self.text, "    {lead}{}", printable(line));
        }
    }

    /// At least one character, however short the time was.
    fn bar(&self, start: Duration, end: Duration, with: char) -> String {
        let first = self.column(start).min(self.bars - 1);
        let last = self.column(end).clamp(first + 1, self.bars);
        let mut bar = " ".repeat(first);
        bar.extend(std::iter::repeat_n(with, last - first));
        bar
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a column of a terminal"
    )]
    fn column(&self, at: Duration) -> usize {
        if self.length.is_zero() {
            return 0;
        }
        (at.as_secs_f64() / self.length.as_secs_f64() * self.bars as f64).round() as usize
    }
}
