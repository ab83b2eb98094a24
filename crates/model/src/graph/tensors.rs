//! Constants: tiny ones lie in the list of operators, the others in the weights, small ones first.

use std::collections::HashMap;
use std::io::{BufReader, Read};

use tract_core::internal::*;

use super::datum::DatumRecord;
use super::dims::{MAX_LENGTH, SymbolTable, Symbols};
use super::record::{ContentRecord, TensorRecord};

/// Up to this many bytes a constant is stored among the operators.
const INLINE_BYTES: usize = 64;

/// Constants of at least this many bytes are large: they are read when they are needed, so that the
/// raw and the packed form of only a few of them are in memory at a time.
const LARGE_BYTES: u64 = 16 * 1024;

/// So many bytes of small constants are read in one go.
const SMALL_AT_ONCE: usize = 64 * 1024;

/// The constants of a graph being written; equal ones are stored once.
#[derive(Debug, Default)]
pub(crate) struct TensorTable {
    pub(crate) records: Vec<TensorRecord>,
    small: Vec<u8>,
    large: Vec<u8>,
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
        if let Some(bytes) = weight(&record)? {
            let part = if bytes < LARGE_BYTES { &mut self.small } else { &mut self.large };
            part.extend_from_slice(tensor.as_bytes());
        }
        let index = self.records.len() as u32;
        self.records.push(record);
        self.known.insert(key, index);
        Ok(index)
    }

    /// The records, and the bytes of the weights.
    pub(crate) fn into_parts(self) -> (Vec<TensorRecord>, Vec<u8>) {
        let mut weights = self.small;
        weights.extend(self.large);
        (self.records, weights)
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

/// The constants of a file: small ones are read at once, large ones in their order.
pub(crate) struct Constants<'a> {
    weights: &'a mut dyn Read,
    /// Constants that were read; `None` before that, and once nobody will ask again.
    read: Vec<Option<Arc<Tensor>>>,
    /// The places of large constants among all of them, and their forms.
    large: Vec<(u32, Layout)>,
    /// How many of the large ones were read.
    passed: usize,
    /// How many nodes still wait for a large one.
    waiting: HashMap<u32, usize>,
}

impl<'a> Constants<'a> {
    /// The constants of `records`, whose weights are the next `length` bytes of `weights`.
    pub(crate) fn new(
        records: &[TensorRecord],
        symbols: &Symbols,
        weights: &'a mut dyn Read,
        length: u64,
    ) -> TractResult<Constants<'a>> {
        let layouts = records.iter().map(layout).collect::<TractResult<Vec<_>>>()?;
        let sizes = records
            .iter()
            .zip(&layouts)
            .filter(|(record, _)| matches!(record.content, ContentRecord::Weights))
            .map(|(_, layout)| layout.bytes);
        let stored = sizes.clone().try_fold(0u64, |all, bytes| all.checked_add(bytes));
        ensure!(stored == Some(length), "{length} bytes of weights for constants of {stored:?}");
        let small = sizes.filter(|bytes| *bytes < LARGE_BYTES).sum();
        let mut small = BufReader::with_capacity(SMALL_AT_ONCE, (&mut *weights).take(small));
        let mut read = Vec::with_capacity(records.len());
        let mut large = Vec::new();
        for (index, (record, layout)) in records.iter().zip(layouts).enumerate() {
            let is_stored = matches!(record.content, ContentRecord::Weights);
            read.push(if is_stored && layout.bytes >= LARGE_BYTES {
                large.push((index as u32, layout));
                None
            } else {
                Some(Arc::new(read_small(record, &layout, symbols, &mut small)?))
            });
        }
        Ok(Constants { weights, read, large, passed: 0, waiting: HashMap::new() })
    }

    /// A constant, read now.
    pub(crate) fn get(&mut self, index: u32) -> TractResult<Arc<Tensor>> {
        let known = self.read.get(index as usize);
        let known = known.with_context(|| format!("there is no constant {index}"))?;
        if known.is_none()
            && let Some(place) = self.find_large(index)
        {
            while self.passed <= place {
                self.read_next()?;
            }
        }
        let known = self.read[index as usize].clone();
        known.with_context(|| format!("the constant {index} is gone"))
    }

    fn find_large(&self, index: u32) -> Option<usize> {
        self.large.binary_search_by_key(&index, |(index, _)| *index).ok()
    }

    fn read_next(&mut self) -> TractResult<()> {
        let (index, layout) = &self.large[self.passed];
        self.read[*index as usize] = Some(Arc::new(layout.fill(self.weights)?));
        self.passed += 1;
        Ok(())
    }

    /// What is known of a large constant that a node will [`Constants::claim`] later.
    pub(crate) fn promise(&mut self, index: u32) -> Option<TypedFact> {
        let (_, Layout { datum, shape, .. }) = &self.large[self.find_large(index)?];
        *self.waiting.entry(index).or_default() += 1;
        Some(TypedFact::dt_shape(*datum, shape))
    }

    /// A promised constant; the last who asks for it gets the only copy.
    pub(crate) fn claim(&mut self, index: u32) -> TractResult<Arc<Tensor>> {
        let tensor = self.get(index)?;
        let waiting = self.waiting.get_mut(&index).context("a constant nobody waits for")?;
        *waiting -= 1;
        if *waiting == 0 {
            self.read[index as usize] = None;
        }
        Ok(tensor)
    }

    /// Reads what nobody asked for, so that the whole file was seen.
    pub(crate) fn finish(mut self) -> TractResult<()> {
        while self.passed < self.large.len() {
            self.read_next()?;
        }
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

fn read_small(
    record: &TensorRecord,
    layout: &Layout,
    symbols: &Symbols,
    weights: &mut dyn Read,
) -> TractResult<Tensor> {
    let Layout { datum, volume, .. } = *layout;
    let fits = |elements: usize| -> TractResult<()> {
        ensure!(elements == volume, "a constant of {volume} elements that has {elements}");
        Ok(())
    };
    match &record.content {
        ContentRecord::Dims(dims) => {
            ensure!(datum == DatumType::TDim, "dimensions in a constant of {datum:?}");
            fits(dims.len())?;
            let dims: Vec<TDim> = symbols.dims(dims)?;
            tract_ndarray::Array1::from_vec(dims).into_tensor().into_shape(&layout.shape)
        }
        ContentRecord::Strings(strings) => {
            ensure!(datum == DatumType::String, "text in a constant of {datum:?}");
            fits(strings.len())?;
            let strings = tract_ndarray::Array1::from_vec(strings.clone());
            strings.into_tensor().into_shape(&layout.shape)
        }
        ContentRecord::Inline(content) => {
            ensure!(content.len() as u64 == layout.bytes, "a constant of another length");
            layout.fill(&mut &content[..])
        }
        ContentRecord::Weights => layout.fill(weights),
    }
}

impl Layout {
    /// A constant of numbers from its bytes, which are known to be there.
    fn fill(&self, from: &mut dyn Read) -> TractResult<Tensor> {
        let is_text = matches!(self.datum, DatumType::TDim | DatumType::String);
        ensure!(!is_text, "a constant of {:?} stored as numbers", self.datum);
        // Clearing the memory first would cost as much as reading it. Any bytes are valid numbers,
        // and nothing but `read_exact` sees them before they are all written.
        #[allow(unsafe_code)]
        let mut tensor = unsafe { Tensor::uninitialized_aligned_dt(self.datum, &self.shape, 16)? };
        let bytes = tensor.as_bytes_mut();
        from.read_exact(bytes)?;
        // Any other byte is not a bool in Rust.
        let is_bool = self.datum == DatumType::Bool;
        ensure!(!is_bool || bytes.iter().all(|byte| *byte <= 1), "a truth value beyond 1");
        Ok(tensor)
    }
}
