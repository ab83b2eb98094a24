//! Constants: small ones lie in the list of operators, large ones in the weights.

use std::collections::HashMap;
use std::io::Read;

use tract_core::internal::*;

use super::datum::DatumRecord;
use super::dims::{MAX_LENGTH, SymbolTable, Symbols};
use super::record::{ContentRecord, TensorRecord};

/// Up to this many bytes a constant is stored among the operators.
const INLINE_BYTES: usize = 64;

/// The constants of a graph being written; equal ones are stored once.
#[derive(Debug, Default)]
pub(crate) struct TensorTable {
    pub(crate) records: Vec<TensorRecord>,
    pub(crate) weights: Vec<u8>,
    known: HashMap<[u8; 32], u32>,
}

impl TensorTable {
    /// The index of a constant, which is added if it is new.
    pub(crate) fn index(&mut self, tensor: &Tensor, symbols: &mut SymbolTable) -> TractResult<u32> {
        let datum = DatumRecord::encode(tensor.datum_type())?;
        let plain = tensor.try_as_plain_ram().context("a constant that is not plain data")?;
        let content = match tensor.datum_type() {
            DatumType::TDim => ContentRecord::Dims(symbols.dims(plain.as_slice::<TDim>()?)),
            DatumType::String => ContentRecord::Strings(plain.as_slice::<String>()?.to_vec()),
            _ if tensor.as_bytes().len() <= INLINE_BYTES => {
                ContentRecord::Inline(tensor.as_bytes().to_vec())
            }
            _ => ContentRecord::Weights,
        };
        let shape = tensor.shape().iter().map(|length| *length as u64).collect();
        let record = TensorRecord { datum, shape, content };
        let key = self.key(&record, tensor)?;
        if let Some(index) = self.known.get(&key) {
            return Ok(*index);
        }
        if matches!(record.content, ContentRecord::Weights) {
            self.weights.extend_from_slice(tensor.as_bytes());
        }
        let index = self.records.len() as u32;
        self.records.push(record);
        self.known.insert(key, index);
        Ok(index)
    }

    fn key(&self, record: &TensorRecord, tensor: &Tensor) -> TractResult<[u8; 32]> {
        use sha2::Digest;
        let mut digest = sha2::Sha256::new();
        digest.update(postcard::to_allocvec(record)?);
        if matches!(record.content, ContentRecord::Weights) {
            digest.update(tensor.as_bytes());
        }
        Ok(digest.finalize().into())
    }
}

/// Constants of at least this many bytes are read when they are needed, so that the raw and the
/// packed form of only one of them are in memory at a time.
pub(crate) const LATE_BYTES: u64 = 16 * 1024;

/// The constants of a file, read in the order they lie there.
pub(crate) struct Constants<'a> {
    records: Vec<TensorRecord>,
    weights: &'a mut dyn Read,
    /// Bytes of weights that were not read yet.
    left: u64,
    /// Constants that were read, in order; `None` once nobody will ask again.
    read: Vec<Option<Arc<Tensor>>>,
    /// How many nodes still wait for a constant.
    waiting: HashMap<u32, usize>,
}

impl<'a> Constants<'a> {
    /// The constants of `records`, whose weights are the next `length` bytes of `weights`.
    pub(crate) fn new(
        records: Vec<TensorRecord>,
        weights: &'a mut dyn Read,
        length: u64,
    ) -> Constants<'a> {
        Constants { records, weights, left: length, read: Vec::new(), waiting: HashMap::new() }
    }

    /// A constant, read now.
    pub(crate) fn get(&mut self, index: u32, symbols: &Symbols) -> TractResult<Arc<Tensor>> {
        let index = index as usize;
        ensure!(index < self.records.len(), "there is no constant {index}");
        while self.read.len() <= index {
            let record = &self.records[self.read.len()];
            let tensor = read_one(record, symbols, self.weights, &mut self.left)?;
            self.read.push(Some(Arc::new(tensor)));
        }
        self.read[index].clone().with_context(|| format!("the constant {index} is gone"))
    }

    /// What is known of a large constant that a node will [`Constants::claim`] later.
    pub(crate) fn promise(&mut self, index: u32) -> TractResult<Option<TypedFact>> {
        let record = self.records.get(index as usize);
        let record = record.with_context(|| format!("there is no constant {index}"))?;
        let is_late = matches!(record.content, ContentRecord::Weights)
            && layout(record)?.bytes >= LATE_BYTES
            && self.read.get(index as usize).is_none_or(Option::is_some);
        if !is_late {
            return Ok(None);
        }
        *self.waiting.entry(index).or_default() += 1;
        let Layout { datum, shape, .. } = layout(record)?;
        Ok(Some(TypedFact::dt_shape(datum, shape)))
    }

    /// A promised constant; the last who asks for it gets the only copy.
    pub(crate) fn claim(&mut self, index: u32, symbols: &Symbols) -> TractResult<Arc<Tensor>> {
        let tensor = self.get(index, symbols)?;
        let waiting = self.waiting.get_mut(&index).context("a constant nobody waits for")?;
        *waiting -= 1;
        if *waiting == 0 {
            self.read[index as usize] = None;
        }
        Ok(tensor)
    }

    /// Reads what nobody asked for, so that the whole file was seen.
    pub(crate) fn finish(mut self, symbols: &Symbols) -> TractResult<()> {
        for record in &self.records[self.read.len()..] {
            read_one(record, symbols, self.weights, &mut self.left)?;
        }
        ensure!(self.left == 0, "{} bytes of weights belong to no constant", self.left);
        Ok(())
    }
}

/// The size of a constant in the weights; `None` if it lies among the operators.
pub(crate) fn weight(record: &TensorRecord) -> TractResult<Option<u64>> {
    match record.content {
        ContentRecord::Weights => Ok(Some(layout(record)?.bytes)),
        _ => Ok(None),
    }
}

/// A constant's form in memory.
struct Layout {
    datum: DatumType,
    shape: TVec<usize>,
    volume: usize,
    bytes: u64,
}

fn layout(record: &TensorRecord) -> TractResult<Layout> {
    let shape: TVec<usize> = record.shape.iter().map(|length| *length as usize).collect();
    let datum = record.datum.decode();
    // A length of zero would hide any other length from the product.
    let counted = shape.iter().try_fold(1usize, |all, length| all.checked_mul((*length).max(1)));
    let counted = counted.filter(|volume| *volume as i64 <= MAX_LENGTH);
    counted.context("a constant beyond memory")?;
    let volume = shape.iter().product();
    Ok(Layout { bytes: (volume * datum.size_of()) as u64, datum, shape, volume })
}

fn read_one(
    record: &TensorRecord,
    symbols: &Symbols,
    weights: &mut dyn Read,
    left: &mut u64,
) -> TractResult<Tensor> {
    let Layout { datum, shape, volume, bytes } = layout(record)?;
    let fits = |elements: usize| -> TractResult<()> {
        ensure!(elements == volume, "a constant of {volume} elements that has {elements}");
        Ok(())
    };
    match &record.content {
        ContentRecord::Dims(dims) => {
            ensure!(datum == DatumType::TDim, "dimensions in a constant of {datum:?}");
            fits(dims.len())?;
            let dims: Vec<TDim> = symbols.dims(dims)?;
            tract_ndarray::Array1::from_vec(dims).into_tensor().into_shape(&shape)
        }
        ContentRecord::Strings(strings) => {
            ensure!(datum == DatumType::String, "text in a constant of {datum:?}");
            fits(strings.len())?;
            tract_ndarray::Array1::from_vec(strings.clone()).into_tensor().into_shape(&shape)
        }
        ContentRecord::Inline(content) => {
            ensure!(content.len() as u64 == bytes, "a constant of another length");
            fill(datum, &shape, &mut &content[..])
        }
        ContentRecord::Weights => {
            *left = left.checked_sub(bytes).context("a constant that ends after the file")?;
            fill(datum, &shape, weights)
        }
    }
}

/// A constant of numbers from its bytes, which are known to be there.
fn fill(datum: DatumType, shape: &[usize], from: &mut dyn Read) -> TractResult<Tensor> {
    let is_text = matches!(datum, DatumType::TDim | DatumType::String);
    ensure!(!is_text, "a constant of {datum:?} stored as numbers");
    // Clearing the memory first would cost as much as reading it. Any bytes are valid numbers,
    // and nothing but `read_exact` sees them before they are all written.
    #[allow(unsafe_code)]
    let mut tensor = unsafe { Tensor::uninitialized_aligned_dt(datum, shape, 16)? };
    let bytes = tensor.as_bytes_mut();
    from.read_exact(bytes)?;
    // Any other byte is not a bool in Rust.
    let is_bool = datum == DatumType::Bool;
    ensure!(!is_bool || bytes.iter().all(|byte| *byte <= 1), "a truth value beyond 1");
    Ok(tensor)
}
