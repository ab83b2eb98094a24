//! The sum of each row of a matrix.

/// Sums that are kept at a time, so that no addition waits for the one before it.
const SUMS: usize = 16;

/// Writes the sum of every `length` numbers.
///
/// # Panics
/// If there are not as many rows as sums.
pub fn sum_rows(from: &[f32], length: usize, into: &mut [f32]) {
    assert_eq!(length.checked_mul(into.len()), Some(from.len()), "rows of another size");
    if length == 0 {
        into.fill(0.0);
        return;
    }
    for (row, into) in from.chunks_exact(length).zip(into) {
        let (blocks, rest) = row.as_chunks::<SUMS>();
        let mut sums = [0f32; SUMS];
        for block in blocks {
            for (sum, x) in sums.iter_mut().zip(block) {
                *sum += x;
            }
        }
        *into = sums.iter().sum::<f32>() + rest.iter().sum::<f32>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_length_are_summed() {
        for length in [0usize, 1, 15, 16, 17, 49, 400] {
            let from: Vec<f32> = (0..3 * length).map(|i| (i as f32 * 0.3).sin()).collect();
            let mut into = [f32::NAN; 3];
            sum_rows(&from, length, &mut into);
            for (row, sum) in into.iter().enumerate() {
                let exact: f64 = from[row * length..][..length].iter().map(|x| f64::from(*x)).sum();
                assert!((f64::from(*sum) - exact).abs() < 1e-5, "{sum} instead of {exact}");
            }
        }
    }
}
