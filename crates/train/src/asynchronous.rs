//! Training without a common step: a worker that computes on its own lanes and takes part through parameter servers.
//!
//! ```text
//! pull (waits while too far ahead) -> gradient on this worker's own lanes -> push -> pull ...
//! ```
//! A push counts as an update of its own, of `1/n` of the learning rate: a step of all `n` workers moves parameters as far
//! as a synchronous one. What a worker learns from is as in every strategy; in which order pushes meet is left to time, so
//! bits are not promised.

use comm::Communicator;
use engine::{Device, EngineError, Inputs};
use models::Model;
use parallel::param_server::{Push, Servers};

use crate::{
    TrainError,
    optim::{Optimiser, Update},
    recipe::OptimKind,
    step::{Gradient, StepOptions, Trainer},
};

/// A model in training on one rank, whose parameters are on servers.
pub struct Worker {
    trainer: Trainer,
    servers: Servers,
    ranks: usize,
    clip: f32,
}

impl Worker {
    /// Every rank of `comm` calls this with an equal model; `options.lanes` are those of one worker. It has joined, and has
    /// the parameters.
    /// # Errors
    /// When shapes do not fit, a rank does not answer, or the optimiser is Muon, which needs whole matrices.
    pub fn new(model: Box<dyn Model>, options: StepOptions, comm: Box<dyn Communicator>, staleness: u64) -> Result<Self, TrainError> {
        if options.optim.kind == OptimKind::Muon {
            let problem = "Muon needs whole matrices, and a server holds parts".to_owned();
            return Err(TrainError::Value { key: "optim.kind", problem, help: "use `adamw`".into() });
        }
        let (table, rank, ranks) = (model.params().clone(), comm.rank(), comm.ranks());
        let share = Servers::share(&table, rank, ranks).into_iter().map(|piece| (piece.param, piece.of_param)).collect();
        let mut optimiser = Optimiser::of_share(&options.optim, &table, options.precision, Device::Cpu, share);
        let apply = Box::new(move |Push { number, lr_share, grad_scale }: Push, parts: Vec<parallel::Part<'_>>| {
            optimiser.apply(Update { step: number, lr_share, grad_scale }, parts);
        });
        let seed = options.seed;
        let clip = options.clip;
        let trainer = Trainer::new(model, options)?;
        let servers = Servers::new(&table, comm, staleness, apply, |id| table.initial(id, seed)).map_err(EngineError::rank)?;
        let mut worker = Self { trainer, servers, ranks, clip };
        worker.join()?;
        Ok(worker)
    }

    /// One step on `lanes` of `tokens` tokens in all, which are this worker's alone; `lr_share` as in a synchronous step.
    /// # Errors
    /// When a server does not answer.
    pub fn step(&mut self, lanes: &[Vec<Inputs>], tokens: u64, lr_share: f32) -> Result<Gradient, TrainError> {
        let gradient = self.trainer.gradient(self.servers.step() + 1, lanes, tokens)?;
        let grad_scale = if gradient.norm > self.clip { self.clip / gradient.norm } else { 1.0 };
        let (servers, lr_share) = (&mut self.servers, lr_share / self.ranks as f32);
        let pushed = self.trainer.with_store(|store| {
            let parts = store.parts();
            servers.push(lr_share, grad_scale, |piece| &parts[piece.param.0].grad[piece.of_param.clone()])
        });
        pushed.map_err(EngineError::rank)?;
        self.pull()?;
        Ok(gradient)
    }

    /// Nobody waits for this worker any more.
    /// # Errors
    /// When a server does not answer.
    pub fn leave(&mut self) -> Result<(), TrainError> {
        Ok(self.servers.leave().map_err(EngineError::rank)?)
    }

    /// Take part again, at the step of the slowest worker, which it gives, and with the parameters of now.
    /// # Errors
    /// When a server does not answer.
    pub fn join(&mut self) -> Result<u64, TrainError> {
        let step = self.servers.join().map_err(EngineError::rank)?;
        self.pull()?;
        Ok(step)
    }

    #[must_use]
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    fn pull(&mut self) -> Result<(), TrainError> {
        let servers = &mut self.servers;
        let pulled = self.trainer.with_store(|store| {
            let mut parts = store.parts();
            servers.pull(|piece, values| parts[piece.param.0].values[piece.of_param.clone()].copy_from_slice(values))
        });
        Ok(pulled.map_err(EngineError::rank)?)
    }
}
