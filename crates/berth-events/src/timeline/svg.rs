//! A timeline as a drawing.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Outcome, Phase, Timeline, printable, seconds};

// Pixels.
const WIDTH: f64 = 960.0;
const ROW: f64 = 24.0;
const TOP: f64 = 56.0;
const LABELS: f64 = 220.0;
const RIGHT: f64 = 90.0;

/// As many characters as the label column holds; the whole name is in the bar's title.
const MAX_LABEL: usize = 28;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#24292f}.dim{fill:#6e7781}.grid{stroke:#d0d7de}\
.ok{fill:#2da44e}.degraded{fill:#d4a72c}.failed{fill:#cf222e}.open{fill:#8c959f}.guest{fill:#0969da}\
.ready{stroke:#8250df;stroke-width:2}";

pub(super) fn render(timeline: &Timeline) -> String {
    let guest_rows = if timeline.guest.is_empty() {
        0
    } else {
        timeline.guest.len() + 1
    };
    let rows = count(timeline.phases.len() + guest_rows);
    let height = TOP + rows * ROW + 24.0;
    let mut drawing = Drawing {
        text: String::new(),
        length: timeline.length(),
        y: TOP,
    };
    drawing.put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\
         <style>{STYLE}</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    ));
    drawing.heading(timeline);
    drawing.grid(TOP + rows * ROW);
    for phase in &timeline.phases {
        drawing.phase(phase);
    }
    if !timeline.guest.is_empty() {
        drawing.label("guest", "dim");
        drawing.y += ROW;
    }
    for stage in &timeline.guest {
        drawing.stage(&stage.name, stage.at);
    }
    if let Some(ready) = timeline.ready {
        drawing.ready(ready);
    }
    drawing.text.push_str("</svg>\n");
    drawing.text
}

struct Drawing {
    text: String,
    length: Duration,
    /// Top of the row being drawn.
    y: f64,
}

impl Drawing {
    fn put(&mut self, what: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{what}");
    }

    fn x(&self, at: Duration) -> f64 {
        if self.length.is_zero() {
            return LABELS;
        }
        LABELS + at.as_secs_f64() / self.length.as_secs_f64() * (WIDTH - LABELS - RIGHT)
    }

    fn heading(&mut self, timeline: &Timeline) {
        let ready = match timeline.ready {
            Some(ready) => format!("ready after {} s", seconds(ready)),
            None => "not ready".to_owned(),
        };
        let began = timeline.began;
        self.put(format_args!(
            "<text x=\"12\" y=\"24\">started {began:.0}, {ready}</text>"
        ));
    }

    /// Lines at round times, some five to ten of them.
    fn grid(&mut self, bottom: f64) {
        let step = round_step(self.length);
        let mut at = Duration::ZERO;
        while at <= self.length {
            let x = self.x(at);
            let label = at.as_secs_f64();
            let (top, above) = (TOP - 4.0, TOP - 8.0);
            self.put(format_args!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>\
                 <text class=\"dim\" x=\"{x:.1}\" y=\"{above}\" text-anchor=\"middle\">{label} s</text>"
            ));
            at += step;
        }
    }

    fn label(&mut self, name: &str, class: &str) {
        let shown: String = name.chars().take(MAX_LABEL).collect();
        let (y, name) = (self.y + 16.0, escape(&shown));
        self.put(format_args!(
            "<text class=\"{class}\" x=\"12\" y=\"{y}\">{name}</text>"
        ));
    }

    fn phase(&mut self, phase: &Phase) {
        let end = phase.end.unwrap_or(self.length).max(phase.start);
        let (class, note) = match &phase.outcome {
            Some(Outcome::Ok) => ("ok", String::new()),
            Some(Outcome::Degraded(causes)) => ("degraded", causes.join("; ")),
            Some(Outcome::Failed(why)) => ("failed", why.clone()),
            Some(Outcome::Skipped) => ("open", "skipped".to_owned()),
            None => ("open", "not finished".to_owned()),
        };
        self.label(&phase.name, "");
        let (x, y) = (self.x(phase.start), self.y + 4.0);
        let width = (self.x(end) - x).max(2.0);
        let title = escape(&format!("{} {note}", phase.name));
        let (after, base) = (x + width + 6.0, self.y + 16.0);
        let took = match phase.outcome {
            Some(Outcome::Skipped) => "skipped".to_owned(),
            _ => format!("{} s", seconds(end.saturating_sub(phase.start))),
        };
        self.put(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"16\" rx=\"2\">\
             <title>{title}</title></rect><text class=\"dim\" x=\"{after:.1}\" y=\"{base}\">{took}</text>"
        ));
        self.y += ROW;
    }

    fn stage(&mut self, name: &str, at: Duration) {
        self.label(&format!("\u{a0}\u{a0}{name}"), "");
        let (x, y, base) = (self.x(at), self.y + 12.0, self.y + 16.0);
        let after = x + 10.0;
        let when = seconds(at);
        self.put(format_args!(
            "<circle class=\"guest\" cx=\"{x:.1}\" cy=\"{y}\" r=\"5\"/>\
             <text class=\"dim\" x=\"{after:.1}\" y=\"{base}\">{when} s</text>"
        ));
        self.y += ROW;
    }

    fn ready(&mut self, at: Duration) {
        let (x, top, bottom) = (self.x(at), TOP - 4.0, self.y);
        self.put(format_args!(
            "<line class=\"ready\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"><title>ready</title></line>"
        ));
    }
}

/// 1, 2 or 5 times a power of ten, in milliseconds, so that a length has at most ten of them.
fn round_step(length: Duration) -> Duration {
    let mut step = Duration::from_millis(1);
    loop {
        for factor in [1, 2, 5] {
            if step * factor * 10 >= length {
                return step * factor;
            }
        }
        step *= 10;
    }
}

#[allow(clippy::cast_precision_loss, reason = "a number of rows")]
fn count(rows: usize) -> f64 {
    rows as f64
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Not characters of XML.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}
