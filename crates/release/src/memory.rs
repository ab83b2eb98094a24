//! A target and a store in memory, for tests and simulations.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::journal::Probed;
use crate::ports::{Clock, Observed, PortError, Store, Tag, Target, Token};
use crate::{Instant, Revision, Split};

/// An alias in memory that refuses what a real one refuses.
#[derive(Debug)]
pub struct Alias<'a, C> {
    clock: &'a C,
    /// How traffic was divided, and since when, in order.
    pub history: RefCell<Vec<(Instant, Option<Split>)>>,
    /// How often it was changed, by us or others.
    pub changes: Cell<u64>,
    /// Revisions that fail every request of our own.
    pub failing: RefCell<Vec<Revision>>,
    /// Revisions that are not there any more.
    pub deleted: RefCell<Vec<Revision>>,
}

impl<'a, C: Clock> Alias<'a, C> {
    /// An alias that gives this revision all traffic; none if it does not exist yet.
    pub fn new(clock: &'a C, serving: Option<&str>) -> Self {
        let split = serving.map(|name| Split::all_to(Revision(name.into())));
        Alias {
            clock,
            history: RefCell::new(vec![(clock.now(), split)]),
            changes: Cell::new(0),
            failing: RefCell::default(),
            deleted: RefCell::default(),
        }
    }

    /// How traffic is divided.
    pub fn split(&self) -> Option<Split> {
        self.history.borrow().last().and_then(|(_, split)| split.clone())
    }

    /// Changes it as somebody else would.
    pub fn change(&self, split: Option<Split>) {
        self.changes.set(self.changes.get() + 1);
        self.history.borrow_mut().push((self.clock.now(), split));
    }
}

impl<C: Clock> Target for Alias<'_, C> {
    async fn observe(&self) -> Result<Observed, PortError> {
        let split = self.split();
        let token = split.as_ref().map(|_| Token(self.changes.get().to_string()));
        Ok(Observed { split, token })
    }

    async fn route(&self, split: &Split, seen: Option<&Token>) -> Result<Observed, PortError> {
        let found = self.observe().await?;
        if found.token.as_ref() != seen {
            return Err(PortError::Moved("somebody else changed the alias".into()));
        }
        let mut named = vec![&split.stable];
        named.extend(split.candidate.as_ref().map(|(revision, _)| revision));
        if let Some(gone) = named.into_iter().find(|one| self.deleted.borrow().contains(one)) {
            return Err(PortError::Failed(format!("there is no revision {gone}").into()));
        }
        self.change(Some(split.clone()));
        self.observe().await
    }

    async fn exists(&self, revision: &Revision) -> Result<bool, PortError> {
        Ok(!self.deleted.borrow().contains(revision))
    }

    async fn probe(&self, revision: &Revision, requests: u32) -> Result<Probed, PortError> {
        Ok(match self.failing.borrow().contains(revision) {
            true => Probed { answered: 0, failed: requests, error: Some("it fails".into()) },
            false => Probed { answered: requests, failed: 0, error: None },
        })
    }
}

/// Objects in memory.
#[derive(Debug, Default)]
pub struct Objects {
    objects: RefCell<BTreeMap<String, (Vec<u8>, u64)>>,
    writes: Cell<u64>,
}

impl Objects {
    fn put(&self, key: &str, bytes: &[u8]) -> Tag {
        self.writes.set(self.writes.get() + 1);
        let number = self.writes.get();
        self.objects.borrow_mut().insert(key.into(), (bytes.to_vec(), number));
        Tag(number.to_string())
    }

    fn tag(&self, key: &str) -> Option<Tag> {
        self.objects.borrow().get(key).map(|(_, number)| Tag(number.to_string()))
    }
}

impl Store for Objects {
    async fn read(&self, key: &str) -> Result<Option<(Vec<u8>, Tag)>, PortError> {
        let objects = self.objects.borrow();
        Ok(objects.get(key).map(|(bytes, number)| (bytes.clone(), Tag(number.to_string()))))
    }

    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Option<Tag>, PortError> {
        Ok(self.tag(key).is_none().then(|| self.put(key, bytes)))
    }

    async fn replace(&self, key: &str, bytes: &[u8], seen: &Tag) -> Result<Option<Tag>, PortError> {
        Ok((self.tag(key).as_ref() == Some(seen)).then(|| self.put(key, bytes)))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, PortError> {
        let objects = self.objects.borrow();
        Ok(objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect())
    }
}
