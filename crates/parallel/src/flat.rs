//! A block's parameters laid end to end, and the equal parts of that run that the ranks of a group hold.
//!
//! ```text
//! block    | q.weight ........ | k.weight .. | norm 0 | down.weight ........ 0 |
//! rank     |     0     |     1     |     2     |     3     |
//! ```
//! Every parameter begins at a multiple of [`GRAIN`] numbers and every part is whole grains, with zeros between. So a
//! grain holds the same numbers of the same parameter at any number of ranks, and sums over grains have the same bits.

use std::ops::Range;

use comm::{Group, Job};
use engine::{BlockId, Device, EngineError, Numbers, ParamId, ParamTable};
use kernels::elementwise::GRAIN;

/// Where each parameter of each block lies.
#[derive(Debug, Clone)]
pub struct Layout {
    ranks: usize,
    blocks: Vec<Block>,
}

#[derive(Debug, Clone, Default)]
struct Block {
    /// Parameter, start, length.
    params: Vec<(ParamId, usize, usize)>,
    len: usize,
}

/// Numbers `of_param` of one parameter, which lie from `at` on in the run that was asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub param: ParamId,
    pub of_param: Range<usize>,
    pub at: usize,
}

/// A whole block end to end.
#[derive(Debug, Default)]
pub struct Flat {
    values: Numbers,
    pieces: Vec<Piece>,
}

impl Flat {
    /// The numbers of a parameter of the block; on `Meta` there are none.
    #[must_use]
    pub fn of(&self, param: ParamId) -> &[f32] {
        let piece = self.pieces.iter().find(|piece| piece.param == param);
        piece.and_then(|piece| self.values.values().get(piece.at..piece.at + piece.of_param.len())).unwrap_or(&[])
    }
}

impl Layout {
    /// For a group of `ranks`.
    #[must_use]
    pub fn new(table: &ParamTable, ranks: usize) -> Self {
        let mut blocks = vec![Block::default(); table.blocks().len()];
        for id in table.ids() {
            let (block, len) = (&mut blocks[table.spec(id).block.0], table.spec(id).shape.elements());
            block.params.push((id, block.len, len));
            block.len += len.next_multiple_of(GRAIN);
        }
        blocks.iter_mut().for_each(|block| block.len = block.len.next_multiple_of(GRAIN * ranks));
        Self { ranks, blocks }
    }

    pub fn blocks(&self) -> impl Iterator<Item = BlockId> + use<> {
        (0..self.blocks.len()).map(BlockId)
    }

    /// Numbers in a block, those between parameters counted.
    #[must_use]
    pub fn len(&self, block: BlockId) -> usize {
        self.blocks[block.0].len
    }

    /// The part of a block that falls to `rank`.
    #[must_use]
    pub fn part(&self, block: BlockId, rank: usize) -> Range<usize> {
        comm::part(self.len(block), self.ranks, rank)
    }

    /// What lies in `range` of a block.
    pub fn pieces(&self, block: BlockId, range: Range<usize>) -> impl Iterator<Item = Piece> + '_ {
        self.blocks[block.0].params.iter().filter_map(move |&(param, start, len)| {
            let (from, to) = (range.start.max(start), range.end.min(start + len));
            (from < to).then(|| Piece { param, of_param: from - start..to - start, at: from - range.start })
        })
    }

    /// What `rank` holds of all parameters, in the order of the table.
    pub fn share(&self, rank: usize) -> impl Iterator<Item = Piece> + '_ {
        self.blocks().flat_map(move |block| self.pieces(block, self.part(block, rank)))
    }

    /// The whole parameters of a block, each rank of `group` bringing arrays as long as the pieces that it holds; empty ones
    /// count as zeros. All of them call it.
    /// # Errors
    /// When a rank does not answer.
    pub fn gather(
        &self,
        block: BlockId,
        group: &mut Group,
        device: Device,
        mine: Vec<Vec<f32>>,
    ) -> Result<Vec<(ParamId, Vec<f32>)>, EngineError> {
        let part = self.part(block, group.rank());
        let mut flat = Numbers::zeros(device, part.len());
        for (piece, values) in self.pieces(block, part).zip(mine) {
            flat.put(piece.at, &values.into());
        }
        let all = group.run(Job::AllGather(flat, self.len(block))).map_err(EngineError::rank)?;
        let all = self.flat(block, all);
        Ok(self.whole(block).map(|piece| (piece.param, all.of(piece.param).to_vec())).collect())
    }

    /// A whole block of these numbers.
    #[must_use]
    pub fn flat(&self, block: BlockId, values: Numbers) -> Flat {
        Flat { values, pieces: self.whole(block).collect() }
    }

    /// All of a block.
    pub fn whole(&self, block: BlockId) -> impl Iterator<Item = Piece> + '_ {
        self.pieces(block, 0..self.len(block))
    }
}

#[cfg(test)]
mod tests {
    use engine::{Init, ParamKind};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_of_all_ranks_hold_every_number_once(sizes in proptest::collection::vec(1..5000_usize, 1..6), ranks in 1..9_usize) {
            let mut table = ParamTable::default();
            let block = table.block("layers.0");
            for (i, n) in sizes.iter().enumerate() {
                table.add(&format!("p{i}"), &[*n], Init::Zeros, ParamKind::Vector);
            }
            let layout = Layout::new(&table, ranks);
            let mut seen: Vec<Vec<u32>> = sizes.iter().map(|n| vec![0; *n]).collect();
            for rank in 0..ranks {
                let part = layout.part(block, rank);
                prop_assert_eq!(part.len(), layout.len(block) / ranks);
                for piece in layout.pieces(block, part.clone()) {
                    prop_assert_eq!(piece.of_param.start % GRAIN, 0);
                    prop_assert!(piece.at + piece.of_param.len() <= part.len());
                    seen[piece.param.0][piece.of_param].iter_mut().for_each(|count| *count += 1);
                }
            }
            prop_assert!(seen.iter().flatten().all(|count| *count == 1));
        }
    }
}
