//! A constant that has not been read yet.

use tract_core::internal::*;
use tract_core::tract_linalg::pack::PackedFormat;

use super::panels::{Mapped, Panels};

/// Where constants that come late are.
pub(crate) trait Later {
    /// A constant, by its index, as it was before it was stored.
    fn read(&mut self, index: u32) -> TractResult<Arc<Tensor>>;

    /// A constant that is stored in panels of a format, where it lies.
    fn map(&mut self, index: u32, format: PackedFormat) -> TractResult<Mapped>;
}

/// Where nothing comes late.
pub(crate) struct Nothing;

impl Later for Nothing {
    fn read(&mut self, index: u32) -> TractResult<Arc<Tensor>> {
        bail!("the constant {index} comes late")
    }

    fn map(&mut self, index: u32, _: PackedFormat) -> TractResult<Mapped> {
        bail!("the constant {index} comes late")
    }
}

/// Stands for a large constant until the node that reads it is made ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    /// Its index among the file's constants.
    pub(crate) index: u32,
    /// Its type and shape.
    pub(crate) fact: TypedFact,
    /// Whether, and how, it is stored as products read it.
    pub(crate) panels: Option<Panels>,
}

impl Op for Late {
    fn name(&self) -> StaticName {
        "Late".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Late {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, _: TVec<TValue>) -> TractResult<TVec<TValue>> {
        bail!("the constant {} was never read", self.index)
    }
}

impl TypedOp for Late {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.fact.clone()))
    }

    as_op!();
}
