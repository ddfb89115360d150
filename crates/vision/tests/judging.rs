//! What a run is judged by: on pictures whose kinds are plain to see a trained model's features, captions and drawings beat what is naive.

use std::{path::Path, sync::atomic::AtomicBool};

use train::{
    recipe::Recipe,
    run::{self, Quiet},
};
use vision::{
    judge::{Options, judge},
    naive,
    sampler::{Drawing, Sampler, in_turn},
};

/// Squares of four colours in four corners: 16 kinds, 30 of each, and a caption that says which.
fn pictures(folder: &Path) {
    let colours = [("red", [220, 30, 30]), ("green", [30, 200, 60]), ("blue", [40, 60, 230]), ("yellow", [230, 220, 40])];
    for (c, (colour, rgb)) in colours.into_iter().enumerate() {
        std::fs::create_dir_all(folder.join(colour)).unwrap();
        for (corner, (x, y)) in [(0, 0), (8, 0), (0, 8), (8, 8)].into_iter().enumerate() {
            for i in 0..30_u32 {
                let shade = (i * 7 % 40) as u8;
                let is_in = |px: u32, py: u32| (x + i % 3..x + 6 + i % 2).contains(&px) && (y + i % 2..y + 6 + i % 3).contains(&py);
                let pixel = |px, py| if is_in(px, py) { image::Rgb(rgb) } else { image::Rgb([shade; 3]) };
                let name = format!("{c}{corner}{i:02}");
                image::RgbImage::from_fn(16, 16, pixel).save(folder.join(colour).join(format!("{name}.png"))).unwrap();
                let said = ["top left", "top right", "bottom left", "bottom right"][corner];
                std::fs::write(folder.join(colour).join(format!("{name}.txt")), format!("a {colour} square, {said}")).unwrap();
            }
        }
    }
}

fn trained(folder: &Path, name: &str, steps: u64, text: &str) -> (std::path::PathBuf, Recipe) {
    let text = format!(
        "[data]\npath = {:?}\n[batch]\nsequences = 32\nmicro_batch = 32\n[train]\nsteps = {steps}\nprecision = \"f32\"\n[schedule]\nwarmup_steps = 10\n\
         [eval]\nevery_steps = 1000\nwindows = 64\n[guard]\naction = \"off\"\n{text}\n",
        folder.join("pictures").display().to_string()
    );
    let (recipe, out) = (Recipe::parse(&text, name, &[]).unwrap(), folder.join(name));
    run::train(&recipe, &out, false, &AtomicBool::new(false), &mut Quiet).unwrap();
    (out, recipe)
}

const TOWER: &str = "size = 16\npatch = 4\nlayers = 2\nwidth = 48\nheads = 4\nffn = 96\nmlp = \"gelu\"\neps = 1e-5";
const WHOLE: &str = "augment = { flip = false, least_area = 1.0 }";

#[test]
fn a_trained_model_beats_what_is_naive() {
    vision::register();
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("pictures"));
    let options = Options { held_out: 64, drawings: 64, steps: 20, ..Options::default() };
    let metric = |out: &Path| train::metrics::read(&out.join("metrics.jsonl")).0.iter().rev().find_map(|line| line.held_out).unwrap().value;

    let (mae, recipe) = trained(
        folder.path(),
        "mae",
        400,
        &format!(
            "[objective]\nkind = \"reconstruction\"\n{WHOLE}\n[model]\nkind = \"vit_mae\"\ndecoder_layers = 1\ndecoder_width = 32\ndecoder_heads = 2\nmask_ratio = 0.5\n[model.tower]\n{TOWER}\nnorm_first = false"
        ),
    );
    let (naive_error, _) = naive::baseline(&recipe).unwrap();
    assert!(metric(&mae) < naive_error.metric.value, "{} {}", metric(&mae), naive_error.metric.value);
    let found = judge(&mae, &options).unwrap();
    let get = |name: &str| found.get(name).unwrap_or_else(|| panic!("{name}"));
    assert!(get("probe_accuracy") > 0.9 && get("prior_accuracy") < 0.5, "{:?}", found.figures);
    let sheet = &found.shown[0].image;
    assert!(sheet.width() > sheet.height(), "eight images in three lines");

    let (clip, recipe) = trained(
        folder.path(),
        "clip",
        120,
        &format!(
            "[objective]\nkind = \"contrastive\"\n{WHOLE}\n[model]\nkind = \"clip\"\nembed = 24\n[model.image]\n{TOWER}\nnorm_first = true\n[model.text]\nvocab = 280\ntokens = 16\nlayers = 1\nwidth = 48\nheads = 4\nffn = 96\nmlp = \"gelu\""
        ),
    );
    let (guessing, _) = naive::baseline(&recipe).unwrap();
    assert!(metric(&clip) < guessing.metric.value);
    let found = judge(&clip, &options).unwrap();
    let get = |name: &str| found.get(name).unwrap_or_else(|| panic!("{name}"));
    assert!(get("recall_at_1") > 3.0 * get("chance") && get("chance") < 0.2, "{:?}", found.figures);
    assert!(get("zero_shot_accuracy") > get("prior_accuracy"), "{:?}", found.figures);

    // What is said of noise alone tells little of an image where there is most noise: of three alike it draws worst.
    for (target, more, share) in [("noise", "schedule = \"cosine\"", 1.0), ("velocity", "schedule = \"cosine\"", 0.5), ("flow", "", 0.5)] {
        let (dit, recipe) = trained(
            folder.path(),
            target,
            400,
            &format!(
                "[objective]\nkind = \"denoising\"\ntarget = \"{target}\"\n{more}\n{WHOLE}\n[optim]\naverage = 0.97\n[model]\nkind = \"dit\"\nsize = 16\npatch = 4\nchannels = 3\nout_channels = 3\nlayers = 2\nwidth = 48\nheads = 4\nclasses = 5\nwaves = 32"
            ),
        );
        let found = judge(&dit, &options).unwrap();
        let get = |name: &str| found.get(name).unwrap_or_else(|| panic!("{name}"));
        assert!(get("distance") < share * get("distance_of_noise"), "{target}: {:?}", found.figures);
        assert!(get("distance_of_held_out") < get("distance"), "{target}: {:?}", found.figures);
        assert!(naive::baseline(&recipe).unwrap().0.metric.value.is_finite());
        let mut sampler = Sampler::load(&dit).unwrap();
        assert!(sampler.is_averaged);
        let drawing = Drawing { conditions: in_turn(4, 4), steps: 10, guidance: 2.0, seed: 3 };
        let [first, again] = [sampler.draw(&drawing, |_, _| {}).unwrap(), sampler.draw(&drawing, |_, _| {}).unwrap()];
        assert!(first == again && first.len() == 4, "one seed, one drawing");
    }
}
