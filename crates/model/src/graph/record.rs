//! What a stored graph consists of. Plain data in [postcard](https://postcard.jamesmunns.com)'s
//! format; indices point into the tables of [`Graphs`], and reading checks every one of them.

use serde::{Deserialize, Serialize};

use super::datum::DatumRecord;
use super::dims::DimRecord;
use super::ops::OpRecord;
use super::panels::Panels;

/// Everything but the weights' bytes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct GraphsRecord {
    /// Names of the dimensions that have no length yet.
    pub symbols: Vec<String>,
    /// What is known of them, as tract writes it: `batch >= 1`.
    pub assertions: Vec<String>,
    /// Constants. In the weights the small ones come first, each kind in this order.
    pub tensors: Vec<TensorRecord>,
    /// Bodies of loops and branches come before the graph that holds them; the model is the last.
    pub graphs: Vec<GraphRecord>,
}

/// One graph. Nodes come after the nodes they read.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GraphRecord {
    pub nodes: Vec<NodeRecord>,
    pub inputs: Vec<u32>,
    pub outputs: Vec<OutletRecord>,
}

/// One node: its operator and where its inputs come from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub name: String,
    pub op: OpRecord,
    pub inputs: Vec<OutletRecord>,
}

/// An output of a node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct OutletRecord {
    pub node: u32,
    pub slot: u32,
}

/// A constant.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TensorRecord {
    pub datum: DatumRecord,
    pub shape: Vec<u64>,
    pub content: ContentRecord,
}

/// Where a constant's elements are.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ContentRecord {
    /// Here, as they lie in memory (little-endian).
    Inline(Vec<u8>),
    /// In the weights, as they lie in memory (little-endian).
    Weights,
    /// In the weights, as a matrix product reads them.
    Panels(Panels),
    Dims(Vec<DimRecord>),
    Strings(Vec<String>),
}
