//! What became of images, in tables: of what sizes they are, what was left out by which rule, and the shares that shards hold.

use disk::printable_line;
use maud::{Markup, html};
use vision::prepare::{Manifest, Quartiles};

use crate::{
    Picture, Table,
    answer::{picture, section},
    terminal::{bytes, count, table},
};

/// Classes that are listed, the most common first.
const CLASSES: usize = 12;

fn tables(manifest: &Manifest) -> Vec<Table> {
    let short = |number: f64| if number.fract() == 0.0 { format!("{number}") } else { format!("{number:.2}") };
    let quartiles =
        |what: &str, q: Quartiles| [vec![what.to_owned()], [q.least, q.lower, q.median, q.upper, q.most].map(short).to_vec()].concat();
    let mut sizes = vec![quartiles("shorter side, pixels", manifest.short_side_px), quartiles("longer to shorter side", manifest.aspect)];
    if manifest.captions > 0 {
        sizes.push(quartiles("characters of a caption", manifest.caption_chars));
    }
    let share = |sample: &vision::prepare::Sample| vec![format!("{}%", sample.percent), count(sample.images), bytes(sample.bytes)];
    let mut shares: Vec<Vec<String>> = manifest.samples.iter().map(share).collect();
    let is_held_out = |shard: &&vision::prepare::Shard| shard.file.starts_with("held-out");
    shares.push(vec![
        "held out".into(),
        count(manifest.held_out),
        bytes(manifest.shards.iter().filter(is_held_out).map(|s| s.bytes).sum()),
    ]);
    let mut classes: Vec<_> = manifest.classes.iter().collect();
    classes.sort_by_key(|(name, images)| (std::cmp::Reverse(**images), *name));
    let named = |(name, images): (&String, &u64)| vec![printable_line(name).into_owned(), count(*images)];
    let left_out = |of: &vision::prepare::LeftOut| vec![of.rule.clone(), count(of.count), of.examples.first().cloned().unwrap_or_default()];
    let mut all = vec![
        Table { title: "Images", head: vec!["", "least", "a quarter", "half", "three quarters", "most"], rows: sizes },
        Table { title: "Shares, each within the next", head: vec!["share", "images", "size"], rows: shares },
    ];
    if !manifest.left_out.is_empty() {
        let rows = manifest.left_out.iter().map(left_out).collect();
        all.push(Table { title: "What was left out", head: vec!["rule", "count", "as"], rows });
    }
    if classes.len() > 1 {
        all.push(Table { title: "Classes", head: vec!["class", "images"], rows: classes.into_iter().take(CLASSES).map(named).collect() });
    }
    all
}

fn headline(manifest: &Manifest) -> String {
    format!(
        "{} images found; {} to learn from, {} held out, {} with a caption, {}",
        count(manifest.found),
        count(manifest.train),
        count(manifest.held_out),
        count(manifest.captions),
        vision::classes::counted(manifest.classes.len())
    )
}

/// For a terminal.
#[must_use]
pub fn text(manifest: &Manifest) -> String {
    let mut out = format!("{}\n", headline(manifest));
    for Table { title, head, rows } in tables(manifest) {
        out += &format!("\n{title}\n{}", table(&head, &rows));
    }
    for note in &manifest.notes {
        out += &format!("careful: {}\n", printable_line(note));
    }
    out
}

/// For a page, with the bytes of the contact sheet.
pub(crate) fn markup(manifest: &Manifest, contact: Option<Vec<u8>>) -> Markup {
    let sheet = contact.map(|png| Picture { title: "Contact sheet".into(), text: "some of the images that are learnt from".into(), png });
    html! {
        section { h2 { "The images" } p { (headline(manifest)) "." } }
        @for note in &manifest.notes { p.warn { "Careful: " (note) "." } }
        @if let Some(sheet) = &sheet { section { (picture(sheet)) } }
        @for table in tables(manifest) { (section(&table)) }
        details { summary { "examples of what was left out" } ul {
            @for of in &manifest.left_out { @for example in &of.examples { li { (of.rule) ": " (example) } } }
        } }
    }
}
