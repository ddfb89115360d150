//! Single queries of many sequences over keys and values that lie in pages; *PagedAttention*, arXiv:2309.06180. A query's numbers depend on
//! its own sequence alone, whoever else is there.

use rayon::prelude::*;

use super::{Attention, Mask, rows::SCORES};
use crate::{SharedMut, gemm::Precision};

/// Sizes and choices, as of [`Attention`]. `q`, `out` `[rows, heads, head_dim]`; keys and values `[pages, page_tokens, kv_heads, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Paged {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub mask: Mask,
    pub scale: f32,
    pub alibi: bool,
    pub softcap: Option<f32>,
    pub page_tokens: usize,
}

/// One query: its row of `q`, its place in its sequence, and the pages of that sequence.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub row: usize,
    pub place: usize,
    pub pages: &'a [u32],
}

impl Paged {
    /// Of each query, `softmax(scale q k^T + mask) v` into its row of `out`; other rows stay.
    pub fn forward(&self, q: &[f32], queries: &[Query<'_>], keys: &[f32], values: &[f32], out: &mut [f32]) {
        let (d, group, width) = (self.head_dim, self.heads / self.kv_heads, self.kv_heads * self.head_dim);
        let rows = out.len() / (self.heads * d);
        assert!(q.len() == out.len() && self.heads.is_multiple_of(self.kv_heads), "attention: {self:?}");
        for query in queries {
            let last = query.pages.get(query.place / self.page_tokens).map(|page| (*page as usize + 1) * self.page_tokens * width);
            assert!(query.row < rows && last.is_some_and(|end| end <= keys.len().min(values.len())), "attention: {query:?}");
        }
        let out = SharedMut::new(out);
        (0..queries.len() * self.kv_heads).into_par_iter().for_each(|t| {
            let (query, kv_head) = (&queries[t / self.kv_heads], t % self.kv_heads);
            let attention = self.of(query.place);
            let at = |j: usize| {
                ((query.pages[j / self.page_tokens] as usize * self.page_tokens + j % self.page_tokens) * self.kv_heads + kv_head) * d
            };
            for head in kv_head * group..(kv_head + 1) * group {
                let from = (query.row * self.heads + head) * d;
                // SAFETY: this head of this row of `out` is this task's alone, and lies inside it.
                let out = unsafe { std::slice::from_raw_parts_mut(out.at(from), d) };
                SCORES.with_borrow_mut(|scores| {
                    attention.row(head, 0, &q[from..from + d], [keys, values], (at, self.page_tokens), out, scores);
                });
            }
        });
    }

    /// The same for one query alone, the last that its keys see.
    fn of(&self, place: usize) -> Attention {
        Attention {
            batch: 1,
            q_len: 1,
            kv_len: place + 1,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            q_offset: place,
            mask: self.mask,
            scale: self.scale,
            alibi: self.alibi,
            softcap: self.softcap,
            first_head: 0,
            all_heads: self.heads,
            precision: Precision::F32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::noise;

    #[test]
    fn pages_in_any_order_give_the_bits_of_keys_that_lie_together() {
        let (heads, kv_heads, head_dim, page_tokens) = (4, 2, 8, 4);
        let ways =
            [(Mask::Causal, false, None), (Mask::Causal, true, None), (Mask::Window(3), false, None), (Mask::Causal, false, Some(0.5))];
        for (mask, alibi, softcap) in ways {
            let paged = Paged { heads, kv_heads, head_dim, mask, scale: 0.3, alibi, softcap, page_tokens };
            let width = kv_heads * head_dim;
            let (keys, values) = (noise(1, 7 * page_tokens * width), noise(2, 7 * page_tokens * width));
            let q = noise(3, 3 * heads * head_dim);
            let sequences: [(usize, &[u32]); 3] = [(0, &[6]), (9, &[5, 0, 3]), (4, &[1, 4])];
            let queries: Vec<Query<'_>> =
                sequences.iter().enumerate().map(|(row, (place, pages))| Query { row, place: *place, pages }).collect();
            let mut out = vec![0.0; q.len()];
            paged.forward(&q, &queries, &keys, &values, &mut out);
            for query in queries {
                let together = |from: &[f32]| -> Vec<f32> {
                    let at = |j: usize| (query.pages[j / page_tokens] as usize * page_tokens + j % page_tokens) * width;
                    (0..=query.place).flat_map(|j| from[at(j)..at(j) + width].to_vec()).collect()
                };
                let rows = query.row * heads * head_dim..(query.row + 1) * heads * head_dim;
                let (mut want, mut lse) = (vec![0.0; heads * head_dim], vec![0.0; heads]);
                paged.of(query.place).forward(&q[rows.clone()], &together(&keys), &together(&values), &mut want, &mut lse);
                assert_eq!(out[rows], want, "{mask:?} {query:?}");
            }
        }
    }
}
