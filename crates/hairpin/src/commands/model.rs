//! Commands on a trained model: eval, generate, export, import.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use ::train::{
    TrainError, checkpoint,
    clock::Clock,
    eval::Evaluator,
    feed::{Feed, TextWindows},
    generate::{Request, Sampling, Writer},
    hf,
    objective::OfModel,
    run::{Loaded, is_same_tokenizer, load},
};
use ::vision::judge;
use data::Dataset;
use serde_json::json;

use super::vision;
use crate::print;

/// Measure a run on samples that it never learnt from: of text its held-out loss, of images also what its features, captions or drawings are worth
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin eval hairpin-demo/phases/3-large --context 128\n         hairpin eval hairpin-vision-demo/mae\n         hairpin eval hairpin-vision-demo/diffusion --features hairpin-vision-demo/mae"
)]
pub(crate) struct EvalArgs {
    /// A run's folder or URL, or one checkpoint
    run: PathBuf,
    /// Prepared data, or images; default: the recipe's own
    #[arg(long)]
    data: Option<PathBuf>,
    /// Tokens of a window; default: the recipe's `batch.context`
    #[arg(long)]
    context: Option<usize>,
    /// Windows of held-out text, or held-out images
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    windows: u64,
    /// Of diffusion: the run of a `vit_mae`, `vit` or `clip` whose features tell how far drawings are from images; default: pixels
    #[arg(long, value_name = "RUN")]
    features: Option<PathBuf>,
    /// Write a page with pictures: reconstructions, nearest captions, drawings
    #[arg(long, value_name = "FILE.html")]
    page: Option<PathBuf>,
}

pub(crate) fn eval(args: &EvalArgs, json: bool) -> miette::Result<ExitCode> {
    let run = checkpoint::here(&args.run)?;
    let mut loaded = newest(&run)?;
    let Some(language) = loaded.model.language() else { return of_images(&run, loaded, args, json) };
    let data = Arc::new(Dataset::open(args.data.as_ref().unwrap_or(&loaded.recipe.data.path))?);
    let context = args.context.unwrap_or(loaded.recipe.batch.context);
    if !(1..=language.context()).contains(&context) {
        let problem = format!("{context} is not in 1..={}, which is what the model reads", language.context());
        return Err(TrainError::Value { key: "--context", problem, help: "give fewer tokens".into() }.into());
    }
    let (known, vocab) = (language.vocab(), data.tokenizer().vocab());
    let feed = TextWindows::to_measure(data, context, args.windows)?;
    let is_same = is_same_tokenizer(&loaded.tokenizer_path, &feed)?;
    if is_same == Some(false) || vocab > known {
        let problem = if vocab > known {
            format!("the data's tokenizer has {vocab} tokens, and the model knows {known}")
        } else {
            format!(
                "the data's tokenizer is not that of the model, `{}`: its numbers stand for other tokens",
                loaded.tokenizer_path.display()
            )
        };
        let help = format!(
            "prepare the text with the model's own, by `[data.tokenizer]` with `kind = \"load\"` and `path = {:?}`",
            loaded.tokenizer_path.display().to_string()
        );
        return Err(TrainError::Value { key: "--data", problem, help }.into());
    }
    let evaluator = Evaluator::new(&*loaded.model, &OfModel, 4, context, loaded.precision)?;
    let measured = evaluator.held_out(&*loaded.model, &OfModel, &mut loaded.store, loaded.precision, &feed)?;
    let (bits, error, windows) = (measured.metric.value, measured.standard_error(), feed.held_out());
    // What is divided by, and how many tokens' losses are divided.
    let (bytes, tokens) = (measured.samples.iter().map(|sample| sample.weight).sum::<u64>(), windows * context as u64);
    if json {
        print::json(
            &json!({"step": loaded.step, "bits_per_byte": bits, "standard_error": error, "windows": windows, "bytes": bytes, "tokens": tokens}),
        )?;
    } else {
        let error = error.map_or(String::new(), |error| format!(" ± {error:.4}"));
        print::result(&format!("step {}: {bits:.4}{error} bits per byte over {} windows of {context} tokens", loaded.step, windows));
    }
    Ok(ExitCode::SUCCESS)
}

fn of_images(run: &Path, loaded: Loaded, args: &EvalArgs, json: bool) -> miette::Result<ExitCode> {
    let (data, features) = (args.data.clone(), args.features.clone());
    let options = judge::Options { data, held_out: args.windows, features, ..judge::Options::default() };
    vision::eval(run, loaded, &options, args.page.as_deref(), json)
}

/// Let a trained model write, or of diffusion draw
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin generate hairpin-demo/phases/3-large --prompt 'pub fn ' --tokens 80\n         hairpin generate hairpin-vision-demo/diffusion --class 7 --images 16 --guidance 2 --out sevens.png\n         hairpin generate runs/latent --caption 'a red three left of a blue one' --out digits.png"
)]
pub(crate) struct GenerateArgs {
    /// A run's folder or URL, or one checkpoint
    run: PathBuf,
    /// How the text begins
    #[arg(long, default_value = "")]
    prompt: String,
    /// How many tokens at most
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Only the so many likeliest tokens; 0 for all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Only the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    drawing: vision::DrawingArgs,
}

pub(crate) fn generate(args: &GenerateArgs, json: bool) -> miette::Result<ExitCode> {
    let run = checkpoint::here(&args.run)?;
    let mut loaded = newest(&run)?;
    if loaded.model.language().is_none() {
        return vision::draw(&run, &args.drawing, args.seed, json);
    }
    let tokenizer = loaded.tokenizer()?;
    let ends = tokenizer.ends();
    let mut prompt = ends.before_prompt.clone();
    prompt.extend(tokenizer.encode(&args.prompt)?);
    if prompt.is_empty() {
        // A model has to read something: the end of a text before.
        prompt.push(ends.end_of_text);
    }
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    let language = loaded.model.language().ok_or(TrainError::NotLanguage)?;
    if !json {
        print::piece(&args.prompt);
    }
    let (mut stream, mut text, mut count) = (tokenizer.text_after(&prompt), String::new(), 0_usize);
    // From the first token on: reading the prompt is another kind of work.
    let mut clock = Clock::start();
    let mut secs = 0.0;
    let mut show = |piece: String| {
        if !json {
            print::piece(&piece);
        }
        text += &piece;
    };
    let request = Request { prompt: prompt.clone(), count: args.tokens, stops: ends.stops.clone(), sampling };
    let mut writer = Writer { language, table: loaded.model.params(), store: &mut loaded.store, precision: loaded.precision };
    let drawn = writer.write_one(&request, |one| {
        count += 1;
        if count == 1 {
            clock = Clock::start();
        }
        secs = clock.secs();
        show(stream.push(one.token));
    })?;
    show(stream.finish());
    let stopped_by = match drawn.last() {
        Some(last) if ends.stops.contains(&last.token) => "end_of_text",
        _ if drawn.len() < args.tokens => "context",
        _ => "tokens",
    };
    if json {
        print::json(&json!({
            "prompt_tokens": prompt,
            "text": text,
            "tokens": drawn,
            "stopped_by": stopped_by,
            "tokens_per_sec": (count.max(1) - 1) as f64 / secs.max(1e-9),
        }))?;
    } else {
        print::result("");
    }
    if stopped_by == "context" {
        let (context, given) = (language.context(), prompt.len());
        print::talk(&format!(
            "the text stops after {count} of {} tokens: the model's context of {context} tokens is full ({given} are the prompt's)",
            args.tokens
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The newest whole checkpoint of a run; what is wrong with newer ones is said.
fn newest(run: &Path) -> miette::Result<Loaded> {
    let loaded = load(run)?;
    loaded.passed_over.iter().for_each(|text| print::talk(text));
    Ok(loaded)
}

/// Of a folder's own tokenizer, where it has one.
fn tokenizer_files(folder: &Path) -> miette::Result<Vec<(String, Vec<u8>)>> {
    if !folder.join("tokenizer.json").is_file() {
        return Ok(Vec::new());
    }
    Ok(data::Tokenizer::load_from_elsewhere(&folder.join("tokenizer.json"), None, None)?.files()?)
}

/// Write a trained model as a Hugging Face folder
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin export hairpin-demo/phases/3-large exported --dtype bf16\n         hairpin export s3://my-bucket/run s3://my-bucket/model"
)]
pub(crate) struct ExportArgs {
    /// A run's folder or URL, or one checkpoint
    run: PathBuf,
    /// The folder to write, or a URL to publish at
    out: PathBuf,
    /// What a weight is written as
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// The largest file of weights; more are written where they would not fit
    #[arg(long, default_value = "5GB", value_name = "SIZE", value_parser = super::project::size)]
    shard_size: u64,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
}

pub(crate) fn export(args: &ExportArgs, json: bool) -> miette::Result<ExitCode> {
    let run = checkpoint::here(&args.run)?;
    let loaded = newest(&run)?;
    let numbers = match args.dtype {
        Dtype::F32 => hf::Numbers::F32,
        Dtype::Bf16 => hf::Numbers::Bf16,
        Dtype::F16 => hf::Numbers::F16,
    };
    let format = hf::Format { numbers, shard_bytes: args.shard_size };
    if loaded.model.language().is_none() {
        ::vision::hf::export(&loaded, &::vision::classes::of(&run), &args.out, format)?;
    } else {
        hf::export(&loaded, &loaded.tokenizer()?, &args.out, format)?;
    }
    if json {
        print::json(&json!({"folder": args.out}))?
    } else {
        print::result(&format!("wrote {}", args.out.display()))
    }
    Ok(ExitCode::SUCCESS)
}

/// Make a run's folder from a Hugging Face one (docs/models.md names the layouts)
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin import downloads/gpt2 runs/gpt2")]
pub(crate) struct ImportArgs {
    /// The Hugging Face folder
    folder: PathBuf,
    /// The run's folder to make
    out: PathBuf,
}

pub(crate) fn import(args: &ImportArgs, json: bool) -> miette::Result<ExitCode> {
    if let Some((step, _)) = checkpoint::list(&args.out).pop() {
        return Err(TrainError::Exists { folder: args.out.clone(), step }.into());
    }
    let params = if ::vision::hf::knows(&args.folder) {
        ::vision::hf::import(&args.folder)?.write(&args.out, tokenizer_files(&args.folder)?)?
    } else {
        let imported = hf::import(&args.folder)?;
        let model = models::build(&imported.model)?;
        imported.notes.iter().for_each(|note| print::talk(note));
        imported.write(&args.out, &*model)?;
        model.params().elements()
    };
    if json {
        print::json(&json!({"run": args.out, "params": params}))?;
    } else {
        print::result(&format!("{} parameters in {}", report::terminal::count(params), args.out.display()));
    }
    Ok(ExitCode::SUCCESS)
}
