//! Parameters: what a model declares, and the seam behind which a strategy decides who holds them.
//!
//! ```text
//! Model -> ParamTable (names, shapes, starts) -> ParamStore (values, gradients) <- Tape
//! ```
//! A model names parameters and never ranks. The tape asks the store to `gather` a block before it runs and to
//! `release` it after, reads weights, adds to gradients, and says `reduce` as soon as a gradient is final. The trait
//! stands here, below the strategies that implement it, because the tape is its caller.

use std::sync::Arc;

use kernels::gemm::{Mat, PackedRhs, Precision};

use crate::{EngineError, Shape, ShapeError};

/// The place of a parameter in its [`ParamTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// The place of a block (`layers.3`) in its [`ParamTable`]: the unit of gathering, recomputation and pipeline cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub usize);

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Normal { std: f32 },
    Ones,
    Zeros,
    Constant(f32),
}

/// What an optimiser may want to know: Muon takes matrices, weight decay spares vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    Matrix,
    Embedding,
    Head,
    Vector,
}

/// One parameter as declared: `layers.3.attn.q.weight` `[heads * head_dim, model]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    pub name: String,
    pub shape: Shape,
    pub init: Init,
    pub kind: ParamKind,
    pub block: BlockId,
    /// The axis along which ranks of the tensor axis hold equal parts: heads, ffn or vocab. Others hold it whole.
    pub cut: Option<usize>,
    /// How many rows or columns of that axis stay together: those of a head.
    pub cut_unit: usize,
    /// Of its outermost axis, experts, how many one token reads; absent: all.
    pub experts_per_token: Option<usize>,
    /// No update leaves one of its numbers above this.
    pub most: Option<f32>,
}

impl ParamSpec {
    /// How many of its numbers one token reads.
    #[must_use]
    pub fn active_elements(&self) -> u64 {
        let all = self.shape.elements() as u64;
        self.experts_per_token.map_or(all, |count| all / (self.shape.dims()[0] as u64).max(1) * count as u64)
    }
}

/// Every parameter of a model, in a fixed order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParamTable {
    specs: Vec<ParamSpec>,
    blocks: Vec<String>,
    /// Parameters that a block reads besides its own.
    shared: Vec<(BlockId, ParamId)>,
}

impl ParamTable {
    /// Begin a block; parameters declared from here on belong to it.
    pub fn block(&mut self, name: impl Into<String>) -> BlockId {
        self.blocks.push(name.into());
        BlockId(self.blocks.len() - 1)
    }

    /// Declare a parameter of the current block. The name is completed with the block's: `attn.q.weight` in block
    /// `layers.3` is `layers.3.attn.q.weight`; in the block named "" it stays as it is.
    pub fn add(&mut self, name: &str, dims: &[usize], init: Init, kind: ParamKind) -> ParamId {
        if self.blocks.is_empty() {
            self.block("");
        }
        let block = BlockId(self.blocks.len() - 1);
        let prefix = &self.blocks[block.0];
        let name = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        debug_assert!(self.find(&name).is_none(), "parameter `{name}` is declared twice");
        self.specs.push(ParamSpec {
            name,
            shape: Shape::new(dims),
            init,
            kind,
            block,
            cut: None,
            cut_unit: 1,
            experts_per_token: None,
            most: None,
        });
        ParamId(self.specs.len() - 1)
    }

    /// `param` may be cut along its `axis`, between runs of `unit` rows or columns.
    pub fn may_cut(&mut self, param: ParamId, axis: usize, unit: usize) {
        (self.specs[param.0].cut, self.specs[param.0].cut_unit) = (Some(axis), unit);
    }

    /// No update leaves a number of `param` above `most`.
    pub fn at_most(&mut self, param: ParamId, most: f32) {
        self.specs[param.0].most = Some(most);
    }

    /// A token reads `per_token` of the matrices of `param` `[experts, out, in]`.
    pub fn routed(&mut self, param: ParamId, per_token: usize) {
        self.specs[param.0].experts_per_token = Some(per_token);
    }

    /// The same parameters with the shapes that one of `parts` ranks of the tensor axis has; those of blocks that
    /// `is_here` leaves out are empty.
    /// # Errors
    /// Names a parameter that cannot be cut into so many parts.
    pub fn local(&self, parts: usize, is_here: impl Fn(BlockId) -> bool) -> Result<Self, ShapeError> {
        let mut local = self.clone();
        for spec in &mut local.specs {
            if !is_here(spec.block) {
                spec.shape = Shape::new(&[0]);
            } else if let Some(axis) = spec.cut {
                let mut dims = spec.shape.dims().to_vec();
                if dims[axis] % (spec.cut_unit * parts) != 0 {
                    let (units, what) = (dims[axis] / spec.cut_unit, if spec.cut_unit > 1 { "heads" } else { "rows or columns" });
                    let problem = format!("{parts} ranks of the tensor axis do not divide the {units} {what} of `{}`", spec.name);
                    return Err(ShapeError::new("mesh", problem));
                }
                dims[axis] /= parts;
                spec.shape = Shape::new(&dims);
            }
        }
        Ok(local)
    }

    /// What the rank at `place` of `parts` holds of the whole values of `param`.
    #[must_use]
    pub fn slice(&self, param: ParamId, (place, parts): (usize, usize), whole: &[f32]) -> Vec<f32> {
        let Some((run, stride)) = self.runs(param, parts) else { return whole.to_vec() };
        let mut mine = Vec::with_capacity(whole.len() / parts);
        whole.chunks_exact(stride).for_each(|row| mine.extend_from_slice(&row[place * run..(place + 1) * run]));
        mine
    }

    /// The whole values of `param` from what each rank holds, in their order.
    #[must_use]
    pub fn join(&self, param: ParamId, held: &[Vec<f32>]) -> Vec<f32> {
        let Some((run, _)) = self.runs(param, held.len()) else { return held[0].clone() };
        (0..held[0].len() / run).flat_map(|row| held.iter().flat_map(move |part| &part[row * run..(row + 1) * run])).copied().collect()
    }

    /// Of a parameter cut into `parts`: how many numbers lie together, and how far apart those of one rank begin.
    fn runs(&self, param: ParamId, parts: usize) -> Option<(usize, usize)> {
        let spec = self.spec(param);
        let axis = spec.cut.filter(|_| parts > 1)?;
        let stride: usize = spec.shape.dims()[axis..].iter().product();
        Some((stride / parts, stride))
    }

    /// The current block reads `param` of an earlier block too: a tied head, a shared norm.
    pub fn share(&mut self, param: ParamId) {
        self.shared.push((BlockId(self.blocks.len() - 1), param));
    }

    /// The blocks whose parameters `block` reads: its own, and those that it shares with earlier ones.
    #[must_use]
    pub fn needs(&self, block: BlockId) -> Vec<BlockId> {
        let of_others = self.shared.iter().filter(|(reader, _)| *reader == block).map(|(_, param)| self.spec(*param).block);
        let mut needs: Vec<BlockId> = of_others.chain([block]).collect();
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    #[must_use]
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    #[must_use]
    pub fn spec(&self, id: ParamId) -> &ParamSpec {
        &self.specs[id.0]
    }

    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.specs.len()).map(ParamId)
    }

    /// Block names in the order in which they run; index with [`BlockId`].
    #[must_use]
    pub fn blocks(&self) -> &[String] {
        &self.blocks
    }

    #[must_use]
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.specs.iter().position(|spec| spec.name == name).map(ParamId)
    }

    /// How many numbers there are in all parameters together.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.specs.iter().map(|spec| spec.shape.elements() as u64).sum()
    }

    /// How many of them one token reads: all but the experts that it does not go to.
    #[must_use]
    pub fn active_elements(&self) -> u64 {
        self.specs.iter().map(ParamSpec::active_elements).sum()
    }

    /// Starting values of one parameter: a function of `seed` and its name alone, whoever computes them.
    #[must_use]
    pub fn initial(&self, id: ParamId, seed: u64) -> Vec<f32> {
        let spec = self.spec(id);
        let mut values = vec![0.0; spec.shape.elements()];
        match spec.init {
            Init::Zeros => {}
            Init::Ones => values.fill(1.0),
            Init::Constant(value) => values.fill(value),
            Init::Normal { std } => kernels::rng::fill_normal(crate::key(seed, &spec.name), std, &mut values),
        }
        values
    }
}

/// The values of one parameter and the copies that GEMMs read.
pub struct Weight {
    values: Vec<f32>,
    /// A matrix for each expert, or one.
    matrices: usize,
    rows: usize,
    cols: usize,
    /// For `x W^T` (forward) and `dy W` (backward), packed when first asked for after a change.
    packed: [std::sync::OnceLock<Vec<PackedRhs>>; 2],
    /// Memory of stale copies, to be packed into again.
    spare: [std::sync::Mutex<Vec<PackedRhs>>; 2],
}

/// Which product a packed copy serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `y = x W^T`: inner axis `in`, outer axis `out`.
    Forward = 0,
    /// `dx = dy W`: inner axis `out`, outer axis `in`.
    Backward = 1,
}

impl Weight {
    /// `values` of a parameter of `shape`, or on `Meta` none; a vector counts as one row.
    #[must_use]
    pub fn new(values: Vec<f32>, shape: Shape) -> Self {
        assert!(values.is_empty() || values.len() == shape.elements(), "values and shape of a parameter agree");
        let [matrices, rows, cols] = shape.matrices();
        Self { values, matrices, rows, cols, packed: Default::default(), spare: Default::default() }
    }

    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values to change; packed copies are packed anew when next asked for.
    pub fn values_mut(&mut self) -> &mut [f32] {
        for (packed, spare) in self.packed.iter_mut().zip(&mut self.spare) {
            if let Some(stale) = packed.take() {
                *spare.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner) = stale;
            }
        }
        &mut self.values
    }

    /// The bf16 copies for one product, one for each matrix, packed once after each change.
    #[must_use]
    pub fn packed(&self, form: Form) -> &[PackedRhs] {
        self.packed[form as usize].get_or_init(|| {
            let (k, n) = match form {
                Form::Forward => (self.cols, self.rows),
                Form::Backward => (self.rows, self.cols),
            };
            let mut spare = std::mem::take(&mut *self.spare[form as usize].lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            spare.resize_with(self.matrices, || PackedRhs::new(Precision::Bf16, k, n));
            for (packed, values) in spare.iter_mut().zip(self.values.chunks_exact((k * n).max(1))) {
                let weight = Mat::rows(values, self.cols);
                packed.pack(if form == Form::Forward { weight.transposed() } else { weight });
            }
            spare
        })
    }
}

/// Which packed copies there are of the parameters that a rank holds.
#[derive(Debug, Clone)]
pub struct Packed(Vec<[bool; 2]>);

impl Packed {
    /// None yet.
    #[must_use]
    pub fn of(table: &ParamTable) -> Self {
        Self(vec![[false; 2]; table.specs().len()])
    }

    /// There is one of `param` now.
    pub fn add(&mut self, param: ParamId, form: Form) {
        self.0[param.0][form as usize] = true;
    }

    /// They went with the parameter.
    pub fn forget(&mut self, param: ParamId) {
        self.0[param.0] = [false; 2];
    }

    #[must_use]
    pub fn bytes(&self, table: &ParamTable) -> u64 {
        let bytes = |form: Form, shape: Shape| {
            let [matrices, rows, cols] = shape.matrices();
            let (k, n) = if form == Form::Forward { (cols, rows) } else { (rows, cols) };
            matrices * PackedRhs::bytes(Precision::Bf16, k, n)
        };
        let of = |forms: &[bool; 2], shape: Shape| {
            [Form::Forward, Form::Backward].into_iter().filter(|form| forms[*form as usize]).map(|form| bytes(form, shape)).sum::<usize>()
        };
        self.0.iter().zip(table.specs()).map(|(forms, spec)| of(forms, spec.shape) as u64).sum()
    }
}

/// Where in a step a forward and backward pass stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassAt {
    /// It is the last micro-batch of its lane.
    pub ends_lane: bool,
    /// And of this rank's last lane.
    pub ends_step: bool,
    /// The blocks `first..end` that it runs.
    pub first: usize,
    pub end: usize,
}

impl PassAt {
    /// The only pass of a step, through all blocks.
    pub const ONLY: Self = Self { ends_lane: true, ends_step: true, first: 0, end: usize::MAX };
}

/// Who holds a parameter, when it is gathered, where its gradient goes. A strategy is one file that implements this.
pub trait ParamStore {
    /// Gradients come now from this pass.
    fn begin_pass(&mut self, _pass: PassAt) {}

    /// No more gradients come from it.
    /// # Errors
    /// When a rank does not answer.
    fn end_pass(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Make the parameters of `block` readable.
    /// # Errors
    /// When a rank that holds a part of them does not answer.
    fn gather(&mut self, block: BlockId) -> Result<(), EngineError>;

    /// The parameters of `block` are not read until the next `gather`.
    fn release(&mut self, block: BlockId);

    /// A product reads `param`, which is gathered, from the packed copy of this form; from now on there is one.
    fn pack(&mut self, param: ParamId, form: Form);

    /// The values of a gathered parameter.
    fn weight(&self, param: ParamId) -> Arc<Weight>;

    /// The gradient accumulator of the lane at work, taken out while an op adds to it.
    fn take_grad(&mut self, param: ParamId) -> Vec<f32>;

    /// Put back what [`ParamStore::take_grad`] took.
    fn put_grad(&mut self, param: ParamId, grad: Vec<f32>);

    /// This backward pass adds no more to the gradient of `param`.
    /// # Errors
    /// When the gradient has to go to a rank that does not answer.
    fn reduce(&mut self, param: ParamId) -> Result<(), EngineError>;
}

/// A store with nothing in it, for `Meta`.
pub struct NoParams;

impl ParamStore for NoParams {
    fn gather(&mut self, _block: BlockId) -> Result<(), EngineError> {
        Ok(())
    }
    fn release(&mut self, _block: BlockId) {}
    fn pack(&mut self, _param: ParamId, _form: Form) {}
    fn weight(&self, param: ParamId) -> Arc<Weight> {
        unreachable!("no op reads parameter {} on Meta", param.0)
    }
    fn take_grad(&mut self, _param: ParamId) -> Vec<f32> {
        Vec::new()
    }
    fn put_grad(&mut self, _param: ParamId, _grad: Vec<f32>) {}
    fn reduce(&mut self, _param: ParamId) -> Result<(), EngineError> {
        Ok(())
    }
}
