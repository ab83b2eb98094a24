//! An image's files, unpacked once for each image.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::state::Failure;
use crate::home::Home;
use crate::ids;
use crate::images::Images;

/// The most an image may unpack to, in bytes.
const LIMIT: u64 = 32 << 30;

/// What is started, and in what.
#[derive(Clone, Debug)]
pub(crate) struct Rootfs {
    pub(crate) folder: PathBuf,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) workdir: String,
}

fn missing(message: String) -> Failure {
    Failure { reason: "CONTAINER_MISSING".into(), message }
}

/// The files of an image of this machine's registry.
pub(crate) fn rootfs(
    home: &Home,
    images: &Images,
    registry: &str,
    image: &str,
) -> Result<Rootfs, Failure> {
    let not_found = || missing(format!("Image '{image}' not found."));
    // A restart may have moved the registry to another port.
    let is_here = |host: &str| host.split(':').next() == registry.split(':').next();
    let local = image.split_once('/').filter(|(host, _)| is_here(host));
    let Some((_, path)) = local else {
        let why = "slsml local runs images of its own registry only";
        return Err(missing(format!("Image '{image}' cannot be had: {why} ({registry}/…).")));
    };
    let (repository, reference) = match path.split_once('@') {
        Some((name, digest)) => (name.split(':').next().unwrap_or_default(), digest),
        None => path.split_once(':').unwrap_or((path, "latest")),
    };
    let manifest = images.manifest(repository, reference).ok_or_else(not_found)?;
    let read =
        |digest: &Value| -> Option<Vec<u8>> { std::fs::read(images.blob(digest.as_str()?)?).ok() };
    let manifest: Value = serde_json::from_slice(&manifest).map_err(|_| not_found())?;
    let manifest = match manifest["manifests"].as_array() {
        None => manifest,
        Some(all) => {
            let amd64 = |one: &&Value| one["platform"]["architecture"] == "amd64";
            let one = all.iter().find(amd64).and_then(|one| read(&one["digest"]));
            let one = one.ok_or_else(|| {
                missing(format!("Image '{image}' is not for linux/amd64, as Cloud Run needs it"))
            })?;
            serde_json::from_slice(&one).map_err(|_| not_found())?
        }
    };
    let config = read(&manifest["config"]["digest"]).ok_or_else(not_found)?;
    let config: Value = serde_json::from_slice(&config).map_err(|_| not_found())?;
    if config["architecture"] != "amd64" || config["os"] != "linux" {
        let (os, arch) = (&config["os"], &config["architecture"]);
        let why = format!(
            "Cloud Run does not support image '{image}': Container manifest type must support amd64/linux, not {arch}/{os}."
        );
        return Err(missing(why));
    }
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    let id: String = manifest["config"]["digest"]
        .as_str()
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let folder = home.join("rootfs").join(id);
    if !folder.exists() {
        let fresh = home.join("rootfs").join(format!("new-{}", ids::short_id(12)));
        let unpacked = unpack(images, &layers, &fresh);
        let kept = unpacked.and_then(|()| std::fs::rename(&fresh, &folder));
        if let Err(error) = kept {
            // Another may have been first; else what is half there goes.
            let _ = std::fs::remove_dir_all(&fresh);
            if !folder.exists() {
                return Err(missing(format!("Image '{image}' cannot be unpacked: {error}.")));
            }
        }
    }
    let config = &config["config"];
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|text| Some(text.as_str()?.to_owned()))
            .collect()
    };
    let entrypoint = [texts(&config["Entrypoint"]), texts(&config["Cmd"])].concat();
    let environment = texts(&config["Env"]);
    let environment = environment.iter().filter_map(|text| text.split_once('='));
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let workdir = config["WorkingDir"].as_str().filter(|dir| !dir.is_empty()).unwrap_or("/");
    let user = config["User"].as_str().and_then(|user| {
        let (user, group) = user.split_once(':').unwrap_or((user, user));
        Some((user.parse().ok()?, group.parse().ok()?))
    });
    let environment = environment.collect();
    Ok(Rootfs { folder, entrypoint, environment, user, workdir: workdir.into() })
}

fn unpack(images: &Images, layers: &[Value], folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for layer in layers {
        let digest = layer["digest"].as_str().unwrap_or_default();
        let path = images.blob(digest).ok_or(std::io::ErrorKind::NotFound)?;
        let file = std::io::BufReader::new(std::fs::File::open(path)?);
        let plain: Box<dyn Read> = match layer["mediaType"].as_str().unwrap_or_default() {
            kind if kind.ends_with("gzip") => Box::new(flate2::read::GzDecoder::new(file)),
            kind if kind.ends_with("zstd") => {
                return Err(std::io::Error::other("slsml local does not read zstd"));
            }
            _ => Box::new(file),
        };
        // The crate refuses paths that lead out of the folder.
        tar::Archive::new(plain.take(LIMIT)).unpack(folder)?;
    }
    Ok(())
}
