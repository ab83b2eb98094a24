//! The object store for artifacts: s3s over a folder.

use std::path::{Path, PathBuf};

use axum::body::Bytes;
use futures::TryStreamExt;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::dto::{GetObjectInput, HeadBucketInput};
use s3s::path::S3Path;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Error, S3Request, S3Result};
use s3s_fs::FileSystem;

use crate::error::{AwsError, AwsResult};
use crate::{ACCESS_KEY, SECRET_KEY};

/// Objects, for S3's clients and for Lambda itself.
pub(crate) struct Store {
    pub(crate) service: S3Service,
    files: FileSystem,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// The objects in a folder, which is made if it is not there.
    pub(crate) fn open(folder: &Path) -> std::io::Result<Store> {
        std::fs::create_dir_all(folder)?;
        let files = |folder| {
            FileSystem::new(folder).map_err(|error| std::io::Error::other(format!("{error:?}")))
        };
        let mut builder = S3ServiceBuilder::new(files(folder)?);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        builder.set_access(Buckets { folder: folder.to_owned() });
        Ok(Store { service: builder.build(), files: files(folder)? })
    }

    /// An object's bytes, as Lambda reads its code.
    pub(crate) async fn read(&self, bucket: &str, key: &str) -> AwsResult<Bytes> {
        let refuse = |error: S3Error| {
            AwsError::invalid(format!(
                "Error occurred while GetObject. S3 Error Code: {}. S3 Error Message: {} ({bucket}/{key})",
                error.code().as_str(),
                error.message().unwrap_or_default()
            ))
        };
        let head = HeadBucketInput { bucket: bucket.into(), ..HeadBucketInput::default() };
        self.files.head_bucket(request(head)).await.map_err(refuse)?;
        let get =
            GetObjectInput { bucket: bucket.into(), key: key.into(), ..GetObjectInput::default() };
        let object = self.files.get_object(request(get)).await.map_err(refuse)?;
        let Some(body) = object.output.body else { return Ok(Bytes::new()) };
        let chunks: Vec<Bytes> = body.try_collect().await.map_err(AwsError::internal)?;
        Ok(chunks.concat().into())
    }
}

/// The file store makes a bucket of whatever is written to; S3 refuses what has no bucket.
struct Buckets {
    folder: PathBuf,
}

#[async_trait::async_trait]
impl S3Access for Buckets {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        if request.credentials().is_none() {
            return Err(s3s::s3_error!(AccessDenied, "Signature is required"));
        }
        let bucket = match request.s3_path() {
            S3Path::Root => return Ok(()),
            S3Path::Bucket { bucket } | S3Path::Object { bucket, .. } => bucket,
        };
        if request.s3_op().name() == "CreateBucket" || self.folder.join(&**bucket).is_dir() {
            return Ok(());
        }
        Err(s3s::s3_error!(NoSuchBucket, "The specified bucket does not exist"))
    }
}

/// A request that comes from this process itself.
fn request<T>(input: T) -> S3Request<T> {
    S3Request {
        input,
        method: http::Method::GET,
        uri: http::Uri::from_static("/"),
        headers: http::HeaderMap::new(),
        extensions: http::Extensions::new(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}
