//! The prebuilt binary that serves: where it is and what it runs on.

use std::fmt;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zip::ZipArchive;

use crate::SERVER;

/// A processor architecture, named as AWS names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// 64-bit Intel and AMD.
    #[default]
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    Arm64,
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        })
    }
}

/// A `bootstrap` and the architecture it was built for.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// What it runs on.
    pub arch: Arch,
    /// The zip it came in, whose compression can be taken over.
    pub zipped: Option<Vec<u8>>,
}

/// The program's name, in an artifact and in the zip it may ship in.
pub const BOOTSTRAP: &str = "bootstrap";

/// A program that serves a packaged model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// What Lambda runs.
    Bootstrap,
    /// What a container runs.
    Server,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Bootstrap => BOOTSTRAP,
            Self::Server => SERVER,
        }
    }
}

/// Why there is no usable runtime.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum RuntimeError {
    #[error("no runtime at {path}: {source}")]
    Missing { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a Linux program for x86_64 or arm64")]
    NotElf { path: PathBuf },
    #[error("{path} is a zip without a whole `bootstrap`: {source}")]
    NotZip { path: PathBuf, source: zip::result::ZipError },
}

impl Runtime {
    /// Reads the runtime at `path`, a program or a zip of it; its architecture is what its ELF
    /// header says.
    pub fn read(path: &Path) -> Result<Runtime, RuntimeError> {
        let read = std::fs::read(path)
            .map_err(|source| RuntimeError::Missing { path: path.to_owned(), source })?;
        let (bytes, zipped) = match read.starts_with(b"PK\x03\x04") {
            true => (unzip(&read).map_err(|source| not_zip(path, source))?, Some(read)),
            false => (read, None),
        };
        let arch =
            elf_arch(&bytes).ok_or_else(|| RuntimeError::NotElf { path: path.to_owned() })?;
        Ok(Runtime { bytes, arch, zipped })
    }

    /// Whether it needs nothing but the kernel: no `PT_INTERP` in its program headers.
    pub fn is_static(&self) -> bool {
        has_interpreter(&self.bytes) == Some(false)
    }

    /// A runtime for an architecture beside another program: `bootstrap` or `bootstrap-arm64`, or
    /// the same in a zip, which is preferred; `slsml-server` and `slsml-server-arm64` for containers.
    pub fn beside(program: &Path, runtime: Program, arch: Arch) -> PathBuf {
        let name = match arch {
            Arch::X86_64 => runtime.name().to_owned(),
            Arch::Arm64 => format!("{}-arm64", runtime.name()),
        };
        let zip = program.with_file_name(format!("{name}.zip"));
        if zip.is_file() { zip } else { program.with_file_name(name) }
    }
}

fn not_zip(path: &Path, source: zip::result::ZipError) -> RuntimeError {
    RuntimeError::NotZip { path: path.to_owned(), source }
}

fn unzip(bytes: &[u8]) -> Result<Vec<u8>, zip::result::ZipError> {
    let mut archive = ZipArchive::new(Cursor::new(bytes))?;
    let mut file = archive.by_name(BOOTSTRAP)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
}

/// `e_machine` of a 64-bit little-endian ELF file.
fn elf_arch(bytes: &[u8]) -> Option<Arch> {
    let head: &[u8; 20] = bytes.first_chunk()?;
    if head[..6] != *b"\x7fELF\x02\x01" {
        return None;
    }
    match u16::from_le_bytes([head[18], head[19]]) {
        0x3e => Some(Arch::X86_64),
        0xb7 => Some(Arch::Arm64),
        _ => None,
    }
}

/// Whether a 64-bit little-endian ELF file names a loader; none if its headers cannot be read.
fn has_interpreter(bytes: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes);
    let table = usize::try_from(u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for at in 0..count {
        let entry = table.checked_add(at * size)?;
        let kind = bytes.get(entry..entry.checked_add(4)?)?;
        if u32::from_le_bytes(kind.try_into().ok()?) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_program_has_a_known_architecture() {
        let runtime = Runtime::read(&std::env::current_exe().unwrap()).unwrap();
        let expected = if cfg!(target_arch = "x86_64") { Arch::X86_64 } else { Arch::Arm64 };
        assert_eq!(runtime.arch, expected);
        assert!(!runtime.is_static(), "tests are linked as usual");
    }

    #[test]
    fn scripts_and_stubs_are_not_runtimes() {
        assert_eq!(elf_arch(b"#!/bin/sh\necho no, not at all\n"), None);
        assert_eq!(elf_arch(b"\x7fELF"), None);
        assert_eq!(elf_arch(b""), None);
    }
}
