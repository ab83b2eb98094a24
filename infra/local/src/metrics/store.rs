//! Values by metric and second. Three hours are kept, as CloudWatch keeps high-resolution data;
//! they are appended to a file, so that a restart forgets nothing.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::embedded;
use crate::home::Home;
use crate::ids;

const FILE: &str = "metrics.jsonl";

/// How long values are kept, in seconds.
const KEEP: u64 = 3 * 3600;

/// What identifies a series: namespace, name, and sorted dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Key {
    #[serde(rename = "n")]
    pub(crate) namespace: String,
    #[serde(rename = "m")]
    pub(crate) name: String,
    #[serde(rename = "d")]
    pub(crate) dimensions: Vec<(String, String)>,
}

/// Values that were recorded within one second, with how often each occurred.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) values: Vec<(f64, f64)>,
    /// Values known only by their statistics.
    pub(crate) sets: Vec<StatisticSet>,
}

/// A `StatisticValues` set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatisticSet {
    pub(crate) count: f64,
    pub(crate) sum: f64,
    pub(crate) minimum: f64,
    pub(crate) maximum: f64,
}

/// One thing recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Datum {
    #[serde(flatten)]
    pub(crate) key: Key,
    /// Seconds since the Unix epoch.
    #[serde(rename = "t")]
    pub(crate) second: u64,
    #[serde(rename = "u", default)]
    pub(crate) unit: String,
    /// Values and how often each occurred.
    #[serde(rename = "v", default)]
    pub(crate) values: Vec<(f64, f64)>,
    #[serde(rename = "s", default)]
    pub(crate) set: Option<StatisticSet>,
}

type Series = BTreeMap<u64, Bucket>;

/// Every series.
#[derive(Debug)]
pub(crate) struct Metrics {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    series: HashMap<Key, Series>,
    file: File,
}

impl Metrics {
    /// What the folder holds.
    pub(crate) fn open(home: &Home) -> std::io::Result<Metrics> {
        let path = home.join(FILE);
        let mut series = HashMap::new();
        let oldest = ids::now().as_secs().saturating_sub(KEEP);
        if let Ok(file) = File::open(&path) {
            // A line cut short by a crash is skipped, as is whatever is too old.
            let lines = BufReader::new(file).lines().map_while(Result::ok);
            for datum in lines.filter_map(|line| serde_json::from_str::<Datum>(&line).ok()) {
                if datum.second >= oldest {
                    add(&mut series, datum);
                }
            }
        }
        // What was too old goes from the file, too.
        let fresh = path.with_extension("new");
        let mut kept = std::io::BufWriter::new(File::create(&fresh)?);
        for datum in data(&series) {
            serde_json::to_writer(&mut kept, &datum)?;
            kept.write_all(b"\n")?;
        }
        kept.into_inner().map_err(|error| error.into_error())?.sync_data()?;
        std::fs::rename(&fresh, &path)?;
        let file = File::options().append(true).open(path)?;
        Ok(Metrics { inner: Mutex::new(Inner { series, file }) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records one value now.
    pub(crate) fn put(
        &self,
        namespace: &str,
        name: &str,
        dimensions: &[(&str, &str)],
        value: f64,
        unit: &str,
    ) {
        let dimensions = dimensions.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        self.record(Datum {
            key: Key::new(namespace, name, dimensions.collect()),
            second: ids::now().as_secs(),
            unit: unit.into(),
            values: vec![(value, 1.0)],
            set: None,
        });
    }

    /// Records a datum.
    pub(crate) fn record(&self, datum: Datum) {
        let mut inner = self.inner();
        if let Ok(mut line) = serde_json::to_vec(&datum) {
            line.push(b'\n');
            // A full disk must not stop the functions: the restart forgets, nothing else.
            let _ = inner.file.write_all(&line);
        }
        add(&mut inner.series, datum);
    }

    /// Records the metrics a log line carries, if it is in the embedded metric format.
    pub(crate) fn embedded(&self, line: &[u8]) {
        for datum in embedded::parse(line) {
            self.record(datum);
        }
    }

    /// The series of a key from one second up to another, not included.
    pub(crate) fn series(&self, key: &Key, from: u64, to: u64) -> Vec<(u64, Bucket)> {
        match self.inner().series.get(key) {
            None => Vec::new(),
            Some(series) if from < to => {
                series.range(from..to).map(|(second, bucket)| (*second, bucket.clone())).collect()
            }
            Some(_) => Vec::new(),
        }
    }

    /// The keys there are, for `ListMetrics`.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.inner().series.keys().cloned().collect();
        keys.sort();
        keys
    }

    /// Forgets what is too old.
    pub(crate) fn sweep(&self) {
        let oldest = ids::now().as_secs().saturating_sub(KEEP);
        self.inner().series.retain(|_, series| {
            *series = series.split_off(&oldest);
            !series.is_empty()
        });
    }
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str, mut dimensions: Vec<(String, String)>) -> Key {
        dimensions.sort();
        Key { namespace: namespace.into(), name: name.into(), dimensions }
    }
}

fn add(all: &mut HashMap<Key, Series>, datum: Datum) {
    let bucket = all.entry(datum.key).or_default().entry(datum.second).or_default();
    for (value, count) in datum.values {
        // Counts of one are most of what there is.
        match bucket.values.iter_mut().find(|(known, _)| *known == value) {
            Some((_, counted)) => *counted += count,
            None => bucket.values.push((value, count)),
        }
    }
    bucket.sets.extend(datum.set);
}

/// Everything there is, as it was recorded.
fn data(all: &HashMap<Key, Series>) -> impl Iterator<Item = Datum> {
    let datum = |key: &Key, second: u64, values: Vec<(f64, f64)>, set| Datum {
        key: key.clone(),
        second,
        unit: String::new(),
        values,
        set,
    };
    all.iter().flat_map(move |(key, series)| {
        series.iter().flat_map(move |(second, bucket)| {
            let values = (!bucket.values.is_empty())
                .then(|| datum(key, *second, bucket.values.clone(), None));
            let sets =
                bucket.sets.iter().map(move |set| datum(key, *second, Vec::new(), Some(*set)));
            values.into_iter().chain(sets)
        })
    })
}
