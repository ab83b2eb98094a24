//! A constant that has not been read yet.

use tract_core::internal::*;

/// Stands for a large constant until the node that reads it is made ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    /// Its index among the file's constants.
    pub(crate) index: u32,
    /// Its type and shape.
    pub(crate) fact: TypedFact,
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
