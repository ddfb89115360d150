//! What a checkpoint holds of a model in training: every whole parameter and its optimiser's state, by name, gathered from
//! whichever ranks have them, and put back on as many others.

use std::collections::HashMap;

use comm::{Group, Job};
use engine::{BlockId, Device, EngineError, ParamId, ParamTable, Precision, Shape};
use models::Model;
use parallel::{Replicated, flat::Layout};

use super::{Trainer, lock};
use crate::{TrainError, feed::InTraining};

impl Trainer {
    /// Every whole parameter and its optimiser's state, by name, on the first rank; all ranks call it.
    /// # Errors
    /// When a rank does not answer.
    pub fn tensors(&mut self) -> Result<Vec<(String, Shape, Vec<f32>)>, TrainError> {
        let (mut all, full) = (Vec::new(), self.model.params());
        let mut store = self.store.borrow_mut();
        // Only the line of ranks through the first one has to have all; others help where something is cut.
        let p = self.place;
        let is_on_line = p.data == 0 && p.context == 0 && p.tensor == 0;
        if !is_on_line && !store.is_cut() && self.servers.is_none() && (self.options.mesh.tensor == 1 || p.data > 0 || p.context > 0) {
            return Ok(all);
        }
        for block in self.runs.iter().cloned().flatten().map(BlockId) {
            let parts = store.parts().into_iter().filter(|part| full.spec(part.param).block == block);
            let mine = parts.map(|part| part.values.to_vec()).collect();
            let values = store.gather_parts(block, mine)?.into_iter().map(|(id, values)| (full.spec(id).name.clone(), id, values));
            let gather = |mine| match &self.servers {
                Some(servers) => Layout::new(&self.table, servers.rank().1).gather(block, &mut self.world, Device::Cpu, mine),
                None => store.gather_parts(block, mine),
            };
            let state = lock(&self.optimiser).tensors(&self.table, block, gather)?;
            for (name, id, local) in values.chain(state).collect::<Vec<_>>() {
                let whole = if self.options.mesh.tensor > 1 { full.join(id, &self.partition.each(local)?) } else { local };
                all.push((name, full.spec(id).shape, whole));
            }
        }
        if is_on_line && self.options.mesh.pipeline > 1 {
            all = to_first_stage(&mut self.pipeline, all)?;
        }
        Ok(if self.world.rank() == 0 { all } else { Vec::new() })
    }

    /// Put back values and state after `step` steps by name, each whole; the first name that is missing or of another length.
    pub fn restore(&mut self, step: u64, mut find: impl FnMut(&str) -> Option<Vec<f32>>) -> Result<(), String> {
        self.restore_values(&mut find)?;
        if let Some(servers) = &mut self.servers {
            servers.go_on_from(step);
        }
        let (full, at) = (self.model.params(), (self.place.tensor, self.options.mesh.tensor));
        lock(&self.optimiser).restore(&self.table, |name, id| whole(full, at, &mut find, name, id))
    }

    /// The averages of the optimiser, once restored, come from so many updates of another run.
    pub fn go_on_after(&mut self, updates: u64) {
        lock(&self.optimiser).go_on_after(updates);
    }

    /// The whole model in one place, on the first rank; all ranks call it.
    /// # Errors
    /// When a rank does not answer.
    pub fn whole(&mut self) -> Result<Option<Replicated>, TrainError> {
        let mut tensors: HashMap<String, Vec<f32>> = self.tensors()?.into_iter().map(|(name, _, values)| (name, values)).collect();
        let table = self.model.params();
        let is_first = self.world.rank() == 0;
        Ok(is_first.then(|| Replicated::solo(table, |id| tensors.remove(&table.spec(id).name).unwrap_or_default())))
    }

    /// Put values alone in place, under an optimiser that begins.
    pub fn restore_values(&mut self, mut find: impl FnMut(&str) -> Option<Vec<f32>>) -> Result<(), String> {
        let (full, at) = (self.model.params(), (self.place.tensor, self.options.mesh.tensor));
        for id in full.ids().filter(|id| self.table.spec(*id).shape.elements() > 0) {
            let values = whole(full, at, &mut find, &full.spec(id).name, id)?;
            self.store.borrow_mut().restore(id, &values);
            if let Some(servers) = &mut self.servers {
                servers.restore(id, &values);
            }
        }
        Ok(())
    }
}

impl InTraining for Trainer {
    fn model(&self) -> &dyn Model {
        &*self.model
    }
    fn precision(&self) -> Precision {
        self.options.precision
    }
    fn weights(&mut self) -> Result<Option<Replicated>, TrainError> {
        self.whole()
    }
    fn meet(&mut self) -> Result<(), TrainError> {
        self.sum(&mut [0.0])
    }
}

/// This rank's part of the array `name` of parameter `id`, if `find` has it whole.
fn whole(
    full: &ParamTable,
    at: (usize, usize),
    find: &mut impl FnMut(&str) -> Option<Vec<f32>>,
    name: &str,
    id: ParamId,
) -> Result<Vec<f32>, String> {
    let whole = find(name).filter(|values| values.len() == full.spec(id).shape.elements());
    whole.map(|whole| full.slice(id, at, &whole)).ok_or_else(|| name.to_owned())
}

/// The named arrays of all stages, on the first one. A name goes as its bytes, a shape as its axes.
fn to_first_stage(group: &mut Group, own: Vec<(String, Shape, Vec<f32>)>) -> Result<Vec<(String, Shape, Vec<f32>)>, EngineError> {
    let run = |group: &mut Group, job| group.run(job).map_err(EngineError::rank);
    if group.rank() > 0 {
        run(group, Job::Send(0, vec![own.len() as f32].into()))?;
        for (name, shape, values) in own {
            let dims = shape.dims().iter().map(|d| *d as f32).collect::<Vec<_>>();
            run(group, Job::Send(0, vec![name.len() as f32, dims.len() as f32].into()))?;
            run(group, Job::Send(0, name.bytes().map(f32::from).chain(dims).collect::<Vec<_>>().into()))?;
            run(group, Job::Send(0, values.into()))?;
        }
        return Ok(Vec::new());
    }
    let mut all = own;
    for stage in 1..group.ranks() {
        let count = run(group, Job::Recv(stage, 1))?.values()[0] as usize;
        for _ in 0..count {
            let head = run(group, Job::Recv(stage, 2))?.into_values();
            let (name_len, axes) = (head[0] as usize, head[1] as usize);
            let text = run(group, Job::Recv(stage, name_len + axes))?.into_values();
            let name: String = text[..name_len].iter().map(|byte| char::from(*byte as u8)).collect();
            let shape = Shape::new(&text[name_len..].iter().map(|d| *d as usize).collect::<Vec<_>>());
            let values = run(group, Job::Recv(stage, shape.elements()))?.into_values();
            all.push((name, shape, values));
        }
    }
    Ok(all)
}
