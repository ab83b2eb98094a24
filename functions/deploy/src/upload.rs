//! Getting a zip to where Lambda reads it.

use aws_sdk_lambda::primitives::Blob;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::ByteStream;

use crate::{Clients, LambdaError, connect};

/// What a request may carry itself.
pub(crate) const DIRECT_LIMIT: u64 = 52_428_800;

/// What a function may be, unpacked.
pub(crate) const UNZIPPED_LIMIT: u64 = 262_144_000;

/// Where Lambda finds the zip.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// In the request.
    Direct(Blob),
    /// In a bucket.
    Bucket {
        /// The bucket.
        bucket: String,
        /// The object.
        key: String,
    },
}

/// Puts the zip into the bucket, if there is one; objects are named by their digest and never
/// written twice.
pub(crate) async fn upload(
    clients: &Clients,
    bucket: Option<&str>,
    name: &str,
    sha256: &str,
    zip: &[u8],
) -> Result<Source, LambdaError> {
    let bytes = zip.len() as u64;
    let Some(bucket) = bucket else {
        if bytes > DIRECT_LIMIT {
            return Err(LambdaError::NeedsBucket { bytes, limit: DIRECT_LIMIT });
        }
        return Ok(Source::Direct(Blob::new(zip)));
    };
    let key = format!("slsml/{name}/{sha256}.zip");
    let there = match clients.s3.head_object().bucket(bucket).key(&key).send().await {
        Ok(_) => true,
        // Without permission to list, what is not there looks forbidden.
        Err(error)
            if error
                .raw_response()
                .is_some_and(|answer| [403, 404].contains(&answer.status().as_u16())) =>
        {
            false
        }
        Err(error) => return Err(LambdaError::of("HeadObject", error)),
    };
    if !there {
        clients
            .s3
            .put_object()
            .bucket(bucket)
            .key(&key)
            .body(ByteStream::from(zip.to_vec()))
            .customize()
            .config_override(aws_sdk_s3::Config::builder().timeout_config(
                TimeoutConfig::builder().operation_attempt_timeout(connect::UPLOAD_LIMIT).build(),
            ))
            .send()
            .await
            .map_err(|error| LambdaError::of("PutObject", error))?;
    }
    Ok(Source::Bucket { bucket: bucket.into(), key })
}
