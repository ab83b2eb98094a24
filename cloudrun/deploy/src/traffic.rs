//! A service's traffic targets, and a release's split made of them.
//!
//! Three tags are slsml's: `candidate` is whom is being released, `previous` whom to go back to.
//! Everybody else's tags are carried through every write. Tags keep a revision: Google deletes old
//! ones that have neither traffic nor a tag.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use slsml_release::{Revision, Split, Weight};

use crate::CloudRunError;

/// The tag of whom is being released.
pub(crate) const CANDIDATE: &str = "candidate";

/// The tag of whom to go back to.
pub(crate) const PREVIOUS: &str = "previous";

/// A target: a revision, its percent and its tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) revision: String,
    pub(crate) percent: u32,
    pub(crate) tag: Option<String>,
}

impl Target {
    fn to_wire(&self) -> Value {
        let mut wire = json!({
            "type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION",
            "revision": self.revision,
            "percent": self.percent,
        });
        if let Some(tag) = &self.tag {
            wire["tag"] = json!(tag);
        }
        wire
    }

    fn is_tagged(&self, tag: &str) -> bool {
        self.tag.as_deref() == Some(tag)
    }
}

/// As the API takes it.
pub(crate) fn wire(targets: &[Target]) -> Value {
    targets.iter().map(Target::to_wire).collect()
}

/// What a service says of its traffic. What follows the latest revision is named by it, because that
/// would move with the next one.
pub(crate) fn targets(service: &Value) -> Vec<Target> {
    let latest = service["latestReadyRevision"].as_str().unwrap_or_default();
    let latest = latest.rsplit('/').next().unwrap_or_default();
    let pinned = |target: &Value| {
        let named = target["revision"].as_str().filter(|name| !name.is_empty());
        Target {
            revision: named.unwrap_or(latest).to_owned(),
            percent: target["percent"].as_u64().unwrap_or(0) as u32,
            tag: target["tag"].as_str().filter(|tag| !tag.is_empty()).map(str::to_owned),
        }
    };
    let wanted = service["traffic"].as_array().filter(|all| !all.is_empty());
    let targets: Vec<Target> = match wanted {
        Some(all) => all.iter().map(pinned).collect(),
        None => vec![Target { revision: latest.into(), percent: 100, tag: None }],
    };
    targets.into_iter().filter(|target| !target.revision.is_empty()).collect()
}

/// How the traffic is divided, in a release's words; none if nobody has any.
pub(crate) fn split(service: &str, targets: &[Target]) -> Result<Option<Split>, CloudRunError> {
    let mut shares: Vec<(&str, u32)> = Vec::new();
    for target in targets.iter().filter(|target| target.percent > 0) {
        match shares.iter_mut().find(|(revision, _)| *revision == target.revision) {
            Some((_, percent)) => *percent += target.percent,
            None => shares.push((&target.revision, target.percent)),
        }
    }
    let is_candidate = |revision: &str| {
        targets.iter().any(|target| target.revision == revision && target.is_tagged(CANDIDATE))
    };
    let revision = |name: &str| Revision(name.to_owned());
    match shares.as_slice() {
        [] => Ok(None),
        [(only, _)] => Ok(Some(Split::all_to(revision(only)))),
        [first, second] => {
            // Without our tag, the larger share is taken for the stable one's.
            let swapped = match (is_candidate(first.0), is_candidate(second.0)) {
                (true, false) => true,
                (false, true) => false,
                _ => second.1 > first.1,
            };
            let (stable, candidate) = if swapped { (second, first) } else { (first, second) };
            let weight =
                Weight::percent(candidate.1.into()).map_err(|error| CloudRunError::Failed {
                    what: "reading the traffic".into(),
                    reason: error.to_string(),
                })?;
            Ok(Some(Split::between(revision(stable.0), revision(candidate.0), weight)))
        }
        more => {
            let names: Vec<&str> = more.iter().map(|(revision, _)| *revision).collect();
            Err(CloudRunError::Divided { service: service.into(), revisions: names.join(", ") })
        }
    }
}

/// The targets with a candidate that has an address and no traffic of its own yet.
pub(crate) fn with_candidate(targets: &[Target], candidate: &str) -> Vec<Target> {
    let mut all: Vec<Target> = targets
        .iter()
        .cloned()
        .map(|mut target| {
            if target.is_tagged(CANDIDATE) {
                target.tag = None;
            }
            target
        })
        .filter(|target| target.percent > 0 || target.tag.is_some())
        .collect();
    all.push(Target { revision: candidate.into(), percent: 0, tag: Some(CANDIDATE.into()) });
    all
}

/// The targets with the traffic divided as `split` says. Whoever loses all of its traffic stays where
/// it can be reached: as `previous` if another was promoted, as `candidate` if it was given up.
pub(crate) fn routed(targets: &[Target], split: &Split) -> Vec<Target> {
    let had: Vec<&Target> = targets.iter().filter(|target| target.percent > 0).collect();
    let is_ours = |target: &&Target| target.is_tagged(CANDIDATE) || target.is_tagged(PREVIOUS);
    let tagged = |tag: &str| targets.iter().find(|target| target.is_tagged(tag));
    let named = |revision: &str, percent: Weight, tag: Option<&str>| Target {
        revision: revision.into(),
        percent: percent.as_percent().round() as u32,
        tag: tag.map(str::to_owned),
    };
    let stable = &split.stable.0;
    let mut all: Vec<Target> = Vec::new();
    let (mut candidate, mut previous) = (
        tagged(CANDIDATE).map(|one| one.revision.clone()),
        tagged(PREVIOUS).map(|one| one.revision.clone()),
    );
    match &split.candidate {
        Some((name, weight)) => {
            all.push(named(stable, weight.rest(), None));
            all.push(named(&name.0, *weight, Some(CANDIDATE)));
            candidate = None;
        }
        None => {
            all.push(named(stable, Weight::ALL, None));
            let left = had.iter().find(|target| target.revision != *stable);
            let left = left.map(|target| target.revision.clone());
            if candidate.as_ref() == Some(stable) {
                // It was promoted.
                candidate = None;
                previous = left.or(previous);
            } else if let Some(left) = left {
                candidate = Some(left);
            }
        }
    }
    let kept = [(CANDIDATE, candidate), (PREVIOUS, previous)];
    for (tag, revision) in kept {
        if let Some(revision) = revision.filter(|revision| revision != stable) {
            all.push(named(&revision, Weight::NONE, Some(tag)));
        }
    }
    let foreign = targets.iter().filter(|target| target.tag.is_some() && !is_ours(target));
    all.extend(foreign.map(|target| Target { percent: 0, ..target.clone() }));
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn target(revision: &str, percent: u32, tag: &str) -> Target {
        let tag = (!tag.is_empty()).then(|| tag.to_owned());
        Target { revision: revision.into(), percent, tag }
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
        let before = [target("a", 100, ""), target("z", 0, "mine"), target("y", 0, PREVIOUS)];
        let ready = with_candidate(&before, "b");
        assert_eq!(ready[3], target("b", 0, CANDIDATE));
        assert_eq!(split("s", &ready).unwrap(), Some(all_to("a")));

        let canary = routed(&ready, &between("a", "b", 10.0));
        assert_eq!(split("s", &canary).unwrap(), Some(between("a", "b", 10.0)));
        assert!(
            canary.contains(&target("z", 0, "mine")) && canary.contains(&target("y", 0, PREVIOUS))
        );

        let promoted = routed(&canary, &all_to("b"));
        let expected = [target("b", 100, ""), target("a", 0, PREVIOUS), target("z", 0, "mine")];
        assert_eq!(promoted, expected);

        let aborted = routed(&canary, &all_to("a"));
        assert_eq!(aborted[0], target("a", 100, ""));
        assert_eq!(aborted[1], target("b", 0, CANDIDATE));
        assert_eq!(aborted[2], target("y", 0, PREVIOUS));

        let rolled_back = routed(&promoted, &all_to("a"));
        assert_eq!(rolled_back[..2], [target("a", 100, ""), target("b", 0, CANDIDATE)]);
        assert_eq!(rolled_back.len(), 3);
    }

    #[test]
    fn every_split_is_read_back_as_it_was_written() {
        let states: [&[Target]; 4] = [
            &[],
            &[target("a", 100, "")],
            &[target("b", 30, ""), target("a", 70, "x")],
            &[target("a", 100, PREVIOUS), target("b", 0, CANDIDATE)],
        ];
        for state in states {
            let splits =
                [all_to("a"), all_to("b")].into_iter().chain((1..100).flat_map(|percent| {
                    [between("a", "b", percent.into()), between("b", "a", percent.into())]
                }));
            for wanted in splits {
                let routed = routed(state, &wanted);
                assert_eq!(split("s", &routed).unwrap(), Some(wanted.clone()), "{routed:?}");
                assert_eq!(routed.iter().map(|target| target.percent).sum::<u32>(), 100);
                let mut tags: Vec<_> =
                    routed.iter().filter_map(|target| target.tag.clone()).collect();
                let count = tags.len();
                tags.sort();
                tags.dedup();
                assert_eq!(tags.len(), count, "{routed:?}");
            }
        }
    }

    #[test]
    fn what_follows_the_latest_revision_is_pinned_to_it() {
        let latest =
            json!({ "latestReadyRevision": "projects/p/locations/l/services/s/revisions/s-1" });
        assert_eq!(targets(&latest), [target("s-1", 100, "")]);
        let three = [target("a", 50, ""), target("b", 30, ""), target("c", 20, "")];
        assert!(matches!(split("s", &three), Err(CloudRunError::Divided { .. })));
    }
}
