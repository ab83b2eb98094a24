//! The journal: what a release is, did, saw and was told, one JSON document a line, written before
//! each change of traffic.
//!
//! It lies in a [`Store`] as one object that is replaced only if nobody else replaced it, so it is
//! append-only for everybody who keeps to [`Log`], and two writers never both succeed.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::check::Judgement;
use crate::decide::{Outcome, Reason};
use crate::evidence::{Block, Counts};
use crate::ports::{Observed, PortError, Store, Tag};
use crate::{Instant, Revision, Split, State, Strategy, millis};

/// The version of the format that this slsml writes and reads.
pub const FORMAT: u32 = 1;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written, in milliseconds since the Unix epoch.
    #[serde(with = "millis", rename = "at_ms")]
    pub at: Instant,
    /// Who wrote it: user and machine.
    pub by: String,
    /// What it says.
    #[serde(flatten)]
    pub fact: Fact,
}

impl Entry {
    /// A line of this moment. Times are kept in milliseconds: what is read back is what was written.
    pub fn new(now: Instant, by: &str, fact: Fact) -> Entry {
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Entry { at: std::time::Duration::from_millis(millis), by: by.into(), fact }
    }
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fact")]
pub enum Fact {
    /// A release begins. Always the first line, and nowhere else.
    Began(Box<Began>),
    /// Traffic is about to move, or the next stage about to begin.
    Intended(Box<Intent>),
    /// What was intended is not wanted any more and was not done.
    Dropped,
    /// Traffic has moved: what was intended is so.
    Moved {
        /// The target after the move.
        observed: Observed,
    },
    /// The candidate was sent requests of our own.
    Probed(Probed),
    /// Requests were counted.
    Looked {
        /// The counts since the last time.
        block: Block,
    },
    /// A person asked for something.
    Asked {
        /// What.
        what: Ask,
    },
    /// Somebody else goes on with it.
    TakenOver,
    /// It is over.
    Ended {
        /// How it ended.
        outcome: Outcome,
    },
    /// After its end, all traffic was put back to the revision before.
    RolledBackLater {
        /// The target after that.
        observed: Observed,
    },
}

/// How a release began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Began {
    /// The version of this format.
    pub format: u32,
    /// The slsml that began it.
    pub slsml: String,
    /// The release's name.
    pub release: String,
    /// What is released: provider, place, function and alias, or service.
    pub target: String,
    /// The target before.
    pub observed: Observed,
    /// What the stable revision did in the minutes before: what is usual.
    #[serde(default)]
    pub before: Counts,
    /// Who is to get the traffic.
    pub candidate: Revision,
    /// How.
    pub strategy: Strategy,
    /// How late a request may be counted.
    #[serde(with = "millis", rename = "settle_ms")]
    pub settle: Instant,
}

/// What is about to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Where it leads.
    pub to: Next,
    /// How traffic is to be divided; none if it stays as it is.
    pub split: Option<Split>,
    /// The target as it was seen.
    pub seen: Observed,
    /// What the checks said.
    pub judgements: Vec<Judgement>,
}

/// Where a move leads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Into a stage, counted from 0.
    Stage(usize),
    /// To the end at once, because somebody asked.
    Promote {
        /// Who.
        by: String,
    },
    /// Back.
    RollBack(Reason),
}

/// What became of requests of our own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// How many were answered.
    pub answered: u32,
    /// How many failed.
    pub failed: u32,
    /// What the first failure said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What people ask of a running release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Stay in this stage.
    Pause,
    /// Go on.
    Resume,
    /// All traffic to the candidate now.
    Promote,
    /// All traffic back now.
    Abort,
    /// All traffic back, after its end.
    RollBack,
}

/// Why a journal cannot be used.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum JournalError {
    #[error(
        "the journal {key} has format {found}, written by slsml {slsml}; this slsml reads {FORMAT}"
    )]
    Format { key: String, found: u32, slsml: String },
    #[error("line {line} of the journal {key} cannot be read: {cause}")]
    Malformed { key: String, line: usize, cause: String },
    #[error("the journal {0} was rewritten by somebody else")]
    Rewritten(String),
    #[error("there is no journal {0}")]
    Missing(String),
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A journal that is open: its lines, and the state they lead to.
#[derive(Debug)]
pub struct Log<'a, S> {
    store: &'a S,
    key: String,
    text: Vec<u8>,
    tag: Tag,
    /// Every line so far.
    pub entries: Vec<Entry>,
    /// Where they lead.
    pub state: State,
}

impl<'a, S: Store> Log<'a, S> {
    /// Begins a journal.
    pub async fn create(store: &'a S, key: &str, first: Entry) -> Result<Self, JournalError> {
        let text = line(&first)?;
        let state = read(key, &text)?.1;
        let tag = match store.create(key, &text).await? {
            Some(tag) => tag,
            // The answer to our own write may have been lost, and the write tried again.
            None => match store.read(key).await? {
                Some((found, tag)) if found == text => tag,
                _ => return Err(JournalError::Rewritten(key.into())),
            },
        };
        Ok(Log { store, key: key.into(), text, tag, entries: vec![first], state })
    }

    /// Opens a journal.
    pub async fn open(store: &'a S, key: &str) -> Result<Self, JournalError> {
        let (text, tag) =
            store.read(key).await?.ok_or_else(|| JournalError::Missing(key.into()))?;
        let (entries, state) = read(key, &text)?;
        Ok(Log { store, key: key.into(), text, tag, entries, state })
    }

    /// Reads what others have written since; whether there was anything.
    pub async fn refresh(&mut self) -> Result<bool, JournalError> {
        let found = self.store.read(&self.key).await?;
        let (text, tag) = found.ok_or_else(|| JournalError::Missing(self.key.clone()))?;
        if tag == self.tag {
            return Ok(false);
        }
        if !text.starts_with(&self.text) {
            return Err(JournalError::Rewritten(self.key.clone()));
        }
        let more = parse(&self.key, &text[self.text.len()..], self.entries.len())?;
        more.iter().for_each(|entry| self.state.apply(entry));
        self.entries.extend(more);
        (self.text, self.tag) = (text, tag);
        Ok(true)
    }

    /// Appends a line. If others have written in the meantime nothing is appended, their lines are
    /// read, and it returns false: what to write has to be decided anew.
    pub async fn append(&mut self, entry: Entry) -> Result<bool, JournalError> {
        let added = line(&entry)?;
        let text = [self.text.as_slice(), &added].concat();
        if let Some(tag) = self.store.replace(&self.key, &text, &self.tag).await? {
            self.state.apply(&entry);
            self.entries.push(entry);
            (self.text, self.tag) = (text, tag);
            return Ok(true);
        }
        self.refresh().await?;
        // Our own write may have gone through though its answer was lost.
        Ok(self.text == text)
    }
}

fn line(entry: &Entry) -> Result<Vec<u8>, JournalError> {
    let mut text = serde_json::to_vec(entry)
        .map_err(|error| JournalError::Port(PortError::Failed(Box::new(error))))?;
    text.push(b'\n');
    Ok(text)
}

/// The lines of a journal and where they lead.
pub fn read(key: &str, text: &[u8]) -> Result<(Vec<Entry>, State), JournalError> {
    check_format(key, text)?;
    let entries = parse(key, text, 0)?;
    let Some(Entry { at, by, fact: Fact::Began(began) }) = entries.first() else {
        return Err(JournalError::Malformed {
            key: key.into(),
            line: 1,
            cause: "it does not say how the release began".into(),
        });
    };
    let mut state = State::begin(began, by, *at);
    entries.iter().skip(1).for_each(|entry| state.apply(entry));
    Ok((entries, state))
}

/// A later format may differ in anything but this.
fn check_format(key: &str, text: &[u8]) -> Result<(), JournalError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
        slsml: String,
    }
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match serde_json::from_slice::<Head>(first) {
        Ok(Head { format, slsml }) if format != FORMAT => {
            Err(JournalError::Format { key: key.into(), found: format, slsml })
        }
        _ => Ok(()),
    }
}

fn parse(key: &str, text: &[u8], before: usize) -> Result<Vec<Entry>, JournalError> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .enumerate()
        .map(|(at, line)| {
            serde_json::from_slice(line).map_err(|error| JournalError::Malformed {
                key: key.into(),
                line: before + at + 1,
                cause: error.to_string(),
            })
        })
        .collect()
}
