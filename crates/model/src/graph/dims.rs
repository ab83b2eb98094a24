//! Dimensions: a length, or an expression over named ones.
//!
//! Expressions are stored in reverse Polish notation, so that reading needs no recursion and a
//! hostile file cannot exhaust the stack.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tract_core::internal::*;

/// The deepest expression that is read; real ones are a few levels deep.
const MAX_DEPTH: usize = 64;

/// The longest axis that is read: longer ones make products of lengths overflow.
pub(crate) const MAX_LENGTH: i64 = 1 << 40;

/// A dimension.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum DimRecord {
    Length(i64),
    Expression(Vec<TermRecord>),
}

/// One step of an expression: push a value, or replace the topmost ones by their combination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum TermRecord {
    Value(i64),
    Symbol(u32),
    Add(u32),
    Mul(u32),
    MulInt(i64),
    Div(u64),
    Broadcast(u32),
    Min(u32),
    Max(u32),
    Ge,
    Eq,
}

/// The named dimensions of a graph being written.
#[derive(Debug, Default)]
pub(crate) struct SymbolTable {
    names: Vec<String>,
    indices: HashMap<Symbol, u32>,
}

impl SymbolTable {
    /// All names of the scope, in its own order.
    pub(crate) fn new(scope: &SymbolScope) -> Self {
        let mut table = Self::default();
        for symbol in scope.all_symbols() {
            table.index(&symbol);
        }
        table
    }

    pub(crate) fn index(&mut self, symbol: &Symbol) -> u32 {
        if let Some(index) = self.indices.get(symbol) {
            return *index;
        }
        let index = self.names.len() as u32;
        self.names.push(symbol.to_string());
        self.indices.insert(symbol.clone(), index);
        index
    }

    pub(crate) fn into_names(self) -> Vec<String> {
        self.names
    }

    pub(crate) fn dim(&mut self, dim: &TDim) -> DimRecord {
        if let TDim::Val(length) = dim {
            return DimRecord::Length(*length);
        }
        let mut terms = Vec::new();
        self.terms(dim, &mut terms);
        DimRecord::Expression(terms)
    }

    pub(crate) fn dims<'a>(&mut self, dims: impl IntoIterator<Item = &'a TDim>) -> Vec<DimRecord> {
        dims.into_iter().map(|dim| self.dim(dim)).collect()
    }

    fn terms(&mut self, dim: &TDim, out: &mut Vec<TermRecord>) {
        let mut all = |parts: &[TDim], out: &mut Vec<TermRecord>| {
            parts.iter().for_each(|part| self.terms(part, out));
            parts.len() as u32
        };
        let term = match dim {
            TDim::Val(value) => TermRecord::Value(*value),
            TDim::Sym(symbol) => TermRecord::Symbol(self.index(symbol)),
            TDim::Add(parts) => TermRecord::Add(all(parts, out)),
            TDim::Mul(parts) => TermRecord::Mul(all(parts, out)),
            TDim::Broadcast(parts) => TermRecord::Broadcast(all(parts, out)),
            TDim::Min(parts) => TermRecord::Min(all(parts, out)),
            TDim::Max(parts) => TermRecord::Max(all(parts, out)),
            TDim::MulInt(factor, part) => {
                self.terms(part, out);
                TermRecord::MulInt(*factor)
            }
            TDim::Div(part, divisor) => {
                self.terms(part, out);
                TermRecord::Div(*divisor)
            }
            TDim::Ge(left, right) => {
                self.terms(left, out);
                self.terms(right, out);
                TermRecord::Ge
            }
            TDim::Eq(left, right) => {
                self.terms(left, out);
                self.terms(right, out);
                TermRecord::Eq
            }
        };
        out.push(term);
    }
}

/// The named dimensions of a graph being read.
#[derive(Debug)]
pub(crate) struct Symbols(pub(crate) Vec<Symbol>);

impl Symbols {
    pub(crate) fn symbol(&self, index: u32) -> TractResult<&Symbol> {
        self.0.get(index as usize).with_context(|| format!("there is no dimension {index}"))
    }

    pub(crate) fn dims<C: FromIterator<TDim>>(&self, dims: &[DimRecord]) -> TractResult<C> {
        dims.iter().map(|dim| self.dim(dim)).collect()
    }

    /// The lengths of a tensor's axes: known ones are neither negative nor beyond reason.
    pub(crate) fn shape(&self, dims: &[DimRecord]) -> TractResult<ShapeFact> {
        let shape: TVec<TDim> = self.dims(dims)?;
        for dim in &shape {
            if let TDim::Val(length) = dim {
                ensure!((0..=MAX_LENGTH).contains(length), "an axis of length {length}");
            }
        }
        Ok(ShapeFact::from_dims(shape))
    }

    pub(crate) fn dim(&self, record: &DimRecord) -> TractResult<TDim> {
        let terms = match record {
            DimRecord::Length(length) => return Ok(TDim::Val(*length)),
            DimRecord::Expression(terms) => terms,
        };
        let mut stack: Vec<(TDim, usize)> = Vec::new();
        for term in terms {
            let next = self.apply(term, &mut stack)?;
            ensure!(next.1 <= MAX_DEPTH, "an expression deeper than {MAX_DEPTH} levels");
            stack.push(next);
        }
        match stack.pop() {
            Some((dim, _)) if stack.is_empty() => Ok(dim),
            _ => bail!("an expression that does not end in one value"),
        }
    }

    fn apply(
        &self,
        term: &TermRecord,
        stack: &mut Vec<(TDim, usize)>,
    ) -> TractResult<(TDim, usize)> {
        let mut take = |count: usize| -> TractResult<(Vec<TDim>, usize)> {
            let start = stack.len().checked_sub(count).filter(|_| count > 0);
            let start = start.context("an expression that lacks values")?;
            let depth = 1 + stack[start..].iter().map(|(_, depth)| *depth).max().unwrap_or(0);
            Ok((stack.drain(start..).map(|(dim, _)| dim).collect(), depth))
        };
        Ok(match term {
            TermRecord::Value(value) => (TDim::Val(*value), 1),
            TermRecord::Symbol(index) => (TDim::Sym(self.symbol(*index)?.clone()), 1),
            TermRecord::Add(count) => take(*count as usize).map(|(d, n)| (TDim::Add(d), n))?,
            TermRecord::Mul(count) => take(*count as usize).map(|(d, n)| (TDim::Mul(d), n))?,
            TermRecord::Min(count) => take(*count as usize).map(|(d, n)| (TDim::Min(d), n))?,
            TermRecord::Max(count) => take(*count as usize).map(|(d, n)| (TDim::Max(d), n))?,
            TermRecord::Broadcast(count) => {
                take(*count as usize).map(|(d, n)| (TDim::Broadcast(d), n))?
            }
            TermRecord::MulInt(factor) => {
                let ([dim], depth) = exactly(take(1)?)?;
                (TDim::MulInt(*factor, Box::new(dim)), depth)
            }
            TermRecord::Div(divisor) => {
                ensure!(*divisor > 0, "a division by zero");
                let ([dim], depth) = exactly(take(1)?)?;
                (TDim::Div(Box::new(dim), *divisor), depth)
            }
            TermRecord::Ge => {
                let ([left, right], depth) = exactly(take(2)?)?;
                (TDim::Ge(Box::new(left), Box::new(right)), depth)
            }
            TermRecord::Eq => {
                let ([left, right], depth) = exactly(take(2)?)?;
                (TDim::Eq(Box::new(left), Box::new(right)), depth)
            }
        })
    }
}

fn exactly<const N: usize>(taken: (Vec<TDim>, usize)) -> TractResult<([TDim; N], usize)> {
    let (dims, depth) = taken;
    let dims = dims.try_into().map_err(|_| format_err!("an expression that lacks values"))?;
    Ok((dims, depth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_survive_the_way_through_a_record() {
        let scope = SymbolScope::default();
        for text in ["7", "N", "2*N+1", "(N+3)/4", "min(N,8)", "max(1,N*M)", "N*M*2"] {
            let dim = scope.parse_tdim(text).unwrap();
            let mut table = SymbolTable::new(&scope);
            let record = table.dim(&dim);
            let symbols = Symbols(table.into_names().iter().map(|name| scope.sym(name)).collect());
            assert_eq!(symbols.dim(&record).unwrap(), dim, "{text}");
        }
    }

    #[test]
    fn malformed_expressions_are_refused() {
        let symbols = Symbols(vec![]);
        let terms = [
            vec![],
            vec![TermRecord::Add(2)],
            vec![TermRecord::Value(1), TermRecord::Value(2)],
            vec![TermRecord::Value(1), TermRecord::Div(0)],
            vec![TermRecord::Value(1), TermRecord::Add(0)],
            vec![TermRecord::Symbol(0)],
            vec![TermRecord::Value(1), TermRecord::Ge],
        ];
        for terms in terms {
            assert!(symbols.dim(&DimRecord::Expression(terms.clone())).is_err(), "{terms:?}");
        }
        let mut deep = vec![TermRecord::Value(1)];
        deep.extend(std::iter::repeat_n(TermRecord::MulInt(2), 1_000_000));
        assert!(symbols.dim(&DimRecord::Expression(deep)).is_err());
    }
}
