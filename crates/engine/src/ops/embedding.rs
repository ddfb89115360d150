//! Embedding: row `tokens[r]` of a table. The gradient is added row by row in the order of the tokens. Where the table's
//! rows are cut, a rank gives zeros for the rows of others, and the sum over ranks is the embedding.

use kernels::embedding::Part;

use super::{Backward, Class, Cost, Forward, Gradient, Op, Saves};
use crate::{Axis, EngineError, Shape, ShapeError, Tape, Tensor};

struct Embedding {
    /// This rank's place among the parts of the table, if it is cut.
    place: Option<usize>,
}

impl Embedding {
    fn part(&self, table: Shape) -> Part {
        Part { first: self.place.unwrap_or(0) * table.rows(), is_cut: self.place.is_some() }
    }
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        match (x[0].dims(), x[1].dims()) {
            (tokens, [_, model]) if tokens.len() < 4 => Ok(Shape::new(&[tokens, &[*model]].concat())),
            _ => Err(ShapeError::new("embedding", format!("tokens are {} and the table is {}", x[0], x[1]))),
        }
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let n = (x[0].elements() * x[1].last()) as u64;
        Cost { forward_flops: 0, backward_flops: n, forward_bytes: 8 * n, backward_bytes: 12 * n }
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0], ..Saves::default() }
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input == 0 { Gradient::None } else { Gradient::Computed }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [tokens, table] = f.inputs else { unreachable!("two inputs") };
        kernels::embedding::gather(table.f32s(), tokens.u32s(), table.shape.last(), self.part(table.shape), f.output.f32s());
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let Some(mut dtable) = b.grads[1].take() {
            if !dtable.accumulate {
                dtable.data.f32s().fill(0.0);
            }
            let table = b.inputs[1].shape;
            kernels::embedding::scatter_add(b.inputs[0].u32s(), b.dy.f32s(), table.last(), self.part(table), dtable.data.f32s());
        }
    }
}

impl Tape<'_> {
    /// Rows of `table` `[vocab, model]` for `tokens` `[batch, seq]`: `[batch, seq, model]`. Tokens are below `vocab`.
    /// # Errors
    /// When the table is no matrix.
    pub fn embedding(&mut self, tokens: &Tensor, table: &Tensor) -> Result<Tensor, EngineError> {
        self.apply(Embedding { place: None }, &[tokens, table])
    }

    /// The same where ranks of the tensor axis hold runs of the table's rows: this rank's share of the sum.
    /// # Errors
    /// When the table is no matrix.
    pub fn embedding_share(&mut self, tokens: &Tensor, table: &Tensor) -> Result<Tensor, EngineError> {
        let (place, parts) = self.place(Axis::Tensor);
        self.apply(Embedding { place: (parts > 1).then_some(place) }, &[tokens, table])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn a_token_seen_twice_gets_both_gradients() {
        let tokens = [2_u32, 0, 2, 1];
        check::gradients(
            &[Shape::new(&[4, 3])],
            move |tape, [table]| {
                let tokens = tape.tokens(Shape::new(&[2, 2]), &tokens)?;
                tape.embedding(&tokens, table)
            },
            |[table]| tokens.iter().flat_map(|t| table[*t as usize * 3..][..3].to_vec()).collect(),
            1e-5,
        );
    }
}
