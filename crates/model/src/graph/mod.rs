//! A graph on disk and in memory: the load path.
//!
//! tract gets a model ready in stages: parse, analyse, declutter, then choose kernels and pack
//! weights for the processor it runs on. Everything but the last stage is done once, by the
//! importer, and its result is stored here as a flat list of operators (`record`) and their
//! constants. At start the list is decoded (`read`), and `lower` does what is left. No text is
//! parsed and no shape is guessed; `docs/load-path.md` has the measurements behind it.

mod check;
mod convolve;
mod datum;
mod decisions;
mod dft;
mod dims;
pub mod extra;
mod late;
mod lower;
mod ops;
mod pad;
mod panels;
mod read;
mod record;
mod rows;
mod softmax;
mod sums;
mod tensors;
mod write;

pub(crate) use read::{Graphs, load, tensors};
pub(crate) use tensors::{ALIGNMENT, FileBytes};
pub use write::{Encoded, write};
