//! Loops over numbers that run instead of tract's where that pays. They know slices and geometry,
//! no graph; `slsml-model` puts them into operators. A crate of their own because the rest of the
//! served binary is compiled for size.

mod depthwise;
mod lanes;
mod panel;
mod sum;

pub use depthwise::{Axis, Depthwise};
pub use panel::Panel;
pub use sum::sum_rows;
