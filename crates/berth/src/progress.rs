//! What a start shows while it goes on: a live list on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use berth_config::size::format_binary;
use berth_events::event::{PhaseEvent, PhaseOutcome};
use berth_image::progress::{Progress, Step};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the elapsed times are redrawn.
const REDRAW: Duration = Duration::from_millis(100);
/// A step that takes no longer than this is not worth a line.
const WORTH_A_LINE: Duration = Duration::from_millis(500);

/// The display of one start.
#[derive(Debug, Clone)]
pub(crate) struct Display {
    bars: MultiProgress,
    live: bool,
}

impl Display {
    /// Draws on stderr if somebody watches it there, and writes lines to the log otherwise.
    pub(crate) fn new(bars: &MultiProgress, interactive: bool) -> Self {
        let live = interactive && io::stderr().is_terminal();
        if live {
            bars.set_draw_target(ProgressDrawTarget::stderr());
        }
        Self {
            bars: bars.clone(),
            live,
        }
    }

    fn spinner(&self, message: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner:.cyan} {msg} {elapsed:.dim}"));
        bar.set_message(message.to_owned());
        bar.enable_steady_tick(REDRAW);
        bar
    }

    /// Shows one step of this program's own work, such as making a disk.
    pub(crate) fn step(&self, what: &str) -> StepLine {
        StepLine {
            what: what.to_owned(),
            began: Instant::now(),
            bar: self.live.then(|| self.spinner(what)),
        }
    }

    /// Shows fetches, one after the other.
    pub(crate) fn fetches(&self) -> FetchLines {
        FetchLines {
            display: self.clone(),
            current: None,
        }
    }

    /// Shows the phases of the agent.
    pub(crate) fn phases(&self) -> PhaseLines {
        PhaseLines {
            display: self.clone(),
            open: Vec::new(),
        }
    }
}

/// One step under way. Dropped without [`StepLine::done`], it vanishes.
#[derive(Debug)]
pub(crate) struct StepLine {
    what: String,
    began: Instant,
    bar: Option<ProgressBar>,
}

impl StepLine {
    /// The step has worked.
    pub(crate) fn done(mut self) {
        let elapsed = self.began.elapsed();
        if let Some(bar) = self.bar.take() {
            if elapsed >= WORTH_A_LINE {
                finish(&bar, PhaseOutcome::Ok, &self.what, elapsed);
            } else {
                bar.finish_and_clear();
            }
        } else if elapsed >= WORTH_A_LINE {
            tracing::info!("{} ({})", self.what, seconds(elapsed));
        }
    }
}

impl Drop for StepLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The fetches of one start.
#[derive(Debug)]
pub(crate) struct FetchLines {
    display: Display,
    current: Option<FetchLine>,
}

#[derive(Debug)]
struct FetchLine {
    location: String,
    step: Step,
    bar: Option<ProgressBar>,
}

impl FetchLines {
    /// Takes note of how far a fetch is.
    pub(crate) fn show(&mut self, progress: &Progress<'_>) {
        let same =
            |line: &FetchLine| line.location == progress.location && line.step == progress.step;
        if !self.current.as_ref().is_some_and(same) {
            self.begin(progress);
        }
        if let Some(bar) = self.current.as_ref().and_then(|line| line.bar.as_ref()) {
            if let Some(total) = progress.total {
                bar.set_length(total);
            }
            bar.set_position(progress.done);
        }
    }

    fn begin(&mut self, progress: &Progress<'_>) {
        self.clear();
        let verb = match progress.step {
            Step::Waiting => "Waiting for another download of",
            Step::Downloading => "Downloading",
            Step::Checking => "Checking",
            Step::Unpacking => "Unpacking",
        };
        let message = format!("{verb} {}", progress.location);
        let bar = self
            .display
            .live
            .then(|| self.bar(&message, progress.total.is_some()));
        if bar.is_none() && progress.step != Step::Checking {
            let size = progress
                .total
                .map_or_else(String::new, |total| format!(" ({})", format_binary(total)));
            tracing::info!("{message}{size}");
        }
        self.current = Some(FetchLine {
            location: progress.location.to_owned(),
            step: progress.step,
            bar,
        });
    }

    fn bar(&self, message: &str, size_is_known: bool) -> ProgressBar {
        let bar = self.display.spinner(message);
        bar.set_style(style(if size_is_known {
            "{spinner:.cyan} {msg}\n  {wide_bar:.cyan/dim} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta:.dim}"
        } else {
            "{spinner:.cyan} {msg} {binary_bytes} {elapsed:.dim}"
        }));
        bar
    }

    fn clear(&mut self) {
        if let Some(bar) = self.current.take().and_then(|line| line.bar) {
            bar.finish_and_clear();
        }
    }
}

impl Drop for FetchLines {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The phases of one start of the agent, several of which may be under way.
#[derive(Debug)]
pub(crate) struct PhaseLines {
    display: Display,
    /// Name, and its line on the terminal.
    open: Vec<(String, Option<ProgressBar>)>,
}

impl PhaseLines {
    /// Takes note of a phase that began or ended.
    pub(crate) fn show(&mut self, phase: &PhaseEvent) {
        match phase.outcome {
            PhaseOutcome::Started => {
                let bar = self.display.live.then(|| self.display.spinner(&phase.name));
                self.open.push((phase.name.clone(), bar));
            }
            outcome => self.end(
                &phase.name,
                outcome,
                phase.elapsed_ms.map(Duration::from_millis),
            ),
        }
    }

    fn end(&mut self, name: &str, outcome: PhaseOutcome, elapsed: Option<Duration>) {
        let elapsed = elapsed.unwrap_or_default();
        let place = self.open.iter().position(|(open, _)| open == name);
        let bar = place.and_then(|place| self.open.remove(place).1);
        match (bar, outcome) {
            (Some(bar), PhaseOutcome::Skipped) => bar.finish_and_clear(),
            (Some(bar), outcome) => finish(&bar, outcome, name, elapsed),
            (None, PhaseOutcome::Skipped) => {}
            (None, outcome) => tracing::info!("{name}: {} ({})", word(outcome), seconds(elapsed)),
        }
    }

    /// The phase under way, the last one begun.
    pub(crate) fn current(&self) -> Option<&str> {
        self.open.last().map(|(name, _)| name.as_str())
    }
}

impl Drop for PhaseLines {
    fn drop(&mut self) {
        for bar in self.open.iter().filter_map(|(_, bar)| bar.as_ref()) {
            bar.finish_and_clear();
        }
    }
}

fn finish(bar: &ProgressBar, outcome: PhaseOutcome, what: &str, elapsed: Duration) {
    let (mark, template) = match outcome {
        PhaseOutcome::Ok => ("✓", "{prefix:.green} {msg}"),
        PhaseOutcome::Failed => ("✗", "{prefix:.red} {msg}"),
        _ => ("!", "{prefix:.yellow} {msg}"),
    };
    bar.disable_steady_tick();
    bar.set_style(style(template));
    bar.set_prefix(mark);
    bar.finish_with_message(format!("{what} {}", seconds(elapsed)));
}

fn word(outcome: PhaseOutcome) -> &'static str {
    match outcome {
        PhaseOutcome::Started => "started",
        PhaseOutcome::Ok => "done",
        PhaseOutcome::Degraded => "degraded",
        PhaseOutcome::Failed => "failed",
        PhaseOutcome::Skipped => "skipped",
    }
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.2} s", elapsed.as_secs_f64())
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
