//! A service's traffic, and a release's split made of it.
//!
//! Two tags are slsml's: `candidate` is whom is being released, `previous` whom to go back to.
//! Everybody else's are carried through every write as they are. Tags keep a revision: Google deletes
//! old ones that have neither traffic nor a tag.
//!
//! What was asked for (`traffic`) and what is served (`trafficStatuses`) are two things: while a
//! change is brought about, and for good when it cannot be. Shares are what is served; tags, which
//! move nobody, are what was asked for.

use serde_json::{Value, json};
use slsml_release::{Revision, Split, Weight};

use crate::CloudRunError;

/// The tag of whom is being released.
pub(crate) const CANDIDATE: &str = "candidate";

/// The tag of whom to go back to.
pub(crate) const PREVIOUS: &str = "previous";

/// Who gets requests, and who can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Revisions with a percent of the service's requests, more than none.
    pub(crate) shares: Vec<(String, u32)>,
    /// Whom is being released.
    pub(crate) candidate: Option<String>,
    /// Whom to go back to.
    pub(crate) previous: Option<String>,
    /// Targets with tags of others, as the API gave them and without a share.
    foreign: Vec<Value>,
}

/// Whether a service's traffic is still on its way to what was asked for. When that failed, it is not:
/// then what is served stays another.
pub(crate) fn is_moving(service: &Value) -> bool {
    service["reconciling"] == true && shares(service, "trafficStatuses") != asked(service)
}

/// The shares that were asked for; all to the latest revision if nothing was.
fn asked(service: &Value) -> Vec<(String, u32)> {
    match list(service, "traffic").next() {
        Some(_) => shares(service, "traffic"),
        None => latest(service).map(|name| (name, 100)).into_iter().collect(),
    }
}

/// A service's targets, or their statuses.
pub(crate) fn list<'a>(service: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    service[field].as_array().into_iter().flatten()
}

/// The revision that what follows the latest one has; none if none ever got ready.
pub(crate) fn latest(service: &Value) -> Option<String> {
    let name = service["latestReadyRevision"].as_str().filter(|name| !name.is_empty())?;
    Some(short(name).to_owned())
}

/// The last part of a resource's name.
pub(crate) fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// A target's own revision; none if it follows the latest.
pub(crate) fn revision(target: &Value) -> Option<&str> {
    let follows = target["type"] == "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST";
    target["revision"].as_str().filter(|name| !follows && !name.is_empty())
}

/// A target's tag.
pub(crate) fn tag(target: &Value) -> Option<&str> {
    target["tag"].as_str().filter(|tag| !tag.is_empty())
}

/// The percents of a service's targets or of its targets' statuses, sorted by revision. What follows
/// the latest revision is named by it, because that would move with the next one.
fn shares(service: &Value, field: &str) -> Vec<(String, u32)> {
    let latest = latest(service);
    let mut shares = std::collections::BTreeMap::new();
    for target in list(service, field) {
        let percent = target["percent"].as_u64().unwrap_or(0) as u32;
        if let Some(name) = revision(target).or(latest.as_deref()).filter(|_| percent > 0) {
            *shares.entry(name.to_owned()).or_insert(0) += percent;
        }
    }
    shares.into_iter().collect()
}

/// Whether a revision is served: it has a share, or an address that is its own for good.
pub(crate) fn is_served(service: &Value, name: &str) -> bool {
    let tagged = |target: &Value| tag(target).is_some() && revision(target) == Some(name);
    list(service, "trafficStatuses").any(tagged)
        || shares(service, "trafficStatuses").iter().any(|(revision, _)| revision == name)
}

impl Traffic {
    /// Of a service.
    pub(crate) fn of(service: &Value) -> Traffic {
        let ours = |name: &str| {
            let mut targets = list(service, "traffic");
            targets.find(|target| tag(target) == Some(name)).and_then(revision).map(str::to_owned)
        };
        let is_foreign =
            |target: &&Value| tag(target).is_some_and(|tag| tag != CANDIDATE && tag != PREVIOUS);
        let without_share = |target: &Value| {
            let mut target = target.clone();
            target["percent"] = json!(0);
            target
        };
        Traffic {
            shares: shares(service, "trafficStatuses"),
            candidate: ours(CANDIDATE),
            previous: ours(PREVIOUS),
            foreign: list(service, "traffic").filter(is_foreign).map(without_share).collect(),
        }
    }

    /// All of it to a first revision, which is to be released.
    pub(crate) fn first(mut self, revision: &str) -> Traffic {
        self.shares = vec![(revision.into(), 100)];
        self.candidate = Some(revision.into());
        self.previous = None;
        self
    }

    /// With a candidate that has an address and no share yet.
    pub(crate) fn with_candidate(mut self, revision: &str) -> Traffic {
        self.candidate = Some(revision.into());
        if self.previous.as_deref() == Some(revision) {
            self.previous = None;
        }
        self
    }

    fn has_share(&self, revision: &str) -> bool {
        self.shares.iter().any(|(name, _)| name == revision)
    }

    /// As the API takes it.
    pub(crate) fn wire(&self) -> Value {
        let target = |revision: &str, percent: u32, tag: Option<&str>| {
            let mut target = json!({
                "type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION",
                "revision": revision,
                "percent": percent,
            });
            if let Some(tag) = tag {
                target["tag"] = json!(tag);
            }
            target
        };
        let own_tag = |revision: &str| {
            let is = |whom: &Option<String>| whom.as_deref() == Some(revision);
            match (is(&self.candidate), is(&self.previous)) {
                (true, _) => Some(CANDIDATE),
                (_, true) => Some(PREVIOUS),
                _ => None,
            }
        };
        let shares =
            self.shares.iter().map(|(name, percent)| target(name, *percent, own_tag(name)));
        let idle = [(CANDIDATE, &self.candidate), (PREVIOUS, &self.previous)];
        let idle = idle.into_iter().filter_map(|(tag, whom)| {
            let whom = whom.as_deref().filter(|whom| !self.has_share(whom))?;
            Some(target(whom, 0, Some(tag)))
        });
        shares.chain(idle).chain(self.foreign.iter().cloned()).collect()
    }

    /// In a release's words; none if nobody has any.
    pub(crate) fn split(&self, service: &str) -> Result<Option<Split>, CloudRunError> {
        let revision = |name: &str| Revision(name.to_owned());
        match self.shares.as_slice() {
            [] => Ok(None),
            [(only, _)] => Ok(Some(Split::all_to(revision(only)))),
            [first, second] => {
                let is_candidate = |name: &str| self.candidate.as_deref() == Some(name);
                // Without our tag, the larger share is taken for the stable one's.
                let swapped = match (is_candidate(&first.0), is_candidate(&second.0)) {
                    (true, false) => true,
                    (false, true) => false,
                    _ => second.1 > first.1,
                };
                let (stable, candidate) = if swapped { (second, first) } else { (first, second) };
                let weight =
                    Weight::percent(candidate.1.into()).map_err(|error| CloudRunError::Failed {
                        what: format!("reading the traffic of {service}"),
                        reason: error.to_string(),
                    })?;
                Ok(Some(Split::between(revision(&stable.0), revision(&candidate.0), weight)))
            }
            _ => Err(self.divided(service)),
        }
    }

    /// That it is divided, in words.
    pub(crate) fn divided(&self, service: &str) -> CloudRunError {
        let each = self.shares.iter().map(|(name, percent)| format!("{percent} % to {name}"));
        let shares = each.collect::<Vec<_>>().join(", ");
        CloudRunError::Divided { service: service.into(), shares }
    }

    /// Divided as `split` says. Whoever loses all of its share stays where it can be reached: as
    /// `previous` if another was promoted, as `candidate` if it was given up.
    pub(crate) fn routed(&self, split: &Split) -> Traffic {
        let stable = &split.stable.0;
        let share = |revision: &str, weight: Weight| {
            (revision.to_owned(), weight.as_percent().round() as u32)
        };
        let mut to = Traffic { foreign: self.foreign.clone(), ..Traffic::default() };
        match &split.candidate {
            Some((name, weight)) => {
                to.shares = vec![share(stable, weight.rest()), share(&name.0, *weight)];
                to.candidate = Some(name.0.clone());
                to.previous = self.previous.clone();
            }
            None => {
                to.shares = vec![share(stable, Weight::ALL)];
                let mut had = self.shares.iter().map(|(name, _)| name);
                let left = had.find(|name| *name != stable).cloned();
                (to.candidate, to.previous) = match self.candidate.as_ref() == Some(stable) {
                    // It was promoted.
                    true => (None, left.or_else(|| self.previous.clone())),
                    false => (left.or_else(|| self.candidate.clone()), self.previous.clone()),
                };
            }
        }
        let others = |whom: Option<String>| whom.filter(|whom| whom != stable);
        (to.candidate, to.previous) = (others(to.candidate), others(to.previous));
        if to.previous == to.candidate {
            to.previous = None;
        }
        to
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn target(revision: &str, percent: u32, tag: &str) -> Value {
        let mut target = json!({ "type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION", "revision": revision, "percent": percent });
        if !tag.is_empty() {
            target["tag"] = json!(tag);
        }
        target
    }

    /// A service that serves what it was asked to.
    fn served(targets: &[Value]) -> Value {
        json!({ "traffic": targets, "trafficStatuses": targets })
    }

    /// What is read of what was written.
    fn again(traffic: &Traffic) -> Traffic {
        Traffic::of(&served(traffic.wire().as_array().unwrap()))
    }

    fn all_to(revision: &str) -> Split {
        Split::all_to(Revision(revision.into()))
    }

    fn between(stable: &str, candidate: &str, percent: f64) -> Split {
        let weight = Weight::percent(percent).unwrap();
        Split::between(Revision(stable.into()), Revision(candidate.into()), weight)
    }

    #[test]
    fn a_release_tags_whom_it_releases_and_whom_to_go_back_to_and_keeps_other_tags() {
        let before =
            served(&[target("a", 100, ""), target("z", 0, "mine"), target("y", 0, PREVIOUS)]);
        let ready = Traffic::of(&before).with_candidate("b");
        let wire = ready.wire();
        let wire = wire.as_array().unwrap();
        assert!(wire.contains(&target("b", 0, CANDIDATE)) && wire.len() == 4, "{wire:?}");
        assert_eq!(ready.split("s").unwrap(), Some(all_to("a")));

        let canary = again(&ready).routed(&between("a", "b", 10.0));
        assert_eq!(canary.split("s").unwrap(), Some(between("a", "b", 10.0)));
        let wire = canary.wire();
        let wire = wire.as_array().unwrap();
        assert!(wire.contains(&target("z", 0, "mine")) && wire.contains(&target("y", 0, PREVIOUS)));

        let promoted = again(&canary).routed(&all_to("b"));
        let expected = [target("b", 100, ""), target("a", 0, PREVIOUS), target("z", 0, "mine")];
        assert_eq!(promoted.wire(), json!(expected));

        let aborted = again(&canary).routed(&all_to("a"));
        let expected = [
            target("a", 100, ""),
            target("b", 0, CANDIDATE),
            target("y", 0, PREVIOUS),
            target("z", 0, "mine"),
        ];
        assert_eq!(aborted.wire(), json!(expected));

        let rolled_back = again(&promoted).routed(&all_to("a"));
        let expected = [target("a", 100, ""), target("b", 0, CANDIDATE), target("z", 0, "mine")];
        assert_eq!(rolled_back.wire(), json!(expected));
    }

    #[test]
    fn every_split_is_read_back_as_it_was_written() {
        let states: [&[Value]; 5] = [
            &[],
            &[target("a", 100, "")],
            &[target("b", 30, ""), target("a", 70, "x")],
            &[target("a", 100, PREVIOUS), target("b", 0, CANDIDATE)],
            &[target("a", 100, CANDIDATE), target("b", 0, PREVIOUS)],
        ];
        for state in states {
            let splits =
                [all_to("a"), all_to("b")].into_iter().chain((1..100).flat_map(|percent| {
                    [between("a", "b", percent.into()), between("b", "a", percent.into())]
                }));
            for wanted in splits {
                let routed = Traffic::of(&served(state)).routed(&wanted);
                assert_eq!(again(&routed).split("s").unwrap(), Some(wanted.clone()), "{routed:?}");
                assert_eq!(routed.shares.iter().map(|(_, percent)| percent).sum::<u32>(), 100);
                let wire = routed.wire();
                let mut tags: Vec<&str> = wire.as_array().unwrap().iter().filter_map(tag).collect();
                let count = tags.len();
                tags.sort_unstable();
                tags.dedup();
                assert_eq!(tags.len(), count, "{routed:?}");
            }
        }
    }

    #[test]
    fn shares_are_what_is_served_and_not_what_was_asked_for() {
        let mut service = served(&[target("a", 100, "")]);
        service["traffic"] = json!([target("a", 90, ""), target("b", 10, CANDIDATE)]);
        let traffic = Traffic::of(&service);
        assert_eq!(traffic.split("s").unwrap(), Some(all_to("a")), "the move failed");
        assert_eq!(traffic.candidate.as_deref(), Some("b"));
        assert!(!is_moving(&service));
        service["reconciling"] = json!(true);
        assert!(is_moving(&service));
        service["trafficStatuses"] = service["traffic"].clone();
        assert!(!is_moving(&service), "its traffic has arrived, whatever else is under way");
    }

    #[test]
    fn what_follows_the_latest_revision_is_pinned_to_it_unless_it_has_no_share() {
        let follows = |percent: u32, tag: &str| {
            let mut target = target("", percent, tag);
            target["type"] = json!("TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST");
            target.as_object_mut().unwrap().remove("revision");
            target
        };
        let mut service = served(&[follows(100, "newest")]);
        service["latestReadyRevision"] = json!("projects/p/locations/l/services/s/revisions/s-1");
        let traffic = Traffic::of(&service);
        assert_eq!(traffic.split("s").unwrap(), Some(all_to("s-1")));
        let wire = traffic.with_candidate("s-2").wire();
        let expected = [target("s-1", 100, ""), target("s-2", 0, CANDIDATE), follows(0, "newest")];
        assert_eq!(wire, json!(expected), "the tag still follows, the share does not");
        let mut service = served(&[follows(0, "newest"), target("s-0", 100, "")]);
        service["latestReadyRevision"] = json!("projects/p/locations/l/services/s/revisions/s-1");
        assert!(!is_served(&service, "s-1"), "its address moves with the next revision");
        service["traffic"] = json!([]);
        service["trafficStatuses"] = json!([]);
        service["reconciling"] = json!(true);
        assert!(is_moving(&service), "all is to go to the latest");
    }

    #[test]
    fn three_shares_are_no_release() {
        let three = served(&[target("a", 50, ""), target("b", 30, ""), target("c", 20, "")]);
        assert!(matches!(Traffic::of(&three).split("s"), Err(CloudRunError::Divided { .. })));
    }

    #[test]
    fn a_candidate_that_has_a_share_gets_no_second_target() {
        let divided = Traffic::of(&served(&[target("a", 90, ""), target("b", 10, "")]));
        let wire = divided.with_candidate("b").wire();
        assert_eq!(wire, json!([target("a", 90, ""), target("b", 10, CANDIDATE)]));
    }
}
