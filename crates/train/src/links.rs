//! The links of a pipeline's stage to its neighbours: for each direction a pair with a thread of its own, so that a stage
//! that sends never keeps another from being heard.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use comm::{CommError, Group, Job, Ticket};
use engine::{EngineError, Numbers};

use crate::passes::Links;

/// See the head of this file; cheap to clone.
#[derive(Clone)]
pub(crate) struct Edges(Rc<RefCell<Pairs>>);

struct Pairs {
    forward_in: Option<Group>,
    forward_out: Option<Pair>,
    back_in: Option<Group>,
    back_out: Option<Pair>,
}

/// What is sent is waited for when a pipeline's worth of it is on its way: a stage runs ahead of those after it.
struct Pair {
    group: Group,
    sent: VecDeque<Ticket>,
    most: usize,
}

impl Edges {
    /// Links between the stages of `pipeline`; with `is_ring` from the last to the first too.
    /// # Errors
    /// When a rank does not answer.
    pub(crate) fn new(pipeline: &mut Group, is_ring: bool) -> Result<Self, CommError> {
        let (stage, stages) = (pipeline.rank(), pipeline.ranks());
        let mut pairs = Pairs { forward_in: None, forward_out: None, back_in: None, back_out: None };
        let pair = |group| Pair { group, sent: VecDeque::new(), most: 2 * stages };
        let borders = if stages == 1 { 0 } else { stages - usize::from(!is_ring) };
        for border in 0..borders {
            let (from, to) = (border, (border + 1) % stages);
            // Those who are not at this border are alone.
            let color = |stage: usize| if stage == from || stage == to { 0 } else { 1 + stage };
            let (forward, back) = (pipeline.split_by(color)?, pipeline.split_by(color)?);
            if stage == from {
                (pairs.forward_out, pairs.back_in) = (Some(pair(forward)), Some(back));
            } else if stage == to {
                (pairs.forward_in, pairs.back_out) = (Some(forward), Some(pair(back)));
            }
        }
        Ok(Self(Rc::new(RefCell::new(pairs))))
    }
}

impl Edges {
    /// Run `look` on the groups between stages; waiting for them is the pipeline's bubble.
    pub(crate) fn with_groups(&self, look: &mut dyn FnMut(&mut Group)) {
        let mut pairs = self.0.borrow_mut();
        let Pairs { forward_in, forward_out, back_in, back_out } = &mut *pairs;
        [forward_in, back_in].into_iter().flatten().for_each(&mut *look);
        [forward_out, back_out].into_iter().flatten().for_each(|pair| look(&mut pair.group));
    }
}

impl Links for Edges {
    fn send_forward(&mut self, x: &[f32], len: usize) -> Result<(), EngineError> {
        send(&mut self.0.borrow_mut().forward_out, x, len)
    }
    fn recv_forward(&mut self, len: usize) -> Result<Vec<f32>, EngineError> {
        recv(&mut self.0.borrow_mut().forward_in, len)
    }
    fn send_back(&mut self, dx: &[f32], len: usize) -> Result<(), EngineError> {
        send(&mut self.0.borrow_mut().back_out, dx, len)
    }
    fn recv_back(&mut self, len: usize) -> Result<Vec<f32>, EngineError> {
        recv(&mut self.0.borrow_mut().back_in, len)
    }
}

/// `len` numbers, of which on `Meta` there are none.
fn send(pair: &mut Option<Pair>, data: &[f32], len: usize) -> Result<(), EngineError> {
    let Some(pair) = pair else { unreachable!("a schedule sends only where there is a neighbour") };
    if pair.sent.len() >= pair.most
        && let Some(ticket) = pair.sent.pop_front()
    {
        pair.group.wait(ticket).map_err(EngineError::rank)?;
    }
    let array = if data.is_empty() { Numbers::Counted(len) } else { data.to_vec().into() };
    pair.sent.push_back(pair.group.start(Job::Send(1 - pair.group.rank(), array)));
    Ok(())
}

fn recv(group: &mut Option<Group>, len: usize) -> Result<Vec<f32>, EngineError> {
    let Some(group) = group else { unreachable!("a schedule listens only where there is a neighbour") };
    let job = Job::Recv(1 - group.rank(), len);
    group.run(job).map(Numbers::into_values).map_err(EngineError::rank)
}
