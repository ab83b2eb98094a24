//! Identifiers and times as AWS writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// A random UUID.
pub(crate) fn uuid() -> String {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Lowercase letters and digits.
pub(crate) fn short_id(length: usize) -> String {
    const SYMBOLS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(SYMBOLS[rng.random_range(0..SYMBOLS.len())])).collect()
}

/// Time since the Unix epoch.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(crate) fn now_millis() -> u64 {
    now().as_millis() as u64
}

fn moment(millis: u64) -> OffsetDateTime {
    let nanos = i128::from(millis) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// `2026-11-22T10:11:12.345+0000`, as Lambda writes times; from milliseconds since the Unix epoch.
pub(crate) fn timestamp(millis: u64) -> String {
    let format = format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]+0000"
    );
    moment(millis).format(&format).unwrap_or_default()
}

/// `2026-11-22T10:11:12Z`, as the XML protocols write times; from seconds since the Unix epoch.
pub(crate) fn iso8601(seconds: u64) -> String {
    moment(seconds * 1000).format(&Rfc3339).unwrap_or_default()
}

/// The same from milliseconds, with as many digits of a second as they have.
pub(crate) fn iso8601_millis(millis: u64) -> String {
    moment(millis).format(&Rfc3339).unwrap_or_default()
}

/// Seconds since the Unix epoch of an ISO 8601 time.
pub(crate) fn parse_iso8601(text: &str) -> Option<f64> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(moment.unix_timestamp_nanos() as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_aws_writes_them() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000+0000");
        assert_eq!(timestamp(951_782_400_000), "2000-02-29T00:00:00.000+0000");
        assert_eq!(timestamp(1_767_225_599_999), "2025-12-31T23:59:59.999+0000");
    }

    #[test]
    fn uuids_have_their_shape() {
        let id = uuid();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert_ne!(id, uuid());
    }
}
