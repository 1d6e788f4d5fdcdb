//! Samples, what is said about them, and the goals that they are held against.

use std::fmt;
use std::time::Duration;

/// Repeated measurements of one thing, all in one unit.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    /// Adds a duration, in milliseconds.
    pub(super) fn add(&mut self, duration: Duration) {
        self.0.push(milliseconds(duration));
    }

    /// Adds a value of any unit.
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// As a row of a table: median, and the range in brackets.
    pub(super) fn show(&self, unit: &str) -> String {
        match (self.median(), self.range()) {
            (Some(median), Some((low, high))) => format!(
                "{median:>8.0} {unit}  ({low:.0}-{high:.0}, n={})",
                self.0.len()
            ),
            _ => "       -".to_owned(),
        }
    }

    /// The middle one, or the mean of the two in the middle; `None` of none.
    pub(super) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(sorted[middle]),
            _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        }
    }

    /// Each value divided by the other one of the same round.
    pub(super) fn ratios(&self, others: &Self) -> Self {
        let pairs = self.0.iter().zip(&others.0);
        Self(pairs.map(|(own, other)| own / other).collect())
    }

    /// The highest one; `None` of none.
    pub(super) fn highest(&self) -> Option<f64> {
        self.0.iter().copied().max_by(f64::total_cmp)
    }

    fn range(&self) -> Option<(f64, f64)> {
        let low = self.0.iter().copied().min_by(f64::total_cmp)?;
        Some((low, self.highest()?))
    }
}

/// As tables show milliseconds: median, and the range in brackets.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show("ms"))
    }
}

/// A measured value beside what it should be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal {
    value: f64,
    bound: Bound,
    unit: &'static str,
    digits: usize,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    /// A value that should not be higher. The unit of both comes with its leading space if it has one.
    pub(super) fn at_most(limit: f64, value: f64, unit: &'static str, digits: usize) -> Self {
        Self {
            value,
            bound: Bound::AtMost(limit),
            unit,
            digits,
        }
    }

    /// A value that should not be lower.
    pub(super) fn at_least(limit: f64, value: f64, unit: &'static str, digits: usize) -> Self {
        Self {
            value,
            bound: Bound::AtLeast(limit),
            unit,
            digits,
        }
    }

    /// Whether the goal is met; not by a value that is missing.
    pub(super) fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtMost(limit) => self.value <= limit,
            Bound::AtLeast(limit) => self.value >= limit,
        }
    }

    /// The value alone.
    pub(super) fn measured(&self) -> String {
        let Self {
            value,
            unit,
            digits,
            ..
        } = *self;
        format!("{value:.digits$}{unit}")
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, digits, .. } = *self;
        let value = self.measured();
        let (sign, limit) = match self.bound {
            Bound::AtMost(limit) => ("<=", limit),
            Bound::AtLeast(limit) => (">=", limit),
        };
        let limit = format!("{limit:.digits$}{unit}");
        let verdict = if self.is_met() { "met" } else { "MISSED" };
        write!(f, "{value:>11}   goal {sign} {limit:<11}{verdict}")
    }
}

/// A duration as tables count it.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[u64]) -> Samples {
        let mut samples = Samples::default();
        for value in values {
            samples.add(Duration::from_millis(*value));
        }
        samples
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(samples(&[]).median(), None);
        assert_eq!(samples(&[30, 10, 20]).median(), Some(20.0));
        assert_eq!(samples(&[40, 10, 20, 30]).median(), Some(25.0));
    }

    #[test]
    fn a_row_shows_the_range() {
        let text = samples(&[30, 10, 20]).to_string();
        assert_eq!(text, "      20 ms  (10-30, n=3)");
        assert_eq!(samples(&[]).to_string().trim(), "-");
    }

    #[test]
    fn a_goal_is_met_up_to_its_limit() {
        let goal = |value| Goal::at_most(1.1, value, " x", 2);
        assert!(goal(1.1).is_met() && !goal(1.11).is_met());
        assert!(goal(1.11).to_string().ends_with("MISSED"));
        assert!(goal(1.0).to_string().contains("1.00 x   goal <= 1.10 x"));
        assert!(!goal(f64::NAN).is_met());
        let goal = |value| Goal::at_least(4.0, value, " x", 1);
        assert!(goal(4.0).is_met() && !goal(3.9).is_met() && !goal(f64::NAN).is_met());
        assert!(goal(5.0).to_string().contains("5.0 x   goal >= 4.0 x"));
    }
}
