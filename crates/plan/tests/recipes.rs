//! Every recipe that is shipped, on clusters of today: a plan that fits by its own table, or a refusal that says what would do.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use plan::{
    PlanError,
    catalogue::{Catalogue, Service, Term},
    questions::rent::rent,
    simulation::search::Settled,
};
use train::recipe::Recipe;

/// Of larger models one way to cut them is tried: searching for the best takes minutes.
const LARGE_PARAMS: u64 = 2_000_000_000;

#[test]
fn every_recipe_plans_on_few_and_many_machines_or_says_what_would() {
    let catalogue = Catalogue::load(None).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut recipes: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    recipes.sort();
    assert!(recipes.len() > 30);
    let next = AtomicUsize::new(0);
    let counts = std::thread::scope(|scope| {
        let some = || {
            let mine = std::iter::from_fn(|| recipes.get(next.fetch_add(1, Ordering::Relaxed)));
            mine.map(|path| plans_or_says_what_would(&catalogue, path)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
        };
        [scope.spawn(some), scope.spawn(some)].map(|thread| thread.join().unwrap())
    });
    let (planned, refused) = (counts[0].0 + counts[1].0, counts[0].1 + counts[1].1);
    // Both kinds of answers come.
    assert!(planned > refused && refused > 0, "{planned} planned, {refused} refused");
}

/// How many clusters it is planned on, and how many refuse it.
fn plans_or_says_what_would(catalogue: &Catalogue, path: &Path) -> (u32, u32) {
    let (mut planned, mut refused) = (0, 0);
    vision::register();
    let recipe = Recipe::read(path, &[]).unwrap();
    let (resolved, model) = train::run::resolve(&recipe, None).unwrap();
    let params = model.params().elements();
    let settled =
        (params >= LARGE_PARAMS).then(|| Settled { pipeline: Some(1), tensor: Some(8), micro_batch: Some(1), ..Settled::default() });
    for (name, nodes) in ["p4d.24xlarge", "p5.48xlarge"].into_iter().flat_map(|name| [1, 8, 64].map(|nodes| (name, nodes))) {
        let instance = catalogue.instance(name).unwrap();
        let price = instance.price(Service::Ec2, Term::OnDemand, None).unwrap();
        let accelerators = nodes * instance.count as usize;
        let what = format!("{} on {nodes} x {name}", path.display());
        match rent(&recipe, catalogue, instance, accelerators, price, settled.as_ref()) {
            Ok(rented) => {
                planned += 1;
                let cut = rented.choice.cut;
                assert_eq!(cut.tensor * cut.pipeline * cut.data, accelerators, "{what}");
                assert!(rented.choice.time.bytes.total() <= rented.usable_bytes, "{what}: {cut:?}");
                let sequences = cut.data * cut.lanes * cut.micro_batch - cut.idle_sequences;
                assert_eq!(sequences, resolved.batch.sequences, "{what}: {cut:?}");
                assert!(rented.usd.is_finite() && rented.usd > 0.0 && rented.training_secs < rented.expected_secs[1], "{what}");
            }
            Err(PlanError::Impossible { problem, relax }) => {
                refused += 1;
                assert!(problem.contains("batch of") || problem.contains("bytes"), "{what}: {problem}");
                assert!(["batch.", "nodes", "more memory"].iter().any(|would| relax.contains(would)), "{what}: {relax}");
            }
            Err(other) => panic!("{what}: {other:?}"),
        }
    }
    (planned, refused)
}
