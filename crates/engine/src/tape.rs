//! The tape: runs each op as it is called, keeps what its backward pass will read, then walks back.
//!
//! ```text
//! forward:  apply(op, inputs) -> output          keeps inputs, output or extras, as the op's `saves` says
//! backward: pop nodes; op.backward(dy) -> dx     what a node kept goes back to the pool at once
//! ```
//! A tensor is a counted handle: when the model drops its last one and no node keeps it, its memory is free again.
//! `block` marks where parameters are gathered and released. It is also the unit of recomputation: with
//! `recompute`, a block keeps only its inputs and runs once more when the backward pass reaches it.
//!
//! **Invariant:** every buffer follows from shapes and the device's kind; only the calls into `Op::forward` and
//! `Op::backward` are left out on `Meta`.

mod gradients;
mod leaves;
mod losses;
mod wide;

use std::{rc::Rc, sync::Arc};

use gradients::Target;
use leaves::fits;

use crate::{
    Axis, BlockId, Buffer, Device, Dtype, EngineError, Form, ParamId, ParamStore, ParamTable, Partition, Pass, Pool, Precision, Reals,
    Shape, Weight, Whole,
    ops::{Backward, Class, Forward, Gradient, Input, Op, Saves},
    reals::convert,
    tensor::{Storage, Tensor},
    trace::{Event, Options},
};

/// See the head of this file.
pub struct Tape<'m> {
    pool: Pool,
    device: Device,
    store: &'m mut (dyn ParamStore + 'm),
    table: &'m ParamTable,
    partition: &'m dyn Partition,
    watch: Option<&'m dyn Fn(&Event)>,
    options: Options,
    mode: Mode,
    nodes: Vec<Node<'m>>,
    /// Gradient of each value, while some op still adds to it or its producer has yet to read it; stored as the value is.
    grads: Vec<Option<Rc<Buffer>>>,
    /// What each value is stored as.
    dtypes: Vec<Dtype>,
    /// How many recorded ops still have to add to each parameter's gradient.
    uses: Vec<u32>,
    draws: u64,
    loss_scale: f32,
    block: Option<BlockId>,
    events: Vec<Event>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nothing is kept.
    Inference,
    /// Nodes are recorded.
    Record,
    /// Inside a block that will be run again: parameters' uses are counted, nothing is kept.
    Forecast,
    /// The second run of such a block: recorded, its uses already counted.
    Replay,
}

enum Node<'m> {
    Op(OpNode),
    Enter(BlockId),
    Leave(BlockId),
    Recompute(Recompute<'m>),
}

struct OpNode {
    op: Box<dyn Op>,
    inputs: Vec<Kept>,
    output: usize,
    output_data: Option<Rc<Buffer>>,
    extras: Vec<Buffer>,
    /// Gradients that the forward pass already computed.
    early: Vec<Option<Rc<Buffer>>>,
    /// The op ran in 16 bits.
    is_bf16: bool,
}

/// An input as a node remembers it; `storage` only if the backward pass reads it.
struct Kept {
    shape: Shape,
    storage: Option<Storage>,
    param: Option<ParamId>,
    value: usize,
    needs_grad: bool,
}

type BlockFn<'m> = Box<dyn Fn(&mut Tape<'m>, &[Tensor]) -> Result<Vec<Tensor>, EngineError> + 'm>;

struct Recompute<'m> {
    block: BlockId,
    inputs: Vec<Tensor>,
    outputs: Vec<usize>,
    run: BlockFn<'m>,
    draws: u64,
}

impl<'m> Tape<'m> {
    /// A tape over `pool` (whose device is the tape's) and the parameters of `table` that `store` holds.
    pub fn new(pool: &Pool, store: &'m mut (dyn ParamStore + 'm), table: &'m ParamTable, options: Options) -> Self {
        Self {
            pool: pool.clone(),
            device: pool.device(),
            store,
            table,
            partition: &Whole,
            watch: None,
            options,
            mode: if options.train { Mode::Record } else { Mode::Inference },
            nodes: Vec::new(),
            grads: Vec::new(),
            dtypes: Vec::new(),
            uses: vec![0; table.specs().len()],
            draws: 0,
            loss_scale: 1.0,
            block: None,
            events: Vec::new(),
        }
    }

    /// The same where matrices or sequences are cut; `table` then has this rank's shapes.
    #[must_use]
    pub fn cut(self, partition: &'m dyn Partition) -> Self {
        Self { partition, ..self }
    }

    /// With `trace`, tell `watch` of each op as it is done instead of keeping the events.
    #[must_use]
    pub fn watched(self, watch: &'m dyn Fn(&Event)) -> Self {
        Self { watch: Some(watch), ..self }
    }

    /// This rank's place along `axis`, and how many share it.
    #[must_use]
    pub fn place(&self, axis: Axis) -> (usize, usize) {
        self.partition.place(axis)
    }

    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// What ops write and read between them, and their gradients.
    fn activations(&self) -> Dtype {
        match self.options.precision {
            Precision::Bf16 => Dtype::Bf16,
            Precision::F32 => Dtype::F32,
        }
    }

    #[must_use]
    pub fn is_training(&self) -> bool {
        self.options.train
    }

    /// What ran so far, when `trace` is on.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// A fresh key for one random op, by its block and its order there; the same again when a block is run a second time.
    pub fn draw(&mut self) -> u64 {
        self.draws += 1;
        crate::mix(self.options.key ^ crate::mix(self.draws))
    }

    /// Run a part of the model whose parameters are gathered before and released after, and which may be run again
    /// in the backward pass instead of keeping what it computed.
    /// # Errors
    /// Those of the ops inside, and of the store.
    pub fn block<const I: usize, const O: usize>(
        &mut self,
        block: BlockId,
        inputs: [&Tensor; I],
        run: impl Fn(&mut Self, [&Tensor; I]) -> Result<[Tensor; O], EngineError> + 'm,
    ) -> Result<[Tensor; O], EngineError> {
        self.run_block(block, inputs, self.options.recompute, run)
    }

    /// A block that is never run again: the last one, of which nothing outlives the loss.
    /// # Errors
    /// As [`Tape::block`].
    pub fn kept_block<const I: usize, const O: usize>(
        &mut self,
        block: BlockId,
        inputs: [&Tensor; I],
        run: impl Fn(&mut Self, [&Tensor; I]) -> Result<[Tensor; O], EngineError> + 'm,
    ) -> Result<[Tensor; O], EngineError> {
        self.run_block(block, inputs, false, run)
    }

    fn run_block<const I: usize, const O: usize>(
        &mut self,
        block: BlockId,
        inputs: [&Tensor; I],
        recompute: bool,
        run: impl Fn(&mut Self, [&Tensor; I]) -> Result<[Tensor; O], EngineError> + 'm,
    ) -> Result<[Tensor; O], EngineError> {
        let outer = self.block.replace(block);
        // From a place of its own, so that a stage of a pipeline draws what the whole model would.
        self.draws = (block.0 as u64 + 1) << 32;
        self.store.gather(block)?;
        let outputs = if recompute && self.mode == Mode::Record {
            let draws = self.draws;
            self.mode = Mode::Forecast;
            let outputs = run(self, inputs);
            self.mode = Mode::Record;
            let outputs = outputs?;
            self.nodes.push(Node::Recompute(Recompute {
                block,
                inputs: inputs.into_iter().cloned().collect(),
                outputs: outputs.iter().map(|t| t.value).collect(),
                run: Box::new(move |tape, inputs| {
                    run(tape, std::array::from_fn(|i| &inputs[i])).map(|outputs| outputs.into_iter().collect())
                }),
                draws,
            }));
            outputs
        } else {
            let records = self.mode == Mode::Record;
            if records {
                self.nodes.push(Node::Enter(block));
            }
            let outputs = run(self, inputs)?;
            if records {
                self.nodes.push(Node::Leave(block));
            }
            outputs
        };
        self.store.release(block);
        self.block = outer;
        Ok(outputs)
    }

    /// Run one op. The methods of [`crate::ops`] call this; a model calls those.
    /// # Errors
    /// A shape that does not fit, or no memory.
    pub fn apply(&mut self, op: impl Op, inputs: &[&Tensor]) -> Result<Tensor, EngineError> {
        let shapes: Vec<Shape> = inputs.iter().map(|t| t.shape).collect();
        let shape = op.shape(&shapes)?;
        let needs_grad = self.mode != Mode::Inference && inputs.iter().any(|t| t.needs_grad);
        let records = needs_grad && matches!(self.mode, Mode::Record | Mode::Replay);
        let saves = op.saves(&shapes);

        let dtype = self.dtype_of(&op, inputs);
        let is_bf16 = self.runs_in_bf16(&op, inputs, dtype);
        let is_stored = |i: usize| is_bf16 && op.reads_bf16().contains(&i);
        let mut output = self.pool.take(dtype, shape.elements())?;
        let mut extras = saves.extras.iter().map(|n| self.pool.take(Dtype::F32, *n)).collect::<Result<Vec<_>, _>>()?;
        let mut scratch = self.pool.take(Dtype::F32, op.scratch(&shapes, Pass::Forward))?;
        let mut early = Vec::with_capacity(inputs.len());
        for (i, input) in inputs.iter().enumerate() {
            let wanted = records && input.needs_grad && op.gradient(i) == Gradient::Early;
            early.push(if wanted { Some(self.grad_target(input.param_id(), input.value, input.shape, [false, false])?) } else { None });
        }
        let copies = inputs.iter().enumerate().map(|(i, t)| self.wide(t.buffer(), is_stored(i), true)).collect::<Result<Vec<_>, _>>()?;
        let mut written = self.wide(Some(&output), is_bf16, false)?;

        let packed = op.packed_input().and_then(|i| inputs[i].param_id());
        self.pack(packed, Form::Forward);
        if early.first().is_some_and(Option::is_some) {
            self.pack(packed, Form::Backward);
        }

        if self.device.is_real() {
            let weights: Vec<Option<Arc<Weight>>> = inputs.iter().map(|t| t.param_id().map(|id| self.store.weight(id))).collect();
            let views = inputs.iter().zip(&weights).zip(&copies);
            let views: Vec<Input<'_>> = views.map(|((t, w), copy)| Input::new(t.shape, copy.read(t.buffer()), w.as_deref())).collect();
            op.forward(&mut Forward {
                inputs: &views,
                output: written.write(&mut output),
                extras: &mut extras,
                scratch: scratch.f32s_mut(),
                early: early.iter_mut().map(|t| t.as_mut().map(Target::out)).collect(),
                precision: self.options.precision,
                partition: self.partition,
            });
        } else if let Some((axis, what, elements)) = op.moves(&shapes, Pass::Forward) {
            self.partition.charge(axis, what, elements);
        }
        written.settle(&mut output);
        self.partition.check()?;
        drop((scratch, copies));

        if self.mode == Mode::Record || self.mode == Mode::Forecast {
            for (i, input) in inputs.iter().enumerate() {
                if let Some(param) = input.param_id()
                    && op.gradient(i) != Gradient::None
                {
                    self.uses[param.0] += 1;
                }
            }
        }
        let early = early.into_iter().map(|t| t.and_then(|t| self.settle(t))).collect();
        let output = self.tensor(shape, output, needs_grad);
        let (name, class, cost, gemm) = (op.name(), op.class(), op.cost(&shapes), op.gemm(&shapes));
        let packs_bytes = op.packs(&shapes, Pass::Forward, self.options.precision) as u64;
        let saved_bytes = if records { self.record(Box::new(op), inputs, &output, extras, early, &saves, is_bf16) } else { 0 };
        let pass = if self.mode == Mode::Replay { Pass::Recompute } else { Pass::Forward };
        self.trace((name, class), pass, gemm, [cost.forward_flops, cost.forward_bytes, saved_bytes, packs_bytes]);
        Ok(output)
    }

    /// Walk back from `loss`, whose gradient is one, and send every parameter's gradient to the store.
    /// # Errors
    /// No memory, or a strategy that could not send a gradient.
    pub fn backward(&mut self, loss: &Tensor) -> Result<(), EngineError> {
        self.backward_with(loss, &vec![1.0; loss.shape.elements()])
    }

    /// Walk back from `y`, whose gradient `dy` comes from elsewhere (a later pipeline stage, a check).
    /// # Errors
    /// As [`Tape::backward`].
    pub fn backward_with(&mut self, y: &Tensor, dy: &[f32]) -> Result<(), EngineError> {
        let mut seed = self.pool.take(self.dtypes[y.value], y.shape.elements())?;
        if self.device.is_real() {
            fits("dy", y.shape, dy.len())?;
            convert(Reals::F32(dy), seed.reals_mut());
        }
        self.grads[y.value] = Some(Rc::new(seed));
        self.walk_back(0)
    }

    fn walk_back(&mut self, from: usize) -> Result<(), EngineError> {
        while self.nodes.len() > from {
            match self.nodes.pop() {
                Some(Node::Op(node)) => self.op_backward(node)?,
                Some(Node::Leave(block)) => {
                    self.block = Some(block);
                    self.store.gather(block)?;
                }
                Some(Node::Enter(block)) => {
                    self.store.release(block);
                    self.block = None;
                }
                Some(Node::Recompute(node)) => self.recompute(node)?,
                None => {}
            }
        }
        Ok(())
    }

    fn recompute(&mut self, node: Recompute<'m>) -> Result<(), EngineError> {
        self.block = Some(node.block);
        self.store.gather(node.block)?;
        let draws = std::mem::replace(&mut self.draws, node.draws);
        let from = self.nodes.len();
        self.mode = Mode::Replay;
        let outputs = (node.run)(self, &node.inputs)?;
        self.mode = Mode::Record;
        self.draws = draws;
        drop(node.inputs);
        for (output, before) in outputs.into_iter().zip(node.outputs) {
            self.grads[output.value] = self.grads[before].take();
        }
        self.walk_back(from)?;
        self.store.release(node.block);
        self.block = None;
        Ok(())
    }

    fn op_backward(&mut self, node: OpNode) -> Result<(), EngineError> {
        let dy = self.grads[node.output].take();
        if let Some(dy) = dy {
            self.op_gradients(&node, dy)?;
        }
        for (i, input) in node.inputs.iter().enumerate() {
            if let Some(param) = input.param
                && node.op.gradient(i) != Gradient::None
            {
                self.uses[param.0] -= 1;
                if self.uses[param.0] == 0 {
                    self.store.reduce(param)?;
                }
            }
        }
        Ok(())
    }

    fn op_gradients(&mut self, node: &OpNode, dy: Rc<Buffer>) -> Result<(), EngineError> {
        let shapes: Vec<Shape> = node.inputs.iter().map(|k| k.shape).collect();
        let is_stored = |i: usize| node.is_bf16 && node.op.reads_bf16().contains(&i);
        let mut targets: Vec<Option<Target>> = Vec::with_capacity(node.inputs.len());
        for (i, input) in node.inputs.iter().enumerate() {
            let computed = input.needs_grad && node.op.gradient(i) == Gradient::Computed;
            targets.push(if computed {
                Some(self.grad_target(input.param, input.value, input.shape, [true, is_stored(i)])?)
            } else {
                None
            });
        }
        let copies = node.inputs.iter().enumerate().map(|(i, k)| self.wide(k.buffer(), is_stored(i), true));
        let copies = copies.collect::<Result<Vec<_>, _>>()?;
        let output = self.wide(node.output_data.as_deref(), node.is_bf16, true)?;
        let wide_dy = self.wide(Some(&dy), node.is_bf16, true)?;
        let mut scratch = self.pool.take(Dtype::F32, node.op.scratch(&shapes, Pass::Backward))?;
        if targets.first().is_some_and(Option::is_some) {
            self.pack(node.op.packed_input().and_then(|i| node.inputs[i].param), Form::Backward);
        }
        if self.device.is_real() {
            let weights: Vec<Option<Arc<Weight>>> = node.inputs.iter().map(|k| k.param.map(|id| self.store.weight(id))).collect();
            let views = node.inputs.iter().zip(&weights).zip(&copies);
            let views: Vec<Input<'_>> = views.map(|((k, w), copy)| Input::new(k.shape, copy.read(k.buffer()), w.as_deref())).collect();
            node.op.backward(&mut Backward {
                inputs: &views,
                output: node.output_data.as_deref().map_or(Reals::F32(&[]), |buffer| output.reals(buffer)),
                extras: &node.extras,
                dy: wide_dy.reals(&dy),
                scratch: scratch.f32s_mut(),
                grads: targets.iter_mut().map(|t| t.as_mut().map(Target::out)).collect(),
                precision: self.options.precision,
                partition: self.partition,
            });
        } else if let Some((axis, what, elements)) = node.op.moves(&shapes, Pass::Backward) {
            self.partition.charge(axis, what, elements);
        }
        self.partition.check()?;
        drop((scratch, copies, output, wide_dy));
        for (input, target) in node.inputs.iter().zip(targets) {
            if let Some(target) = target {
                self.give_back(target, input.value)?;
            }
        }
        for (i, input) in node.inputs.iter().enumerate() {
            match (input.needs_grad, node.op.gradient(i)) {
                (true, Gradient::Same) => self.merge(input.value, dy.clone())?,
                (true, Gradient::Early) => {
                    if let Some(buffer) = &node.early[i] {
                        self.merge(input.value, buffer.clone())?;
                    }
                }
                _ => {}
            }
        }
        let cost = node.op.cost(&shapes);
        let packs_bytes = node.op.packs(&shapes, Pass::Backward, self.options.precision) as u64;
        self.trace(
            (node.op.name(), node.op.class()),
            Pass::Backward,
            node.op.gemm(&shapes),
            [cost.backward_flops, cost.backward_bytes, 0, packs_bytes],
        );
        Ok(())
    }

    /// With bf16 a product reads a parameter's packed copy.
    fn pack(&mut self, param: Option<ParamId>, form: Form) {
        if let Some(param) = param
            && self.options.precision == Precision::Bf16
        {
            self.store.pack(param, form);
        }
    }

    /// Push the node of an op and return the bytes that it alone keeps.
    fn record(
        &mut self,
        op: Box<dyn Op>,
        inputs: &[&Tensor],
        output: &Tensor,
        extras: Vec<Buffer>,
        early: Vec<Option<Rc<Buffer>>>,
        saves: &Saves,
        is_bf16: bool,
    ) -> u64 {
        let mut saved_bytes = 0;
        for buffer in extras.iter().chain(early.iter().flatten().map(|b| &**b)) {
            saved_bytes += buffer.bytes();
        }
        let mut keep = |tensor: &Tensor| -> Storage {
            if let Storage::Buffer(buffer) = &tensor.storage
                && !buffer.keep()
            {
                saved_bytes += buffer.bytes();
            }
            tensor.storage.clone()
        };
        let kept = inputs
            .iter()
            .enumerate()
            .map(|(i, t)| Kept {
                shape: t.shape,
                storage: saves.inputs.contains(&i).then(|| keep(t)),
                param: t.param_id(),
                value: t.value,
                needs_grad: t.needs_grad,
            })
            .collect();
        let output_data = match saves.output.then(|| keep(output)) {
            Some(Storage::Buffer(buffer)) => Some(buffer),
            _ => None,
        };
        self.nodes.push(Node::Op(OpNode { op, inputs: kept, output: output.value, output_data, extras, early, is_bf16 }));
        saved_bytes
    }

    fn tensor(&mut self, shape: Shape, buffer: Buffer, needs_grad: bool) -> Tensor {
        self.grads.push(None);
        self.dtypes.push(buffer.dtype());
        Tensor { shape, storage: Storage::Buffer(Rc::new(buffer)), value: self.grads.len() - 1, needs_grad }
    }

    fn trace(
        &mut self,
        (op, class): (&'static str, Class),
        pass: Pass,
        gemm: Option<[usize; 3]>,
        [flops, moved_bytes, saved_bytes, packs_bytes]: [u64; 4],
    ) {
        if self.options.trace {
            let live_bytes = self.pool.usage().live_bytes;
            let event = Event { block: self.block, op, class, pass, gemm, flops, moved_bytes, saved_bytes, live_bytes, packs_bytes };
            match self.watch {
                Some(watch) => watch(&event),
                None => self.events.push(event),
            }
        }
    }
}

impl Kept {
    fn buffer(&self) -> Option<&Buffer> {
        match &self.storage {
            Some(Storage::Buffer(buffer)) => Some(buffer),
            _ => None,
        }
    }
}
