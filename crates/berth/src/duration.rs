//! Durations in Go's notation, as Lima's command line takes them: `90s`, `1h15m`, `1.5h`, `250ms`.

use std::time::Duration;

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurationError {
    /// No number where one must be.
    #[error("write numbers with units, such as \"90s\" or \"1h15m\"")]
    Syntax,
    /// A number without its unit.
    #[error("the number {0} has no unit (ns, us, ms, s, m or h)")]
    MissingUnit(String),
    /// A unit that does not exist.
    #[error("unknown unit {0:?} (ns, us, ms, s, m or h)")]
    UnknownUnit(String),
    /// More than Go can hold.
    #[error("longer than 292 years")]
    TooLong,
}

/// Reads a duration. A negative one, which Go accepts and Lima treats like zero, becomes zero.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationError::Syntax);
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (nanos, tail) = parse_term(rest)?;
        total = total.checked_add(nanos).ok_or(DurationError::TooLong)?;
        rest = tail;
    }
    let nanos = i64::try_from(total).map_err(|_| DurationError::TooLong)?;
    Ok(if negative {
        Duration::ZERO
    } else {
        Duration::from_nanos(nanos.unsigned_abs())
    })
}

/// Reads one number with its unit: nanoseconds, and what follows.
fn parse_term(text: &str) -> Result<(u128, &str), DurationError> {
    let (whole, rest) = split_at_first(text, |c| !c.is_ascii_digit());
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_at_first(rest, |c| !c.is_ascii_digit()),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::Syntax);
    }
    let number = &text[..text.len() - rest.len()];
    let (unit, rest) = split_at_first(rest, |c| c.is_ascii_digit() || c == '.');
    let scale: u128 = match unit {
        "" => return Err(DurationError::MissingUnit(number.to_owned())),
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(DurationError::UnknownUnit(unit.to_owned())),
    };
    let whole: u128 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| DurationError::TooLong)?,
    };
    let nanos = whole
        .checked_mul(scale)
        .and_then(|nanos| nanos.checked_add(fraction_of(fraction, scale)))
        .ok_or(DurationError::TooLong)?;
    Ok((nanos, rest))
}

/// The digits after the point, as nanoseconds; digits too small to count are cut off.
fn fraction_of(digits: &str, scale: u128) -> u128 {
    let mut nanos = 0;
    let mut place = scale;
    for digit in digits.bytes() {
        place /= 10;
        nanos += u128::from(digit - b'0') * place;
    }
    nanos
}

fn split_at_first(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values as Go's `time.ParseDuration` gives them.
    #[test]
    fn reads_what_go_reads() {
        let table: &[(&str, u64)] = &[
            ("0", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("5.0s", 5_000_000_000),
            ("5.6s", 5_600_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.004s", 1_004_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12µs", 12_000),
            ("12μs", 12_000),
            ("13ms", 13_000_000),
            ("14s", 14_000_000_000),
            ("10m", 600_000_000_000),
            ("16h", 57_600_000_000_000),
            ("3h30m", 12_600_000_000_000),
            ("10.5s4m", 250_500_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
            ("-5m", 0),
        ];
        for (text, nanos) in table {
            assert_eq!(parse(text), Ok(Duration::from_nanos(*nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        let table = [
            ("", DurationError::Syntax),
            ("-", DurationError::Syntax),
            (".", DurationError::Syntax),
            ("s", DurationError::Syntax),
            ("3", DurationError::MissingUnit("3".to_owned())),
            ("1h15", DurationError::MissingUnit("15".to_owned())),
            ("3d", DurationError::UnknownUnit("d".to_owned())),
            ("1 s", DurationError::UnknownUnit(" s".to_owned())),
            ("9223372036854775808ns", DurationError::TooLong),
            (
                "99999999999999999999999999999999999999999h",
                DurationError::TooLong,
            ),
            ("2562048h", DurationError::TooLong),
        ];
        for (text, error) in table {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }
}
