//! What a convolution reads, laid out as a matrix product wants it: a panel of a few results' inputs
//! side by side, one row for each element of the filter and channel.

/// A panel: where its columns and rows are in the input. An element is where both add up to.
#[derive(Debug)]
pub struct Panel<'a> {
    /// For each result, where its first input is. Those that follow one another are read at once.
    pub columns: &'a [usize],
    /// For each row, its distance from the first.
    pub rows: &'a [usize],
}

/// Columns that lie side by side in the input.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// The first of them.
    column: usize,
    /// Where it is.
    start: usize,
}

impl Panel<'_> {
    /// Writes the panel, `width` numbers a row. Where there are fewer columns, any number stands.
    ///
    /// # Panics
    /// If an element is not in the input, there are more columns than `width`, or `into` is too short.
    pub fn gather(&self, input: &[f32], width: usize, into: &mut [f32]) {
        assert!(
            !self.columns.is_empty() && self.columns.len() <= width,
            "columns beyond the panel"
        );
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") {
            #[allow(unsafe_code)]
            // The processor was asked just now.
            return unsafe { self.gather_avx2(input, width, into) };
        }
        self.gather_any(input, width, into);
    }

    /// # Safety
    /// Needs AVX2.
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx2")]
    unsafe fn gather_avx2(&self, input: &[f32], width: usize, into: &mut [f32]) {
        self.gather_any(input, width, into);
    }

    /// The widths that tract's products have are known to the compiler.
    #[inline(always)]
    fn gather_any(&self, input: &[f32], width: usize, into: &mut [f32]) {
        match width {
            4 => self.gather_fixed::<4>(input, into),
            6 => self.gather_fixed::<6>(input, into),
            8 => self.gather_fixed::<8>(input, into),
            12 => self.gather_fixed::<12>(input, into),
            16 => self.gather_fixed::<16>(input, into),
            24 => self.gather_fixed::<24>(input, into),
            32 => self.gather_fixed::<32>(input, into),
            _ => self.gather_slowly(input, self.rows, width, into),
        }
    }

    #[inline(always)]
    fn gather_fixed<const WIDTH: usize>(&self, input: &[f32], into: &mut [f32]) {
        let into = &mut into[..self.rows.len() * WIDTH];
        let mut runs = [Run { column: 0, start: 0 }; WIDTH];
        let runs = self.runs(&mut runs);
        if runs.len() * 3 > WIDTH {
            return self.gather_scattered::<WIDTH>(input, into);
        }
        // Every run writes a whole row from its first column on: what is too much is written over
        // by the next run, or by the next row. So the last row is not written so, nor are those
        // where a run would read beyond the input.
        let last_start = runs.iter().map(|run| run.start).max().unwrap_or(0);
        let fits = |row: &&usize| last_start + **row + WIDTH <= input.len();
        let wide = self.rows.iter().take_while(fits).count();
        let wide = wide.min(self.rows.len().saturating_sub(1));
        let (rows, last_rows) = self.rows.split_at(wide);
        match runs {
            [run] => {
                for (row, into) in rows.iter().zip(into.chunks_exact_mut(WIDTH)) {
                    into.copy_from_slice(&input[run.start + row..][..WIDTH]);
                }
            }
            _ => {
                for (index, row) in rows.iter().enumerate() {
                    for run in runs {
                        let into = &mut into[index * WIDTH + run.column..][..WIDTH];
                        into.copy_from_slice(&input[run.start + row..][..WIDTH]);
                    }
                }
            }
        }
        self.gather_slowly(input, last_rows, WIDTH, &mut into[wide * WIDTH..]);
    }

    /// Columns that lie anywhere.
    #[inline(always)]
    fn gather_scattered<const WIDTH: usize>(&self, input: &[f32], into: &mut [f32]) {
        let mut columns = [self.columns[0]; WIDTH];
        columns[..self.columns.len()].copy_from_slice(self.columns);
        let reach = columns.iter().max().copied().unwrap_or(0);
        for (row, into) in self.rows.iter().zip(into.chunks_exact_mut(WIDTH)) {
            let from = &input[*row..];
            assert!(reach < from.len(), "a column beyond the input");
            for (into, column) in into.iter_mut().zip(&columns) {
                #[allow(unsafe_code)]
                // `reach` is the largest of the columns.
                unsafe {
                    *into = *from.get_unchecked(*column);
                }
            }
        }
    }

    fn gather_slowly(&self, input: &[f32], rows: &[usize], width: usize, into: &mut [f32]) {
        for (row, into) in rows.iter().zip(into.chunks_exact_mut(width)) {
            for (into, column) in into.iter_mut().zip(self.columns) {
                *into = input[row + column];
            }
        }
    }

    /// The columns as runs.
    fn runs<'r>(&self, runs: &'r mut [Run]) -> &'r [Run] {
        let mut count = 0;
        for (column, start) in self.columns.iter().copied().enumerate() {
            if column == 0 || start != self.columns[column - 1] + 1 {
                runs[count] = Run { column, start };
                count += 1;
            }
        }
        &runs[..count]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_element_is_where_its_row_and_column_add_up_to(
            width in prop::sample::select(vec![4usize, 5, 6, 8, 12, 16, 24, 32]),
            runs in prop::collection::vec((0usize..60, 1usize..20), 1..6),
            stride in 1usize..3,
            rows in prop::collection::vec(0usize..100, 0..8),
        ) {
            let columns: Vec<usize> = runs
                .iter()
                .flat_map(|(start, len)| (0..*len).map(move |i| start + i * stride))
                .take(width)
                .collect();
            let reach = columns.iter().max().unwrap() + rows.iter().max().unwrap_or(&0);
            let input: Vec<f32> = (0..=reach).map(|i| i as f32).collect();
            let mut into = vec![f32::NAN; rows.len() * width + 3];
            Panel { columns: &columns, rows: &rows }.gather(&input, width, &mut into);
            for (r, row) in rows.iter().enumerate() {
                for (c, column) in columns.iter().enumerate() {
                    prop_assert_eq!(into[r * width + c], (row + column) as f32);
                }
            }
        }
    }

    #[test]
    #[should_panic]
    fn an_element_beyond_the_input_is_a_panic() {
        let columns = [0, 2, 4, 6, 8, 10];
        Panel { columns: &columns, rows: &[1] }.gather(&[0.0; 11], 6, &mut [0.0; 6]);
    }
}
