//! Zips: checked, kept by digest, unpacked once.

use std::io::{Cursor, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::error::{AwsError, AwsResult};
use crate::home::Home;
use crate::lambda::state::Code;

/// The largest zip a request may carry itself.
pub(crate) const DIRECT_ZIP_LIMIT: usize = 52_428_800;

/// The largest function or set of layers, unpacked.
pub(crate) const UNZIPPED_LIMIT: u64 = 262_144_000;

/// Code by digest.
#[derive(Debug)]
pub(crate) struct CodeStore {
    zips: PathBuf,
    unpacked: PathBuf,
}

/// The digest as a file name.
fn key(sha256: &str) -> String {
    STANDARD.decode(sha256).map_or_else(|_| "unknown".into(), |bytes| URL_SAFE_NO_PAD.encode(bytes))
}

impl CodeStore {
    pub(crate) fn open(home: &Home) -> std::io::Result<CodeStore> {
        let store = CodeStore { zips: home.join("code"), unpacked: home.join("unpacked") };
        for folder in [&store.zips, &store.unpacked] {
            std::fs::create_dir_all(folder)?;
            remove_unfinished(folder)?;
        }
        Ok(store)
    }

    /// The zip of a digest.
    pub(crate) fn zip(&self, sha256: &str) -> PathBuf {
        self.zips.join(format!("{}.zip", key(sha256)))
    }

    /// Where clients of the local cloud at `endpoint` download the zip of a digest.
    pub(crate) fn location(&self, sha256: &str, endpoint: &str) -> String {
        format!("{endpoint}/_slsml/code/{}.zip", key(sha256))
    }

    /// Checks a zip and keeps it.
    pub(crate) fn put(&self, bytes: &[u8]) -> AwsResult<Code> {
        let code = inspect(bytes)?;
        let path = self.zip(&code.sha256);
        if !path.exists() {
            let fresh = path.with_extension(format!("new-{}", crate::ids::short_id(8)));
            let written =
                std::fs::write(&fresh, bytes).and_then(|()| std::fs::rename(&fresh, &path));
            written.map_err(|error| {
                // Whatever was written takes space that is missed already.
                let _ = std::fs::remove_file(&fresh);
                AwsError::internal(format!("cannot keep the code in {}: {error}", path.display()))
            })?;
        }
        Ok(code)
    }

    /// The folder a digest is unpacked in.
    pub(crate) fn unpack(&self, sha256: &str) -> std::io::Result<PathBuf> {
        self.once(&key(sha256), &[sha256])
    }

    /// A folder with several layers over each other, the later ones above.
    pub(crate) fn merge_layers(&self, digests: &[&str]) -> std::io::Result<PathBuf> {
        let name = Sha256::digest(digests.join(","));
        self.once(&format!("layers-{}", URL_SAFE_NO_PAD.encode(name)), digests)
    }

    /// Unpacks zips over each other into a folder, unless it is there: it appears whole or not.
    fn once(&self, name: &str, digests: &[&str]) -> std::io::Result<PathBuf> {
        let target = self.unpacked.join(name);
        if target.exists() {
            return Ok(target);
        }
        let fresh = target.with_extension(format!("new-{}", crate::ids::short_id(8)));
        std::fs::create_dir_all(&fresh)?;
        for digest in digests {
            unpack_into(&std::fs::read(self.zip(digest))?, &fresh)?;
        }
        match std::fs::rename(&fresh, &target) {
            Ok(()) => Ok(target),
            // Another request was faster.
            Err(_) if target.exists() => std::fs::remove_dir_all(&fresh).map(|()| target),
            Err(error) => Err(error),
        }
    }
}

/// What a killed process left half-written.
fn remove_unfinished(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let unfinished =
            path.extension().is_some_and(|ending| ending.to_string_lossy().starts_with("new-"));
        match (unfinished, path.is_dir()) {
            (true, true) => std::fs::remove_dir_all(path)?,
            (true, false) => std::fs::remove_file(path)?,
            (false, _) => {}
        }
    }
    Ok(())
}

fn not_a_zip() -> AwsError {
    AwsError::invalid(
        "Could not unzip uploaded file. Please check your file, then try to upload again.",
    )
}

fn inspect(bytes: &[u8]) -> AwsResult<Code> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|_| not_a_zip())?;
    let (mut unzipped, mut has_bootstrap) = (0u64, false);
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).map_err(|_| not_a_zip())?;
        if file.enclosed_name().is_none() {
            return Err(not_a_zip());
        }
        has_bootstrap |= file.name().is_ok_and(|name| name == "bootstrap");
        // What the directory claims may be a lie: count what really comes out.
        let room = UNZIPPED_LIMIT + 1 - unzipped.min(UNZIPPED_LIMIT);
        let read = std::io::copy(&mut file.by_ref().take(room), &mut std::io::sink());
        unzipped += read.map_err(|_| not_a_zip())?;
        if unzipped > UNZIPPED_LIMIT {
            return Err(AwsError::invalid(format!(
                "Unzipped size must be smaller than {UNZIPPED_LIMIT} bytes"
            )));
        }
    }
    if archive.is_empty() {
        return Err(AwsError::invalid("Uploaded file must be a non-empty zip"));
    }
    let sha256 = STANDARD.encode(Sha256::digest(bytes));
    Ok(Code { sha256, size: bytes.len() as u64, unzipped, has_bootstrap })
}

fn unpack_into(bytes: &[u8], target: &Path) -> std::io::Result<()> {
    let mut archive = ZipArchive::new(Cursor::new(bytes))?;
    for index in 0..archive.len() {
        let mut file = archive.by_index(index)?;
        let Some(name) = file.enclosed_name() else { continue };
        let path = target.join(name);
        if file.is_dir() {
            std::fs::create_dir_all(&path)?;
            continue;
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // A later layer's file replaces an earlier one's, which may not be writable.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::io::copy(&mut file, &mut std::fs::File::create(&path)?)?;
        let mode = file.unix_mode().unwrap_or(0o644) & 0o777;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode | 0o444))?;
    }
    Ok(())
}
