//! An image on its way to a registry: blobs that are missing, then the manifest by its digest, then
//! tags. Whatever interrupts it, no tag names an image that is not whole, and the next push sends
//! only what is still missing.
//!
//! Blobs go in one piece each, which every registry takes; Artifact Registry takes nothing else.
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push>

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::HeaderValue;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, Result as OciResult};
use oci_client::{Client, Reference, RegistryOperation};
use oci_spec::image::{Descriptor, MediaType};
use serde::Serialize;

use crate::error::is_passing;
use crate::layout::{Manifest, is_tag};
use crate::{CloudRunError, Credentials, Layout, scope};

/// How many blobs go at once.
const AT_ONCE: usize = 4;

/// The pieces progress is counted in.
const PIECE: usize = 256 << 10;

/// How long a registry may take to connect.
const CONNECT: Duration = Duration::from_secs(20);

/// How long a registry may take nothing and say nothing. A blob as a whole may take any time.
const SILENCE: Duration = Duration::from_secs(120);

const MANIFEST: HeaderValue =
    HeaderValue::from_static("application/vnd.oci.image.manifest.v1+json");

const INDEX: HeaderValue = HeaderValue::from_static("application/vnd.oci.image.index.v1+json");

/// A registry and a repository in it: `europe-west1-docker.pkg.dev/project/models/digits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    registry: String,
    path: String,
}

impl Repository {
    /// Reads `REGISTRY/PATH[:TAG]`: a repository and the tag.
    pub fn parse(text: &str) -> Result<(Repository, Option<String>), CloudRunError> {
        let refuse = |why: &str| CloudRunError::Repository { text: text.into(), why: why.into() };
        if text.contains('@') {
            return Err(refuse("the digest is the image's own; leave it out"));
        }
        let (registry, rest) = text
            .split_once('/')
            .ok_or_else(|| refuse("name a registry, too, as in ghcr.io/owner/name"))?;
        if !registry.contains(['.', ':']) && registry != "localhost" {
            return Err(refuse("it does not begin with a registry, as in ghcr.io/owner/name"));
        }
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag.to_owned())),
            None => (rest, None),
        };
        let parsed: Result<Reference, _> = format!("{registry}/{path}").parse();
        let parsed = parsed.map_err(|_| {
            refuse(
                "its path has lower-case letters and digits, with . _ - between them, and slashes",
            )
        })?;
        let repository = Repository { registry: registry.into(), path: path.into() };
        if parsed.repository() != path {
            return Err(refuse("its path is none of a repository"));
        }
        if let Some(tag) = tag.as_ref().filter(|tag| !is_tag(tag)) {
            return Err(CloudRunError::Tag { tag: tag.clone() });
        }
        Ok((repository, tag))
    }

    /// The registry's name, and its port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Another one of the same registry, by its path or its whole name.
    fn beside(&self, other: &str) -> Result<Repository, CloudRunError> {
        let path = other.strip_prefix(&format!("{}/", self.registry)).unwrap_or(other);
        let (repository, tag) = Repository::parse(&format!("{}/{path}", self.registry))?;
        match tag {
            None => Ok(repository),
            Some(_) => Err(CloudRunError::Repository {
                text: other.into(),
                why: "blobs are taken over from a repository, not from a tag".into(),
            }),
        }
    }

    fn at(&self, digest: &str) -> Reference {
        Reference::with_digest(self.registry.clone(), self.path.clone(), digest.into())
    }

    fn tagged(&self, tag: &str) -> Reference {
        Reference::with_tag(self.registry.clone(), self.path.clone(), tag.into())
    }

    /// Registries on this machine are spoken to without TLS.
    fn is_local(&self) -> bool {
        let name = self.registry.rsplit_once(':').map_or(&*self.registry, |(name, _)| name);
        matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

/// What is to be pushed.
#[derive(Debug)]
pub struct Push<'a> {
    /// The image.
    pub layout: &'a Layout,
    /// Where it goes.
    pub to: &'a Repository,
    /// A repository of the same registry that may have some of its blobs.
    pub mount_from: Option<&'a str>,
    /// What names it gets there beside its digest.
    pub tags: &'a [String],
    /// Who asks.
    pub credentials: &'a Credentials,
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// The image by its digest: what a deployment names.
    pub image: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// What it consists of.
    pub blobs: Vec<PushedBlob>,
}

/// What became of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PushedBlob {
    /// Its digest.
    pub digest: String,
    /// Its size.
    pub bytes: u64,
    /// Whether it went.
    pub fate: Fate,
}

/// Whether a blob went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It was there.
    There,
    /// The registry had it in another repository.
    Mounted,
    /// It was sent.
    Sent,
}

/// Brings an image to a registry; `told` hears how many bytes of how many are there.
pub async fn push(
    push: &Push<'_>,
    told: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<Pushed, CloudRunError> {
    for tag in push.tags {
        if !is_tag(tag) {
            return Err(CloudRunError::Tag { tag: tag.clone() });
        }
    }
    let registry = Registry::connect(push);
    let by_digest = push.to.at(push.layout.digest());
    registry.log_in(&by_digest).await?;
    let from = push.mount_from.map(|from| push.to.beside(from)).transpose()?;
    let mounting = match &from {
        Some(from) => Some((from, registry.for_both(from, &by_digest).await)),
        None => None,
    };
    let mounting = mounting.as_ref().map(|(from, client)| (*from, client));
    let blobs = push.layout.blobs();
    let all = blobs.iter().map(Descriptor::size).sum();
    let (there, told) = (Arc::new(AtomicU64::new(0)), Arc::new(told));
    let progress = move |bytes: u64| {
        told(there.fetch_add(bytes, Ordering::Relaxed) + bytes, all);
    };
    let blobs: Vec<PushedBlob> = futures::stream::iter(blobs)
        .map(|blob| registry.bring(blob, mounting, progress.clone()))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    for manifest in push.layout.manifests() {
        registry.name(manifest, &push.to.at(&manifest.digest), "take the image").await?;
    }
    if let Some(image) = push.layout.manifests().last() {
        for tag in push.tags {
            registry.name(image, &push.to.tagged(tag), &format!("set the tag {tag}")).await?;
        }
    }
    let image = format!("{}@{}", push.to, push.layout.digest());
    Ok(Pushed { image, tags: push.tags.to_vec(), blobs })
}

struct Registry<'a> {
    client: Client,
    push: &'a Push<'a>,
    /// Whether it took something, and thus knows the credentials.
    let_in: AtomicBool,
}

/// When a registry last took something. reqwest's own time for reading begins with a request and is not
/// over before a large body is sent: <https://github.com/seanmonstar/reqwest/issues/2784>.
#[derive(Clone, Debug)]
struct Pulse(Arc<Mutex<Instant>>);

impl Pulse {
    fn new() -> Pulse {
        Pulse(Arc::new(Mutex::new(Instant::now())))
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beat(&self) {
        *self.last() = Instant::now();
    }

    /// Returns once nothing was taken for so long.
    async fn stops(&self, silence: Duration) {
        while let Some(left) = self.left(silence, Instant::now()) {
            tokio::time::sleep(left).await;
        }
    }

    /// How much of a silence is left; none if it is over.
    fn left(&self, silence: Duration, now: Instant) -> Option<Duration> {
        let left = silence.saturating_sub(now.saturating_duration_since(*self.last()));
        (!left.is_zero()).then_some(left)
    }
}

impl<'a> Registry<'a> {
    fn connect(push: &'a Push<'a>) -> Registry<'a> {
        Registry { client: client(push.to), push, let_in: AtomicBool::new(false) }
    }

    /// A client that may read one repository and write the other, as far as that is a matter of tokens.
    async fn for_both(&self, from: &Repository, image: &Reference) -> Client {
        let auth = &self.push.credentials.0;
        let to = self.push.to;
        let scheme = if to.is_local() { "http" } else { "https" };
        let address = format!("{scheme}://{}/v2/", image.resolve_registry());
        let scopes = [
            format!("repository:{}:pull", from.path),
            format!("repository:{}:pull,push", image.repository()),
        ];
        match scope::token(&address, auth, &scopes).await {
            Some(token) => {
                let both = client(to);
                both.store_auth_if_needed(image.resolve_registry(), &token).await;
                both
            }
            None => self.client.clone(),
        }
    }

    async fn log_in(&self, image: &Reference) -> Result<(), CloudRunError> {
        let auth = &self.push.credentials.0;
        let log_in = || self.client.auth(image, auth, RegistryOperation::Push);
        self.trying(log_in, "let slsml in").await.map(drop)
    }

    /// Makes sure that a blob is there.
    async fn bring(
        &self,
        blob: &Descriptor,
        mounting: Option<(&Repository, &Client)>,
        progress: impl Fn(u64) + Clone + Send + Sync + 'static,
    ) -> Result<PushedBlob, CloudRunError> {
        let digest = blob.digest().to_string();
        let at = self.push.to.at(self.push.layout.digest());
        let is_there = || self.client.blob_exists(&at, &digest);
        let fate = if self.trying(is_there, &format!("look for the blob {digest}")).await? {
            progress(blob.size());
            Fate::There
        } else if mount(mounting, &at, &digest).await {
            self.let_in.store(true, Ordering::Relaxed);
            progress(blob.size());
            Fate::Mounted
        } else {
            let bytes = self.push.layout.blob(&digest)?;
            // What is sent a second time is counted once.
            let most = Arc::new(AtomicU64::new(0));
            let pulse = Pulse::new();
            let send = || {
                let (most, progress, mut sent) = (most.clone(), progress.clone(), 0);
                let taken = pulse.clone();
                let count = move |piece: u64| {
                    taken.beat();
                    sent += piece;
                    let before = most.fetch_max(sent, Ordering::Relaxed);
                    progress(sent.saturating_sub(before));
                };
                let size = Some(bytes.len() as u64);
                self.client.push_blob_stream(&at, pieces(bytes.clone(), count), &digest, size)
            };
            self.trying_while(&pulse, send, &format!("take the blob {digest}")).await?;
            self.let_in.store(true, Ordering::Relaxed);
            Fate::Sent
        };
        Ok(PushedBlob { digest, bytes: blob.size(), fate })
    }

    /// Gives a manifest a name; its digest is one, too.
    async fn name(
        &self,
        manifest: &Manifest,
        name: &Reference,
        what: &str,
    ) -> Result<(), CloudRunError> {
        let kind = match manifest.media_type {
            MediaType::ImageIndex => INDEX,
            _ => MANIFEST,
        };
        let bytes = &manifest.bytes;
        let put = || self.client.push_manifest_raw(name, bytes.clone(), kind.clone());
        self.trying(put, what).await.map(drop)
    }

    async fn trying<T, F: Future<Output = OciResult<T>>>(
        &self,
        call: impl FnMut() -> F,
        what: &str,
    ) -> Result<T, CloudRunError> {
        self.trying_while(&Pulse::new(), call, what).await
    }

    /// Tries a call as often as what it fails with may pass, each time as long as there is a pulse.
    async fn trying_while<T, F: Future<Output = OciResult<T>>>(
        &self,
        pulse: &Pulse,
        mut call: impl FnMut() -> F,
        what: &str,
    ) -> Result<T, CloudRunError> {
        let policy = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(250))
            .with_max_delay(Duration::from_secs(8))
            .with_max_times(5);
        let once = || {
            pulse.beat();
            let answer = call();
            async {
                tokio::select! {
                    answer = answer => answer,
                    () = pulse.stops(SILENCE) => Err(silent()),
                }
            }
        };
        let passes = |error: &_| is_passing(error, self.let_in.load(Ordering::Relaxed));
        let tried = once.retry(policy).when(passes).await;
        tried.map_err(|error| CloudRunError::registry(self.push.to, what, &error))
    }
}

fn client(to: &Repository) -> Client {
    let protocol = if to.is_local() { ClientProtocol::Http } else { ClientProtocol::Https };
    Client::new(ClientConfig {
        protocol,
        use_monolithic_push: true,
        connect_timeout: Some(CONNECT),
        user_agent: concat!("slsml/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

/// Takes a blob over from another repository; one that has it not, or not for us, is no error.
async fn mount(mounting: Option<(&Repository, &Client)>, at: &Reference, digest: &str) -> bool {
    match mounting {
        Some((from, client)) => {
            let (from, limit) = (from.at(digest), SILENCE);
            let mounted = client.mount_blob(at, &from, digest);
            matches!(tokio::time::timeout(limit, mounted).await, Ok(Ok(_)))
        }
        None => false,
    }
}

fn silent() -> OciDistributionError {
    let why = format!("it took nothing and said nothing for {} s", SILENCE.as_secs());
    std::io::Error::new(std::io::ErrorKind::TimedOut, why).into()
}

/// Bytes in pieces, each counted as it goes.
fn pieces(
    bytes: Bytes,
    mut count: impl FnMut(u64) + Send + 'static,
) -> impl futures::Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static {
    let mut rest = bytes;
    futures::stream::iter(std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(PIECE.min(rest.len()));
        count(piece.len() as u64);
        Some(Ok(piece))
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn whoever_takes_piece_by_piece_may_take_any_time() {
        let (pulse, began) = (Pulse::new(), Instant::now());
        let later = began + Duration::from_secs(3600);
        assert_eq!(pulse.left(SILENCE, later), None);
        *pulse.last() = later;
        assert_eq!(pulse.left(SILENCE, later), Some(SILENCE));
    }

    #[test]
    fn a_repository_begins_with_its_registry() {
        let parsed = |text| Repository::parse(text).unwrap();
        let (repository, tag) = parsed("europe-docker.pkg.dev/project/models/digits:v1");
        assert_eq!(repository.to_string(), "europe-docker.pkg.dev/project/models/digits");
        assert_eq!((repository.registry(), tag), ("europe-docker.pkg.dev", Some("v1".into())));
        let (local, tag) = parsed("127.0.0.1:5000/digits");
        assert!(local.is_local() && tag.is_none());
        assert!(!parsed("localhost.example.com/digits").0.is_local());
        for wrong in
            ["digits", "owner/digits", "ghcr.io/", "ghcr.io/Owner/x", "ghcr.io/a@sha256:00", ""]
        {
            assert!(Repository::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Repository::parse("ghcr.io/a:b c").is_err());
        let here = parsed("ghcr.io/owner/b").0;
        for other in ["owner/a", "ghcr.io/owner/a"] {
            assert_eq!(here.beside(other).unwrap().to_string(), "ghcr.io/owner/a");
        }
        for wrong in ["Owner//a b", "owner/a:tag", ""] {
            assert!(here.beside(wrong).is_err(), "{wrong}");
        }
    }
}
