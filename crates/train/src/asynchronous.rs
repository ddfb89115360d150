//! Training without a common step: what a rank does instead of summing gradients over ranks.
//!
//! ```text
//! turn (a part of a step; waits while too far ahead), pull -> gradient over the part's lanes -> push, done -> turn ...
//! ```
//! A push is an update of its own, of `1/n` of the learning rate where `n` parts are a step, so that a step moves parameters
//! as far as a synchronous one. Moments forget with every push, which is `n` times sooner: that others move parameters
//! meanwhile is a momentum too (*Asynchrony begets Momentum*, arXiv:1605.09774), and with moments stretched to whole steps
//! losses were worse. In which order pushes meet is left to time: bits are not promised.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use comm::Communicator;
use engine::{Device, EngineError, ParamTable};
use parallel::{
    Part, Strategy,
    flat::Piece,
    param_server::{Push, Servers},
};

use crate::{
    optim::{Optimiser, Update},
    options::StepOptions,
    recipe::Optim,
};

/// The servers, as one rank of `comm` has them, and the optimiser of its own.
pub(crate) fn begin(
    table: &ParamTable,
    comm: Box<dyn Communicator>,
    staleness: u64,
    options: &StepOptions,
) -> Result<(Arc<Mutex<Optimiser>>, Servers), EngineError> {
    let share = Servers::share(table, comm.rank(), comm.ranks()).into_iter().map(|piece| (piece.param, piece.of_param)).collect();
    let optim = Optim { lr: options.optim.lr / comm.ranks() as f32, ..options.optim.clone() };
    let optimiser = Arc::new(Mutex::new(Optimiser::new(&optim, table, options.precision, Device::Cpu, share)));
    let mover = optimiser.clone();
    let apply = Box::new(move |Push { number, lr_share, grad_scale }: Push, parts: Vec<Part<'_>>| {
        lock(&mover).apply(Update { step: number, lr_share, grad_scale }, parts);
    });
    let servers = Servers::new(table, comm, staleness, apply, |id| table.initial(id, options.seed)).map_err(EngineError::rank)?;
    Ok((optimiser, servers))
}

/// `store` takes the parameters of now.
pub(crate) fn pull(servers: &mut Servers, store: &mut dyn Strategy) -> Result<(), EngineError> {
    let mut parts = store.parts();
    let take = |piece: &Piece, values: &[f32]| parts[piece.param.0].values[piece.of_param.clone()].copy_from_slice(values);
    servers.pull(take).map_err(EngineError::rank)
}

/// The servers move parameters by the gradient that is in `store`.
pub(crate) fn push(servers: &mut Servers, push: Push, store: &mut dyn Strategy) -> Result<(), EngineError> {
    let parts = store.parts();
    servers.push(push, |piece| &parts[piece.param.0].grad[piece.of_param.clone()]).map_err(EngineError::rank)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
