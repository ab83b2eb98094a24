//! From a decluttered graph to bytes.

use tract_core::internal::*;
use tract_core::ops::konst::Const;

use super::dims::{DimRecord, SymbolTable};
use super::ops::OpRecord;
use super::panels::{self, Panels};
use super::record::{GraphRecord, GraphsRecord, NodeRecord, OutletRecord};
use super::rows;
use super::tensors::TensorTable;

/// A graph as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The operators and small constants.
    pub plan: Vec<u8>,
    /// The bytes of the other constants, small ones first, in the order they are read.
    pub weights: Vec<u8>,
    /// The most that tensors between operators hold at one time, in bytes; `None` where a
    /// dimension is open.
    pub activation_bytes: Option<u64>,
    /// Why its rows may depend on one another, if it is not known that they do not.
    pub dependent_rows: Option<String>,
}

/// The bytes of a decluttered graph; the same graph gives the same bytes.
pub fn write(model: &TypedModel) -> TractResult<Encoded> {
    let mut writer = Writer {
        symbols: SymbolTable::new(&model.symbols),
        tensors: TensorTable::default(),
        graphs: Vec::new(),
    };
    writer.graph(model, panels::choose)?;
    let Writer { symbols, tensors, graphs } = writer;
    let (tensors, weights) = tensors.into_parts();
    let record = GraphsRecord {
        symbols: symbols.into_names(),
        assertions: model.symbols.all_assertions().iter().map(ToString::to_string).collect(),
        tensors,
        graphs,
    };
    Ok(Encoded {
        plan: postcard::to_allocvec(&record)?,
        weights,
        activation_bytes: activation_bytes(model),
        dependent_rows: rows::are_independent(model).err().map(|why| why.to_string()),
    })
}

/// An order to evaluate nodes in, with every constant right before the first node that reads it: at
/// start constants are read in this order, each when it is needed.
fn order_of_use(model: &TypedModel) -> TractResult<Vec<usize>> {
    let by_tract = model.eval_order()?;
    let mut order = Vec::with_capacity(by_tract.len());
    let mut placed = vec![false; model.nodes.len()];
    let is_const = |id: usize| model.node(id).op_is::<Const>();
    let mut place = |id: usize| {
        if !std::mem::replace(&mut placed[id], true) {
            order.push(id);
        }
    };
    for id in by_tract.iter().copied().filter(|id| !is_const(*id)) {
        let inputs = model.node(id).inputs.iter().map(|input| input.node);
        inputs.filter(|input| is_const(*input)).for_each(&mut place);
        place(id);
    }
    // Constants that are outputs themselves.
    by_tract.into_iter().for_each(&mut place);
    Ok(order)
}

fn activation_bytes(model: &TypedModel) -> Option<u64> {
    let order = model.eval_order().ok()?;
    let steps = model.eval_tmp_memory_usage(&order, |node| !node.op_is::<Const>()).ok()?;
    let held = steps.iter().map(|(_, held)| u64::try_from(held.to_i64().ok()?).ok());
    held.collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// The tables that fill while graphs are written.
pub(crate) struct Writer {
    symbols: SymbolTable,
    tensors: TensorTable,
    graphs: Vec<GraphRecord>,
}

impl Writer {
    pub(crate) fn dim(&mut self, dim: &TDim) -> DimRecord {
        self.symbols.dim(dim)
    }

    pub(crate) fn dims<'a>(&mut self, dims: impl IntoIterator<Item = &'a TDim>) -> Vec<DimRecord> {
        self.symbols.dims(dims)
    }

    pub(crate) fn symbol(&mut self, symbol: &Symbol) -> u32 {
        self.symbols.index(symbol)
    }

    pub(crate) fn tensor(&mut self, tensor: &Tensor) -> TractResult<u32> {
        self.tensors.index(tensor, None, &mut self.symbols)
    }

    /// Writes a body; its index. It is prepared by itself, with its constants at hand.
    pub(crate) fn body(&mut self, model: &TypedModel) -> TractResult<u32> {
        self.graph(model, |_, _| None)
    }

    /// Writes a graph after the bodies inside it; its index. `choose` says which constants are to be
    /// stored in panels.
    fn graph(
        &mut self,
        model: &TypedModel,
        choose: impl Fn(&TypedModel, &TypedNode) -> Option<Panels>,
    ) -> TractResult<u32> {
        let mut order = order_of_use(model)?;
        for input in model.input_outlets()? {
            if !order.contains(&input.node) {
                order.push(input.node);
            }
        }
        let mut position = vec![u32::MAX; model.nodes.len()];
        for (index, id) in order.iter().enumerate() {
            position[*id] = index as u32;
        }
        let outlet = |at: &OutletId| OutletRecord { node: position[at.node], slot: at.slot as u32 };
        let mut nodes = Vec::with_capacity(order.len());
        for id in &order {
            let node = model.node(*id);
            let op = match (node.op_as::<Const>(), choose(model, node)) {
                (Some(op), Some(panels)) => OpRecord::Const {
                    tensor: self.tensors.index(op.val(), Some(panels), &mut self.symbols)?,
                },
                _ => OpRecord::encode(node, self)
                    .with_context(|| format!("storing the node `{}`", node.name))?,
            };
            let inputs = node.inputs.iter().map(outlet).collect();
            nodes.push(NodeRecord { name: node.name.clone(), op, inputs });
        }
        let inputs = model.input_outlets()?.iter().map(|input| position[input.node]).collect();
        let outputs = model.output_outlets()?.iter().map(outlet).collect();
        self.graphs.push(GraphRecord { nodes, inputs, outputs });
        Ok(self.graphs.len() as u32 - 1)
    }
}
