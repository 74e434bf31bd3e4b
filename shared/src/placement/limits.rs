//! [`Limit`]: how much of a kind a group takes on, as the placement says it.

use std::collections::BTreeMap;
use std::fmt;

/// The kind of the keys outside the table's prefix, in `limits` and in metrics.
pub const OTHER: &str = "other";

/// By the kind's name, as a rule has it, or [`OTHER`].
pub type Limits = BTreeMap<String, Limit>;

/// What is left out is not limited; 0 refuses everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Requests that may change a key, a second. A transaction is one for each kind that it may write.
    pub writes_per_second: Option<u64>,
    /// How many may come at once after a pause; at least 1, and a second's worth unless said.
    pub burst: Option<u64>,
    /// Requests that wait for their answer at once, reads included.
    pub in_flight: Option<u64>,
    /// Keys and values that are put, a second. A second's worth may come at once, and a larger one if nothing came before it.
    pub bytes_per_second: Option<u64>,
}

impl Limit {
    /// How many writes may come at once after a pause.
    pub fn burst(&self) -> u64 {
        self.burst.or(self.writes_per_second).unwrap_or(0)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("writesPerSecond", self.writes_per_second),
            ("burst", self.burst),
            ("inFlight", self.in_flight),
            ("bytesPerSecond", self.bytes_per_second),
        ];
        let mut said = all.into_iter().filter_map(|(name, value)| Some((name, value?))).peekable();
        if said.peek().is_none() {
            return f.write_str("no limit");
        }
        for (index, (name, value)) in said.enumerate() {
            write!(f, "{}{name} {value}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Reads `16MiB`, `16 MiB`, `500kB`, `4096`.
///
/// # Errors
/// What would be right.
pub(super) fn bytes(text: &str) -> Result<u64, &'static str> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("a number of bytes is expected, such as 4096, 500kB or 16MiB"),
    };
    let number: u64 =
        number.parse().map_err(|_no_number| "a number of bytes is expected, such as 4096 or 16MiB")?;
    number.checked_mul(factor).ok_or("is more than can be counted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("7B", Some(7)),
            ("16MiB", Some(16 << 20)),
            ("16 MiB", Some(16 << 20)),
            ("500kB", Some(500_000)),
            ("2GiB", Some(2 << 30)),
            ("", None),
            ("MiB", None),
            ("16mib", None),
            ("-1", None),
            ("1.5MiB", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(bytes(text).ok(), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_limit_is_told_as_it_is_written() {
        let limit = Limit { writes_per_second: Some(2000), in_flight: Some(0), ..Limit::default() };
        assert_eq!(limit.to_string(), "writesPerSecond 2000, inFlight 0");
        assert_eq!((limit.burst(), Limit::default().to_string().as_str()), (2000, "no limit"));
    }
}
