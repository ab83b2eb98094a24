//! The packaged model's file: a head, a JSON header, the operators and the weights.
//!
//! ```text
//! offset  bytes  what
//!      0      8  "SLSMLPM" and a zero byte
//!      8      4  format version
//!     12      4  length of the header
//!     16      8  length of the operators
//!     24      8  length of the weights
//!     32      8  XXH3 of the 32 bytes before, the header and the operators
//!     40      8  XXH3 of the weights
//!     48         header (JSON and spaces), then operators, then weights
//! ```
//!
//! Numbers are little-endian. The checksums find damage; they are no signature. Spaces after the
//! header let the weights begin at a multiple of 512 bytes, so that what lies among them can be used
//! where the file is mapped. Reading never trusts a length before it was compared with what is there.

use std::io::{ErrorKind, Read};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::Signature;
use crate::graph::{ALIGNMENT, Encoded};

const MAGIC: [u8; 8] = *b"SLSMLPM\0";
const HEAD: usize = 48;

/// The head up to its checksums.
const COUNTED: usize = 32;

/// The version this build reads and writes.
pub const FORMAT_VERSION: u32 = 4;

/// Version 1 had a longer head.
const HEAD_OF_VERSION_1: usize = 56;

/// Headers are small; a longer one is not read for the sake of an error message.
const MAX_FOREIGN_HEADER: usize = 1 << 20;

/// What is known of a packaged model without loading its graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The slsml that wrote the file.
    pub slsml_version: String,
    /// SHA-256 of the original ONNX file, hexadecimal.
    pub source_sha256: String,
    /// What the model takes and gives.
    pub signature: Signature,
    /// The most that tensors between operators hold at one time, in bytes; `None` where a
    /// dimension is open.
    pub activation_bytes: Option<u64>,
    /// Whether every row along the first dimension of the outputs depends on nothing but that row of
    /// the inputs, and has the same bits among others as alone.
    #[serde(default)]
    pub independent_rows: bool,
}

impl Header {
    /// The header of a graph that this slsml wrote.
    pub fn new(source_sha256: String, signature: Signature, graph: &Encoded) -> Header {
        Header {
            slsml_version: env!("CARGO_PKG_VERSION").into(),
            source_sha256,
            signature,
            activation_bytes: graph.activation_bytes,
            independent_rows: graph.dependent_rows.is_none(),
        }
    }
}

/// Why bytes are not a packaged model this build can load.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ContainerError {
    #[error("not a packaged model (it does not begin with SLSMLPM)")]
    NotPackaged,
    #[error("packaged in format {found} by slsml {made_by}; this slsml {ours} reads format {FORMAT_VERSION}: package the model again with the slsml that serves it", ours = env!("CARGO_PKG_VERSION"))]
    Version { found: u32, made_by: String },
    #[error("truncated: {expected} bytes expected, {found} found")]
    Truncated { expected: u64, found: u64 },
    #[error("{extra} bytes follow the model's end")]
    Trailing { extra: u64 },
    #[error("damaged: its checksum does not match its content")]
    Checksum,
    #[error("its header cannot be read: {0}")]
    Header(#[from] serde_json::Error),
    #[error("its operators cannot be read: {0}")]
    Operators(String),
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

/// Everything before the weights, checked; the reader stands at the first byte of the weights.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) header: Header,
    /// The operators, as [`crate::graph`] writes and reads them.
    pub(crate) plan: Vec<u8>,
    pub(crate) weights_len: u64,
    weights_checksum: u64,
}

impl Front {
    /// Reads what comes before the weights of a file of `length` bytes.
    pub(crate) fn read(from: &mut dyn Read, length: u64) -> Result<Front, ContainerError> {
        let mut head = [0; HEAD];
        let read = read_up_to(from, &mut head)?;
        if read < MAGIC.len() || !head.starts_with(&MAGIC) {
            return Err(ContainerError::NotPackaged);
        }
        if read < HEAD {
            return Err(ContainerError::Truncated { expected: HEAD as u64, found: length });
        }
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap_or_default());
        let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap_or_default());
        let (version, header_len) = (word(8), u64::from(word(12)));
        if version != FORMAT_VERSION {
            let made_by = foreign_maker(from, version, header_len);
            return Err(ContainerError::Version { found: version, made_by });
        }
        let (plan_len, weights_len) = (long(16), long(24));
        let front = (HEAD as u64).saturating_add(header_len).saturating_add(plan_len);
        let expected = front.saturating_add(weights_len);
        if length < expected {
            return Err(ContainerError::Truncated { expected, found: length });
        }
        if length > expected {
            return Err(ContainerError::Trailing { extra: length - expected });
        }
        let mut header = vec![0; header_len as usize];
        let mut plan = vec![0; plan_len as usize];
        from.read_exact(&mut header)?;
        from.read_exact(&mut plan)?;
        if front_checksum(&head[..COUNTED], &header, &plan) != long(32) {
            return Err(ContainerError::Checksum);
        }
        let header = serde_json::from_slice(&header)?;
        Ok(Front { header, plan, weights_len, weights_checksum: long(40) })
    }

    /// Compares the weights with what was written.
    pub(crate) fn check_weights(&self, weights: &[u8]) -> Result<(), ContainerError> {
        match xxh3_64(weights) == self.weights_checksum {
            true => Ok(()),
            false => Err(ContainerError::Checksum),
        }
    }
}

/// What a packaged model's bytes consist of, part by part: names and sizes, which sum to the
/// file. Large constants are named after the node that reads them.
pub fn parts(mut bytes: &[u8]) -> Result<Vec<(String, u64)>, ContainerError> {
    let length = bytes.len() as u64;
    let front = Front::read(&mut bytes, length)?;
    let front_len = length - front.weights_len;
    let header_len = front_len - HEAD as u64 - front.plan.len() as u64;
    let mut parts = vec![
        ("head".to_owned(), HEAD as u64),
        ("header".to_owned(), header_len),
        ("operators and small constants".to_owned(), front.plan.len() as u64),
    ];
    let tensors = crate::graph::tensors(&front.plan).map_err(ContainerError::Operators)?;
    let named: u64 = tensors.iter().map(|(_, bytes)| bytes).sum();
    let padding = front.weights_len.checked_sub(named).ok_or(ContainerError::Checksum)?;
    parts.extend((padding > 0).then(|| ("padding".to_owned(), padding)));
    parts.extend(tensors);
    Ok(parts)
}

/// The bytes of a packaged model's file.
pub fn write(header: &Header, graph: &Encoded) -> Result<Vec<u8>, ContainerError> {
    let header = serde_json::to_vec(header)?;
    Ok(Sections { header: &header, plan: &graph.plan, weights: &graph.weights }.seal())
}

/// What follows the head, whatever it holds.
#[derive(Clone, Copy, Debug)]
pub struct Sections<'a> {
    /// JSON.
    pub header: &'a [u8],
    /// The operators.
    pub plan: &'a [u8],
    /// The constants' bytes.
    pub weights: &'a [u8],
}

impl<'a> Sections<'a> {
    /// The sections of a file by the lengths in its head, shortened to what is there. Nothing is
    /// checked: this is for those who attack what is.
    pub fn of(bytes: &'a [u8]) -> Option<Sections<'a>> {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let header = u32::from_le_bytes(head[12..16].try_into().ok()?) as usize;
        let (header, rest) = rest.split_at(header.min(rest.len()));
        let plan = usize::try_from(u64::from_le_bytes(head[16..24].try_into().ok()?)).ok()?;
        let (plan, weights) = rest.split_at(plan.min(rest.len()));
        Some(Sections { header, plan, weights })
    }

    /// A file of these sections, with its lengths and checksums.
    pub fn seal(&self) -> Vec<u8> {
        let Sections { plan, weights, .. } = self;
        let mut header = self.header.trim_ascii_end().to_vec();
        let front = HEAD + header.len() + plan.len();
        header.resize(header.len() + front.next_multiple_of(ALIGNMENT) - front, b' ');
        let header = &header;
        let mut bytes = Vec::with_capacity(HEAD + header.len() + plan.len() + weights.len());
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend((plan.len() as u64).to_le_bytes());
        bytes.extend((weights.len() as u64).to_le_bytes());
        bytes.extend(front_checksum(&bytes, header, plan).to_le_bytes());
        bytes.extend(xxh3_64(weights).to_le_bytes());
        bytes.extend(header);
        bytes.extend(*plan);
        bytes.extend(*weights);
        bytes
    }
}

fn front_checksum(head: &[u8], header: &[u8], plan: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(head);
    sum.update(header);
    sum.update(plan);
    sum.digest()
}

fn read_up_to(from: &mut dyn Read, into: &mut [u8]) -> std::io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match from.read(&mut into[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Who made a file of another version, as far as its header says so.
fn foreign_maker(from: &mut dyn Read, version: u32, header_len: u64) -> String {
    #[derive(Deserialize)]
    struct Maker {
        slsml_version: String,
    }
    let skipped = if version == 1 { HEAD_OF_VERSION_1 - HEAD } else { 0 };
    let wanted = skipped + (header_len as usize).min(MAX_FOREIGN_HEADER);
    let mut bytes = Vec::new();
    let read = from.take(wanted as u64).read_to_end(&mut bytes);
    let header = bytes.get(skipped..).filter(|_| read.is_ok());
    header
        .and_then(|header| serde_json::from_slice::<Maker>(header).ok())
        .map_or_else(|| "of an unknown version".into(), |maker| maker.slsml_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packaged() -> Vec<u8> {
        let header = Header {
            slsml_version: "1.2.3".into(),
            source_sha256: "00".into(),
            signature: Signature { inputs: vec![], outputs: vec![] },
            activation_bytes: None,
            independent_rows: false,
        };
        let graph = Encoded {
            plan: b"plan".to_vec(),
            weights: b"weights".to_vec(),
            activation_bytes: None,
            dependent_rows: None,
        };
        write(&header, &graph).unwrap()
    }

    fn parse(bytes: &[u8]) -> Result<(Front, Vec<u8>), ContainerError> {
        let mut from = bytes;
        let front = Front::read(&mut from, bytes.len() as u64)?;
        front.check_weights(from)?;
        Ok((front, from.to_vec()))
    }

    #[test]
    fn what_was_written_is_read_back() {
        let (front, weights) = parse(&packaged()).unwrap();
        assert_eq!((&*front.plan, &*weights), (&b"plan"[..], &b"weights"[..]));
        assert_eq!(front.header.slsml_version, "1.2.3");
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = packaged();
        for length in 0..bytes.len() {
            let error = parse(&bytes[..length]).unwrap_err();
            let expected =
                matches!(error, ContainerError::NotPackaged | ContainerError::Truncated { .. });
            assert!(expected, "{length}: {error}");
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = packaged();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_format_version_says_who_made_it_and_what_to_do() {
        let mut bytes = packaged();
        bytes[8] = 9;
        let message = parse(&bytes).unwrap_err().to_string();
        assert!(message.contains("format 9 by slsml 1.2.3"), "{message}");
        assert!(message.contains("package the model again"), "{message}");
    }
}
