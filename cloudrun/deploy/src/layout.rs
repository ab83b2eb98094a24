//! An image as it lies in an OCI image layout.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use oci_spec::image::{Descriptor, ImageManifest};

use crate::CloudRunError;

/// The layout of one image.
#[derive(Clone, Debug)]
pub struct Layout {
    folder: PathBuf,
    digest: String,
    manifest: Bytes,
    parsed: ImageManifest,
}

impl Layout {
    /// Reads the manifest `digest` in `folder`.
    pub fn open(folder: &Path, digest: &str) -> Result<Layout, CloudRunError> {
        let manifest = read(folder, digest)?;
        let parsed = ImageManifest::from_reader(&*manifest).map_err(|error| {
            let path = path(folder, digest);
            CloudRunError::Manifest { path, why: error.to_string() }
        })?;
        Ok(Layout { folder: folder.to_owned(), digest: digest.into(), manifest, parsed })
    }

    /// The manifest's digest.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The manifest's bytes.
    pub(crate) fn manifest(&self) -> Bytes {
        self.manifest.clone()
    }

    /// Layers and configuration, each once.
    pub(crate) fn blobs(&self) -> Vec<Descriptor> {
        let mut blobs: Vec<Descriptor> = self.parsed.layers().clone();
        blobs.push(self.parsed.config().clone());
        blobs.sort_by(|a, b| {
            b.size().cmp(&a.size()).then_with(|| a.digest().digest().cmp(b.digest().digest()))
        });
        blobs.dedup_by(|a, b| a.digest() == b.digest());
        blobs
    }

    /// A blob's bytes, if they are what its digest says.
    pub(crate) fn blob(&self, digest: &str) -> Result<Bytes, CloudRunError> {
        read(&self.folder, digest)
    }

    /// The names the image itself suggests: what it is, the commit and the version it comes from.
    pub fn tags(&self) -> Vec<String> {
        let content = self.digest.replacen(':', "-", 1);
        let content = content.get(.."sha256-".len() + 12).unwrap_or(&content).to_owned();
        let annotations = self.parsed.annotations().clone().unwrap_or_default();
        let known = ["revision", "version"].into_iter().filter_map(|key| {
            let text = annotations.get(&format!("org.opencontainers.image.{key}"))?;
            // A version may have a `+`, which no tag can.
            let tag = text.replace('+', "_");
            is_tag(&tag).then_some(tag)
        });
        std::iter::once(content).chain(known).collect()
    }
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
        for tag in ["", ".a", "-a", "a b", "a/b", "a:b", "1.0+2", &"a".repeat(129)] {
            assert!(!is_tag(tag), "{tag}");
        }
    }
}
