//! The tape and the decoder together: what `Meta` says is what `Cpu` does, and running a block twice changes nothing.

use engine::{Device, Inputs, Kind, NoParams, Options, ParamStore, Pass, PassAt, Pool, Precision, Tape, check::noise};
use models::{Model, build};
use parallel::{Replicated, Strategy};

fn model(text: &str) -> Box<dyn Model> {
    build(&text.parse().unwrap()).unwrap()
}

/// Models of every shape that a decoder takes, small enough to run.
const SMALL: &[&str] = &[
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nkv_heads = 1\nqk_norm = true\ntied = true",
    "preset = \"gpt2-124m\"\nlayers = 2\nmodel = 48\nheads = 3\nvocab = 97\ncontext = 32\ndropout = 0.1",
    "preset = \"falcon-40b\"\nlayers = 2\nmodel = 64\nheads = 4\nkv_heads = 2\nhead_dim = 16\nffn = 96\nvocab = 97\ncontext = 32",
    "preset = \"bloomberggpt-50b\"\nlayers = 2\nmodel = 48\nheads = 3\nvocab = 97\ncontext = 32",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nwindow = 5\nmlp = \"relu2\"\nparallel_block = true\nshared_norm = true",
    "depth = 3\nzero_init = false\nvocab = 97\ncontext = 32\nqk_norm = true\nmlp = \"relu2\"",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nexperts = 5\nexperts_per_token = 3\nqk_norm = true\nqk_norm_joint = true",
    "depth = 3\nzero_init = false\nvocab = 97\ncontext = 32\nexperts = 8\nshared_experts = 1\ndense_layers = 1\nrouter = \"sigmoid_normalised\"\nrouter_scale = 2.5",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nhead_dim = 24\nkv_rank = 20\nq_rank = 28\nrope_dim = 8",
];

fn inputs(batch: usize, seq: usize, vocab: u32) -> Inputs {
    let tokens: Vec<u32> = noise(5, batch * (seq + 1)).iter().map(|v| ((v + 1.0) * 0.5 * vocab as f32) as u32 % vocab).collect();
    let column = |shift: usize| (0..batch).flat_map(|b| tokens[b * (seq + 1) + shift..][..seq].to_vec()).collect();
    Inputs::new().with_u32("tokens", &[batch, seq], column(0)).with_u32("targets", &[batch, seq], column(1))
}

fn options(precision: Precision, recompute: bool) -> Options {
    Options { precision, recompute, train: true, key: 3, trace: true }
}

/// Loss and all gradients of one step on `pool`.
fn step(model: &dyn Model, pool: &Pool, inputs: &Inputs, options: Options) -> (f32, Vec<Vec<f32>>) {
    let mut store = Replicated::solo(model.params(), |id| model.params().initial(id, 1));
    store.begin_step();
    store.begin_pass(PassAt::ONLY);
    let mut tape = Tape::new(pool, &mut store, model.params(), options);
    let loss = model.loss(&mut tape, inputs, 1.0 / 40.0).unwrap();
    tape.backward(&loss).unwrap();
    let value = loss.f32s()[0];
    drop((loss, tape));
    store.end_step().unwrap();
    (value, model.params().ids().map(|id| store.grad(id).to_vec()).collect())
}

#[test]
fn in_bf16_activations_take_half_the_memory() {
    let model = model("preset = \"gpt2-124m\"");
    let peak = |kind, precision| {
        let (pool, mut store) = (Pool::planned(kind), NoParams);
        let mut tape = Tape::new(&pool, &mut store, model.params(), options(precision, false));
        let loss = model.loss(&mut tape, &model.shapes(4, 1024), 1.0).unwrap();
        tape.backward(&loss).unwrap();
        drop((loss, tape));
        pool.usage().high_water_bytes as f64
    };
    // Half of all but what stays in 32 bits: statistics, losses, working space.
    for kind in [Kind::Cpu, Kind::Gpu] {
        let share = peak(kind, Precision::Bf16) / peak(kind, Precision::F32);
        assert!((0.5..0.6).contains(&share), "{kind:?}: {share}");
    }
    let share = peak(Kind::Gpu, Precision::F32) / peak(Kind::Cpu, Precision::F32);
    assert!((0.99..1.01).contains(&share), "32 bits are as many anywhere: {share}");
}

#[test]
fn meta_predicts_the_pool_of_the_cpu_to_the_byte() {
    for text in SMALL {
        for (precision, recompute) in [(Precision::F32, false), (Precision::F32, true), (Precision::Bf16, false)] {
            let model = model(text);
            let meta = Pool::meta();
            let mut store = NoParams;
            let mut tape = Tape::new(&meta, &mut store, model.params(), options(precision, recompute));
            let loss = model.loss(&mut tape, &model.shapes(2, 20), 1.0).unwrap();
            tape.backward(&loss).unwrap();
            drop((loss, tape));
            let predicted = meta.usage();
            assert_eq!(predicted.live_bytes, 0, "all is given back");

            // A pool of exactly that size is enough, and one line less is not.
            let pool = Pool::new(Device::Cpu, predicted.high_water_bytes);
            step(&*model, &pool, &inputs(2, 20, 97), options(precision, recompute));
            assert_eq!(pool.usage(), predicted, "{text}");
            step(&*model, &pool, &inputs(2, 20, 97), options(precision, recompute));
            assert_eq!(pool.usage(), predicted, "a second step takes no more");

            let short = Pool::new(Device::Cpu, predicted.high_water_bytes - 64);
            let mut store = Replicated::solo(model.params(), |id| model.params().initial(id, 1));
            let mut tape = Tape::new(&short, &mut store, model.params(), options(precision, recompute));
            let batch = inputs(2, 20, 97);
            let full = model.loss(&mut tape, &batch, 1.0).and_then(|loss| tape.backward(&loss));
            assert!(full.is_err(), "{text}: a smaller pool is refused");
        }
    }
}

#[test]
fn recomputing_blocks_saves_memory_and_changes_no_bit() {
    for text in SMALL {
        let model = model(text);
        let batch = inputs(2, 20, 97);
        let (kept, again) = (Pool::new(Device::Cpu, 1 << 26), Pool::new(Device::Cpu, 1 << 26));
        let one = step(&*model, &kept, &batch, options(Precision::F32, false));
        let two = step(&*model, &again, &batch, options(Precision::F32, true));
        assert!(one == two, "{text}");
        assert!(again.usage().peak_live_bytes < kept.usage().peak_live_bytes, "{text}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for text in SMALL {
        let run = |threads: usize| {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            threads.install(|| {
                let pool = Pool::new(Device::Cpu, 1 << 26);
                step(&*model(text), &pool, &inputs(3, 32, 97), options(Precision::F32, false))
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(8), "{text}");
    }
}

#[test]
fn each_expert_reads_its_own_packed_matrix() {
    for text in SMALL.iter().filter(|text| text.contains("experts")) {
        // All of them, because rounding may change which are chosen.
        let mut table: toml::Table = text.parse().unwrap();
        table.insert("experts_per_token".to_owned(), table["experts"].clone());
        let (model, batch) = (build(&table).unwrap(), inputs(2, 20, 97));
        let of = |precision| step(&*model, &Pool::new(Device::Cpu, 1 << 26), &batch, options(precision, false)).1;
        let (exact, rounded) = (of(Precision::F32), of(Precision::Bf16));
        for (spec, (exact, rounded)) in model.params().specs().iter().zip(exact.iter().zip(&rounded)) {
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let off = norm(&mut exact.iter().zip(rounded).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied());
            assert!(off < 0.03, "{text}: the gradient of {} is off by {off}", spec.name);
        }
    }
}

#[test]
fn a_token_costs_six_operations_for_each_parameter_that_it_reads() {
    let model = model("preset = \"olmoe-1b-7b\"");
    let (meta, mut store) = (Pool::meta(), NoParams);
    let mut tape = Tape::new(&meta, &mut store, model.params(), options(Precision::F32, false));
    let tokens = 4096;
    let loss = model.loss(&mut tape, &model.shapes(1, tokens), 1.0).unwrap();
    tape.backward(&loss).unwrap();
    let products = ["linear", "expert_linear", "cross_entropy"];
    let flops: u64 = tape.events().iter().filter(|e| products.contains(&e.op)).map(|e| e.flops).sum();
    // All but the embedding's rows, which are looked up, and norms.
    let vectors = (2 * 16 + 1 + 2 * 16) * 2048;
    assert_eq!(flops, 6 * (model.params().active_elements() - 50_304 * 2048 - vectors) * tokens as u64);
}

#[test]
fn flops_on_meta_are_six_per_parameter_and_token_plus_attention() {
    let model = model("preset = \"gpt2-124m\"");
    let (meta, mut store) = (Pool::meta(), NoParams);
    let mut tape = Tape::new(&meta, &mut store, model.params(), options(Precision::F32, false));
    let (batch, seq) = (2, 1024);
    let loss = model.loss(&mut tape, &model.shapes(batch, seq), 1.0).unwrap();
    tape.backward(&loss).unwrap();
    let gemms: u64 = tape.events().iter().filter(|e| ["linear", "cross_entropy"].contains(&e.op)).map(|e| e.flops).sum();
    let matrices = 12 * 12 * 768 * 768 + 50_257 * 768;
    assert_eq!(gemms, 6 * matrices * (batch * seq) as u64);
    assert!(tape.events().iter().all(|e| e.pass != Pass::Recompute));
}

#[test]
fn a_cache_gives_the_logits_of_the_whole_sequence() {
    for text in SMALL {
        let model = model(&text.replace("dropout = 0.1", ""));
        let language = model.language().unwrap();
        let tokens: Vec<u32> = (0..17).map(|i| i * 31 % 97).collect();
        let pool = Pool::new(Device::Cpu, 1 << 24);
        let options = Options { train: false, ..options(Precision::F32, false) };
        let mut store = Replicated::solo(model.params(), |id| model.params().initial(id, 1));
        let whole = {
            let mut tape = Tape::new(&pool, &mut store, model.params(), options);
            let inputs = Inputs::new().with_u32("tokens", &[1, tokens.len()], tokens.clone());
            language.logits(&mut tape, &inputs).unwrap().f32s().to_vec()
        };
        let vocab = language.vocab();
        let cache = language.cache();
        // Each at its own place: one that begins with nine tokens, one with two, and one that begins as the first and joins later.
        let (a, b) = (cache.begin(), cache.begin());
        let mut read = vec![(a, 0_usize), (b, 0)];
        let check = |got: &[f32], at: usize| {
            for (i, (got, want)) in got.iter().zip(&whole[at * vocab..(at + 1) * vocab]).enumerate() {
                assert!((got - want).abs() < 1e-4, "{text}: logit {i} after {at} is {got}, not {want}");
            }
        };
        for (turn, counts) in [[9, 2, 0], [1, 1, 0], [1, 3, 4], [4, 9, 1], [2, 1, 4]].into_iter().enumerate() {
            if turn == 2 {
                read.push((cache.fork(a, 7), 7));
            }
            let mut parts = Vec::new();
            let mut new = Vec::new();
            for ((sequence, done), count) in read.iter_mut().zip(counts) {
                parts.push((*sequence, count));
                new.extend_from_slice(&tokens[*done..*done + count]);
                *done += count;
            }
            let advance = cache.advance(&parts);
            let inputs = Inputs::new().with_u32("tokens", &[1, new.len()], new);
            let mut tape = Tape::new(&pool, &mut store, model.params(), options);
            let logits = language.next_logits(&mut tape, &inputs, &advance).unwrap();
            for (row, (_, done)) in logits.f32s().chunks(vocab).zip(&read) {
                check(row, done - 1);
            }
        }
    }
}
