//! An image as it lies in an OCI image layout.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use crate::CloudRunError;

/// The layout of one image, for one processor or more.
#[derive(Clone, Debug)]
pub struct Layout {
    folder: PathBuf,
    digest: String,
    /// What the registry is told after all blobs are there; the last has the image's digest.
    manifests: Vec<Manifest>,
    blobs: Vec<Descriptor>,
    annotations: HashMap<String, String>,
}

/// A manifest, or an index of manifests.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) digest: String,
    pub(crate) media_type: MediaType,
    pub(crate) bytes: Bytes,
}

impl Layout {
    /// Reads the manifest `digest` in `folder`, or the index and its manifests.
    pub fn open(folder: &Path, digest: &str) -> Result<Layout, CloudRunError> {
        let mut layout = Layout {
            folder: folder.to_owned(),
            digest: digest.into(),
            manifests: Vec::new(),
            blobs: Vec::new(),
            annotations: HashMap::new(),
        };
        let unusable = |why: &dyn std::fmt::Display| CloudRunError::Manifest {
            path: path(folder, digest),
            why: why.to_string(),
        };
        let bytes = read(folder, digest)?;
        match ImageIndex::from_reader(&*bytes) {
            Err(_) => layout.add(digest)?,
            Ok(index) => {
                for one in index.manifests() {
                    layout.add(one.digest().as_ref())?;
                }
                layout.annotations = index.annotations().clone().unwrap_or_default();
                let (digest, media_type) = (digest.to_owned(), MediaType::ImageIndex);
                layout.manifests.push(Manifest { digest, media_type, bytes });
            }
        }
        if layout.blobs.is_empty() {
            return Err(unusable(&"it names no layers"));
        }
        layout.blobs.sort_by(|a, b| {
            b.size().cmp(&a.size()).then_with(|| a.digest().digest().cmp(b.digest().digest()))
        });
        layout.blobs.dedup_by(|a, b| a.digest() == b.digest());
        Ok(layout)
    }

    /// Adds an image's manifest, and what it consists of.
    fn add(&mut self, digest: &str) -> Result<(), CloudRunError> {
        let bytes = read(&self.folder, digest)?;
        let manifest = ImageManifest::from_reader(&*bytes).map_err(|error| {
            let path = path(&self.folder, digest);
            CloudRunError::Manifest { path, why: error.to_string() }
        })?;
        self.blobs.extend(manifest.layers().iter().chain([manifest.config()]).cloned());
        self.annotations = manifest.annotations().clone().unwrap_or_default();
        let (digest, media_type) = (digest.to_owned(), MediaType::ImageManifest);
        self.manifests.push(Manifest { digest, media_type, bytes });
        Ok(())
    }

    /// What a deployment names: the digest of the manifest, or of the index.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Manifests in the order they can be taken in: an index after what it names.
    pub(crate) fn manifests(&self) -> &[Manifest] {
        &self.manifests
    }

    /// Layers and configurations, each once, the largest first.
    pub(crate) fn blobs(&self) -> &[Descriptor] {
        &self.blobs
    }

    /// A blob's bytes, if they are what its digest says.
    pub(crate) fn blob(&self, digest: &str) -> Result<Bytes, CloudRunError> {
        read(&self.folder, digest)
    }

    /// The names the image itself suggests: what it is, the commit and the version it comes from.
    pub fn tags(&self) -> Vec<String> {
        let content = self.digest.replacen(':', "-", 1);
        let content = content.get(.."sha256-".len() + 12).unwrap_or(&content).to_owned();
        let known = ["revision", "version"].into_iter().filter_map(|key| {
            let text = self.annotations.get(&format!("org.opencontainers.image.{key}"))?;
            let tag = as_tag(text);
            is_tag(&tag).then_some(tag)
        });
        std::iter::once(content).chain(known).collect()
    }
}

/// A version may have a `+`, which no tag can.
fn as_tag(text: &str) -> String {
    text.replace('+', "_")
}

/// Whether a version or a commit can be a tag.
pub fn can_be_tag(text: &str) -> bool {
    is_tag(&as_tag(text))
}

/// <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>
pub(crate) fn is_tag(tag: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=128).contains(&tag.len())
        && tag.bytes().all(inner)
        && !tag.starts_with('.')
        && !tag.starts_with('-')
}

fn path(folder: &Path, digest: &str) -> PathBuf {
    folder.join("blobs").join(digest.replacen(':', "/", 1))
}

fn read(folder: &Path, digest: &str) -> Result<Bytes, CloudRunError> {
    let path = path(folder, digest);
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(CloudRunError::Blob { path });
    }
    let bytes = std::fs::read(&path)
        .map_err(|source| CloudRunError::Layout { path: path.clone(), source })?;
    if slsml_package::sha256_hex(&bytes) == hex {
        Ok(bytes.into())
    } else {
        Err(CloudRunError::Blob { path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_what_registries_take() {
        for tag in ["v1.2.3", "1.0.0-rc.1", "latest", "_x", &"a".repeat(128)] {
            assert!(is_tag(tag), "{tag}");
        }
        assert!(can_be_tag("1.0+2") && !can_be_tag("1 0"));
        for tag in ["", ".a", "-a", "a b", "a/b", "a:b", "1.0+2", &"a".repeat(129)] {
            assert!(!is_tag(tag), "{tag}");
        }
    }
}
