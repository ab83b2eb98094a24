//! From bytes to a graph. Nothing that is read is trusted: indices, lengths and depths are
//! checked before they are used, and tract infers every shape anew.

use tract_core::internal::*;
use tract_core::ops::konst::Const;
use tract_core::ops::source::TypedSource;

use super::check::consistent;
use super::dims::{MAX_LENGTH, Symbols};
use super::late::{Late, Nothing};
use super::lower::lower;
use super::ops::OpRecord;
use super::record::{GraphRecord, GraphsRecord, NodeRecord, OutletRecord};
use super::tensors::{Constants, FileBytes, is_mapped, weight};

/// Bodies within bodies are copied when they are used: a file could make them grow without end.
const MAX_NODES: usize = 1 << 20;

/// Bodies within bodies, which are walked by recursion.
const MAX_NESTING: usize = 32;

/// Operators without their constants.
pub(crate) struct Graphs(GraphsRecord);

impl Graphs {
    /// Decodes the operators.
    pub(crate) fn parse(plan: &[u8]) -> TractResult<Graphs> {
        let (record, rest) = postcard::take_from_bytes(plan)?;
        ensure!(rest.is_empty(), "{} bytes follow the operators", rest.len());
        Ok(Graphs(record))
    }

    /// The bytes of the weights that are not used where they are mapped: of all, and of the largest.
    pub(crate) fn bytes_to_copy(&self) -> (u64, u64) {
        let copied = self.0.tensors.iter().filter(|record| !is_mapped(record));
        let sizes = copied.filter_map(|record| weight(record).ok().flatten());
        sizes.fold((0, 0), |(all, largest), size| (size.saturating_add(all), largest.max(size)))
    }
}

/// The constants in the weights, in their order: the name of the node that reads each, and its
/// size.
pub(crate) fn tensors(plan: &[u8]) -> Result<Vec<(String, u64)>, String> {
    let sized = || -> TractResult<Vec<(String, u64)>> {
        let Graphs(record) = Graphs::parse(plan)?;
        let mut names: Vec<Option<String>> = vec![None; record.tensors.len()];
        for node in record.graphs.iter().flat_map(|graph| &graph.nodes) {
            if let OpRecord::Const { tensor } = &node.op
                && let Some(name) = names.get_mut(*tensor as usize)
            {
                name.get_or_insert_with(|| node.name.clone());
            }
        }
        let mut sized = Vec::new();
        for (index, (record, name)) in record.tensors.iter().zip(names).enumerate() {
            if let Some(bytes) = weight(record)? {
                sized.push((name.unwrap_or_else(|| format!("constant {index}")), bytes));
            }
        }
        Ok(sized)
    };
    sized().map_err(|error| error.to_string())
}

/// Builds the model and makes it ready for this processor. Its constants are the end of `file`, from
/// `weights` on.
pub(crate) fn load(
    graphs: Graphs,
    file: Arc<FileBytes>,
    weights: usize,
) -> TractResult<TypedModel> {
    let Graphs(record) = graphs;
    let scope = SymbolScope::default();
    let symbols = Symbols(record.symbols.iter().map(|name| scope.sym(name)).collect());
    for assertion in record.assertions {
        scope.add_assertion(assertion)?;
    }
    let constants = Constants::new(&record.tensors, &symbols, file, weights)?;
    let mut reader =
        Reader { symbols, scope, constants, bodies: Vec::new(), nodes: 0, nesting: 0, late: false };
    let mut records = record.graphs;
    let main = records.pop().context("the file holds no graph")?;
    for body in records {
        reader.nesting = 0;
        let body = reader.graph(body)?;
        let body = lower(body, &mut Nothing)?;
        reader.bodies.push(Some((body, reader.nesting + 1)));
    }
    reader.late = true;
    let model = reader.graph(main)?;
    lower(model, &mut reader.constants)
}

/// What has been read so far.
pub(crate) struct Reader {
    pub(crate) symbols: Symbols,
    scope: SymbolScope,
    constants: Constants,
    bodies: Vec<Option<(TypedModel, usize)>>,
    nodes: usize,
    /// The deepest body of the graph being read.
    nesting: usize,
    /// Whether large constants may come late.
    late: bool,
}

impl Reader {
    pub(crate) fn tensor(&mut self, index: u32) -> TractResult<Arc<Tensor>> {
        self.constants.get(index)
    }

    /// A constant, or the promise of one.
    pub(crate) fn constant(&mut self, index: u32) -> TractResult<Box<dyn TypedOp>> {
        if self.late
            && let Some((fact, panels)) = self.constants.promise(index)
        {
            return Ok(Box::new(Late { index, fact, panels }));
        }
        Ok(Box::new(Const::new(self.tensor(index)?)?))
    }

    /// A body belongs to one node, so it is taken out.
    pub(crate) fn body(&mut self, index: u32) -> TractResult<TypedModel> {
        let body = self.bodies.get_mut(index as usize).and_then(Option::take);
        let (body, nesting) =
            body.with_context(|| format!("there is no body {index}, or it was used before"))?;
        ensure!(nesting <= MAX_NESTING, "bodies nested deeper than {MAX_NESTING}");
        self.nesting = self.nesting.max(nesting);
        Ok(body)
    }

    fn graph(&mut self, record: GraphRecord) -> TractResult<TypedModel> {
        self.nodes += record.nodes.len();
        ensure!(self.nodes <= MAX_NODES, "more than {MAX_NODES} nodes");
        let mut model = TypedModel { symbols: self.scope.clone(), ..TypedModel::default() };
        model.nodes.reserve(record.nodes.len());
        for node in record.nodes {
            let name = node.name.clone();
            self.node(&mut model, node).with_context(|| format!("in the node `{name}`"))?;
        }
        for input in record.inputs {
            let source = model.nodes.get(input as usize);
            let is_source = source.is_some_and(|node| node.op_is::<TypedSource>());
            ensure!(is_source, "the input {input} is no source");
            model.inputs.push(OutletId::new(input as usize, 0));
        }
        for output in record.outputs {
            let outlet = outlet(&model, output)?;
            model.outputs.push(outlet);
        }
        Ok(model)
    }

    /// As tract wires a node, less its searches through the graph and its folding of constants:
    /// both were done when the file was made.
    fn node(&mut self, model: &mut TypedModel, record: NodeRecord) -> TractResult<()> {
        let op = record.op.decode(self)?;
        let inputs = record
            .inputs
            .into_iter()
            .map(|input| outlet(model, input))
            .collect::<TractResult<TVec<OutletId>>>()?;
        let mut facts = {
            let facts = inputs.iter().map(|input| model.outlet_fact(*input));
            let facts = facts.collect::<TractResult<TVec<_>>>()?;
            consistent(&*op, &facts)?;
            op.output_facts(&facts)?
        };
        let is_const = op.is::<Const>();
        for fact in &mut facts {
            let volume = bounded_volume(fact)?;
            // Readers of tract's own graphs rely on empty tensors being constants.
            if volume == Some(0) && !is_const && fact.konst.is_none() && fact.exotic_fact.is_none()
            {
                let shape = fact.shape.as_concrete().unwrap_or_default();
                fact.konst = Some(Tensor::zero_dt(fact.datum_type, shape)?.into_arc_tensor());
            }
        }
        let id = model.add_node(record.name, op, facts)?;
        for (slot, input) in inputs.into_iter().enumerate() {
            model.add_edge(input, InletId::new(id, slot))?;
        }
        Ok(())
    }
}

fn outlet(model: &TypedModel, record: OutletRecord) -> TractResult<OutletId> {
    let (node, slot) = (record.node as usize, record.slot as usize);
    let known = model.nodes.get(node).is_some_and(|node| slot < node.outputs.len());
    ensure!(known, "it reads output {slot} of node {node}, which is not there");
    Ok(OutletId::new(node, slot))
}

/// The number of elements where it is known; an error where it is beyond any memory.
fn bounded_volume(fact: &TypedFact) -> TractResult<Option<usize>> {
    let Some(shape) = fact.shape.as_concrete() else { return Ok(None) };
    let volume = shape.iter().try_fold(1usize, |all, length| {
        // A length of zero would hide any other length from the product.
        all.checked_mul((*length).max(1)).filter(|all| *all as i64 <= MAX_LENGTH)
    });
    ensure!(volume.is_some(), "a tensor of shape {shape:?} is beyond memory");
    Ok(if shape.contains(&0) { Some(0) } else { volume })
}
