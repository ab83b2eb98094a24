//! What an artifact may weigh: the platform's limits and the user's own.

use thiserror::Error;

use crate::{Arch, EntryRecord, Holds, Image, LambdaZip};

/// What Lambda holds unpacked, function and layers together, in bytes.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
pub const LAMBDA_UNZIPPED_BYTES: u64 = 262_144_000;

/// What Lambda takes without a bucket, in bytes.
pub const LAMBDA_DIRECT_BYTES: u64 = 50 << 20;

/// The user's limits; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// Of the zip.
    pub max_zip_bytes: Option<u64>,
    /// Of what is in it.
    pub max_unzipped_bytes: Option<u64>,
    /// Of an image: all its blobs, as they are pushed.
    pub max_image_bytes: Option<u64>,
}

/// What weighs too much.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum OverBudget {
    #[error(
        "the zip has {bytes} bytes, the budget is {budget}; most of it, {share} bytes, is {largest}"
    )]
    Zip { bytes: u64, budget: u64, largest: String, share: u64 },
    #[error(
        "the unpacked function has {bytes} bytes, the budget is {budget}; most of it, {share} \
         bytes, is {largest}"
    )]
    Unzipped { bytes: u64, budget: u64, largest: String, share: u64 },
    #[error(
        "AWS Lambda holds {LAMBDA_UNZIPPED_BYTES} bytes unpacked, this function has {bytes}; most \
         of it, {share} bytes, is {largest}"
    )]
    Lambda { bytes: u64, largest: String, share: u64 },
    #[error(
        "the image has {bytes} bytes, the budget is {budget}; most of it, {share} bytes, is {largest}"
    )]
    Image { bytes: u64, budget: u64, largest: String, share: u64 },
}

/// Compares an image with the user's limit.
pub(crate) fn check_image(image: &Image, budgets: &Budgets) -> Result<(), OverBudget> {
    let bytes = image.bytes;
    let Some(budget) = budgets.max_image_bytes.filter(|budget| bytes > *budget) else {
        return Ok(());
    };
    let of = |holds, arch: Arch| match holds {
        Holds::Runtime => format!("the program for {arch}"),
        Holds::Model => "the model".into(),
    };
    let layers = image.platforms.iter().flat_map(|platform| {
        platform.layers.iter().map(|layer| (layer.bytes, of(layer.holds, platform.arch)))
    });
    let (share, largest) = layers.max().unwrap_or_default();
    Err(OverBudget::Image { bytes, budget, largest, share })
}

/// Compares a zip with Lambda's limit and the user's.
pub(crate) fn check(zip: &LambdaZip, budgets: &Budgets) -> Result<(), OverBudget> {
    let most = |size: fn(&EntryRecord) -> u64| {
        let largest = zip.entries.iter().max_by_key(|entry| size(entry));
        largest.map_or((String::new(), 0), |entry| (entry.path.clone(), size(entry)))
    };
    let bytes = zip.unzipped_bytes;
    if bytes > LAMBDA_UNZIPPED_BYTES {
        let (largest, share) = most(|entry| entry.bytes);
        return Err(OverBudget::Lambda { bytes, largest, share });
    }
    if let Some(budget) = budgets.max_unzipped_bytes.filter(|budget| bytes > *budget) {
        let (largest, share) = most(|entry| entry.bytes);
        return Err(OverBudget::Unzipped { bytes, budget, largest, share });
    }
    let bytes = zip.bytes;
    if let Some(budget) = budgets.max_zip_bytes.filter(|budget| bytes > *budget) {
        let (largest, share) = most(|entry| entry.zipped_bytes);
        return Err(OverBudget::Zip { bytes, budget, largest, share });
    }
    Ok(())
}
