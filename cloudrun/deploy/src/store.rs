//! Journals and leases in a bucket of Cloud Storage, written on conditions: `ifGenerationMatch=0` for what
//! must be new, the generation that was read for what must be as it was.
//! <https://cloud.google.com/storage/docs/request-preconditions>

use reqwest::Method;
use serde_json::Value;
use slsml_release::ports::{PortError, Store, Tag};

use crate::api::Payload;
use crate::{CloudRunError, Google};

/// Where in the bucket they lie.
const FOLDER: &str = "slsml/releases/";

/// Objects of a bucket.
#[derive(Clone, Debug)]
pub struct ObjectStore {
    google: Google,
    bucket: String,
}

impl ObjectStore {
    /// What lies in this bucket.
    pub fn new(google: &Google, bucket: &str) -> ObjectStore {
        ObjectStore { google: google.clone(), bucket: bucket.into() }
    }

    fn no_bucket(&self) -> CloudRunError {
        CloudRunError::NoBucket { bucket: self.bucket.clone() }
    }

    async fn put(
        &self,
        key: &str,
        bytes: &[u8],
        generation: &str,
    ) -> Result<Option<Tag>, CloudRunError> {
        let url = self.google.storage_url("/upload/storage/v1/b", &[&self.bucket, "o"])?;
        let query = [
            ("uploadType", "media".to_owned()),
            ("name", format!("{FOLDER}{key}")),
            ("ifGenerationMatch", generation.to_owned()),
        ];
        let payload = Payload::Bytes(bytes);
        let put = self.google.exchange("InsertObject", Method::POST, &url, &query, payload);
        match put.await {
            Ok(answer) => {
                let object: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
                let field = "generation";
                let missing = CloudRunError::Incomplete { call: "InsertObject", field };
                let generation = object[field].as_str().ok_or(missing)?;
                Ok(Some(Tag(generation.into())))
            }
            // Somebody else wrote, or what was there is gone.
            Err(CloudRunError::Refused { status: 412, .. }) => Ok(None),
            Err(error) if error.is_not_found() => Err(self.no_bucket()),
            Err(error) => Err(error),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Tag)>, CloudRunError> {
        let name = format!("{FOLDER}{key}");
        let path = [&*self.bucket, "o", &name];
        let url = self.google.storage_url("/storage/v1/b", &path)?;
        let query = [("alt", "media".to_owned())];
        let get = self.google.exchange("GetObject", Method::GET, &url, &query, Payload::None);
        let answer = match get.await {
            Ok(answer) => answer,
            Err(CloudRunError::Refused { status: 404, message, .. })
                if !message.contains("bucket does not exist") =>
            {
                return Ok(None);
            }
            Err(error) if error.is_not_found() => return Err(self.no_bucket()),
            Err(error) => return Err(error),
        };
        let field = "x-goog-generation";
        let missing = CloudRunError::Incomplete { call: "GetObject", field };
        let generation = answer.headers.get(field).and_then(|value| value.to_str().ok());
        Ok(Some((answer.bytes.to_vec(), Tag(generation.ok_or(missing)?.into()))))
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>, CloudRunError> {
        let url = self.google.storage_url("/storage/v1/b", &[&self.bucket, "o"])?;
        let query = [("prefix", format!("{FOLDER}{prefix}"))];
        let mut keys = Vec::new();
        let each = |page: &Value| {
            for object in page["items"].as_array().into_iter().flatten() {
                let name = object["name"].as_str().unwrap_or_default();
                keys.extend(name.strip_prefix(FOLDER).map(str::to_owned));
            }
            Ok(())
        };
        let listed = self.google.pages("ListObjects", &url, &query, each).await;
        listed.map_err(|error| match error.is_not_found() {
            true => self.no_bucket(),
            false => error,
        })?;
        keys.sort();
        Ok(keys)
    }
}

impl Store for ObjectStore {
    async fn read(&self, key: &str) -> Result<Option<(Vec<u8>, Tag)>, PortError> {
        Ok(self.get(key).await?)
    }

    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Option<Tag>, PortError> {
        Ok(self.put(key, bytes, "0").await?)
    }

    async fn replace(&self, key: &str, bytes: &[u8], seen: &Tag) -> Result<Option<Tag>, PortError> {
        Ok(self.put(key, bytes, &seen.0).await?)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, PortError> {
        Ok(self.keys(prefix).await?)
    }
}
