//! What can be asked of a series.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Statistics-definitions.html>

use super::store::{Bucket, StatisticSet};

/// A statistic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Statistic {
    SampleCount,
    Sum,
    Average,
    Minimum,
    Maximum,
    /// `p50`: the value at this percentile.
    Percentile(f64),
    /// `TC(a:b)`: how many values lie above a and at or below b.
    Count(Bound, Bound),
    /// `PR(a:b)`: which percentage of values lies above a and at or below b.
    Rank(Bound, Bound),
}

/// One end of a range; absent means open.
type Bound = Option<f64>;

impl Statistic {
    /// Reads CloudWatch's name of a statistic.
    pub(crate) fn parse(text: &str) -> Option<Statistic> {
        Some(match text {
            "SampleCount" => Self::SampleCount,
            "Sum" => Self::Sum,
            "Average" => Self::Average,
            "Minimum" => Self::Minimum,
            "Maximum" => Self::Maximum,
            _ => {
                if let Some(percentile) = text.strip_prefix('p') {
                    let percentile: f64 = percentile.parse().ok()?;
                    return (0.0..=100.0)
                        .contains(&percentile)
                        .then_some(Self::Percentile(percentile));
                }
                let (kind, range) = text.split_once('(')?;
                let (low, high) = range.strip_suffix(')')?.split_once(':')?;
                let bound = |text: &str| match text {
                    "" => Some(None),
                    number => number.parse::<f64>().ok().map(Some),
                };
                let (low, high) = (bound(low)?, bound(high)?);
                match kind {
                    "TC" => Self::Count(low, high),
                    "PR" => Self::Rank(low, high),
                    _ => return None,
                }
            }
        })
    }

    /// The statistic of values; none where it has no meaning.
    pub(crate) fn of(self, bucket: &Bucket) -> Option<f64> {
        let whole = summary(bucket)?;
        let within = |low: Bound, high: Bound| {
            let inside = |value: f64| {
                low.is_none_or(|low| value > low) && high.is_none_or(|high| value <= high)
            };
            bucket.values.iter().filter(|(value, _)| inside(*value)).map(|(_, n)| n).sum::<f64>()
        };
        match self {
            Self::SampleCount => Some(whole.count),
            Self::Sum => Some(whole.sum),
            Self::Average => Some(whole.sum / whole.count),
            Self::Minimum => Some(whole.minimum),
            Self::Maximum => Some(whole.maximum),
            Self::Percentile(percentile) => at_percentile(&bucket.values, percentile),
            Self::Count(low, high) => Some(within(low, high)),
            Self::Rank(low, high) => {
                let all: f64 = bucket.values.iter().map(|(_, n)| n).sum();
                (all > 0.0).then(|| 100.0 * within(low, high) / all)
            }
        }
    }
}

fn summary(bucket: &Bucket) -> Option<StatisticSet> {
    let single = bucket.values.iter().map(|&(value, count)| StatisticSet {
        count,
        sum: value * count,
        minimum: value,
        maximum: value,
    });
    let whole = single.chain(bucket.sets.iter().copied()).reduce(|a, b| StatisticSet {
        count: a.count + b.count,
        sum: a.sum + b.sum,
        minimum: a.minimum.min(b.minimum),
        maximum: a.maximum.max(b.maximum),
    })?;
    (whole.count > 0.0).then_some(whole)
}

/// The smallest value that at least this percentage of values does not exceed.
fn at_percentile(values: &[(f64, f64)], percentile: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all: f64 = sorted.iter().map(|(_, n)| n).sum();
    let wanted = all * percentile / 100.0;
    let mut seen = 0.0;
    for (value, count) in &sorted {
        seen += count;
        if seen >= wanted {
            return Some(*value);
        }
    }
    sorted.last().map(|(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statistic_of_a_known_bucket() {
        let bucket = Bucket { values: vec![(10.0, 1.0), (20.0, 2.0), (30.0, 1.0)], sets: vec![] };
        let table = [
            ("SampleCount", 4.0),
            ("Sum", 80.0),
            ("Average", 20.0),
            ("Minimum", 10.0),
            ("Maximum", 30.0),
            ("p50", 20.0),
            ("p100", 30.0),
            ("TC(:20)", 3.0),
            ("TC(20:)", 1.0),
            ("TC(10:20)", 2.0),
            ("PR(:20)", 75.0),
        ];
        for (name, expected) in table {
            assert_eq!(Statistic::parse(name).unwrap().of(&bucket), Some(expected), "{name}");
        }
        assert_eq!(Statistic::Sum.of(&Bucket::default()), None);
    }

    #[test]
    fn unknown_statistics_are_refused() {
        for name in ["", "sum", "p", "p101", "TC(20)", "XX(1:2)", "TC(a:b)"] {
            assert_eq!(Statistic::parse(name), None, "{name}");
        }
    }
}
