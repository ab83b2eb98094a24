//! A container image as an OCI image layout, made here: no daemon, no base image. Two layers, the
//! program's and the model's, so that a new program goes without the model's bytes and the other
//! way round. For more than one processor, an index of an image for each; the model's layer is the same.
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use flate2::Compression;
use flate2::write::GzEncoder;
use oci_spec::OciSpecError;
use oci_spec::image::{
    Arch as OciArch, Config, ConfigBuilder, Descriptor, Digest, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder,
    SCHEMA_VERSION, Sha256Digest,
};
use serde::{Deserialize, Serialize};
use slsml_model::{MANIFEST_FILE, MODEL_FILE};
use thiserror::Error;

use crate::archive::deflated_share;
use crate::{Arch, sha256_hex};

/// The folder of the layout, beside the artifact's record.
pub const IMAGE_FOLDER: &str = "image";

/// The program's name, in the image and beside slsml.
pub const SERVER: &str = "slsml-server";

/// Where the model is in the image.
pub(crate) const MODEL_FOLDER: &str = "model";

/// Nobody: the number distroless images use for it.
pub(crate) const USER: u64 = 65532;

/// A layer that keeps more than this share of its size is not worth its compression.
const WORTH_COMPRESSING: f64 = 0.9;

/// A container image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// The folder with the layout, beside the record.
    pub folder: String,
    /// What a deployment names: the digest of the manifest, or of the index of more than one.
    pub digest: String,
    /// Size of all blobs.
    pub bytes: u64,
    /// What it is for, each with an image of its own.
    pub platforms: Vec<Platform>,
}

/// The image for a processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// What its program runs on.
    pub arch: Arch,
    /// The manifest's digest.
    pub digest: String,
    /// The configuration's digest.
    pub config: String,
    /// The layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// What is in it.
    pub holds: Holds,
    /// Its digest.
    pub digest: String,
    /// Size of the blob.
    pub bytes: u64,
    /// Size of the archive within.
    pub unpacked_bytes: u64,
}

/// What a layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// The program.
    Runtime,
    /// The packaged model.
    Model,
}

/// Why an image could not be made.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ImageError {
    #[error("cannot make a layer: {0}")]
    Layer(std::io::Error),
    #[error("cannot describe the image: {0}")]
    Oci(#[from] OciSpecError),
    #[error("cannot describe the image: {0}")]
    Json(#[from] serde_json::Error),
    #[error("SOURCE_DATE_EPOCH is {0}, which no image can state: from 1970 to 9999")]
    Date(i64),
    #[error("a file for docker holds the image for one processor")]
    OnePlatform,
}

/// What an image is made from.
#[derive(Clone, Copy, Debug)]
pub struct ImageParts<'a> {
    /// The model's name.
    pub name: &'a str,
    /// The program, for each processor.
    pub programs: &'a [(Arch, &'a [u8])],
    /// The packaged model's file.
    pub model: &'a [u8],
    /// Its SHA-256, hexadecimal.
    pub model_sha256: &'a str,
    /// Its manifest's file.
    pub manifest: &'a [u8],
    /// The slsml that makes it.
    pub slsml_version: &'a str,
    /// Where the model comes from: the address of a repository, and a commit.
    pub source: Option<&'a str>,
    /// The commit.
    pub revision: Option<&'a str>,
    /// The model's version.
    pub version: Option<&'a str>,
    /// The time files carry, in seconds since 1970.
    pub modified: Option<i64>,
    /// Whether size is worth a minute.
    pub smallest: bool,
}

/// An image in memory: its record and its blobs by digest.
#[derive(Debug)]
pub struct Made {
    /// The record.
    pub image: Image,
    /// `index.json` of the layout.
    pub index: Vec<u8>,
    blobs: Vec<Blob>,
}

#[derive(Debug)]
struct Blob {
    sha256: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Blob {
        Blob { sha256: sha256_hex(&bytes), bytes }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.sha256)
    }

    fn descriptor(&self, media_type: MediaType) -> Result<Descriptor, OciSpecError> {
        let digest = Sha256Digest::from_str(&self.sha256)?;
        Ok(Descriptor::new(media_type, self.bytes.len() as u64, Digest::from(digest)))
    }
}

/// A layer's blob, what kind it is and the digest of the archive within.
struct Packed {
    blob: Blob,
    media_type: MediaType,
    diff_id: String,
    unpacked: u64,
}

impl Packed {
    fn record(&self, holds: Holds) -> Layer {
        let bytes = self.blob.bytes.len() as u64;
        Layer { holds, digest: self.blob.digest(), bytes, unpacked_bytes: self.unpacked }
    }
}

/// Makes an image. The same parts make the same bytes.
pub fn make_image(parts: &ImageParts<'_>) -> Result<Made, ImageError> {
    let seconds = u64::try_from(parts.modified.unwrap_or(0))
        .map_err(|_| ImageError::Date(parts.modified.unwrap_or(0)))?;
    let model = format!("{MODEL_FOLDER}/{MODEL_FILE}");
    let manifest = format!("{MODEL_FOLDER}/{MANIFEST_FILE}");
    let files = [(&*manifest, parts.manifest, 0o644), (&*model, parts.model, 0o644)];
    let model = pack(tar(seconds, &[MODEL_FOLDER], &files)?, parts.smallest)?;
    let (mut blobs, mut platforms, mut listed) = (Vec::new(), Vec::new(), Vec::new());
    for (arch, program) in parts.programs {
        let program = tar(seconds, &[], &[(SERVER, program, 0o755)])?;
        let program = pack(program, parts.smallest)?;
        let layers = [&program, &model];
        let config = Blob::new(serde_json::to_vec(&config(parts, *arch, seconds, layers)?)?);
        let descriptors = layers
            .map(|layer| layer.blob.descriptor(layer.media_type.clone()))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config.descriptor(MediaType::ImageConfig)?)
            .layers(descriptors)
            .annotations(annotations(parts))
            .build()?;
        let manifest = Blob::new(stable(&manifest)?);
        platforms.push(Platform {
            arch: *arch,
            digest: manifest.digest(),
            config: config.digest(),
            layers: vec![program.record(Holds::Runtime), model.record(Holds::Model)],
        });
        let mut descriptor = manifest.descriptor(MediaType::ImageManifest)?;
        descriptor.set_platform(Some(platform(*arch)?));
        listed.push(descriptor);
        blobs.extend([program.blob, config, manifest]);
    }
    blobs.push(model.blob);
    let name = match listed.as_slice() {
        [only] => only.clone(),
        _ => {
            let index = Blob::new(index(listed, Some(annotations(parts)))?);
            let descriptor = index.descriptor(MediaType::ImageIndex)?;
            blobs.push(index);
            descriptor
        }
    };
    let image = Image {
        folder: IMAGE_FOLDER.into(),
        digest: name.digest().to_string(),
        bytes: blobs.iter().map(|blob| blob.bytes.len() as u64).sum(),
        platforms,
    };
    Ok(Made { image, index: entry_point(name)?, blobs })
}

impl Made {
    /// Every file of the layout: its path and its content.
    pub fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let blobs = self.blobs.iter();
        let blobs = blobs.map(|blob| (format!("blobs/sha256/{}", blob.sha256), &*blob.bytes));
        let fixed = [("oci-layout".to_owned(), LAYOUT), ("index.json".to_owned(), &*self.index)];
        fixed.into_iter().chain(blobs)
    }

    /// The layout as one file that `docker load` and `podman load` take.
    pub fn docker_archive(&self, name: &str, modified: Option<i64>) -> Result<Vec<u8>, ImageError> {
        let path = |digest: &str| format!("blobs/{}", digest.replacen(':', "/", 1));
        let [platform] = self.image.platforms.as_slice() else {
            return Err(ImageError::OnePlatform);
        };
        let layers: Vec<String> = platform.layers.iter().map(|layer| path(&layer.digest)).collect();
        let manifest = serde_json::to_vec(&serde_json::json!([{
            "Config": path(&platform.config),
            // Names of images have no capital letters.
            "RepoTags": [format!("{}:latest", name.to_lowercase())],
            "Layers": layers,
        }]))?;
        // Some read it as a layout, and take its name from there.
        let mut index: serde_json::Value = serde_json::from_slice(&self.index)?;
        index["manifests"][0]["annotations"] = serde_json::json!({
            "org.opencontainers.image.ref.name": format!("{name}:latest"),
            "io.containerd.image.name": format!("docker.io/library/{name}:latest"),
        });
        let index = serde_json::to_vec(&index)?;
        let files: Vec<(String, &[u8])> = self
            .files()
            .map(|(path, bytes)| if path == "index.json" { (path, &*index) } else { (path, bytes) })
            .collect();
        let mut all: Vec<(&str, &[u8], u32)> =
            files.iter().map(|(path, bytes)| (path.as_str(), *bytes, 0o644)).collect();
        all.push(("manifest.json", &manifest, 0o644));
        let seconds = modified.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
        tar(seconds, &["blobs", "blobs/sha256"], &all)
    }
}

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// An archive in which nothing depends on this machine.
fn tar(
    seconds: u64,
    folders: &[&str],
    files: &[(&str, &[u8], u32)],
) -> Result<Vec<u8>, ImageError> {
    let size: usize = files.iter().map(|(_, bytes, _)| bytes.len() + 2048).sum();
    let mut archive = tar::Builder::new(Vec::with_capacity(size + 4096));
    let header = |kind, mode, size: usize| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_mtime(seconds);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    let mut append = |path: &str, mut header: tar::Header, bytes: &[u8]| {
        archive.append_data(&mut header, path, bytes).map_err(ImageError::Layer)
    };
    for folder in folders {
        append(&format!("{folder}/"), header(tar::EntryType::Directory, 0o755, 0), &[])?;
    }
    for (path, bytes, mode) in files {
        append(path, header(tar::EntryType::Regular, *mode, bytes.len()), bytes)?;
    }
    archive.into_inner().map_err(ImageError::Layer)
}

/// Compresses an archive where that pays.
fn pack(archive: Vec<u8>, smallest: bool) -> Result<Packed, ImageError> {
    let unpacked = archive.len() as u64;
    if deflated_share(&archive) > WORTH_COMPRESSING {
        let blob = Blob::new(archive);
        let diff_id = blob.sha256.clone();
        return Ok(Packed { blob, media_type: MediaType::ImageLayer, diff_id, unpacked });
    }
    let small = if smallest { with_zopfli(&archive) } else { with_gzip(&archive) };
    let blob = Blob::new(small.map_err(ImageError::Layer)?);
    let diff_id = sha256_hex(&archive);
    Ok(Packed { blob, media_type: MediaType::ImageLayerGzip, diff_id, unpacked })
}

fn with_gzip(archive: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(archive.len() / 2), Compression::best());
    gzip.write_all(archive)?;
    gzip.finish()
}

fn with_zopfli(archive: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut small = Vec::with_capacity(archive.len() / 2);
    zopfli::compress(zopfli::Options::default(), zopfli::Format::Gzip, archive, &mut small)?;
    Ok(small)
}

fn config(
    parts: &ImageParts<'_>,
    arch: Arch,
    seconds: u64,
    layers: [&Packed; 2],
) -> Result<serde_json::Value, ImageError> {
    let diff_ids: Vec<String> =
        layers.into_iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
    let root = RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build()?;
    let program: Config = ConfigBuilder::default()
        .user(format!("{USER}:{USER}"))
        .exposed_ports(vec!["8080/tcp".to_owned()])
        .env(vec![format!("SLSML_MODEL_DIR=/{MODEL_FOLDER}")])
        .entrypoint(vec![format!("/{SERVER}")])
        .working_dir("/")
        .labels(annotations(parts))
        .stop_signal("SIGTERM")
        .build()?;
    let config = ImageConfigurationBuilder::default()
        .created(rfc3339(seconds)?)
        .architecture(oci(arch))
        .os(Os::Linux)
        .config(program)
        .rootfs(root)
        .build()?;
    Ok(serde_json::to_value(&config)?)
}

/// A processor in container images' words.
pub(crate) fn oci(arch: Arch) -> OciArch {
    match arch {
        Arch::X86_64 => OciArch::Amd64,
        Arch::Arm64 => OciArch::ARM64,
    }
}

/// What the image says of itself, on its manifest and as labels.
pub(crate) fn annotations(parts: &ImageParts<'_>) -> HashMap<String, String> {
    let mut all = HashMap::from([
        ("org.opencontainers.image.title".to_owned(), parts.name.to_owned()),
        ("dev.slsml.version".to_owned(), parts.slsml_version.to_owned()),
        ("dev.slsml.model.sha256".to_owned(), parts.model_sha256.to_owned()),
    ]);
    let known =
        [("source", parts.source), ("revision", parts.revision), ("version", parts.version)];
    for (key, value) in known {
        if let Some(value) = value {
            all.insert(format!("org.opencontainers.image.{key}"), value.to_owned());
        }
    }
    all
}

/// An index of manifests.
fn index(
    manifests: Vec<Descriptor>,
    annotations: Option<HashMap<String, String>>,
) -> Result<Vec<u8>, ImageError> {
    let mut index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()?;
    index.set_annotations(annotations);
    stable(&index)
}

fn platform(arch: Arch) -> Result<oci_spec::image::Platform, OciSpecError> {
    PlatformBuilder::default().architecture(oci(arch)).os(Os::Linux).build()
}

/// `index.json` of the layout: the image under the name a tool finds it by, which is what it is and
/// not when it was made.
fn entry_point(mut image: Descriptor) -> Result<Vec<u8>, ImageError> {
    let tag = format!("sha256-{}", image.digest().digest().get(..12).unwrap_or_default());
    let name = ("org.opencontainers.image.ref.name".to_owned(), tag);
    image.set_annotations(Some(HashMap::from([name])));
    index(vec![image], None)
}

/// JSON whose keys are sorted: what is a map has no order of its own.
fn stable(value: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    Ok(serde_json::to_vec(&serde_json::to_value(value)?)?)
}

fn rfc3339(seconds: u64) -> Result<String, ImageError> {
    use time::format_description::well_known::Rfc3339;
    let unfit = || ImageError::Date(i64::try_from(seconds).unwrap_or(i64::MAX));
    let seconds = i64::try_from(seconds).map_err(|_| unfit())?;
    let date = time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| unfit())?;
    date.format(&Rfc3339).map_err(|_| unfit())
}

/// Writes the layout into a new folder.
pub(crate) fn write_layout(made: &Made, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder.join("blobs/sha256"))?;
    for (path, bytes) in made.files() {
        std::fs::write(folder.join(path), bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parts<'a>(programs: &'a [(Arch, &'a [u8])]) -> ImageParts<'a> {
        ImageParts {
            name: "digits",
            programs,
            model: b"a model",
            model_sha256: "00",
            manifest: b"{}",
            slsml_version: "1",
            source: None,
            revision: Some("abc"),
            version: None,
            modified: None,
            smallest: false,
        }
    }

    #[test]
    fn the_same_parts_make_the_same_image_and_a_new_program_leaves_the_models_layer() {
        let [one, again, other] = [b"program".as_slice(), b"program", b"another"]
            .map(|program| make_image(&parts(&[(Arch::X86_64, program)])).unwrap());
        assert_eq!(one.image, again.image);
        assert_eq!(one.index, again.index);
        assert_ne!(one.image.digest, other.image.digest);
        let layer = |made: &Made, at: usize| made.image.platforms[0].layers[at].clone();
        assert_ne!(layer(&one, 0), layer(&other, 0));
        assert_eq!(layer(&one, 1), layer(&other, 1));
    }

    #[test]
    fn an_index_holds_an_image_for_each_processor_and_the_model_once() {
        let (amd, arm) = ((Arch::X86_64, &b"amd"[..]), (Arch::Arm64, &b"arm"[..]));
        let both = make_image(&parts(&[amd, arm])).unwrap();
        let one = make_image(&parts(&[amd])).unwrap();
        let [first, second] = both.image.platforms.as_slice() else { panic!("{:?}", both.image) };
        assert_eq!(first, &one.image.platforms[0], "the image is the one it is alone");
        assert_eq!(first.layers[1], second.layers[1]);
        assert_eq!(both.blobs.len(), 8, "two programs, configurations and manifests, model, index");
        let index = both
            .files()
            .find(|(path, _)| path.ends_with(both.image.digest.trim_start_matches("sha256:")));
        let index: serde_json::Value = serde_json::from_slice(index.unwrap().1).unwrap();
        let listed = |at: usize| {
            let one = &index["manifests"][at];
            (one["platform"]["architecture"].clone(), one["digest"].clone())
        };
        assert_eq!(listed(0), ("amd64".into(), first.digest.clone().into()));
        assert_eq!(listed(1), ("arm64".into(), second.digest.clone().into()));
        assert_eq!(index["annotations"]["org.opencontainers.image.revision"], "abc");
        assert!(matches!(both.docker_archive("x", None), Err(ImageError::OnePlatform)));
    }

    #[test]
    fn the_smallest_layer_is_smaller_and_holds_the_same() {
        let archive: Vec<u8> =
            (0..60_000_u32).flat_map(|i| (i * i).to_string().into_bytes()).collect();
        let [usual, smallest] =
            [false, true].map(|smallest| pack(archive.clone(), smallest).unwrap());
        assert!(smallest.blob.bytes.len() < usual.blob.bytes.len());
        assert_eq!(smallest.diff_id, usual.diff_id);
        let mut plain = Vec::new();
        let mut gzip = flate2::read::GzDecoder::new(&*smallest.blob.bytes);
        std::io::Read::read_to_end(&mut gzip, &mut plain).unwrap();
        assert_eq!(plain, archive);
        assert_eq!(smallest.blob.bytes, pack(archive, true).unwrap().blob.bytes);
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_nobody_runs_it() {
        let program = [(Arch::X86_64, &b"program"[..])];
        let made = make_image(&parts(&program)).unwrap();
        for (path, bytes) in made.files() {
            if let Some(digest) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, sha256_hex(bytes));
            }
        }
        let config = std::str::from_utf8(&made.blobs[1].bytes).unwrap();
        assert!(config.contains("\"User\":\"65532:65532\""), "{config}");
        assert!(config.contains("\"created\":\"1970-01-01T00:00:00Z\""), "{config}");
        assert!(make_image(&ImageParts { modified: Some(-1), ..parts(&program) }).is_err());
    }
}
