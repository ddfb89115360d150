//! Rows of a table by token, and their gradients added back.

use rayon::prelude::*;

/// Rows of a whole table that a part of it holds, from row `first` on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Part {
    pub first: usize,
    /// Tokens of other parts are passed over; without it they are a fault.
    pub is_cut: bool,
}

/// `y[r] = table[tokens[r] - first]`, rows of `model`; zeros where another part holds the row.
/// # Panics
/// When a token is beyond a whole table.
pub fn gather(table: &[f32], tokens: &[u32], model: usize, part: Part, y: &mut [f32]) {
    let rows = table.len() / model.max(1);
    y.par_chunks_mut(model).zip(tokens).with_min_len(64).for_each(|(y, token)| match (*token as usize).checked_sub(part.first) {
        Some(row) if row < rows || !part.is_cut => y.copy_from_slice(&table[row * model..][..model]),
        _ => y.fill(0.0),
    });
}

/// `dtable[tokens[r] - first] += dy[r]`. Each task owns a run of the table's rows and walks the tokens in order.
pub fn scatter_add(tokens: &[u32], dy: &[f32], model: usize, part: Part, dtable: &mut [f32]) {
    const ROWS: usize = 512;
    dtable.par_chunks_mut(ROWS * model).enumerate().for_each(|(chunk, dtable)| {
        let (first, rows) = (part.first + chunk * ROWS, dtable.len() / model);
        for (token, dy) in tokens.iter().zip(dy.chunks_exact(model)) {
            let Some(row) = (*token as usize).checked_sub(first).filter(|row| *row < rows) else { continue };
            for (d, dy) in dtable[row * model..][..model].iter_mut().zip(dy) {
                *d += dy;
            }
        }
    });
}
