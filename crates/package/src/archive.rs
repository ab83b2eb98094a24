//! Deterministic zip files.

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

/// A file to put into an archive.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its path, with forward slashes.
    pub path: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
    /// Whether its run bit is set.
    pub executable: bool,
    /// How it is put in.
    pub method: Method,
    /// A zip that holds it alone, compressed beforehand: taken over as it is.
    pub zipped: Option<&'a [u8]>,
}

/// How a file is put into an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// As it is.
    Stored,
    /// Deflate, level 6.
    Deflated,
    /// Deflate as zopfli finds it: slow, and a few percent smaller.
    Zopfli,
}

/// Why an archive could not be made.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ArchiveError {
    #[error("cannot make the zip: {0}")]
    Zip(#[from] zip::result::ZipError),
    #[error("cannot make the zip: {0}")]
    Io(#[from] std::io::Error),
    #[error("SOURCE_DATE_EPOCH is {0}, which no zip can state: from 1980 to 2107")]
    Date(i64),
}

/// A zip of the entries, sorted by path. Files carry the time `modified`, in seconds since 1970,
/// or without one the earliest a zip can state (1980-01-01).
pub fn zip(entries: &[Entry<'_>], modified: Option<i64>) -> Result<Vec<u8>, ArchiveError> {
    let time = match modified {
        Some(seconds) => date(seconds).ok_or(ArchiveError::Date(seconds))?,
        None => DateTime::default(),
    };
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by_key(|entry| entry.path);
    let capacity = entries.iter().map(|entry| entry.bytes.len() + 256).sum();
    let mut archive = ZipWriter::new(Cursor::new(Vec::with_capacity(capacity)));
    for entry in entries {
        let mode = if entry.executable { 0o755 } else { 0o644 };
        if let Some(zipped) = entry.zipped {
            let mut source = ZipArchive::new(Cursor::new(zipped))?;
            let file = source.by_name(entry.path)?;
            archive.raw_copy_file_touch(file, time, Some(mode))?;
            continue;
        }
        let (method, level) = match entry.method {
            Method::Stored => (CompressionMethod::Stored, None),
            Method::Deflated => (CompressionMethod::Deflated, Some(LEVEL)),
            Method::Zopfli => (CompressionMethod::Deflated, Some(ZOPFLI_LEVEL)),
        };
        let options = SimpleFileOptions::default()
            .compression_method(method)
            .compression_level(level)
            .last_modified_time(time)
            .large_file(entry.bytes.len() > u32::MAX as usize)
            .unix_permissions(mode);
        archive.start_file(entry.path, options)?;
        archive.write_all(entry.bytes)?;
    }
    Ok(archive.finish()?.into_inner())
}

const LEVEL: i64 = 6;

/// The zip crate takes levels above 9 for zopfli's iterations, less 9.
const ZOPFLI_LEVEL: i64 = 24;

/// How many pieces of a file are tried, and how long each is.
const PIECES: usize = 6;
const PIECE: usize = 128 * 1024;

/// The share of `bytes` that would be left after deflating, by trying pieces of it.
pub(crate) fn deflated_share(bytes: &[u8]) -> f64 {
    if bytes.is_empty() {
        return 1.0;
    }
    let step = (bytes.len() / PIECES).max(PIECE);
    let (mut before, mut after) = (0, 0);
    for start in (0..bytes.len()).step_by(step) {
        let piece = &bytes[start..bytes.len().min(start + PIECE)];
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(LEVEL as u32));
        // Writing to memory does not fail; if it did, nothing would seem to be won.
        let deflated = encoder.write_all(piece).and_then(|()| encoder.finish());
        before += piece.len();
        after += deflated.map_or(piece.len(), |deflated| deflated.len());
    }
    after as f64 / before as f64
}

/// The date as a zip states it, in UTC, to two seconds.
fn date(seconds: i64) -> Option<DateTime> {
    let at = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    let year = u16::try_from(at.year()).ok()?;
    let (month, day) = (u8::from(at.month()), at.day());
    DateTime::from_date_and_time(year, month, day, at.hour(), at.minute(), at.second()).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const PLAIN: Entry<'_> = Entry {
        path: "a",
        bytes: b"first",
        executable: true,
        method: Method::Deflated,
        zipped: None,
    };

    #[test]
    fn order_of_entries_does_not_change_the_bytes() {
        let b = Entry { path: "b/c", bytes: b"second", executable: false, ..PLAIN };
        let one = zip(&[PLAIN, b.clone()], None).unwrap();
        assert_eq!(one, zip(&[b, PLAIN], None).unwrap());
    }

    #[test]
    fn content_and_run_bit_are_read_back_whatever_the_method() {
        for method in [Method::Stored, Method::Deflated, Method::Zopfli] {
            let entry = Entry { path: "bootstrap", bytes: &[7; 5000], method, ..PLAIN };
            let bytes = zip(&[entry], None).unwrap();
            let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
            let mut file = archive.by_name("bootstrap").unwrap();
            assert_eq!(file.unix_mode(), Some(0o100755));
            let mut content = Vec::new();
            file.read_to_end(&mut content).unwrap();
            assert_eq!(content, [7; 5000]);
        }
    }

    #[test]
    fn what_was_compressed_beforehand_is_taken_over() {
        let whole = [9; 70_000];
        let entry = Entry { path: "x", bytes: &whole, method: Method::Zopfli, ..PLAIN };
        let before = zip(&[Entry { executable: false, ..entry.clone() }], Some(1 << 30)).unwrap();
        let after = zip(&[Entry { zipped: Some(&before), ..entry.clone() }], None).unwrap();
        assert!(after == zip(&[entry], None).unwrap());
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let stated = |seconds| {
            let bytes = zip(&[PLAIN], Some(seconds)).ok()?;
            let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
            let time = archive.by_index(0).unwrap().last_modified().unwrap();
            Some(time.to_string())
        };
        assert_eq!(stated(1_735_689_600).unwrap(), "2025-01-01 00:00:00");
        assert_eq!(stated(951_868_799).unwrap(), "2000-02-29 23:59:58");
        assert_eq!(stated(315_532_799), None);
        assert_eq!(stated(1 << 40), None);
    }

    #[test]
    fn noise_keeps_its_size_and_repetition_loses_it() {
        let mut state = 1u64;
        let noise: Vec<u8> = (0..1_000_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        assert!(deflated_share(&noise) > 0.99);
        assert!(deflated_share(&[5; 1_000_000]) < 0.01);
        assert_eq!(deflated_share(&[]), 1.0);
    }
}
