//! Rows of a table by token, and their gradients added back.

use rayon::prelude::*;

/// `y[r] = table[tokens[r]]`, rows of `model`.
/// # Panics
/// When a token is beyond the table.
pub fn gather(table: &[f32], tokens: &[u32], model: usize, y: &mut [f32]) {
    y.par_chunks_mut(model).zip(tokens).with_min_len(64).for_each(|(y, token)| {
        y.copy_from_slice(&table[*token as usize * model..][..model]);
    });
}

/// `dtable[tokens[r]] += dy[r]`. Each task owns a run of the table's rows and walks the tokens in order.
pub fn scatter_add(tokens: &[u32], dy: &[f32], model: usize, dtable: &mut [f32]) {
    const ROWS: usize = 512;
    dtable.par_chunks_mut(ROWS * model).enumerate().for_each(|(chunk, dtable)| {
        let first = chunk * ROWS;
        for (token, dy) in tokens.iter().zip(dy.chunks_exact(model)) {
            let Some(row) = (*token as usize).checked_sub(first).filter(|row| *row < ROWS) else { continue };
            for (d, dy) in dtable[row * model..][..model].iter_mut().zip(dy) {
                *d += dy;
            }
        }
    });
}
