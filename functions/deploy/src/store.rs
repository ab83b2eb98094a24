//! Journals and leases in a bucket, written on conditions: `If-None-Match` for what must be new,
//! `If-Match` for what must be as it was read.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>

use aws_sdk_s3::primitives::ByteStream;
use slsml_release::ports::{PortError, Store, Tag};

use crate::{Clients, LambdaError};

/// Where in the bucket they lie.
const FOLDER: &str = "slsml/releases/";

/// Objects of a bucket.
#[derive(Clone, Debug)]
pub struct BucketStore {
    clients: Clients,
    bucket: String,
}

impl BucketStore {
    /// What lies in this bucket.
    pub fn new(clients: &Clients, bucket: &str) -> BucketStore {
        BucketStore { clients: clients.clone(), bucket: bucket.into() }
    }

    async fn put(
        &self,
        key: &str,
        bytes: &[u8],
        seen: Option<&Tag>,
    ) -> Result<Option<Tag>, PortError> {
        let call = self
            .clients
            .s3
            .put_object()
            .bucket(&self.bucket)
            .key(format!("{FOLDER}{key}"))
            .body(ByteStream::from(bytes.to_vec()))
            .content_type("application/json");
        let call = match seen {
            None => call.if_none_match("*"),
            Some(Tag(tag)) => call.if_match(tag),
        };
        match call.send().await {
            Ok(written) => Ok(Some(Tag(written.e_tag.unwrap_or_default()))),
            Err(error) => match status(error.raw_response()) {
                // 409: somebody else writes at this moment. 404: what was there is gone.
                Some(409 | 412) => Ok(None),
                Some(404) if seen.is_some() => Ok(None),
                _ => Err(LambdaError::of("PutObject", error).into()),
            },
        }
    }
}

fn status(
    answer: Option<&aws_smithy_runtime_api::client::orchestrator::HttpResponse>,
) -> Option<u16> {
    answer.map(|answer| answer.status().as_u16())
}

impl Store for BucketStore {
    async fn read(&self, key: &str) -> Result<Option<(Vec<u8>, Tag)>, PortError> {
        let call = self.clients.s3.get_object().bucket(&self.bucket).key(format!("{FOLDER}{key}"));
        let found = match call.send().await {
            Ok(found) => found,
            Err(error) => {
                let missing = error.as_service_error().is_some_and(|error| error.is_no_such_key());
                return match missing {
                    true => Ok(None),
                    false => Err(LambdaError::of("GetObject", error).into()),
                };
            }
        };
        let tag = Tag(found.e_tag.unwrap_or_default());
        let bytes =
            found.body.collect().await.map_err(|error| PortError::Failed(Box::new(error)))?;
        Ok(Some((bytes.to_vec(), tag)))
    }

    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Option<Tag>, PortError> {
        self.put(key, bytes, None).await
    }

    async fn replace(&self, key: &str, bytes: &[u8], seen: &Tag) -> Result<Option<Tag>, PortError> {
        self.put(key, bytes, Some(seen)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, PortError> {
        let call = self.clients.s3.list_objects_v2().bucket(&self.bucket);
        let mut pages = call.prefix(format!("{FOLDER}{prefix}")).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| LambdaError::of("ListObjectsV2", error))?;
            let here = page.contents().iter().filter_map(|object| object.key());
            keys.extend(here.filter_map(|key| key.strip_prefix(FOLDER)).map(str::to_owned));
        }
        keys.sort();
        Ok(keys)
    }
}
