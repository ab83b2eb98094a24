//! The lease: one object a target, which says who works on it and which release is its latest.
//!
//! It keeps people apart, not programs: what keeps a traffic move from being overwritten is the
//! target's token, and what keeps two writers out of one journal is the journal. So a clock that is
//! wrong can let somebody in too early, and still nothing is done twice.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ports::{PortError, Store, Tag};
use crate::{Instant, millis};

/// How long a lease lasts that is not renewed.
pub const LASTS: Duration = Duration::from_secs(90);

/// What the object says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The latest release of the target.
    pub release: String,
    /// The one before, in case that one never began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Who works on it.
    pub holder: Holder,
    /// Until when; 0 once it is given back.
    #[serde(with = "millis", rename = "until_ms")]
    pub until: Instant,
}

/// A process that works on a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Tells it from every other, anywhere.
    pub id: String,
    /// User and machine, for people.
    pub by: String,
    /// The machine, if it can be told from others.
    pub machine: String,
    /// Its number there.
    pub process: u32,
    /// When that process began, as its machine counts, because numbers are used again.
    pub began: u64,
}

/// Why there is no lease.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum LeaseError {
    #[error(
        "{by} is working on release {release}, for another {seconds} s unless it goes on longer"
    )]
    Held { by: String, release: String, seconds: u64 },
    #[error("{by} has taken over the work on release {release}")]
    Lost { by: String, release: String },
    #[error("the lease {key} cannot be read: {cause}")]
    Malformed { key: String, cause: String },
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A lease that is held.
#[derive(Debug)]
pub struct Held<'a, S> {
    store: &'a S,
    key: String,
    lease: Lease,
    tag: Tag,
}

/// The lease's key of a target.
pub fn key(target: &str) -> String {
    format!("{target}/lease.json")
}

/// The lease as it is; none before the first release.
pub async fn read<S: Store>(store: &S, target: &str) -> Result<Option<(Lease, Tag)>, LeaseError> {
    let key = key(target);
    let Some((bytes, tag)) = store.read(&key).await? else { return Ok(None) };
    Ok(Some((parse(&key, &bytes)?, tag)))
}

fn parse(key: &str, bytes: &[u8]) -> Result<Lease, LeaseError> {
    let malformed = |error: serde_json::Error| LeaseError::Malformed {
        key: key.into(),
        cause: error.to_string(),
    };
    serde_json::from_slice(bytes).map_err(malformed)
}

impl Lease {
    /// A lease from now on.
    pub fn new(release: &str, before: Option<String>, holder: &Holder, now: Instant) -> Lease {
        Lease { release: release.into(), before, holder: holder.clone(), until: now + LASTS }
    }

    /// Whether somebody works under it. `is_gone` says whether a holder is known to have died. One
    /// that would last longer than any lease was written by a clock that is wrong.
    pub fn is_live(&self, now: Instant, is_gone: impl Fn(&Holder) -> bool) -> bool {
        now < self.until && self.until <= now + 2 * LASTS && !is_gone(&self.holder)
    }
}

impl<'a, S: Store> Held<'a, S> {
    /// Takes the lease of a target, if nobody has it and it still is what was `seen`.
    pub async fn take(
        store: &'a S,
        target: &str,
        lease: Lease,
        seen: Option<(Lease, Tag)>,
        now: Instant,
        is_gone: impl Fn(&Holder) -> bool,
    ) -> Result<Self, LeaseError> {
        let key = key(target);
        let bytes = json(&lease)?;
        let written = match &seen {
            None => store.create(&key, &bytes).await?,
            Some((other, _)) if other.is_live(now, &is_gone) && other.holder != lease.holder => {
                return Err(held(other, now));
            }
            Some((_, tag)) => store.replace(&key, &bytes, tag).await?,
        };
        match written {
            Some(tag) => Ok(Held { store, key, lease, tag }),
            // Somebody was faster, or the answer to our own write was lost.
            None => match read(store, target).await? {
                Some((found, tag)) if found == lease => Ok(Held { store, key, lease, tag }),
                Some((other, _)) => Err(held(&other, now)),
                None => Err(LeaseError::Malformed { key, cause: "it vanished".into() }),
            },
        }
    }

    /// Renews it when a third of it is over.
    pub async fn renew(&mut self, now: Instant) -> Result<(), LeaseError> {
        let left = self.lease.until.saturating_sub(now);
        if left > LASTS * 2 / 3 && left <= LASTS {
            return Ok(());
        }
        self.write(now + LASTS).await
    }

    /// Gives it back.
    pub async fn give_back(mut self) -> Result<(), LeaseError> {
        self.write(Duration::ZERO).await?;
        // An earlier write of ours was found instead.
        if self.lease.until > Duration::ZERO {
            self.write(Duration::ZERO).await?;
        }
        Ok(())
    }

    async fn write(&mut self, until: Instant) -> Result<(), LeaseError> {
        let lease = Lease { until, ..self.lease.clone() };
        let bytes = json(&lease)?;
        if let Some(tag) = self.store.replace(&self.key, &bytes, &self.tag).await? {
            (self.lease, self.tag) = (lease, tag);
            return Ok(());
        }
        let vanished =
            || LeaseError::Malformed { key: self.key.clone(), cause: "it vanished".into() };
        let (found, tag) = self.store.read(&self.key).await?.ok_or_else(vanished)?;
        match parse(&self.key, &found)? {
            found if found == lease => (self.lease, self.tag) = (lease, tag),
            // An earlier write of ours whose answer was lost: the next one follows it.
            found if found.holder == lease.holder && found.release == lease.release => {
                (self.lease, self.tag) = (found, tag);
            }
            other => return Err(LeaseError::Lost { by: other.holder.by, release: other.release }),
        }
        Ok(())
    }
}

/// Gives back the lease a holder has, wherever that got lost.
pub async fn give_back<S: Store>(
    store: &S,
    target: &str,
    holder: &Holder,
) -> Result<(), LeaseError> {
    match read(store, target).await? {
        Some((lease, tag)) if lease.holder == *holder => {
            Held { store, key: key(target), lease, tag }.give_back().await
        }
        _ => Ok(()),
    }
}

fn json(lease: &Lease) -> Result<Vec<u8>, LeaseError> {
    serde_json::to_vec(lease).map_err(|error| LeaseError::Port(PortError::Failed(Box::new(error))))
}

fn held(other: &Lease, now: Instant) -> LeaseError {
    LeaseError::Held {
        by: other.holder.by.clone(),
        release: other.release.clone(),
        seconds: other.until.saturating_sub(now).as_secs(),
    }
}
