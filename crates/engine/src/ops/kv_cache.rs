//! Attention over the tokens read so far: keys and values of many sequences in pages, as in *PagedAttention* (arXiv:2309.06180), so that
//! sequences of different lengths advance together, join and leave, and those that begin alike share pages. Inference only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernels::attention::Paged;

use super::{AttentionOptions, Backward, Class, Cost, Forward, Op, Saves, attention};
use crate::{EngineError, Precision, Shape, ShapeError, Tape, Tensor};

/// Tokens of one page.
pub const PAGE_TOKENS: usize = 32;

/// Keys and values of every layer.
#[derive(Debug)]
pub struct KvCache(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    layers: Vec<Layer>,
    /// How many sequences hold each page.
    uses: Vec<u32>,
    free: Vec<u32>,
    sequences: Vec<Option<Sequence>>,
}

/// `[page, PAGE_TOKENS, kv_heads * head_dim]` each.
#[derive(Debug, Default)]
struct Layer {
    width: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

#[derive(Debug, Default, Clone)]
struct Sequence {
    pages: Vec<u32>,
    tokens: usize,
}

/// One sequence of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceId(usize);

impl KvCache {
    /// One with nothing in it, for a model of so many layers.
    #[must_use]
    pub fn new(layers: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { layers: (0..layers).map(|_| Layer::default()).collect(), ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sequence without tokens.
    #[must_use]
    pub fn begin(&self) -> SequenceId {
        self.state().insert(Sequence::default())
    }

    /// A sequence that begins with the first `tokens` of `of`: whole pages are shared, what is begun is copied.
    #[must_use]
    pub fn fork(&self, of: SequenceId, tokens: usize) -> SequenceId {
        self.state().fork(of, tokens)
    }

    /// Forget a sequence; pages that no other one holds are free.
    pub fn end(&self, sequence: SequenceId) {
        let mut state = self.state();
        if let Some(sequence) = state.sequences[sequence.0].take() {
            state.release(&sequence.pages);
        }
    }

    /// How many tokens of a sequence it holds.
    #[must_use]
    pub fn tokens(&self, sequence: SequenceId) -> usize {
        self.state().sequences[sequence.0].as_ref().map_or(0, |sequence| sequence.tokens)
    }

    /// Bytes of pages that are held by some sequence, in all layers.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let state = self.state();
        let pages = state.uses.iter().filter(|uses| **uses > 0).count();
        state.layers.iter().map(|layer| 2 * 4 * pages * PAGE_TOKENS * layer.width).sum()
    }

    /// Make room for so many new tokens of each sequence; their keys and values come as the layers run. A sequence stands there once.
    #[must_use]
    pub fn advance(self: &Arc<Self>, parts: &[(SequenceId, usize)]) -> Advance {
        let mut state = self.state();
        let parts: Vec<Part> = parts.iter().map(|(sequence, tokens)| state.extend(*sequence, *tokens)).collect();
        drop(state);
        Advance::of(Some(Arc::clone(self)), parts)
    }
}

impl State {
    fn insert(&mut self, sequence: Sequence) -> SequenceId {
        let at = self.sequences.iter().position(Option::is_none).unwrap_or(self.sequences.len());
        if at == self.sequences.len() {
            self.sequences.push(None);
        }
        self.sequences[at] = Some(sequence);
        SequenceId(at)
    }

    fn page(&mut self) -> u32 {
        let page = self.free.pop().unwrap_or_else(|| {
            self.uses.push(0);
            (self.uses.len() - 1) as u32
        });
        self.uses[page as usize] = 1;
        page
    }

    fn release(&mut self, pages: &[u32]) {
        for page in pages {
            self.uses[*page as usize] -= 1;
            if self.uses[*page as usize] == 0 {
                self.free.push(*page);
            }
        }
    }

    fn fork(&mut self, of: SequenceId, tokens: usize) -> SequenceId {
        let Some(whole) = self.sequences[of.0].clone() else { return self.insert(Sequence::default()) };
        let tokens = tokens.min(whole.tokens);
        let mut pages = whole.pages[..tokens / PAGE_TOKENS].to_vec();
        pages.iter().for_each(|page| self.uses[*page as usize] += 1);
        if !tokens.is_multiple_of(PAGE_TOKENS) {
            let (from, to) = (whole.pages[tokens / PAGE_TOKENS] as usize, self.page());
            for layer in &mut self.layers {
                layer.grow(self.uses.len());
                let page = PAGE_TOKENS * layer.width;
                for numbers in [&mut layer.keys, &mut layer.values] {
                    numbers.copy_within(from * page..(from + 1) * page, to as usize * page);
                }
            }
            pages.push(to);
        }
        self.insert(Sequence { pages, tokens })
    }

    fn extend(&mut self, id: SequenceId, tokens: usize) -> Part {
        let mut sequence = self.sequences[id.0].take().unwrap_or_default();
        let first = sequence.tokens;
        sequence.tokens += tokens;
        while sequence.pages.len() * PAGE_TOKENS < sequence.tokens {
            let page = self.page();
            sequence.pages.push(page);
        }
        let part = Part { first, tokens, pages: sequence.pages.clone() };
        self.sequences[id.0] = Some(sequence);
        part
    }
}

impl Layer {
    /// Room for so many pages.
    fn grow(&mut self, pages: usize) {
        for numbers in [&mut self.keys, &mut self.values] {
            let len = pages * PAGE_TOKENS * self.width;
            if numbers.len() < len {
                numbers.resize(len, 0.0);
            }
        }
    }
}

/// New tokens of one sequence.
#[derive(Debug)]
struct Part {
    /// How many came before.
    first: usize,
    tokens: usize,
    pages: Vec<u32>,
}

/// New tokens of several sequences, end to end in one row `[1, tokens]`: where each stands, and where its key and value go.
#[derive(Debug, Clone)]
pub struct Advance(Arc<Moves>);

#[derive(Debug)]
struct Moves {
    /// Absent on `Meta`.
    cache: Option<Arc<KvCache>>,
    parts: Vec<Part>,
    places: Vec<u32>,
}

impl Advance {
    fn of(cache: Option<Arc<KvCache>>, parts: Vec<Part>) -> Self {
        let places = parts.iter().flat_map(|part| (part.first..part.first + part.tokens).map(|place| place as u32)).collect();
        Self(Arc::new(Moves { cache, parts, places }))
    }

    /// One of the same shape for `Meta`: so many sequences, and as many tokens together.
    #[must_use]
    pub fn shape(sequences: usize, tokens: usize) -> Self {
        Self::shape_after(0, sequences, tokens)
    }

    /// The same of sequences that have `read` tokens each behind them.
    #[must_use]
    pub fn shape_after(read: usize, sequences: usize, tokens: usize) -> Self {
        let each = |i: usize| tokens / sequences + usize::from(i < tokens % sequences);
        Self::of(None, (0..sequences).map(|i| Part { first: read, tokens: each(i), pages: Vec::new() }).collect())
    }

    /// The place of each token in its sequence.
    #[must_use]
    pub fn places(&self) -> &[u32] {
        &self.0.places
    }

    /// The row of each sequence's last token.
    #[must_use]
    pub fn last_rows(&self) -> Vec<u32> {
        let mut end = 0;
        let rows = self.0.parts.iter().map(|part| {
            end += part.tokens;
            (end - 1) as u32
        });
        rows.collect()
    }
}

struct Cached {
    options: AttentionOptions,
    layer: usize,
    advance: Advance,
}

impl Cached {
    fn paged(&self, q: Shape, k: Shape) -> Paged {
        let (o, d) = (&self.options, self.options.head_dim);
        Paged {
            heads: q.last() / d,
            kv_heads: k.last() / d,
            head_dim: d,
            mask: o.mask,
            scale: o.scale,
            alibi: o.alibi,
            softcap: o.softcap,
            page_tokens: PAGE_TOKENS,
        }
    }
}

impl Op for Cached {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn class(&self) -> Class {
        Class::Attention
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        ShapeError::check("attention", "tokens", ("q", x[0].rows()), ("advance", self.advance.places().len()))?;
        attention::shape(&self.options, x)
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let seen: u64 = self.advance.places().iter().map(|place| u64::from(*place) + 1).sum();
        let bytes = 8 * self.advance.0.parts.iter().map(|part| (part.first + part.tokens) * x[1].last()).sum::<usize>();
        Cost { forward_flops: 4 * seen * x[0].last() as u64, forward_bytes: bytes as u64, ..Cost::default() }
    }
    fn saves(&self, x: &[Shape]) -> Saves {
        Saves { extras: vec![x[0].elements() / self.options.head_dim], ..Saves::default() }
    }
    fn packs(&self, x: &[Shape], _pass: crate::Pass, precision: Precision) -> usize {
        attention::kernel(&self.options, (0, 1), x[0], x[0].rows(), x[1].last(), precision).packed_bytes()
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [q, k, v] = f.inputs else { unreachable!("three inputs") };
        let (paged, q_width, width) = (self.paged(q.shape, k.shape), q.shape.last(), k.shape.last());
        let Some(cache) = &self.advance.0.cache else { return };
        let mut state = cache.state();
        let pages = state.uses.len();
        let layer = &mut state.layers[self.layer];
        layer.width = width;
        layer.grow(pages);
        let (mut row, mut few) = (0, Vec::new());
        for part in &self.advance.0.parts {
            for i in 0..part.tokens {
                let place = part.first + i;
                let at = (part.pages[place / PAGE_TOKENS] as usize * PAGE_TOKENS + place % PAGE_TOKENS) * width;
                let from = (row + i) * width;
                layer.keys[at..at + width].copy_from_slice(&k.f32s()[from..from + width]);
                layer.values[at..at + width].copy_from_slice(&v.f32s()[from..from + width]);
            }
            if part.first > 0 || part.tokens <= kernels::attention::FEW {
                few.extend((0..part.tokens).map(|i| kernels::attention::Query { row: row + i, place: part.first + i, pages: &part.pages }));
            } else {
                // A text's beginning is all there is: its keys and values are at hand, one after the other.
                let (rows, heads) = (row..row + part.tokens, q_width / self.options.head_dim);
                let shape = Shape::new(&[1, part.tokens, q_width]);
                let whole = attention::kernel(&self.options, (0, 1), shape, part.tokens, width, f.precision);
                let [q, out] = [rows.start * q_width, rows.end * q_width];
                let [kv, kv_end] = [rows.start * width, rows.end * width];
                let lse = &mut f.extras[0].f32s_mut()[rows.start * heads..rows.end * heads];
                whole.forward(&f.inputs[0].f32s()[q..out], &k.f32s()[kv..kv_end], &v.f32s()[kv..kv_end], &mut f.output.f32s()[q..out], lse);
            }
            row += part.tokens;
        }
        paged.forward(q.f32s(), &few, &layer.keys, &layer.values, f.output.f32s());
    }
    fn backward(&self, _b: &mut Backward<'_>) {
        unreachable!("`attention_cached` refuses to run on a tape that trains");
    }
}

impl Tape<'_> {
    /// [`Tape::attention`] of new tokens `[1, tokens, ..]` of several sequences, each over its own tokens so far, those of `k` and `v` among
    /// them, in the pages of `layer`.
    /// # Errors
    /// When shapes do not fit, or on a tape that trains.
    pub fn attention_cached(
        &mut self,
        [q, k, v]: [&Tensor; 3],
        options: AttentionOptions,
        layer: usize,
        advance: &Advance,
    ) -> Result<Tensor, EngineError> {
        if self.is_training() {
            let problem = "a cache of keys and values takes no gradient: use a tape with `train: false`".into();
            return Err(EngineError::Misuse { op: "attention", problem });
        }
        self.apply(Cached { options, layer, advance: advance.clone() }, &[q, k, v])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_shared_copied_on_a_fork_and_free_again() {
        let cache = KvCache::new(1);
        let a = cache.begin();
        drop(cache.advance(&[(a, 2 * PAGE_TOKENS + 3)]));
        cache.state().layers[0].width = 1;
        let pages = |cache: &KvCache| cache.held_bytes() / (8 * PAGE_TOKENS);
        assert_eq!(pages(&cache), 3);
        let [b, c] = [cache.fork(a, 2 * PAGE_TOKENS), cache.fork(a, usize::MAX)];
        assert_eq!((cache.tokens(b), cache.tokens(c)), (2 * PAGE_TOKENS, 2 * PAGE_TOKENS + 3));
        assert_eq!(pages(&cache), 4, "two shared by three, and a begun one each of two");
        cache.end(a);
        assert_eq!(pages(&cache), 3);
        cache.end(b);
        cache.end(c);
        assert_eq!(pages(&cache), 0);
        let d = cache.begin();
        assert_eq!(cache.advance(&[(d, 5)]).places(), [0, 1, 2, 3, 4]);
        assert_eq!(cache.state().uses.len(), 4, "free pages are taken first");
    }
}
