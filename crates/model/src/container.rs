//! The packaged model's file: a fixed head, a JSON header and the graph's bytes.
//!
//! ```text
//! offset  bytes  what
//!      0      8  "SLSMLPM" and a zero byte
//!      8      4  format version, little-endian
//!     12      4  length of the header, little-endian
//!     16      8  length of the graph, little-endian
//!     24     32  SHA-256 of header and graph
//!     56         header (JSON), then graph
//! ```
//!
//! Reading never trusts a length before it was compared with what is there.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::Signature;

const MAGIC: [u8; 8] = *b"SLSMLPM\0";
const HEAD: usize = 56;

/// The version this build reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// What is known of a packaged model without loading its graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The slsml that wrote the file.
    pub slsml_version: String,
    /// SHA-256 of the original ONNX file, hexadecimal.
    pub source_sha256: String,
    /// What the model takes and gives.
    pub signature: Signature,
}

/// A packaged model's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container<'a> {
    /// What is known without loading.
    pub header: Header,
    /// The graph, as [`crate::graph`] writes and reads it.
    pub graph: &'a [u8],
}

/// Why bytes are not a packaged model this build can load.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ContainerError {
    #[error("not a packaged model (it does not begin with SLSMLPM)")]
    NotPackaged,
    #[error("packaged in format {found}, this slsml {ours} reads format {FORMAT_VERSION}: package the model again with this slsml", ours = env!("CARGO_PKG_VERSION"))]
    Version { found: u32 },
    #[error("truncated: {expected} bytes expected, {found} found")]
    Truncated { expected: u64, found: u64 },
    #[error("{extra} bytes follow the model's end")]
    Trailing { extra: u64 },
    #[error("damaged: its checksum does not match its content")]
    Checksum,
    #[error("its header cannot be read: {0}")]
    Header(#[from] serde_json::Error),
}

impl<'a> Container<'a> {
    /// The parts of a packaged model's bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Container<'a>, ContainerError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(ContainerError::NotPackaged);
        }
        let found = bytes.len() as u64;
        let head: &[u8; HEAD] = bytes
            .first_chunk()
            .ok_or(ContainerError::Truncated { expected: HEAD as u64, found })?;
        let version = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if version != FORMAT_VERSION {
            return Err(ContainerError::Version { found: version });
        }
        let header_len = u64::from(u32::from_le_bytes([head[12], head[13], head[14], head[15]]));
        let mut graph_len = [0; 8];
        graph_len.copy_from_slice(&head[16..24]);
        let graph_len = u64::from_le_bytes(graph_len);
        let expected = (HEAD as u64).saturating_add(header_len).saturating_add(graph_len);
        if found < expected {
            return Err(ContainerError::Truncated { expected, found });
        }
        if found > expected {
            return Err(ContainerError::Trailing { extra: found - expected });
        }
        let content = &bytes[HEAD..];
        if Sha256::digest(content).as_slice() != &head[24..] {
            return Err(ContainerError::Checksum);
        }
        // Both lengths fit: their sum is the length of a slice in memory.
        let (header, graph) = content.split_at(header_len as usize);
        Ok(Container { header: serde_json::from_slice(header)?, graph })
    }

    /// The bytes of a packaged model's file.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ContainerError> {
        let header = serde_json::to_vec(&self.header)?;
        let mut digest = Sha256::new();
        digest.update(&header);
        digest.update(self.graph);
        let mut bytes = Vec::with_capacity(HEAD + header.len() + self.graph.len());
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend((self.graph.len() as u64).to_le_bytes());
        bytes.extend(digest.finalize());
        bytes.extend(header);
        bytes.extend(self.graph);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packaged() -> Vec<u8> {
        let header = Header {
            slsml_version: "1.2.3".into(),
            source_sha256: "00".into(),
            signature: Signature { inputs: vec![], outputs: vec![] },
        };
        Container { header, graph: b"graph" }.to_bytes().unwrap()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let bytes = packaged();
        let read = Container::parse(&bytes).unwrap();
        assert_eq!(read.graph, b"graph");
        assert_eq!(read.header.slsml_version, "1.2.3");
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = packaged();
        for length in 0..bytes.len() {
            let error = Container::parse(&bytes[..length]).unwrap_err();
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
            assert!(Container::parse(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_format_version_says_what_to_do() {
        let mut bytes = packaged();
        bytes[8] = 9;
        let message = Container::parse(&bytes).unwrap_err().to_string();
        assert!(message.contains("format 9") && message.contains("package the model again"));
    }
}
