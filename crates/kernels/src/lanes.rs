//! The one inner loop: a sum of shifted slices, each times a weight, as wide as the processor is.

/// Numbers that are computed at a time; slices of results are whole multiples of it.
pub(crate) const LANES: usize = 64;

/// A slice that is added, by where it starts, and what it is multiplied with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    pub(crate) start: usize,
    pub(crate) weight: f32,
}

/// `sums[i] = bias + Σ weight * from[start + i]` over all taps.
///
/// # Panics
/// If a tap reaches beyond `from`, or `sums` is no multiple of `LANES`.
pub(crate) fn add_taps(from: &[f32], taps: &[Tap], bias: f32, sums: &mut [f32]) {
    let last = taps.iter().map(|tap| tap.start).max().unwrap_or(0);
    assert!(last.checked_add(sums.len()).is_some_and(|end| end <= from.len()), "a tap beyond");
    assert!(sums.len().is_multiple_of(LANES), "sums of an odd length");
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    // The processor was asked for what the functions use, and the bounds were checked above.
    unsafe {
        if std::is_x86_feature_detected!("avx512f") {
            return x86_64::add_taps_avx512(from, taps, bias, sums);
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return x86_64::add_taps_fma(from, taps, bias, sums);
        }
    }
    add_taps_portable(from, taps, bias, sums);
}

/// The same for any processor; NEON where that is part of the architecture.
fn add_taps_portable(from: &[f32], taps: &[Tap], bias: f32, sums: &mut [f32]) {
    const WIDTH: usize = 16;
    for (block, sums) in sums.chunks_exact_mut(WIDTH).enumerate() {
        let mut acc = [bias; WIDTH];
        for tap in taps {
            let from = &from[tap.start + block * WIDTH..][..WIDTH];
            for (acc, x) in acc.iter_mut().zip(from) {
                #[cfg(target_arch = "aarch64")]
                {
                    *acc = x.mul_add(tap.weight, *acc);
                }
                #[cfg(not(target_arch = "aarch64"))]
                {
                    *acc += x * tap.weight;
                }
            }
        }
        sums.copy_from_slice(&acc);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    //! Four or eight registers of sums, so that no addition waits for the one before it.

    use std::arch::x86_64::*;

    use super::{LANES, Tap};

    /// # Safety
    /// Needs AVX-512F; every tap's `start + sums.len()` lies within `from`, and `sums` is a whole
    /// number of `LANES`.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn add_taps_avx512(from: &[f32], taps: &[Tap], bias: f32, sums: &mut [f32]) {
        let bias = _mm512_set1_ps(bias);
        for (block, sums) in sums.chunks_exact_mut(LANES).enumerate() {
            let mut acc = [bias; LANES / 16];
            for tap in taps {
                let weight = _mm512_set1_ps(tap.weight);
                for (lane, acc) in acc.iter_mut().enumerate() {
                    let x = unsafe {
                        _mm512_loadu_ps(from.as_ptr().add(tap.start + block * LANES + lane * 16))
                    };
                    *acc = _mm512_fmadd_ps(x, weight, *acc);
                }
            }
            for (lane, acc) in acc.into_iter().enumerate() {
                unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(lane * 16), acc) };
            }
        }
    }

    /// # Safety
    /// As `add_taps_avx512`, but needs AVX2 and FMA.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn add_taps_fma(from: &[f32], taps: &[Tap], bias: f32, sums: &mut [f32]) {
        let bias = _mm256_set1_ps(bias);
        for (block, sums) in sums.chunks_exact_mut(LANES).enumerate() {
            let mut acc = [bias; LANES / 8];
            for tap in taps {
                let weight = _mm256_set1_ps(tap.weight);
                for (lane, acc) in acc.iter_mut().enumerate() {
                    let x = unsafe {
                        _mm256_loadu_ps(from.as_ptr().add(tap.start + block * LANES + lane * 8))
                    };
                    *acc = _mm256_fmadd_ps(x, weight, *acc);
                }
            }
            for (lane, acc) in acc.into_iter().enumerate() {
                unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(lane * 8), acc) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_width_computes_the_same(
            starts in prop::collection::vec(0usize..40, 0..12),
            blocks in 0usize..3,
            bias in -2f32..2.0,
        ) {
            let from: Vec<f32> = (0..LANES * 3 + 40).map(|i| (i as f32 * 0.37).sin()).collect();
            let taps: Vec<Tap> = starts
                .iter()
                .map(|start| Tap { start: *start, weight: *start as f32 * 0.1 - 1.0 })
                .collect();
            let mut wide = vec![f32::NAN; blocks * LANES];
            add_taps(&from, &taps, bias, &mut wide);
            let mut portable = vec![f32::NAN; blocks * LANES];
            add_taps_portable(&from, &taps, bias, &mut portable);
            #[cfg(target_arch = "x86_64")]
            if std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("avx2") {
                let mut fma = vec![f32::NAN; blocks * LANES];
                #[allow(unsafe_code)]
                unsafe { x86_64::add_taps_fma(&from, &taps, bias, &mut fma) };
                prop_assert!(fma.iter().zip(&portable).all(|(a, b)| (a - b).abs() < 1e-5));
            }
            for (i, (a, b)) in wide.iter().zip(&portable).enumerate() {
                let exact = taps
                    .iter()
                    .map(|tap| f64::from(tap.weight) * f64::from(from[tap.start + i]))
                    .sum::<f64>() + f64::from(bias);
                prop_assert!((f64::from(*a) - exact).abs() < 1e-5, "{a} {exact}");
                prop_assert!((f64::from(*b) - exact).abs() < 1e-5, "{b} {exact}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a tap beyond")]
    fn a_tap_beyond_the_input_is_a_panic() {
        add_taps(&[0.0; LANES], &[Tap { start: 1, weight: 1.0 }], 0.0, &mut [0.0; LANES]);
    }
}
