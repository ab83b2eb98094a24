//! The release engine, connected: an alias or a service, its metrics, the journals, and who works here.

use std::time::Duration;

use slsml_cloudrun::{ObjectStore, RevisionMetrics, ServiceTarget};
use slsml_lambda::{AliasTarget, BucketStore, VersionMetrics};
use slsml_release::lease::{Holder, Lease};
use slsml_release::ports::{Clock, PortError, Store, SystemClock, Tag};
use slsml_release::{DriveError, Instant, World};

use crate::failure::Failure;
use crate::folder::FolderStore;
use crate::place::{CloudrunPlace, Place};
use crate::site::{AnyMetrics, AnyTarget, Site};
use crate::webhook::Webhook;

/// Everything a release of one alias or service works with.
pub(crate) struct Engine {
    pub(crate) site: Site,
    pub(crate) target: AnyTarget,
    pub(crate) metrics: AnyMetrics,
    pub(crate) journals: Journals,
    pub(crate) holder: Holder,
    /// What journals call it.
    pub(crate) name: String,
    /// The flag that leads to the same place.
    pub(crate) place: &'static str,
    /// Who is told.
    pub(crate) webhook: Option<Webhook>,
}

/// Where journals are.
#[derive(Clone, Debug)]
pub(crate) enum Journals {
    /// On this machine.
    Folder(FolderStore),
    /// Where any machine finds them: a bucket of Amazon S3.
    Bucket(BucketStore),
    /// The same on Google Cloud Storage.
    Objects(ObjectStore),
}

pub(crate) type Connected<'a> = World<'a, AnyTarget, AnyMetrics, Journals, SystemClock>;

impl Engine {
    pub(crate) fn of_alias(
        place: &Place,
        function: &str,
        alias: &str,
        bucket: Option<&str>,
    ) -> Result<Engine, Failure> {
        let journals = match bucket {
            Some(bucket) => Journals::Bucket(BucketStore::new(&place.clients, bucket)),
            None => Journals::Folder(FolderStore::new(place.journals()?)),
        };
        let region = if place.local { "local" } else { place.clients.region() };
        Ok(Engine {
            site: Site::Alias { function: function.into(), alias: alias.into() },
            target: AnyTarget::Alias(AliasTarget::new(&place.clients, function, alias)),
            metrics: AnyMetrics::Versions(VersionMetrics::new(
                &place.clients,
                function,
                alias,
                if place.local { 1 } else { 60 },
            )),
            journals,
            holder: this_process(),
            name: format!("lambda/{region}/{function}/{alias}"),
            place: if place.local { " --local" } else { "" },
            webhook: None,
        })
    }

    pub(crate) fn of_service(
        place: &CloudrunPlace,
        service: &str,
        bucket: Option<&str>,
    ) -> Result<Engine, Failure> {
        let google = &place.google;
        let journals = match bucket {
            Some(bucket) => Journals::Objects(ObjectStore::new(google, bucket)),
            None => Journals::Folder(FolderStore::new(place.journals()?)),
        };
        let metrics = RevisionMetrics::new(google, service, if place.local { 1 } else { 60 });
        let (project, region) = (google.project(), google.region());
        let name = if place.local { "local".into() } else { format!("{project}/{region}") };
        Ok(Engine {
            site: Site::Service { service: service.into() },
            target: AnyTarget::Service(ServiceTarget::new(google, service)),
            metrics: AnyMetrics::Revisions(metrics),
            journals,
            holder: this_process(),
            name: format!("cloudrun/{name}/{service}"),
            place: if place.local { " --local" } else { "" },
            webhook: None,
        })
    }

    pub(crate) fn world(&self) -> Connected<'_> {
        World {
            target: &self.target,
            metrics: &self.metrics,
            store: &self.journals,
            clock: &SystemClock,
            holder: &self.holder,
            is_gone,
        }
    }

    /// What to add to a command so that it means this alias or service.
    pub(crate) fn flags(&self) -> String {
        format!("{}{}", self.place, self.site.flags())
    }

    /// Whether somebody works under a lease now.
    pub(crate) fn is_worked_under(&self, lease: &Lease) -> bool {
        lease.is_live(SystemClock.now(), is_gone)
    }

    /// The name of the latest release; none before the first.
    pub(crate) async fn latest(&self) -> Result<Option<String>, DriveError> {
        let last = slsml_release::last(&self.journals, &self.name).await?;
        Ok(last.and_then(|last| last.release))
    }

    /// Keeps what a candidate is asked before it gets traffic, for whoever goes on.
    pub(crate) async fn keep_request(
        &self,
        release: &str,
        request: &[u8],
    ) -> Result<(), PortError> {
        self.journals.create(&self.request_key(release), request).await.map(drop)
    }

    /// The same with the request that was kept.
    pub(crate) async fn with_kept_request(mut self, release: &str) -> Result<Engine, PortError> {
        if let Some((request, _)) = self.journals.read(&self.request_key(release)).await? {
            self.target = self.target.with_request(request);
        }
        Ok(self)
    }

    fn request_key(&self, release: &str) -> String {
        format!("{}/{release}.request.json", self.name)
    }
}

/// A name for a release that begins now: names sort by time, and differ.
pub(crate) fn new_name(holder: &Holder) -> String {
    let now = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + SystemClock.now());
    let time: String = now.to_string().chars().filter(|c| c.is_ascii_digit()).collect();
    let tail = holder.id.get(..4).unwrap_or_default();
    format!("{}-{}-{tail}", time.get(..8).unwrap_or_default(), time.get(8..).unwrap_or_default())
}

/// This process, as leases name it.
fn this_process() -> Holder {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let user = user.unwrap_or_else(|_| "somebody".into());
    let host = match read("/proc/sys/kernel/hostname") {
        host if host.is_empty() => "a machine".to_owned(),
        host => host,
    };
    let process = std::process::id();
    Holder {
        id: random_id(),
        by: format!("{user}@{host}"),
        machine: this_machine(),
        process,
        began: process_began(process).unwrap_or(0),
    }
}

/// Sixteen digits that nobody else has.
fn random_id() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Seeded by the system for each process.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u128(SystemClock.now().as_nanos());
    hasher.write_u32(std::process::id());
    format!("{:016x}", hasher.finish())
}

/// Where process numbers mean what they mean here: this boot, and this container.
fn this_machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display()).trim().to_owned()
}

/// When a process of this machine began, in ticks since boot; none if there is no such process, or
/// no way to know.
fn process_began(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // After the name, which may hold anything and ends with the last bracket.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Whether a holder is known to have died: a process of this machine that is not there any more,
/// where other people's processes are shown.
fn is_gone(holder: &Holder) -> bool {
    !holder.machine.is_empty()
        && process_began(1).is_some()
        && holder.machine == this_machine()
        && process_began(holder.process) != Some(holder.began)
}

/// How long ago something was, or how long it took.
pub(crate) fn duration(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

/// A time of day, for people.
pub(crate) fn time_of(at: Instant) -> String {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + at).to_string()
}

impl Store for Journals {
    async fn read(&self, key: &str) -> Result<Option<(Vec<u8>, Tag)>, PortError> {
        match self {
            Self::Folder(store) => store.read(key).await,
            Self::Bucket(store) => store.read(key).await,
            Self::Objects(store) => store.read(key).await,
        }
    }

    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Option<Tag>, PortError> {
        match self {
            Self::Folder(store) => store.create(key, bytes).await,
            Self::Bucket(store) => store.create(key, bytes).await,
            Self::Objects(store) => store.create(key, bytes).await,
        }
    }

    async fn replace(&self, key: &str, bytes: &[u8], seen: &Tag) -> Result<Option<Tag>, PortError> {
        match self {
            Self::Folder(store) => store.replace(key, bytes, seen).await,
            Self::Bucket(store) => store.replace(key, bytes, seen).await,
            Self::Objects(store) => store.replace(key, bytes, seen).await,
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, PortError> {
        match self {
            Self::Folder(store) => store.list(prefix).await,
            Self::Bucket(store) => store.list(prefix).await,
            Self::Objects(store) => store.list(prefix).await,
        }
    }
}
