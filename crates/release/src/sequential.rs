//! Tests of proportions that may be looked at as often as one likes.
//!
//! Each test is a bet against its hypothesis, whose capital grows by a factor with every block of
//! requests. If the hypothesis holds, the expected factor is at most 1 whatever was seen before, so
//! by Ville's inequality the capital ever reaches 1/α with probability at most α, however often it
//! is looked at. Nothing is approximated: the tests hold for five requests as for five million.
//!
//! For two samples the factor of a block is the likelihood ratio of an alternative, chosen before
//! the block was seen, to its projection onto the hypothesis in relative entropy. The hypotheses
//! are half-planes, thus convex, and for these that ratio is an e-variable for blocks of any size:
//! R. J. Turner, A. Ly, P. D. Grünwald, "Generic E-variables for exact sequential k-sample tests
//! that allow for optional stopping", J. Statistical Planning and Inference 230 (2024), and R. J.
//! Turner, P. D. Grünwald, "Exact anytime-valid confidence intervals for contingency tables and
//! beyond", Statistics & Probability Letters 198 (2023). Rates may change from block to block: what
//! is tested is a relation between the two revisions within each block.

use serde::{Deserialize, Serialize};

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// How many had the property.
    pub events: u64,
    /// Out of how many.
    pub trials: u64,
}

impl Share {
    /// Never more events than trials: counts that arrive on different ways may disagree for a while.
    pub fn new(events: u64, trials: u64) -> Share {
        Share { events: events.min(trials), trials }
    }

    /// Events over trials; 0 without trials.
    pub fn rate(self) -> f64 {
        if self.trials == 0 { 0.0 } else { self.events as f64 / self.trials as f64 }
    }

    /// Those that had not.
    pub fn complement(self) -> Share {
        Share { events: self.trials - self.events, trials: self.trials }
    }

    /// Both together.
    pub fn plus(self, other: Share) -> Share {
        Share { events: self.events + other.events, trials: self.trials + other.trials }
    }

    /// The logarithm of the likelihood at a rate, up to a term that depends on the counts alone.
    fn ln_likelihood(self, rate: f64) -> f64 {
        self.events as f64 * rate.ln() + (self.trials - self.events) as f64 * (-rate).ln_1p()
    }
}

/// Rates that bets are placed on stay this far from 0 and 1, where a single contrary request
/// would take all capital.
const EDGE: f64 = 1e-9;

/// By how much a candidate may exceed what is allowed: from one that loses a few requests in a
/// thousand to one that answers nothing.
const EXCESSES: [f64; 8] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8];

/// Where, as a share of what is allowed, a good candidate may lie below the limit: all the way, and
/// less far.
const CLEARANCES: [f64; 3] = [1.0, 0.75, 0.5];

/// A rate is estimated from no fewer requests than this; before, nothing is bet.
const LEARN_FROM: u64 = 20;

/// What a hypothesis says of the candidate's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// It is not above the bound: evidence against this is evidence of a fault.
    NotAbove,
    /// It is not below the bound: evidence against this is evidence that all is well.
    NotBelow,
}

/// What the candidate's rate is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// The stable revision's rate in the same block and this much more.
    AboveStable(f64),
    /// This rate.
    Fixed(f64),
}

/// Evidence on both sides of a bound, gathered block by block.
///
/// A fault may show only in a later stage, under more traffic, or at any other time, when bets made
/// from the beginning have lost much. So capital is staked little by little: most of it in
/// equal parts as stages begin, the rest over the blocks. What is not staked yet counts as it is. That is a
/// mixture over beginnings, and keeps the guarantee over the whole release.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    bound: Bound,
    stages: usize,
    /// How many blocks there were.
    blocks: u32,
    /// What is staked with the next block because a stage begins.
    stake: f64,
    /// What is not staked yet.
    saved: f64,
    /// The logarithms of the capitals, one a bet.
    fault: [f64; EXCESSES.len()],
    health: [f64; CLEARANCES.len()],
    /// What was seen of the stable revision, to place bets by.
    stable: Share,
}

/// The share of the capital that is staked as stages begin.
const STAKED_ON_STAGES: f64 = 0.75;

/// The share of the rest that is staked on the nth block, counted from 0: a series whose sum is
/// below 1 and whose members shrink as slowly as that allows.
fn staked_on_block(n: u32) -> f64 {
    let n = f64::from(n) + 5.0;
    1.5 / (n * n.ln().powi(2))
}

impl Evidence {
    /// None yet, in a release of so many stages.
    pub fn new(bound: Bound, stages: usize) -> Evidence {
        Evidence {
            bound,
            stages: stages.max(1),
            blocks: 0,
            stake: 0.0,
            saved: 1.0,
            fault: [f64::NEG_INFINITY; EXCESSES.len()],
            health: [f64::NEG_INFINITY; CLEARANCES.len()],
            stable: Share::default(),
        }
    }

    /// The same, with what the stable revision did before: bets can be placed from the first block.
    pub fn knowing(mut self, stable: Share) -> Evidence {
        self.stable = stable;
        self
    }

    /// Another stage begins.
    pub fn begin_stage(&mut self) {
        self.stake += STAKED_ON_STAGES / self.stages as f64;
    }

    /// A block of requests to both revisions.
    pub fn add(&mut self, candidate: Share, stable: Share) {
        let stake = std::mem::take(&mut self.stake)
            + (1.0 - STAKED_ON_STAGES) * staked_on_block(self.blocks);
        let stake = stake.min(self.saved);
        self.saved -= stake;
        self.blocks = self.blocks.saturating_add(1);
        let (fault, health) = self.gains(candidate, stable);
        let grow = |all: &mut f64, gain: f64| *all = ln_sum_exp(&[*all, stake.ln()]) + gain;
        self.fault.iter_mut().zip(fault).for_each(|(all, gain)| grow(all, gain));
        self.health.iter_mut().zip(health).for_each(|(all, gain)| grow(all, gain));
        self.stable = self.stable.plus(stable);
    }

    /// By how much each bet's logarithm grows.
    fn gains(
        &self,
        candidate: Share,
        stable: Share,
    ) -> ([f64; EXCESSES.len()], [f64; CLEARANCES.len()]) {
        match self.bound {
            Bound::Fixed(limit) => {
                let limit = inside(limit);
                let gain = |rate: f64| {
                    candidate.ln_likelihood(inside(rate)) - candidate.ln_likelihood(limit)
                };
                (
                    EXCESSES.map(|excess| gain(limit + excess * (1.0 - limit))),
                    // A rate of 0 cannot be bet on: one event would end it.
                    CLEARANCES.map(|part| gain(limit * (1.05 - part))),
                )
            }
            Bound::AboveStable(tolerance) => {
                if self.stable.trials < LEARN_FROM {
                    return ([0.0; EXCESSES.len()], [0.0; CLEARANCES.len()]);
                }
                let seen = self.stable;
                let usual = (seen.events as f64 + 0.5) / (seen.trials as f64 + 1.0);
                // Far enough from the edges that the projection onto the bound lies within them.
                let usual = usual.clamp(2.0 * EDGE, (1.0 - tolerance - 2.0 * EDGE).max(2.0 * EDGE));
                let gain = |rate: f64, side: Side| {
                    two_sample_gain(candidate, stable, inside(rate), usual, tolerance, side)
                };
                (
                    EXCESSES.map(|excess| gain(usual + tolerance + excess, Side::NotAbove)),
                    CLEARANCES.map(|part| gain(usual + tolerance * (1.0 - part), Side::NotBelow)),
                )
            }
        }
    }

    /// The logarithm of the evidence that the bound is broken.
    pub fn ln_fault(&self) -> f64 {
        ln_sum_exp(&[ln_mean_exp(&self.fault), self.saved.ln()])
    }

    /// The logarithm of the evidence that the bound is kept.
    pub fn ln_health(&self) -> f64 {
        ln_sum_exp(&[ln_mean_exp(&self.health), self.saved.ln()])
    }
}

fn inside(rate: f64) -> f64 {
    rate.clamp(EDGE, 1.0 - EDGE)
}

/// The logarithm of the factor by which a bet on the rates `(candidate_rate, stable_rate)` grows
/// with a block, against the hypothesis that the candidate's rate is on `side` of the stable one's
/// plus `tolerance`.
fn two_sample_gain(
    candidate: Share,
    stable: Share,
    candidate_rate: f64,
    stable_rate: f64,
    tolerance: f64,
    side: Side,
) -> f64 {
    // The stable rate at which the candidate's would be exactly at the bound.
    let low = inside(candidate_rate - tolerance);
    let high = stable_rate.min(1.0 - EDGE - tolerance);
    let contradicts = match side {
        Side::NotAbove => candidate_rate > stable_rate + tolerance,
        Side::NotBelow => candidate_rate < stable_rate + tolerance,
    };
    if !contradicts || candidate.trials + stable.trials == 0 || 1.0 - EDGE - tolerance <= EDGE {
        return 0.0;
    }
    let (n, m) = (candidate.trials as f64, stable.trials as f64);
    // The projection lies on the bound, between the two; relative entropy is convex along it, so
    // its slope has one root.
    let slope = |x: f64| {
        let y = x + tolerance;
        m * (x - stable_rate) / (x * (1.0 - x)) + n * (y - candidate_rate) / (y * (1.0 - y))
    };
    let (mut left, mut right) = (low.min(high), low.max(high));
    for _ in 0..60 {
        let middle = 0.5 * (left + right);
        if slope(middle) > 0.0 { right = middle } else { left = middle }
    }
    let x = 0.5 * (left + right);
    candidate.ln_likelihood(candidate_rate) - candidate.ln_likelihood(x + tolerance)
        + stable.ln_likelihood(stable_rate)
        - stable.ln_likelihood(x)
}

/// ln of the sum of exponentials, without overflow.
fn ln_sum_exp(logs: &[f64]) -> f64 {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() {
        return top;
    }
    top + logs.iter().map(|log| (log - top).exp()).sum::<f64>().ln()
}

/// ln of the mean of exponentials.
pub(crate) fn ln_mean_exp(logs: &[f64]) -> f64 {
    ln_sum_exp(logs) - (logs.len() as f64).ln()
}

/// The rates that a share does not contradict at level `alpha`, however often one looks: a
/// confidence sequence.
///
/// The rates at which a uniform mixture of alternatives is less than 1/α times as likely:
/// H. Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of
/// Mathematical Statistics 41 (1970), for a Bernoulli likelihood with Jeffreys' prior.
pub fn interval(share: Share, alpha: f64) -> (f64, f64) {
    if share.trials == 0 {
        return (0.0, 1.0);
    }
    let (k, n) = (share.events as f64, share.trials as f64);
    let ln_beta = |a: f64, b: f64| libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b);
    let mixture = ln_beta(k + 0.5, n - k + 0.5) - ln_beta(0.5, 0.5);
    let contradicted = |rate: f64| mixture - share.ln_likelihood(inside(rate)) >= -alpha.ln();
    let edge = |mut inner: f64, mut outer: f64| {
        if !contradicted(outer) {
            return outer;
        }
        for _ in 0..60 {
            let middle = 0.5 * (inner + outer);
            if contradicted(middle) { outer = middle } else { inner = middle }
        }
        outer
    };
    let low = if k == 0.0 { 0.0 } else { edge(share.rate(), 0.0) };
    let high = if k == n { 1.0 } else { edge(share.rate(), 1.0) };
    (low, high)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The expected factor of a block under true rates, by summing over all outcomes.
    fn expected(n: u64, m: u64, truth: (f64, f64), bet: (f64, f64), tol: f64, side: Side) -> f64 {
        let ln_choose = |n: u64, k: u64| {
            let f = |x: u64| libm::lgamma(x as f64 + 1.0);
            f(n) - f(k) - f(n - k)
        };
        let mut sum = 0.0;
        for k in 0..=n {
            for l in 0..=m {
                let (c, s) = (Share::new(k, n), Share::new(l, m));
                let ln_p = ln_choose(n, k)
                    + c.ln_likelihood(inside(truth.0))
                    + ln_choose(m, l)
                    + s.ln_likelihood(inside(truth.1));
                sum += (ln_p + two_sample_gain(c, s, bet.0, bet.1, tol, side)).exp();
            }
        }
        sum
    }

    proptest! {
        /// What the whole guarantee rests on.
        #[test]
        fn no_bet_gains_on_average_while_its_hypothesis_holds(
            n in 0u64..9, m in 0u64..9,
            stable in 0.0..1.0f64, apart in 0.0..1.0f64,
            bet in (0.001..0.999f64, 0.001..0.999f64), tolerance in 0.0..0.3f64,
        ) {
            let bound = stable + tolerance;
            let not_above = (bound * apart).min(1.0);
            prop_assert!(expected(n, m, (not_above, stable), bet, tolerance, Side::NotAbove) < 1.0 + 1e-6);
            if bound < 1.0 {
                let not_below = bound + (1.0 - bound) * apart;
                prop_assert!(expected(n, m, (not_below, stable), bet, tolerance, Side::NotBelow) < 1.0 + 1e-6);
            }
        }

        #[test]
        fn an_interval_holds_the_rate_seen(k in 0u64..500, more in 0u64..5000) {
            let share = Share::new(k, k + more);
            let (low, high) = interval(share, 0.05);
            prop_assert!((0.0..=1.0).contains(&low) && low <= share.rate() && share.rate() <= high && high <= 1.0);
        }
    }

    #[test]
    fn many_failures_are_evidence_of_a_fault_and_none_of_health() {
        let mut bad = Evidence::new(Bound::AboveStable(0.01), 1);
        let mut good = bad.clone();
        bad.begin_stage();
        good.begin_stage();
        for _ in 0..30 {
            bad.add(Share::new(5, 50), Share::new(1, 100));
            good.add(Share::new(0, 50), Share::new(1, 100));
        }
        assert!(bad.ln_fault() > 20.0 && bad.ln_health() < 0.0, "{bad:?}");
        assert!(good.ln_health() > 5.0 && good.ln_fault() < 0.0, "{good:?}");
    }

    #[test]
    fn millions_of_clean_requests_before_do_not_blind_the_test() {
        for stable in [499_999, 10_000_000, 10_000_000_000] {
            let mut bad = Evidence::new(Bound::AboveStable(0.01), 1);
            bad = bad.knowing(Share::new(0, stable));
            bad.begin_stage();
            let mut good = bad.clone();
            for _ in 0..10 {
                bad.add(Share::new(50, 50), Share::new(0, 100));
                good.add(Share::new(0, 500), Share::new(0, 1000));
            }
            assert!(bad.ln_fault() > 100.0, "{stable}: {}", bad.ln_fault());
            assert!(good.ln_health() > 20.0, "{stable}: {}", good.ln_health());
        }
    }

    #[test]
    fn a_fault_that_begins_in_a_later_stage_is_not_hidden_by_an_early_good_one() {
        let mut evidence = Evidence::new(Bound::Fixed(0.02), 2);
        evidence.begin_stage();
        evidence.add(Share::new(0, 100_000), Share::default());
        evidence.begin_stage();
        evidence.add(Share::new(50, 500), Share::default());
        assert!(evidence.ln_fault() > 20.0);
    }

    #[test]
    fn a_fault_after_a_long_good_time_is_found_nearly_as_fast() {
        let found_after = |good: u32| {
            let mut evidence = Evidence::new(Bound::AboveStable(0.01), 1);
            evidence.begin_stage();
            for _ in 0..good {
                evidence.add(Share::new(0, 10), Share::new(1, 90));
            }
            let mut blocks = 0;
            while evidence.ln_fault() < 3.0 {
                evidence.add(Share::new(1, 10), Share::new(1, 90));
                blocks += 1;
            }
            blocks
        };
        assert!(found_after(1000) <= 3 * found_after(5), "{}", found_after(1000));
    }

    #[test]
    fn no_more_is_staked_than_there_is() {
        let staked: f64 = (0..10_000_000).map(staked_on_block).sum();
        assert!(staked < 1.0, "{staked}");
    }

    #[test]
    fn intervals_of_known_shares() {
        let (low, high) = interval(Share::new(0, 1000), 0.05);
        assert!(low == 0.0 && (0.004..0.01).contains(&high), "{high}");
        let (low, high) = interval(Share::new(500, 1000), 0.05);
        assert!((0.43..0.46).contains(&low) && (0.54..0.57).contains(&high), "{low} {high}");
        assert_eq!(interval(Share::default(), 0.05), (0.0, 1.0));
    }
}
