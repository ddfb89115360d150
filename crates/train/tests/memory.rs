//! Memory: what `Meta` predicts of a rank is what it takes, as the allocator counts, and falls where a strategy says so.

mod counted;

use std::sync::Mutex;

use comm::Communicator;
use engine::Inputs;
use train::{
    TrainError,
    feed::inputs_of,
    ranks,
    recipe::Recipe,
    step::{StepOptions, Trainer},
};

const CONTEXT: usize = 16;

fn recipe(ranks: usize, strategy: &str, more: &str) -> Recipe {
    let text = format!(
        "[model]\npreset = \"gpt2-124m\"\nlayers = 6\nmodel = 192\nheads = 4\nvocab = 1024\ncontext = {CONTEXT}\n\
         [batch]\nsequences = 16\nmicro_batch = 1\nlanes = 8\ncontext = {CONTEXT}\n\
         [train]\nthreads = {ranks}\n{more}\n[parallel]\nranks = {ranks}\n{strategy}\n"
    );
    Recipe::parse(&text, "test", &[]).unwrap()
}

/// Bytes of one rank over two steps.
#[derive(Debug, Clone, Copy)]
struct Bytes {
    predicted: u64,
    /// Told by the rank.
    used: u64,
    /// By the allocator.
    counted: u64,
}

/// Of each rank.
fn bytes(recipe: &Recipe) -> Vec<Bytes> {
    let all = Mutex::new(Vec::new());
    let rank = |comm: Box<dyn Communicator>| {
        let work = |comm| {
            let mut trainer = Trainer::on_rank(models::build(&recipe.model).unwrap(), StepOptions::of(recipe), comm)?;
            for step in 1..=2 {
                let micro_batch = |place: usize, pass: u64| {
                    let token = |i| (engine::mix(step * 1000 + place as u64 * 100 + pass * 50 + i) % 1024) as u32;
                    inputs_of(&[(0..=CONTEXT as u64).map(token).collect()])
                };
                let lane = |place| vec![micro_batch(place, 0), micro_batch(place, 1)];
                let lanes: Vec<Vec<Inputs>> = trainer.lanes().into_iter().map(lane).collect();
                let gradient = trainer.gradient(step, &lanes, 16 * CONTEXT as u64)?;
                trainer.update(step, 1.0, gradient.norm)?;
            }
            Ok::<_, TrainError>((trainer.cost().total_bytes(), trainer.used_bytes()))
        };
        let (told, counted) = counted::rank(comm, work);
        let (predicted, used) = told?;
        all.lock().unwrap().push(Bytes { predicted, used, counted });
        Ok(())
    };
    counted::process(|| ranks::run(recipe, rank, rank)).0.unwrap();
    all.into_inner().unwrap()
}

/// One test, for the allocator counts for the whole process.
#[test]
fn a_rank_takes_what_meta_predicts_and_less_where_more_ranks_share() {
    the_optimisers_state_is_shared_out_evenly();
    for (optim, precision) in [("adamw", "f32"), ("muon", "bf16")] {
        let more = format!("precision = {precision:?}\n[optim]\nkind = {optim:?}");
        for kind in parallel::STRATEGIES.all() {
            let each = [1, 2, 4, 8].map(|ranks| first_predicted(&recipe(ranks, &format!("strategy = {:?}", kind.name), &more), kind.name));
            // Each rank's lanes are fewer too; what a strategy promises is what is left of that on one rank with one lane.
            let promised = match kind.name {
                "zero1" | "zero2" | "mics" => 0.50,
                "zero3" => 0.30,
                _ => 0.75,
            };
            assert!(each[3] < promised * each[0], "{}, {optim}, {precision}: {each:.0?} bytes a rank", kind.name);
        }
    }
    // Muon needs whole matrices, which tensor ranks have not.
    for mesh in ["pipeline = 2", "tensor = 2", "context = 2"] {
        first_predicted(&recipe(2, &format!("mesh = {{ {mesh} }}"), "[optim]\nkind = \"adamw\""), mesh);
    }
}

/// What was predicted of the first rank, once every rank has been found to take what was predicted of it.
fn first_predicted(recipe: &Recipe, name: &str) -> f64 {
    let (ranks, all) = (recipe.parallel.ranks, bytes(recipe));
    let table = models::build(&recipe.model).unwrap().params().clone();
    let block =
        |block: usize| table.specs().iter().filter(|spec| spec.block.0 == block).map(|spec| 4 * spec.shape.elements()).sum::<usize>();
    // A block that goes between ranks is its rank's until the slowest has read it; it may be there a little longer, or less, than said.
    let is_on_its_way = ranks > 1 && matches!(name, "zero2" | "zero3" | "mics");
    let most_off = if is_on_its_way { (0..table.blocks().len()).map(block).max().unwrap_or(0) } else { 0 };
    for Bytes { predicted, used, counted } in &all {
        assert_eq!(predicted, used, "{name} on {ranks} ranks");
        let off = (*predicted as f64 - *counted as f64).abs() - most_off as f64;
        assert!(off < 0.02 * *counted as f64, "{name} on {ranks} ranks: {counted} counted, {predicted} predicted");
    }
    all[0].predicted as f64
}

/// What the optimiser holds of a model on each of so many ranks.
fn optimiser_bytes(ranks: usize, strategy: &str) -> f64 {
    let recipe = recipe(ranks, &format!("strategy = {strategy:?}"), "[optim]\nkind = \"adamw\"");
    let options = StepOptions::of(&recipe);
    train::step::cost(&*models::build(&recipe.model).unwrap(), &options, options.mesh.place(0)).unwrap().optimiser_bytes as f64
}

fn the_optimisers_state_is_shared_out_evenly() {
    for strategy in ["zero1", "zero2", "zero3"] {
        for ranks in [2, 4, 8] {
            let share = optimiser_bytes(ranks, strategy) * ranks as f64 / optimiser_bytes(1, strategy);
            assert!((0.95..1.05).contains(&share), "{strategy} on {ranks} ranks: {share} of the whole in all");
        }
    }
}
