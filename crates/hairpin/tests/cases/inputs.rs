//! What the cases are made of: prose that any cleaning keeps, projects, recipes, and what a command leaves behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

const WORDS: &str = "the of and to in that was his he it with is for as had you not be her on at by which have or from this him but all she \
    they were my are me one their so an said them we who would been will no when there if more out up into do any your what has man could \
    other than our some very time upon about may its only now like little then can made should did us such great before must two these \
    see know over much down after first good men old never most where way own day again came life long under might through last too \
    house water river light stone garden winter summer morning evening letter window street market bridge mountain valley forest harbour \
    captain teacher farmer doctor painter baker mother father brother sister friend story answer question reason measure number picture \
    music silence courage patience journey weather season village country machine engine model signal pattern theory method result \
    carried opened followed answered remembered gathered finished believed turned walked listened noticed waited promised wandered \
    quiet narrow bright broken gentle distant hollow simple careful ordinary certain heavy golden silver wooden ancient";

/// A folder of its own for a case, and hairpin run in it.
pub struct Room(pub tempfile::TempDir);

impl Room {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with the folders above it.
    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A project over `paths`; `more` are lines of its tables: `corpus: text_column = "x"`.
    pub fn project(&self, name: &str, paths: &[&str], tokenizer: &str, more: &[(&str, &str)]) {
        let table = |key: &str| more.iter().find(|(table, _)| *table == key).map_or("", |(_, lines)| lines);
        let paths: Vec<String> = paths.iter().map(|path| self.path(path).display().to_string()).collect();
        let text = format!(
            "name = \"case\"\n[data]\nheld_out_ratio = {}\n[data.corpus]\npaths = {paths:?}\n{}\n[data.clean]\n{}\n[data.dedup]\n{}\n\
             [data.tokenizer]\n{tokenizer}\n[[phases]]\nname = \"one\"\ndata_fraction = 1.0\n",
            if table("held_out").is_empty() { "0.1" } else { table("held_out") },
            table("corpus"),
            table("clean"),
            table("dedup"),
        );
        self.put(&format!("{name}/hairpin.toml"), text);
    }

    /// A recipe of a model that trains within a second.
    pub fn recipe(&self, name: &str, data: &str, steps: u64, eval_every: u64, save_every: u64, keep_last: u64) {
        self.put(
            name,
            format!(
                "name = \"case\"\nseed = 3\n[model]\ndepth = 2\n[data]\npath = \"{data}\"\n[batch]\nsequences = 4\nmicro_batch = 4\ncontext = 64\n\
                 lanes = 2\n[train]\nsteps = {steps}\nprecision = \"f32\"\nthreads = 1\n[schedule]\nwarmup_steps = 4\n\
                 [eval]\nevery_steps = {eval_every}\nwindows = 8\n[checkpoint]\nevery_steps = {save_every}\nkeep_last = {keep_last}\n"
            ),
        );
    }

    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_hairpin")).args(args).current_dir(self.0.path()).output().unwrap()
    }

    /// What it prints, when that has to work.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["--json"], args].concat())).unwrap()
    }

    /// Standard output and error, words apart by one space: boxes and line breaks of a terminal are no part of a message.
    pub fn words(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).replace(['│', '├', '╰', '─', '▶'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Documents of prepared data, both splits.
    pub fn documents(&self, project: &str) -> u64 {
        let manifest = self.read_json(&format!("{project}/data/manifest.json"));
        ["train", "held_out"].iter().map(|split| manifest[split]["documents"].as_u64().unwrap()).sum()
    }

    /// Bytes of text of prepared data, both splits.
    pub fn bytes(&self, project: &str) -> u64 {
        let manifest = self.read_json(&format!("{project}/data/manifest.json"));
        ["train", "held_out"].iter().map(|split| manifest[split]["bytes"].as_u64().unwrap()).sum()
    }

    /// Prepare, and tell how many documents came of it.
    pub fn prepared(&self, project: &str) -> String {
        let output = self.run(&["data", project]);
        match output.status.success() {
            true => self.documents(project).to_string(),
            false => format!("refused: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    pub fn read_json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    pub fn tokens(&self, project: &str) -> Vec<u32> {
        self.split(project, "train")
    }

    pub fn held_out_tokens(&self, project: &str) -> Vec<u32> {
        self.split(project, "held_out")
    }

    fn split(&self, project: &str, split: &str) -> Vec<u32> {
        let folder = self.path(&format!("{project}/data"));
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(split) && n.ends_with(".tok")));
        files.sort();
        files.iter().flat_map(|path| tokens_of(path)).collect()
    }
}

fn tokens_of(path: &Path) -> Vec<u32> {
    let raw = fs::read(path).unwrap();
    let count = u64::from_le_bytes(raw[16..24].try_into().unwrap()) as usize;
    match raw[8] {
        2 => raw[64..][..2 * count].chunks(2).map(|t| u32::from(u16::from_le_bytes(t.try_into().unwrap()))).collect(),
        _ => raw[64..][..4 * count].chunks(4).map(|t| u32::from_le_bytes(t.try_into().unwrap())).collect(),
    }
}

fn noise(seed: &str) -> impl FnMut(u64) -> usize + use<> {
    let mut state = seed.bytes().fold(7, |hash, byte| engine::mix(hash ^ u64::from(byte)));
    move |below| {
        state = engine::mix(state.wrapping_add(1));
        (state % below) as usize
    }
}

/// Sentences that look like English, `per_line` of them to a line.
pub fn prose(seed: &str, sentences: usize, per_line: usize) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut draw = noise(seed);
    let mut sentence = || {
        let count = 7 + draw(10);
        let text = (0..count).map(|_| words[draw(words.len() as u64)]).collect::<Vec<_>>().join(" ");
        format!("{}{}{}", text[..1].to_uppercase(), &text[1..], [".", ".", ".", "?", "!"][draw(5)])
    };
    let all: Vec<String> = (0..sentences).map(|_| sentence()).collect();
    all.chunks(per_line).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n")
}

/// 24 sentences, three to a line.
pub fn text(seed: impl std::fmt::Display) -> String {
    prose(&seed.to_string(), 24, 3)
}

/// JSON lines of `count` texts under `key`.
pub fn jsonl(name: &str, key: &str, count: usize) -> String {
    (0..count).map(|i| json!({key: text(format!("{name} {i}"))}).to_string() + "\n").collect()
}

/// Sentences of words from `parts`, glued by nothing.
pub fn unspaced(parts: &str, comma: &str, stop: &str, seed: usize) -> String {
    let parts: Vec<&str> = parts.split_whitespace().collect();
    let mut draw = noise(&format!("unspaced {seed}"));
    let mut out = String::new();
    for line in 0..8 {
        for _ in 0..3 {
            for half in [comma, stop] {
                (0..6 + draw(4)).for_each(|_| out += parts[draw(parts.len() as u64)]);
                out += half;
            }
        }
        if line < 7 {
            out.push('\n');
        }
    }
    out
}

/// A `tokenizer.json` of GPT-2's kind over bytes alone, with one more token that ends a text.
pub fn byte_tokenizer(end: &str, more: Value) -> String {
    // The alphabet of byte-level BPE: what is printed stands for itself, all else for a character from U+0100 on.
    let printed = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100 - 1;
    let mut vocab = serde_json::Map::new();
    for byte in 0..256_u32 {
        let c = if printed(byte) {
            byte
        } else {
            next += 1;
            next
        };
        vocab.insert(char::from_u32(c).unwrap().to_string(), byte.into());
    }
    vocab.insert(end.to_owned(), 256.into());
    let mut tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{"id": 256, "content": end, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []}
    });
    tokenizer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    tokenizer.to_string()
}

/// A `tokenizer.json` of Llama 2's kind: `▁` for spaces and before a text, `<0xNN>` for bytes that no piece holds, `<s>` put before a
/// text by the template. Pieces are letters and the words of [`prose`].
pub fn llama2_tokenizer() -> String {
    let mut vocab = serde_json::Map::new();
    let mut merges = Vec::new();
    let add = |vocab: &mut serde_json::Map<String, Value>, piece: &str| {
        let id = vocab.len();
        vocab.entry(piece.to_owned()).or_insert(id.into());
    };
    ["<unk>", "<s>", "</s>"].iter().for_each(|special| add(&mut vocab, special));
    (0..256).for_each(|byte| add(&mut vocab, &format!("<0x{byte:02X}>")));
    ('a'..='z').chain('A'..='Z').chain("▁.?!".chars()).for_each(|c| add(&mut vocab, &c.to_string()));
    // Each word is built from its left end on.
    for word in WORDS.split_whitespace() {
        let piece = format!("▁{word}");
        let chars: Vec<char> = piece.chars().collect();
        for at in 1..chars.len() {
            let (left, right): (String, String) = (chars[..at].iter().collect(), chars[at].to_string());
            let joined = format!("{left}{right}");
            if !vocab.contains_key(&joined) {
                merges.push(json!([left, right]));
                add(&mut vocab, &joined);
            }
        }
    }
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": vocab, "merges": merges}
    })
    .to_string()
}
