//! Sizes such as `4GiB`: always binary multiples, as in Lima.

use serde::{Deserialize, Serialize};

/// A number of bytes together with the text it was written as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size {
    text: String,
    bytes: u64,
}

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size: write a number and a unit, such as \"4GiB\" or \"512MiB\"")]
pub struct SizeError(String);

impl Size {
    /// A size from a number of bytes, written the way Lima writes computed defaults (`%.4g` and a binary unit).
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Self {
        Self {
            text: format_binary(bytes),
            bytes,
        }
    }

    /// Reads `float [space] unit`, unit case-insensitive among none, `b`, `k`, `m`, `g`, `t`, `p`, the latter optionally
    /// followed by `b` or `ib`; always base 1024.
    pub fn parse(text: &str) -> Result<Self, SizeError> {
        let bad = || SizeError(text.to_owned());
        let trimmed = text.trim_matches([' ', '\t']);
        let split = trimmed
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let unit = unit.trim_start_matches([' ', '\t']).to_ascii_lowercase();
        let exponent = match unit
            .strip_suffix("ib")
            .or(unit.strip_suffix('b'))
            .unwrap_or(&unit)
        {
            "" if unit == "ib" => return Err(bad()),
            "" => 0,
            "k" => 1,
            "m" => 2,
            "g" => 3,
            "t" => 4,
            "p" => 5,
            _ => return Err(bad()),
        };
        let bytes = number * 1024_f64.powi(exponent);
        if !bytes.is_finite() || bytes > 9.2e18 {
            return Err(bad());
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded above; the number has no sign"
        )]
        let bytes = bytes as u64;
        Ok(Self {
            text: text.to_owned(),
            bytes,
        })
    }

    /// The number of bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The text as written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// `%.4g` of the largest binary unit that leaves at least 1, as docker's `BytesSize` prints.
#[must_use]
pub fn format_binary(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    #[allow(
        clippy::cast_precision_loss,
        reason = "four significant digits are printed"
    )]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value >= 1000.0 {
        0
    } else if value >= 100.0 {
        1
    } else if value >= 10.0 {
        2
    } else {
        3
    };
    let mut number = format!("{value:.digits$}");
    if number.contains('.') {
        number = number
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned();
    }
    format!("{number}{}", UNITS[unit])
}

impl TryFrom<String> for Size {
    type Error = SizeError;
    fn try_from(text: String) -> Result<Self, SizeError> {
        Self::parse(&text)
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "G",
            "-1",
            "+1G",
            "1.2.3",
            "1 G B",
            "1X",
            "1ib",
            "1Gi",
            "1e3",
            "inf",
            "NaN",
            "0x10",
            "9E",
            "99999999P",
            "1\u{a0}G\u{a0}",
            "٣G",
        ] {
            assert!(Size::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_spelling_of_a_unit_is_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("4", 4),
            ("4b", 4),
            ("1k", 1024),
            ("1KB", 1024),
            ("1 KiB", 1024),
            ("1.5m", 3 << 19),
            (".5G", 1 << 29),
            ("100GiB", 100 << 30),
            ("2t", 2 << 40),
            ("1P", 1 << 50),
        ] {
            assert_eq!(Size::parse(text).expect(text).bytes(), bytes, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_written_with_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1536, "1.5KiB"),
            ((1 << 30) * 3 / 2, "1.5GiB"),
            (8_324_321_280, "7.753GiB"),
            (16 << 30, "16GiB"),
            (1023 << 20, "1023MiB"),
            (1 << 60, "1024PiB"),
        ] {
            assert_eq!(format_binary(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_nearly_the_same(bytes in 0_u64..(1 << 60)) {
            let written = Size::from_bytes(bytes);
            let read = Size::parse(written.text()).expect("its own text");
            let difference = read.bytes().abs_diff(bytes);
            prop_assert!(difference <= bytes / 1000, "{} differs by {difference}", written.text());
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}") {
            if let Ok(size) = Size::parse(&text) {
                prop_assert_eq!(size.text(), text.as_str());
                prop_assert_eq!(Size::parse(size.text()).map(|again| again.bytes()), Ok(size.bytes()));
            }
        }
    }
}
