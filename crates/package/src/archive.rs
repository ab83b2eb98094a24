//! Deterministic zip files.

use std::io::{Cursor, Write};

use thiserror::Error;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// A file to put into an archive.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its path, with forward slashes.
    pub path: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
    /// Whether its run bit is set.
    pub executable: bool,
}

/// Why an archive could not be made.
#[derive(Debug, Error)]
#[error("cannot make the zip: {0}")]
pub struct ArchiveError(#[from] zip::result::ZipError);

impl From<std::io::Error> for ArchiveError {
    fn from(error: std::io::Error) -> Self {
        Self(error.into())
    }
}

/// A zip of the entries, sorted by path, at the earliest time the format knows (1980-01-01).
pub fn zip(entries: &[Entry<'_>]) -> Result<Vec<u8>, ArchiveError> {
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by_key(|entry| entry.path);
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(6))
            .last_modified_time(DateTime::default())
            .large_file(entry.bytes.len() > u32::MAX as usize)
            .unix_permissions(if entry.executable { 0o755 } else { 0o644 });
        archive.start_file(entry.path, options)?;
        archive.write_all(entry.bytes)?;
    }
    Ok(archive.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn order_of_entries_does_not_change_the_bytes() {
        let a = Entry { path: "a", bytes: b"first", executable: true };
        let b = Entry { path: "b/c", bytes: b"second", executable: false };
        assert_eq!(zip(&[a.clone(), b.clone()]).unwrap(), zip(&[b, a]).unwrap());
    }

    #[test]
    fn content_and_run_bit_are_read_back() {
        let entry = Entry { path: "bootstrap", bytes: &[7; 5000], executable: true };
        let bytes = zip(&[entry]).unwrap();
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut file = archive.by_name("bootstrap").unwrap();
        assert_eq!(file.unix_mode(), Some(0o100755));
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, [7; 5000]);
    }
}
