//! Constants: tiny ones lie in the list of operators, the others in the weights, small ones first.

use std::collections::HashMap;
use std::io::Read;
use std::ops::Deref;

use tract_core::internal::*;
use tract_core::tract_linalg::pack::PackedFormat;

use super::datum::DatumRecord;
use super::dims::{MAX_LENGTH, SymbolTable, Symbols};
use super::late::Later;
use super::panels::{Mapped, Panels};
use super::record::{ContentRecord, TensorRecord};

/// Up to this many bytes a constant is stored among the operators.
const INLINE_BYTES: usize = 64;

/// Constants of at least this many bytes are large: they are read when they are needed, so that the
/// raw and the packed form of only a few of them are in memory at a time.
const LARGE_BYTES: u64 = 16 * 1024;

/// Where panels begin, and their lengths, are multiples of this many bytes: the most that a kernel
/// asks for.
pub(crate) const ALIGNMENT: usize = 512;

/// A packaged model's file.
pub(crate) enum FileBytes {
    /// Read by the system when it is looked at.
    Mapped(memmap2::Mmap),
    /// A copy, where panels lie as in a file.
    Copied(Blob),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(bytes) => bytes,
            FileBytes::Copied(bytes) => bytes,
        }
    }
}

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
    pub(crate) fn index(
        &mut self,
        tensor: &Tensor,
        panels: Option<Panels>,
        symbols: &mut SymbolTable,
    ) -> TractResult<u32> {
        let datum = DatumRecord::encode(tensor.datum_type())?;
        let plain = tensor.try_as_plain_ram().context("a constant that is not plain data")?;
        let is_large = tensor.as_bytes().len() as u64 >= LARGE_BYTES;
        let content = match tensor.datum_type() {
            DatumType::TDim => ContentRecord::Dims(symbols.dims(plain.as_slice::<TDim>()?)),
            DatumType::String => ContentRecord::Strings(plain.as_slice::<String>()?.to_vec()),
            _ if tensor.as_bytes().len() <= INLINE_BYTES => {
                ContentRecord::Inline(tensor.as_bytes().to_vec())
            }
            _ => match panels.filter(|_| is_large) {
                Some(panels) => ContentRecord::Panels(panels),
                None => ContentRecord::Weights,
            },
        };
        let shape = tensor.shape().iter().map(|length| *length as u64).collect();
        let record = TensorRecord { datum, shape, content };
        let key = self.key(&record, tensor)?;
        if let Some(index) = self.known.get(&key) {
            return Ok(*index);
        }
        match &record.content {
            ContentRecord::Panels(panels) => {
                self.large.resize(self.large.len().next_multiple_of(ALIGNMENT), 0);
                self.large.extend(panels.pack(plain.as_slice::<f32>()?));
            }
            ContentRecord::Weights => {
                let part = if is_large { &mut self.large } else { &mut self.small };
                part.extend_from_slice(tensor.as_bytes());
            }
            _ => {}
        }
        let index = self.records.len() as u32;
        self.records.push(record);
        self.known.insert(key, index);
        Ok(index)
    }

    /// The records, and the bytes of the weights.
    pub(crate) fn into_parts(self) -> (Vec<TensorRecord>, Vec<u8>) {
        let mut weights = self.small;
        weights.resize(weights.len().next_multiple_of(ALIGNMENT), 0);
        weights.extend(self.large);
        (self.records, weights)
    }

    fn key(&self, record: &TensorRecord, tensor: &Tensor) -> TractResult<[u8; 32]> {
        use sha2::Digest;
        let mut digest = sha2::Sha256::new();
        digest.update(postcard::to_allocvec(record)?);
        if matches!(record.content, ContentRecord::Weights | ContentRecord::Panels(_)) {
            digest.update(tensor.as_bytes());
        }
        Ok(digest.finalize().into())
    }
}

/// The constants of a file: small ones are read at once, large ones when they are needed.
pub(crate) struct Constants {
    file: Arc<FileBytes>,
    /// Constants that were read; `None` before that, and once nobody will ask again.
    read: Vec<Option<Arc<Tensor>>>,
    /// The places of large constants among all of them, and their forms.
    large: Vec<(u32, Layout)>,
    /// How many nodes still wait for a large one.
    waiting: HashMap<u32, usize>,
}

impl Constants {
    /// The constants of `records`, whose weights are the file's end from `weights` on.
    pub(crate) fn new(
        records: &[TensorRecord],
        symbols: &Symbols,
        file: Arc<FileBytes>,
        weights: usize,
    ) -> TractResult<Constants> {
        let mut layouts = records.iter().map(layout).collect::<TractResult<Vec<_>>>()?;
        let end = place(&mut layouts, weights).context("weights beyond memory")?;
        ensure!(end == file.len(), "constants up to {end} in a file of {} bytes", file.len());
        let mut read = Vec::with_capacity(records.len());
        let mut large = Vec::new();
        for (index, (record, layout)) in records.iter().zip(layouts).enumerate() {
            read.push(if layout.is_large() {
                large.push((index as u32, layout));
                None
            } else {
                Some(Arc::new(read_small(record, &layout, symbols, &file)?))
            });
        }
        Ok(Constants { file, read, large, waiting: HashMap::new() })
    }

    /// A constant, read now.
    pub(crate) fn get(&mut self, index: u32) -> TractResult<Arc<Tensor>> {
        let known = self.read.get(index as usize);
        let known = known.with_context(|| format!("there is no constant {index}"))?;
        if let Some(known) = known {
            return Ok(known.clone());
        }
        let layout = self.large(index).with_context(|| format!("no constant {index}"))?;
        let value = Arc::new(layout.read(&self.file)?);
        self.read[index as usize] = Some(value.clone());
        Ok(value)
    }

    fn large(&self, index: u32) -> Option<&Layout> {
        let place = self.large.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(&self.large[place].1)
    }

    /// What is known of a large constant that a node will ask for later.
    pub(crate) fn promise(&mut self, index: u32) -> Option<(TypedFact, Option<Panels>)> {
        let Layout { datum, shape, panels, .. } = self.large(index)?;
        let promise = (TypedFact::dt_shape(*datum, shape), *panels);
        *self.waiting.entry(index).or_default() += 1;
        Some(promise)
    }

    /// One less waits for a constant; the last who asks for it gets the only copy.
    fn forget(&mut self, index: u32) -> TractResult<()> {
        let waiting = self.waiting.get_mut(&index).context("a constant nobody waits for")?;
        *waiting = waiting.checked_sub(1).context("a constant nobody waits for")?;
        if *waiting == 0 {
            self.read[index as usize] = None;
        }
        Ok(())
    }
}

impl Later for Constants {
    fn read(&mut self, index: u32) -> TractResult<Arc<Tensor>> {
        let tensor = self.get(index)?;
        self.forget(index)?;
        Ok(tensor)
    }

    fn map(&mut self, index: u32, format: PackedFormat) -> TractResult<Mapped> {
        let layout = self.large(index).context("a small constant")?;
        let panels = layout.panels.context("a constant that is not in panels")?;
        let mapped = Mapped::new(panels, self.file.clone(), layout.start, format)?;
        self.forget(index)?;
        Ok(mapped)
    }
}

/// The size of a constant in the weights; `None` if it lies among the operators.
pub(crate) fn weight(record: &TensorRecord) -> TractResult<Option<u64>> {
    Ok(Some(layout(record)?).filter(|layout| layout.is_stored).map(|layout| layout.bytes as u64))
}

/// Whether a constant is used where it lies in the file.
pub(crate) fn is_mapped(record: &TensorRecord) -> bool {
    matches!(record.content, ContentRecord::Panels(_))
}

/// A constant's form in memory and in the file.
struct Layout {
    datum: DatumType,
    shape: TVec<usize>,
    volume: usize,
    panels: Option<Panels>,
    /// Whether it lies in the weights; where, and how many bytes it takes.
    is_stored: bool,
    start: usize,
    bytes: usize,
}

fn layout(record: &TensorRecord) -> TractResult<Layout> {
    let shape: TVec<usize> = record.shape.iter().map(|length| *length as usize).collect();
    let datum = record.datum.decode();
    // A length of zero would hide any other length from the product.
    let counted = shape.iter().try_fold(1usize, |all, length| all.checked_mul((*length).max(1)));
    let counted = counted.filter(|volume| *volume as i64 <= MAX_LENGTH);
    counted.context("a constant beyond memory")?;
    let volume = shape.iter().product::<usize>();
    let plain = volume * datum.size_of();
    let (panels, is_stored, bytes) = match &record.content {
        ContentRecord::Panels(panels) => {
            ensure!(datum == DatumType::F32, "panels of {datum:?}");
            (Some(*panels), true, panels.bytes(&shape)? as usize)
        }
        ContentRecord::Weights => (None, true, plain),
        _ => (None, false, plain),
    };
    Ok(Layout { datum, shape, volume, panels, is_stored, start: 0, bytes })
}

/// Places constants in a file one after the other, small ones first; where they end.
fn place(layouts: &mut [Layout], start: usize) -> Option<usize> {
    let mut end = start;
    for is_large in [false, true] {
        for layout in layouts.iter_mut().filter(|layout| layout.is_stored) {
            if layout.is_large() != is_large {
                continue;
            }
            if layout.panels.is_some() {
                end = end.checked_next_multiple_of(ALIGNMENT)?;
            }
            layout.start = end;
            end = end.checked_add(layout.bytes)?;
        }
        if !is_large {
            end = end.checked_next_multiple_of(ALIGNMENT)?;
        }
    }
    Some(end)
}

fn read_small(
    record: &TensorRecord,
    layout: &Layout,
    symbols: &Symbols,
    file: &[u8],
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
            ensure!(content.len() == layout.bytes, "a constant of another length");
            layout.fill(&mut &content[..])
        }
        ContentRecord::Weights | ContentRecord::Panels(_) => layout.read(file),
    }
}

impl Layout {
    /// Whether it is read when it is needed.
    fn is_large(&self) -> bool {
        self.is_stored && self.bytes as u64 >= LARGE_BYTES
    }

    /// A constant that lies in the weights.
    fn read(&self, file: &[u8]) -> TractResult<Tensor> {
        let end = self.start.checked_add(self.bytes).context("a constant beyond memory")?;
        let mut bytes = file.get(self.start..end).context("a constant beyond the file")?;
        match self.panels {
            Some(panels) => panels.unpack(bytes, &self.shape),
            None => self.fill(&mut bytes),
        }
    }

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
