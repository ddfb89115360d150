//! The forward and backward passes of one step on one stage: micro-batches in the order of the schedule, each on a tape of
//! its own, several of them at a time where a pipeline fills. Without a pipeline that is one after the other.
//!
//! ```text
//! Action::Forward   [receive] -> trunk (-> head) -> [send]       the tape is kept
//! Action::Backward  [receive] -> tape.backward   -> [send]       and given back
//! ```
//! The same code runs on `Meta`, where links carry lengths alone: the pool's high-water mark there is what `Cpu` needs.

use std::{cell::RefCell, collections::HashMap, ops::Range, rc::Rc, sync::Arc};

use engine::{
    BlockId, EngineError, Event, Form, Inputs, Numbers, Options, ParamId, ParamStore, ParamTable, Partition, PassAt, Pool, Tape, Tensor,
    Weight,
};
use models::Model;
use parallel::pipeline::Action;

use crate::objective::Objective;

/// A pass of one micro-batch.
pub(crate) struct MicroBatch<'a> {
    pub inputs: &'a Inputs,
    /// Which of this rank's lanes it belongs to.
    pub lane: usize,
    /// Key of its randomness.
    pub key: u64,
    pub ends_lane: bool,
    pub ends_step: bool,
}

/// Where activations go to and gradients come from.
pub(crate) trait Links {
    fn send_forward(&mut self, x: &[f32], len: usize) -> Result<(), EngineError>;
    fn recv_forward(&mut self, len: usize) -> Result<Vec<f32>, EngineError>;
    fn send_back(&mut self, dx: &[f32], len: usize) -> Result<(), EngineError>;
    fn recv_back(&mut self, len: usize) -> Result<Vec<f32>, EngineError>;
}

/// Links on `Meta`, to nobody: how many numbers go at a time, forward and back.
#[derive(Default)]
pub(crate) struct Lengths {
    pub forward: usize,
    pub back: usize,
}

impl Links for Lengths {
    fn send_forward(&mut self, _x: &[f32], len: usize) -> Result<(), EngineError> {
        self.forward = len;
        Ok(())
    }
    fn recv_forward(&mut self, _len: usize) -> Result<Vec<f32>, EngineError> {
        Ok(Vec::new())
    }
    fn send_back(&mut self, _dx: &[f32], len: usize) -> Result<(), EngineError> {
        self.back = len;
        Ok(())
    }
    fn recv_back(&mut self, _len: usize) -> Result<Vec<f32>, EngineError> {
        Ok(Vec::new())
    }
}

/// A stage at work: what its passes run over.
pub(crate) struct Stage<'a, S: ?Sized> {
    pub model: &'a dyn Model,
    pub objective: &'a dyn Objective,
    pub table: &'a ParamTable,
    pub pool: &'a Pool,
    pub store: &'a Rc<RefCell<Box<S>>>,
    pub partition: &'a dyn Partition,
    /// The runs of blocks that are its own, in the order in which a micro-batch meets them.
    pub runs: &'a [Range<usize>],
    pub options: Options,
    /// Told of each op when `options.trace` is on.
    pub watch: &'a dyn Fn(&Event),
    /// Of a rank's only micro-batch, whose loss reads the whole batch: what its loss is given, from its trunk's rows.
    pub meet: Option<&'a dyn Fn(&[f32]) -> Result<Inputs, EngineError>>,
}

/// A store that several tapes share, each with a handle of its own.
pub(crate) struct Handle<S: ?Sized>(pub Rc<RefCell<Box<S>>>);

impl<S: ParamStore + ?Sized> ParamStore for Handle<S> {
    fn begin_pass(&mut self, pass: PassAt) {
        self.0.borrow_mut().begin_pass(pass);
    }
    fn end_pass(&mut self) -> Result<(), EngineError> {
        self.0.borrow_mut().end_pass()
    }
    fn gather(&mut self, block: BlockId) -> Result<(), EngineError> {
        self.0.borrow_mut().gather(block)
    }
    fn release(&mut self, block: BlockId) {
        self.0.borrow_mut().release(block);
    }
    fn pack(&mut self, param: ParamId, form: Form) {
        self.0.borrow_mut().pack(param, form);
    }
    fn weight(&self, param: ParamId) -> Arc<Weight> {
        self.0.borrow().weight(param)
    }
    fn take_grad(&mut self, param: ParamId) -> Numbers {
        self.0.borrow_mut().take_grad(param)
    }
    fn put_grad(&mut self, param: ParamId, grad: Numbers) {
        self.0.borrow_mut().put_grad(param, grad);
    }
    fn reduce(&mut self, param: ParamId) -> Result<(), EngineError> {
        self.0.borrow_mut().reduce(param)
    }
}

/// A pass whose backward half is still to come.
struct Flight<'m> {
    tape: Tape<'m>,
    x: Option<Tensor>,
    y: Tensor,
}

impl<S: ParamStore + ?Sized + 'static> Stage<'_, S> {
    /// Run `actions`; `scale` is what each token's loss is multiplied by. Gives each micro-batch's loss, zero on all stages
    /// but the last, and hands each tape to `look` when it is done.
    /// # Errors
    /// When shapes do not fit, memory is short, or a rank does not answer.
    pub(crate) fn run(
        &self,
        actions: &[Action],
        micro_batches: &[MicroBatch<'_>],
        scale: f32,
        links: &mut dyn Links,
        look: &mut dyn FnMut(&Tape<'_>),
    ) -> Result<Vec<f32>, EngineError> {
        let blocks = self.table.blocks().len();
        let mut losses = vec![0.0; micro_batches.len()];
        let mut handles: Vec<_> = actions.iter().map(|_| Handle(self.store.clone())).collect();
        let mut free = handles.iter_mut();
        let mut flights: HashMap<(usize, usize), Flight<'_>> = HashMap::new();
        for action in actions {
            match *action {
                Action::Forward { micro_batch, chunk } => {
                    let (pass, run) = (&micro_batches[micro_batch], self.runs[chunk].clone());
                    let Some(handle) = free.next() else { unreachable!("there is a handle for each action") };
                    let options = Options { key: pass.key, ..self.options };
                    let mut tape = Tape::new(self.pool, handle, self.table, options).cut(self.partition).watched(self.watch);
                    tape.scale_losses(scale);
                    let mut x = None;
                    if run.start > 0 {
                        let shape = self.between(pass.inputs)?;
                        let came = links.recv_forward(shape.elements())?;
                        x = Some(tape.leaf(shape, &came, true)?);
                    }
                    let mut y = self.model.trunk(&mut tape, pass.inputs, x.clone(), run.clone())?;
                    if run.end == blocks {
                        let told = self.meet.map(|meet| meet(&y.f32s())).transpose()?;
                        y = self.objective.loss(self.model, &mut tape, told.as_ref().unwrap_or(pass.inputs), &y, scale)?;
                        losses[micro_batch] = y.f32s().first().copied().unwrap_or(0.0);
                    } else {
                        links.send_forward(&y.f32s(), y.shape().elements())?;
                    }
                    flights.insert((micro_batch, chunk), Flight { tape, x, y });
                }
                Action::Backward { micro_batch, chunk } => {
                    let (pass, run) = (&micro_batches[micro_batch], self.runs[chunk].clone());
                    let Some(Flight { mut tape, x, y }) = flights.remove(&(micro_batch, chunk)) else {
                        unreachable!("a schedule goes forward first")
                    };
                    let at = PassAt { ends_lane: pass.ends_lane, ends_step: pass.ends_step, first: run.start, end: run.end };
                    self.store.borrow_mut().begin_pass(at);
                    if run.end == blocks {
                        tape.backward(&y)?;
                    } else {
                        let dy = links.recv_back(y.shape().elements())?;
                        tape.backward_with(&y, &dy)?;
                    }
                    if let Some(x) = x {
                        links.send_back(&tape.grad(&x).unwrap_or_default(), x.shape().elements())?;
                    }
                    drop(y);
                    look(&tape);
                    drop(tape);
                    self.store.borrow_mut().end_pass()?;
                }
            }
        }
        Ok(losses)
    }

    /// What the trunk gives of each micro-batch, without a backward pass: of models that run in one piece.
    /// # Errors
    /// As [`Stage::run`].
    pub(crate) fn rows(&self, micro_batches: &[MicroBatch<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
        let one = |pass: &MicroBatch<'_>| {
            let mut handle = Handle(self.store.clone());
            // With the same draws as the pass whose loss will read them.
            let options = Options { key: pass.key, ..self.options };
            let mut tape = Tape::new(self.pool, &mut handle, self.table, options).cut(self.partition).watched(self.watch);
            let y = self.model.trunk(&mut tape, pass.inputs, None, 0..self.table.blocks().len())?;
            Ok(y.f32s().to_vec())
        };
        micro_batches.iter().map(one).collect()
    }

    /// The sum of the objective's figures over a batch: on the last stage, zero on the others.
    /// # Errors
    /// As [`Stage::run`].
    pub(crate) fn figures(&self, inputs: &Inputs, links: &mut dyn Links) -> Result<f64, EngineError> {
        let mut sum = 0.0;
        for run in self.runs {
            let mut handle = Handle(self.store.clone());
            let mut tape = Tape::new(self.pool, &mut handle, self.table, Options { train: false, ..self.options }).cut(self.partition);
            let mut x = None;
            if run.start > 0 {
                let shape = self.between(inputs)?;
                let came = links.recv_forward(shape.elements())?;
                x = Some(tape.leaf(shape, &came, false)?);
            }
            let y = self.model.trunk(&mut tape, inputs, x, run.clone())?;
            if run.end == self.table.blocks().len() {
                let figures = self.objective.measure(self.model, &mut tape, inputs, &y)?;
                sum += figures.f32s().iter().map(|v| f64::from(*v)).sum::<f64>();
            } else {
                links.send_forward(&y.f32s(), y.shape().elements())?;
            }
        }
        Ok(sum)
    }

    /// The shape that passes between stages, of which ranks of the tensor axis hold runs of tokens.
    fn between(&self, inputs: &Inputs) -> Result<engine::Shape, EngineError> {
        let shape = inputs.get("tokens")?.shape();
        let (batch, seq) = (shape.dims()[0], shape.dims()[1]);
        Ok(self.model.between(batch, seq / self.partition.place(engine::Axis::Tensor).1))
    }
}
