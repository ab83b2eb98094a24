//! Stands in for `tract-nnef` (see `[patch.crates-io]` in the workspace).
//!
//! `tract-onnx-opl` brings the ONNX operators that tract-core lacks, and with them their NNEF text
//! form. slsml stores graphs in a form of its own, but the real crate registers its parser and all
//! its operators in a static constructor, which no linker drops: a sixth of the served binary.
//! This crate has the names `tract-onnx-opl` and `tract-extra` need to compile. Reading and
//! writing NNEF is an error here.
#![forbid(unsafe_code)]
#![allow(missing_docs)]

pub use tract_core;
pub use tract_core::prelude::{tract_ndarray, tract_num_traits};

pub mod prelude {
    pub use tract_core;
    pub use tract_core::prelude::*;
}

pub mod internal {
    pub use crate::ast::{Identifier, Parameter, RValue, TypeName, TypeSpec};
    pub use crate::deser::{ModelBuilder, ResolvedInvocation, Value};
    pub use crate::framework::Nnef;
    pub use crate::prelude::*;
    pub use crate::registry::Registry;
    pub use crate::ser::{IntoAst, invocation, logical, numeric, string};
    pub use std::any::TypeId;
    pub use tract_core::internal::*;
}

pub mod ast {
    /// A name.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Identifier(pub String);

    impl From<&str> for Identifier {
        fn from(name: &str) -> Self {
            Self(name.into())
        }
    }

    /// A value in NNEF's text.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct RValue;

    #[derive(Clone, Copy, Debug)]
    pub enum TypeName {
        Integer,
        Scalar,
        Logical,
        String,
        Any,
    }

    #[derive(Clone, Copy, Debug)]
    pub struct TypeSpec;

    #[derive(Clone, Copy, Debug)]
    pub struct Parameter;

    impl TypeName {
        pub fn tensor(self) -> TypeSpec {
            TypeSpec
        }

        pub fn array(self) -> TypeSpec {
            TypeSpec
        }

        pub fn named(self, _name: &str) -> Parameter {
            Parameter
        }
    }

    impl TypeSpec {
        pub fn array(self) -> TypeSpec {
            TypeSpec
        }

        pub fn named(self, _name: &str) -> Parameter {
            Parameter
        }
    }

    impl Parameter {
        pub fn default<T>(self, _value: T) -> Parameter {
            self
        }

        pub fn doc(self, _text: &str) -> Parameter {
            self
        }
    }
}

pub mod deser {
    use crate::ast::Identifier;
    use tract_core::internal::*;

    /// What an expression stands for.
    #[derive(Clone, Debug)]
    pub enum Value {
        Wire(OutletId),
    }

    #[derive(Debug)]
    pub struct ModelBuilder {
        pub model: TypedModel,
    }

    #[derive(Debug)]
    pub struct Invocation {
        pub id: Identifier,
    }

    #[derive(Debug)]
    pub struct ResolvedInvocation {
        pub invocation: Invocation,
    }

    impl ModelBuilder {
        pub fn wire(
            &mut self,
            op: impl Into<Box<dyn TypedOp>>,
            _inputs: &[OutletId],
        ) -> TractResult<Value> {
            bail!("cannot wire {:?}: slsml reads no NNEF", op.into())
        }

        pub fn wire_as_outlets(
            &mut self,
            op: impl Into<Box<dyn TypedOp>>,
            _inputs: &[OutletId],
        ) -> TractResult<TVec<OutletId>> {
            bail!("cannot wire {:?}: slsml reads no NNEF", op.into())
        }
    }

    impl ResolvedInvocation {
        pub fn named_arg_as<T>(&self, _: &mut ModelBuilder, name: &str) -> TractResult<T> {
            bail!("no argument {name}: slsml reads no NNEF")
        }

        pub fn get_named_arg_as<T>(
            &self,
            _: &mut ModelBuilder,
            name: &str,
        ) -> TractResult<Option<T>> {
            bail!("no argument {name}: slsml reads no NNEF")
        }

        pub fn optional_named_arg_as<T>(
            &self,
            _: &mut ModelBuilder,
            name: &str,
        ) -> TractResult<Option<T>> {
            bail!("no argument {name}: slsml reads no NNEF")
        }
    }
}

pub mod framework {
    use crate::registry::Registry;

    #[derive(Debug, Default)]
    pub struct Nnef {
        pub registries: Vec<Registry>,
    }
}

pub mod registry {
    use crate::ast::{Parameter, RValue, TypeSpec};
    use crate::deser::{ModelBuilder, ResolvedInvocation, Value};
    use crate::ser::IntoAst;
    use tract_core::internal::*;

    /// Writes an operator as text.
    type Dump<O> = fn(&mut IntoAst<'_>, &TypedNode, &O) -> TractResult<Option<Arc<RValue>>>;

    /// Forgets all that is registered.
    #[derive(Debug)]
    pub struct Registry;

    impl Registry {
        pub fn new(_name: &str) -> Registry {
            Registry
        }

        pub fn with_doc(self, _text: &str) -> Registry {
            self
        }

        pub fn register_primitive(
            &mut self,
            _name: &str,
            _parameters: &[Parameter],
            _results: &[(&str, TypeSpec)],
            _load: fn(&mut ModelBuilder, &ResolvedInvocation) -> TractResult<Value>,
        ) {
        }

        pub fn register_dumper<O: Op>(&mut self, _dump: Dump<O>) {}
    }
}

pub mod ser {
    use crate::ast::RValue;
    use tract_core::internal::*;

    #[derive(Debug)]
    pub struct IntoAst<'a> {
        pub model: &'a TypedModel,
        pub mapping: HashMap<OutletId, Arc<RValue>>,
    }

    impl IntoAst<'_> {
        pub fn konst_variable(
            &mut self,
            name: impl AsRef<str>,
            _value: &Arc<Tensor>,
        ) -> TractResult<Arc<RValue>> {
            bail!("cannot dump {}: slsml writes no NNEF", name.as_ref())
        }
    }

    pub fn invocation(
        _name: &str,
        _positional: &[Arc<RValue>],
        _named: &[(&str, RValue)],
    ) -> Arc<RValue> {
        Arc::new(RValue)
    }

    pub fn numeric<T: std::fmt::Debug>(_value: T) -> RValue {
        RValue
    }

    pub fn logical(_value: bool) -> RValue {
        RValue
    }

    pub fn string(_text: impl AsRef<str>) -> RValue {
        RValue
    }

    pub fn array(_items: impl AsRef<[RValue]>) -> RValue {
        RValue
    }

    pub fn tdims(_shape: &[TDim]) -> RValue {
        RValue
    }
}
