//! From a path to a decoded ONNX file.

use std::io::ErrorKind;
use std::path::Path;

use tract_onnx::pb::ModelProto;
use tract_onnx::tract_core::prelude::Framework;

use crate::ImportError;

/// The file's bytes.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, ImportError> {
    std::fs::read(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => ImportError::NoSuchFile { path: path.to_owned() },
        _ => ImportError::Unreadable { path: path.to_owned(), source },
    })
}

/// The file's content. Protocol buffers carry no magic number, so what is called "not ONNX" and
/// what "damaged" rests on the first field: every exporter begins with `ir_version`.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<ModelProto, ImportError> {
    let decoded = tract_onnx::onnx().proto_model_for_read(&mut &*bytes);
    match decoded {
        Ok(onnx) if onnx.graph.as_ref().is_some_and(|graph| !graph.output.is_empty()) => Ok(onnx),
        Ok(onnx) if onnx.ir_version > 0 && begins_like_onnx(bytes) => Err(ImportError::Truncated {
            path: path.to_owned(),
            cause: "it holds no graph with outputs".into(),
        }),
        Err(cause) if begins_like_onnx(bytes) => {
            Err(ImportError::Truncated { path: path.to_owned(), cause: cause.to_string() })
        }
        _ => Err(ImportError::NotOnnx { path: path.to_owned() }),
    }
}

/// Field 1 (`ir_version`) as a varint from 1 to 127.
fn begins_like_onnx(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, 1..=127, ..])
}
