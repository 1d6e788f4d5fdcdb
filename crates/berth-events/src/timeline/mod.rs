//! Where the time of a start went: named phases of the agent, and the stages that the guest reported meanwhile.
//!
//! One value, kept by the [`board`](crate::board), saved as `timeline.json`, and drawn as text or SVG.

mod svg;
mod text;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::PhaseOutcome;

/// How a phase ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It did what it should.
    Ok,
    /// It did not do all it should, for these causes; the agent goes on.
    Degraded(Vec<String>),
    /// It did not work, for this reason.
    Failed(String),
    /// There was nothing to do, or no sense in it.
    Skipped,
}

impl Outcome {
    /// The outcome in one word.
    #[must_use]
    pub fn word(&self) -> PhaseOutcome {
        match self {
            Self::Ok => PhaseOutcome::Ok,
            Self::Degraded(_) => PhaseOutcome::Degraded,
            Self::Failed(_) => PhaseOutcome::Failed,
            Self::Skipped => PhaseOutcome::Skipped,
        }
    }
}

/// One phase. Times count from the timeline's beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// What was done.
    pub name: String,
    /// When it began.
    #[serde(rename = "startMs", with = "milliseconds")]
    pub start: Duration,
    /// When it ended; `None`: it is under way.
    #[serde(
        rename = "endMs",
        with = "optional_milliseconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub end: Option<Duration>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// A point that the guest passed on its own way up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// The stage that was reached.
    pub name: String,
    /// When, since the timeline's beginning.
    #[serde(rename = "atMs", with = "milliseconds")]
    pub at: Duration,
}

/// A start (or a stop), phase by phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// The beginning that all times count from.
    #[serde(with = "timestamp")]
    pub began: Timestamp,
    /// When the instance was ready.
    #[serde(
        rename = "readyMs",
        with = "optional_milliseconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub ready: Option<Duration>,
    /// The agent's phases, in the order in which they began.
    pub phases: Vec<Phase>,
    /// The guest's stages, in the order in which they were reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guest: Vec<Stage>,
}

impl Timeline {
    /// Begins now.
    #[must_use]
    pub fn new(began: Timestamp) -> Self {
        Self {
            began,
            ready: None,
            phases: Vec::new(),
            guest: Vec::new(),
        }
    }

    /// Adds a phase that begins, and returns its place.
    pub(crate) fn begin(&mut self, name: String, at: Duration) -> usize {
        self.phases.push(Phase {
            name,
            start: at,
            end: None,
            outcome: None,
        });
        self.phases.len() - 1
    }

    /// Ends the phase at that place, and returns how long it took.
    pub(crate) fn end(&mut self, place: usize, at: Duration, outcome: Outcome) -> Duration {
        let phase = &mut self.phases[place];
        let end = at.max(phase.start);
        phase.end = Some(end);
        phase.outcome = Some(outcome);
        end.saturating_sub(phase.start)
    }

    /// Adds a stage of the guest where it belongs in time.
    pub(crate) fn pass(&mut self, name: String, at: Duration) {
        let place = self.guest.partition_point(|stage| stage.at <= at);
        self.guest.insert(place, Stage { name, at });
    }

    /// The latest moment that it knows of.
    #[must_use]
    pub fn length(&self) -> Duration {
        let ends = self
            .phases
            .iter()
            .map(|phase| phase.end.unwrap_or(phase.start));
        ends.chain(self.guest.iter().map(|stage| stage.at))
            .chain(self.ready)
            .max()
            .unwrap_or_default()
    }

    /// A table with bars, for a terminal that is `width` characters wide. Ends with a line feed.
    #[must_use]
    pub fn render_text(&self, width: usize) -> String {
        text::render(self, width)
    }

    /// A drawing that needs nothing else: no fonts, scripts or styles from outside.
    #[must_use]
    pub fn render_svg(&self) -> String {
        svg::render(self)
    }
}

/// Seconds with as many digits as a start has use for.
fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

/// Text that neither a terminal nor a parser of XML takes for a command: names of stages come from the guest.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

mod milliseconds {
    //! Durations as milliseconds with a fraction.

    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, out: S) -> Result<S::Ok, S::Error> {
        // Whole microseconds: what is finer is noise, and makes long numbers.
        out.serialize_f64((time.as_secs_f64() * 1e6).round() / 1e3)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let milliseconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(milliseconds / 1e3).map_err(serde::de::Error::custom)
    }
}

mod optional_milliseconds {
    //! The same where there may be none.

    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    #[allow(clippy::ref_option, reason = "serde passes references")]
    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::milliseconds::serialize(time, out),
            None => out.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        super::milliseconds::deserialize(from).map(Some)
    }
}

mod timestamp {
    //! RFC 3339 in UTC.

    use jiff::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn example() -> Timeline {
        let mut timeline = Timeline::new("2026-11-23T18:57:30.25Z".parse().unwrap());
        let vm = timeline.begin("start the VM".into(), at(0));
        timeline.end(vm, at(400), Outcome::Ok);
        let essential = timeline.begin("essential".into(), at(400));
        timeline.pass("sshd".into(), at(1_900));
        timeline.pass("kernel".into(), at(900));
        timeline.end(essential, at(2_000), Outcome::Ok);
        let mounts = timeline.begin("mounts".into(), at(2_000));
        timeline.end(mounts, at(2_000), Outcome::Skipped);
        let last = timeline.begin("final".into(), at(2_000));
        timeline.end(
            last,
            at(4_000),
            Outcome::Degraded(vec!["step user-0 failed:\nls: <none>".into()]),
        );
        timeline.ready = Some(at(4_000));
        timeline
    }

    #[test]
    fn the_text_is_a_table_with_bars() {
        let expected = "\
PHASE              START      TOOK
start the VM       0.000     0.400  ██
essential          0.400     1.600    ████████
mounts             2.000   skipped
final              2.000     2.000            ██████████
    degraded: step user-0 failed:
    ls: <none>
guest
  kernel           0.900                 ◆
  sshd             1.900                      ◆
ready              4.000                               ▲
";
        let text = example().render_text(56);
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn any_width_and_any_content_can_be_drawn() {
        let mut empty = Timeline::new(Timestamp::UNIX_EPOCH);
        for width in [0, 1, 40, 500] {
            assert_eq!(
                empty.render_text(width).trim_end(),
                "PHASE     START      TOOK"
            );
            assert!(example().render_text(width).lines().count() > 8);
        }
        empty.begin("x\u{1b}[2J\n".repeat(100), at(5));
        let text = empty.render_text(80);
        assert!(
            !text.contains('\u{1b}') && text.lines().count() == 2,
            "{text}"
        );
        assert!(empty.render_svg().ends_with("</svg>\n"));
    }

    #[test]
    fn the_drawing_is_self_contained_and_escaped() {
        let mut timeline = example();
        timeline.begin("<script>&\"".into(), at(3_000));
        let svg = timeline.render_svg();
        assert!(
            svg.contains("&lt;script&gt;&amp;&quot;") && !svg.contains("<script"),
            "{svg}"
        );
        assert!(
            !svg.replace("http://www.w3.org/2000/svg", "")
                .contains("http"),
            "{svg}"
        );
        assert!(svg.contains("ready after 4.000 s"), "{svg}");
    }

    #[test]
    fn a_timeline_survives_json() {
        let json = serde_json::to_string(&example()).unwrap();
        assert_eq!(
            serde_json::from_str::<Timeline>(&json).unwrap(),
            example(),
            "{json}"
        );
        let begin = r#"{"began":"2026-11-23T18:57:30.25Z","readyMs":4000.0,"phases":[{"name":"start the VM","startMs":0.0,"endMs":400.0,"outcome":"ok"}"#;
        assert!(json.starts_with(begin), "{json}");
    }

    #[test]
    fn damaged_timelines_are_refused() {
        for garbage in [
            "{}",
            r#"{"began":"noon","phases":[]}"#,
            r#"{"began":"2026-11-23T18:57:30Z","phases":[],"readyMs":-1}"#,
        ] {
            assert!(
                serde_json::from_str::<Timeline>(garbage).is_err(),
                "{garbage}"
            );
        }
    }
}
