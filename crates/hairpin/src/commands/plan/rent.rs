//! `hairpin plan RECIPE --on INSTANCE:NODES`: a recipe's step, time and cost on machines that are not here.

use std::process::ExitCode;

use ::plan::{
    catalogue::Price,
    questions::rent::{self, Rented},
    simulation::efficiency,
    simulation::search::{self, Choice, Cut, Settled},
};
use report::{
    Answer, Bars, Table,
    terminal::{bytes, secs, usd},
};
use train::recipe::Recipe;

use super::{budget::BudgetArgs, count, cut, here::HereArgs, per_sec};

pub(super) fn run(here: &HereArgs, args: &BudgetArgs, json: bool) -> miette::Result<ExitCode> {
    let renting = &args.renting;
    let catalogue = renting.showing.catalogue()?;
    let on = renting.on.as_deref().unwrap_or_default();
    let (instance, nodes) = catalogue.machines(on)?;
    let price = instance.price(renting.service(on)?, renting.term.into(), renting.prices_of.as_deref())?;
    let recipe = Recipe::read(&here.path, &here.set)?;
    // Without a number of machines the deadline chooses it.
    let (rented, searched) = match (nodes, args.deadline_secs) {
        (None, Some(deadline)) => (rent::cheapest(&recipe, &catalogue, instance, price, deadline)?, true),
        (nodes, _) => {
            let accelerators = nodes.unwrap_or(1) * instance.count.max(1) as usize;
            let settled = here.search.then(|| Settled { told: search::TOLD, ..Settled::default() });
            (rent::rent(&recipe, &catalogue, instance, accelerators, price, settled.as_ref())?, here.search)
        }
    };
    let mut answer = answer(&rented, searched);
    answer.warnings.extend(args.deadline_secs.and_then(|deadline| late(&rented, deadline)));
    answer.warnings.extend(renting.prices_of.is_none().then(|| price.warning()).flatten());
    renting.showing.tell(&answer, &rented, json)
}

/// What to say of a run that ends after its deadline.
fn late(rented: &Rented, deadline_secs: f64) -> Option<String> {
    let expected_secs = rented.expected_secs[1];
    (expected_secs > deadline_secs).then(|| {
        format!(
            "this run takes {} and the deadline is {}: take more machines, or leave their number out of `--on` and it is chosen",
            secs(expected_secs),
            secs(deadline_secs)
        )
    })
}

/// ` (9.9% idle)`, where a batch leaves places of a step empty.
fn idle(c: &Cut) -> String {
    if c.idle_sequences == 0 { String::new() } else { format!(" ({:.1}% idle)", 100.0 * (1.0 - c.filled_ratio())) }
}

/// What to say of a batch that the mesh does not divide.
fn uneven(r: &Rented) -> Option<String> {
    let c = r.choice.cut;
    let places = c.data * c.lanes * c.micro_batch;
    (c.idle_sequences > 0).then(|| {
        format!(
            "{} sequences leave {} of {places} places in a step idle ({:.1}%), which is priced in: {} data ranks share a batch of {} or {places} evenly",
            places - c.idle_sequences,
            c.idle_sequences,
            100.0 * (1.0 - c.filled_ratio()),
            c.data,
            (places - c.idle_sequences) / c.data * c.data,
        )
    })
}

/// What to say of accelerators that wait for images.
fn slow_feed(r: &Rented) -> Option<String> {
    let feed = r.feed.as_ref().filter(|_| r.wait_secs > 0.0)?;
    Some(format!(
        "accelerators wait {} of each step for images: {:.0} vCPUs would keep up, and there are {:.0}: keep images smaller on disk, or take instances with more vCPUs",
        secs(r.wait_secs),
        feed.cores_needed.ceil(),
        feed.cores
    ))
}

fn answer(r: &Rented, searched: bool) -> Answer {
    let time = &r.choice.time;
    let rate = per_sec(r.unit);
    let row = |c: &Choice| {
        let t = &c.time;
        vec![
            cut(&c.cut),
            format!("{} x {}{}", c.cut.lanes, c.cut.micro_batch, idle(&c.cut)),
            if c.cut.recompute { "yes" } else { "no" }.into(),
            secs(t.step_secs),
            count(t.tokens_per_sec),
            format!("{:.1}%", 100.0 * t.mfu),
            bytes(t.bytes.total() as u64),
            c.limit.into(),
        ]
    };
    // The parts of the slowest role's step: what is not computed is waited for.
    let slowest = time.roles.iter().max_by(|a, b| (a.compute_secs + a.optimiser_secs).total_cmp(&(b.compute_secs + b.optimiser_secs)));
    let parts = slowest.map_or_else(Vec::new, |role| {
        let mut parts = vec![("compute", role.compute_secs - role.encoder_secs), ("optimiser", role.optimiser_secs)];
        parts.extend((role.encoder_secs > 0.0).then_some(("encoders", role.encoder_secs)));
        let name = |axis: &'static str| if axis == "pipeline" { "bubble" } else { axis };
        parts.extend((r.wait_secs > 0.0).then_some(("waiting for images", r.wait_secs)));
        parts.extend(role.exposed_secs.iter().map(|(axis, secs)| (name(axis), *secs)).filter(|(_, secs)| *secs > 0.0));
        parts
    });
    let part = |(what, part): &(&str, f64)| {
        vec![(*what).to_owned(), secs(*part), format!("{:.1}%", 100.0 * part / (time.step_secs + r.wait_secs))]
    };
    let kinds: Vec<(&str, f64)> = time.bytes.kinds().into_iter().chain([("in all", time.bytes.total())]).collect();
    let kind = |(what, n): &(&str, f64)| vec![(*what).to_owned(), bytes(*n as u64), format!("{:.1}%", 100.0 * n / r.usable_bytes)];
    let bar = |what: &str, size: f64, text: String| (what.to_owned(), size, text);
    let offer = |(price, cost): &(Price, f64)| {
        let [service, term] = [price.service.name(), price.term.name()];
        vec![service.into(), term.into(), usd(price.usd_per_hour), price.when(), usd(*cost)]
    };
    let mut tables = vec![
        Table { title: "A step, on the slowest rank", head: vec!["part", "time", "share"], rows: parts.iter().map(part).collect() },
        Table { title: "Memory of the fullest rank", head: vec!["kind", "bytes", "of usable"], rows: kinds.iter().map(kind).collect() },
        Table {
            title: "What the run costs by how it is rented",
            head: vec!["service", "term", "an hour", "price of", "the run"],
            rows: r.offers.iter().map(offer).collect(),
        },
    ];
    if searched {
        let head = vec!["cut", "micro-batches", "recompute", "step", rate, "MFU", "memory", "limited by"];
        tables.push(Table {
            title: "The best cut and the runners-up",
            head,
            rows: std::iter::once(&r.choice).chain(&r.runners_up).map(row).collect(),
        });
        if !r.misses.is_empty() {
            let row = |m: &::plan::simulation::search::Miss| {
                let help = match m.largest {
                    "activations" | "logits" => "a shorter context, or more memory",
                    _ => "more tensor or pipeline ranks, or shards",
                };
                vec![cut(&m.cut), bytes(m.over_bytes as u64), m.largest.into(), help.into()]
            };
            let head = vec!["cut", "over by", "most of it", "what would make it fit"];
            tables.push(Table { title: "What does not fit", head, rows: r.misses.iter().map(row).collect() });
        }
    }
    let [fast, middle, slow] = r.expected_secs;
    let mut notes = vec![
        format!("the cut is {}: {}", if r.is_recipes { "the recipe's own" } else { "the best that was found" }, cut(&r.choice.cut)),
        format!(
            "stops: one failure in {}, a checkpoint every {}, {:.1}% of the time is kept",
            secs(r.reliability.secs_between_failures),
            secs(r.reliability.interval_secs),
            100.0 * r.reliability.goodput_ratio
        ),
        format!(
            "price: {}/h from {} ({}, {}): {}",
            usd(r.price.usd_per_hour),
            r.price.when(),
            r.price.service.name(),
            r.price.term.name(),
            r.price.source
        ),
        format!(
            "time to expect: what {} published runs took over what is said of them, and where four of five lie: `hairpin plan check`",
            efficiency::errors().runs
        ),
    ];
    notes.extend(r.energy_kwh.map(|kwh| format!("energy of the accelerators at rated power: {} kWh", count(kwh))));
    let stored = if r.unit == "tokens" { "data and three checkpoints" } else { "three checkpoints, without the images" };
    notes.push(format!("storage of {stored}: {}, {}", bytes(r.storage_bytes as u64), usd(r.storage_usd)));
    notes.extend(r.feed.as_ref().map(|feed| {
        let hides = if r.wait_secs > 0.0 { "which is too few" } else { "so that it hides beside training" };
        format!(
            "making images takes {:.0} vCPUs of {:.0}, {hides}: {:.0} images/s on one, each decoded anew ({})",
            feed.cores_needed.ceil(),
            feed.cores,
            1.0 / (feed.decode_core_secs + feed.make_core_secs),
            feed.source
        )
    }));
    let active = if r.active_params < r.params { format!(", {} a token", count(r.active_params as f64)) } else { String::new() };
    Answer {
        title: format!("{} on {} x {}: {}, {}", r.name, r.nodes, r.instance, secs(r.expected_secs[1]), usd(r.usd)),
        asked: vec![
            ("parameters", format!("{}{active}", count(r.params as f64))),
            (r.unit, count(r.tokens)),
            ("steps", r.steps.to_string()),
            ("precision", r.precision.into()),
            ("accelerators", r.accelerators.to_string()),
        ],
        figures: vec![
            ("step", secs(time.step_secs + r.wait_secs)),
            (rate, count(time.tokens_per_sec * time.step_secs / (time.step_secs + r.wait_secs))),
            ("MFU", format!("{:.1}%", 100.0 * time.mfu)),
            ("steps and stops", secs(r.secs)),
            ("time to expect", secs(middle)),
            ("four of five runs end within", format!("{}–{}", secs(fast), secs(slow))),
            ("cost", usd(r.usd)),
        ],
        bars: vec![
            (
                "Where a step's time goes",
                Bars { rows: parts.iter().map(|(what, part)| bar(what, *part, secs(*part))).collect(), full: None },
            ),
            (
                "What fills the fullest rank",
                Bars { rows: kinds.iter().map(|(what, n)| bar(what, *n, bytes(*n as u64))).collect(), full: Some(r.usable_bytes) },
            ),
        ],
        tables,
        notes,
        warnings: uneven(r).into_iter().chain(slow_feed(r)).collect(),
        ..Answer::default()
    }
}
