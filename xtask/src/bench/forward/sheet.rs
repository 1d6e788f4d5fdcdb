//! What was measured: a column for each way into a guest, a row for each measure.

use std::fmt;

use crate::bench::stats::Samples;

/// One thing that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Measure {
    /// What, and how.
    pub(super) name: String,
    /// Unit of its values.
    pub(super) unit: &'static str,
    /// Digits after the point.
    pub(super) digits: usize,
}

/// Medians by row and column.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    columns: Vec<&'static str>,
    rows: Vec<(Measure, Vec<Samples>)>,
}

impl Measure {
    /// Names one.
    pub(super) fn new(name: impl Into<String>, unit: &'static str, digits: usize) -> Self {
        Self {
            name: name.into(),
            unit,
            digits,
        }
    }
}

impl Sheet {
    /// An empty one.
    pub(super) fn new(columns: Vec<&'static str>) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a value; rows appear in the order of their first values.
    pub(super) fn add(&mut self, measure: &Measure, column: &str, value: f64) {
        let Some(column) = self.columns.iter().position(|name| *name == column) else {
            unreachable!("every way is a column");
        };
        let row = self.rows.iter().position(|(known, _)| known == measure);
        let row = row.unwrap_or_else(|| {
            let empty = vec![Samples::default(); self.columns.len()];
            self.rows.push((measure.clone(), empty));
            self.rows.len() - 1
        });
        self.rows[row].1[column].push(value);
    }

    /// The values of a column, if it was measured.
    pub(super) fn samples(&self, name: &str, column: &str) -> Option<&Samples> {
        let column = self.columns.iter().position(|known| *known == column)?;
        let (_, row) = self.rows.iter().find(|(measure, _)| measure.name == name)?;
        Some(&row[column])
    }

    /// The median of a column, if it was measured.
    pub(super) fn median(&self, name: &str, column: &str) -> Option<f64> {
        self.samples(name, column)?.median()
    }

    /// One cell, of a row and a column, divided by another: the median of what the rounds say, each by itself, because a
    /// machine's speed differs more between rounds than within one.
    pub(super) fn ratio(&self, cell: (&str, &str), other: (&str, &str)) -> Option<f64> {
        let (cell, other) = (
            self.samples(cell.0, cell.1)?,
            self.samples(other.0, other.1)?,
        );
        cell.ratios(other).median()
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<58}{:>7}", "", "")?;
        for name in &self.columns {
            write!(f, "{name:>13}")?;
        }
        writeln!(f)?;
        for (measure, row) in &self.rows {
            let Measure { name, unit, digits } = measure;
            write!(f, "{name:<58}{unit:>7}")?;
            for samples in row {
                match samples.median() {
                    Some(median) => write!(f, "{median:>13.digits$}")?,
                    None => write!(f, "{:>13}", "-")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_medians_and_what_is_missing() {
        let mut sheet = Sheet::new(vec!["ours", "theirs"]);
        let rate = Measure::new("rate", "MB/s", 1);
        for value in [3.0, 1.0, 2.0] {
            sheet.add(&rate, "ours", value);
        }
        sheet.add(&Measure::new("delay", "ms", 0), "theirs", 7.4);
        assert_eq!(sheet.median("rate", "ours"), Some(2.0));
        assert_eq!(sheet.median("rate", "theirs"), None);
        assert_eq!(sheet.median("loss", "ours"), None);
        assert_eq!(sheet.ratio(("rate", "ours"), ("rate", "theirs")), None);
        let text = sheet.to_string();
        let words: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(words[0], ["ours", "theirs"]);
        assert_eq!(words[1], ["rate", "MB/s", "2.0", "-"]);
        assert_eq!(words[2], ["delay", "ms", "-", "7"]);
    }

    #[test]
    fn cells_are_compared_round_by_round() {
        let mut sheet = Sheet::new(vec!["ours", "theirs"]);
        let rate = Measure::new("rate", "MB/s", 0);
        for (ours, theirs) in [(90.0, 100.0), (380.0, 400.0), (160.0, 200.0)] {
            sheet.add(&rate, "ours", ours);
            sheet.add(&rate, "theirs", theirs);
        }
        assert_eq!(sheet.ratio(("rate", "ours"), ("rate", "theirs")), Some(0.9));
    }
}
