//! A folder of good and bad images, prepared.

use image::{Rgb, imageops};

use super::*;
use crate::feed;

/// Smooth patches of colour, unlike for each seed.
fn picture(seed: u64, width: u32, height: u32) -> RgbImage {
    let draw = |i: u64| engine::mix(seed ^ engine::mix(i)) as u8;
    let coarse = RgbImage::from_fn(5, 5, |x, y| Rgb([0, 1, 2].map(|c| draw(u64::from(x * 100 + y * 10 + c)))));
    imageops::resize(&coarse, width, height, imageops::FilterType::CatmullRom)
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join("raw").join(name);
    for class in ["one", "two"] {
        std::fs::create_dir_all(at(class)).unwrap();
    }
    for seed in 0..200 {
        let name = format!("{}/{seed:03}", if seed % 2 == 0 { "one" } else { "two" });
        picture(seed, 48, 40).save(at(&format!("{name}.png"))).unwrap();
        std::fs::write(at(&format!("{name}.txt")), format!("patches of colour, number {seed}")).unwrap();
    }
    // A copy of another size, one of another quality, what is too small, too long, torn and said badly.
    imageops::resize(&picture(3, 48, 40), 32, 27, imageops::FilterType::Triangle).save(at("one/copy.png")).unwrap();
    let mut jpeg = Vec::new();
    picture(4, 48, 40).write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 70)).unwrap();
    std::fs::write(at("two/copy.jpg"), jpeg).unwrap();
    picture(901, 12, 40).save(at("one/small.png")).unwrap();
    picture(902, 400, 40).save(at("one/long.png")).unwrap();
    std::fs::write(at("one/torn.png"), &std::fs::read(at("one/000.png")).unwrap()[..60]).unwrap();
    std::fs::write(at("one/002.txt"), "IMG_002.png").unwrap();
    folder
}

fn told(manifest: &Manifest, rule: &str) -> u64 {
    manifest.left_out.iter().find(|of| of.rule == rule).map_or(0, |of| of.count)
}

#[test]
fn what_is_bad_is_left_out_by_name_and_the_rest_is_learnt_from_in_nested_shares() {
    let folder = folder();
    let (raw, to) = (folder.path().join("raw"), folder.path().join("data"));
    let options = PrepareOptions { shard_bytes: 100_000, ..PrepareOptions::default() };
    let manifest = prepare(&raw, &options, &to, &|_| ()).unwrap();
    for (rule, count) in [("near_duplicate", 2), ("small", 1), ("aspect", 1), ("undecodable", 1), ("caption_address", 1)] {
        assert_eq!(told(&manifest, rule), count, "{rule}: {:?}", manifest.left_out);
    }
    let near = manifest.left_out.iter().find(|of| of.rule == "near_duplicate").unwrap();
    assert!(near.examples.iter().any(|text| text == "`one/copy.png` is like `two/003.png`"), "{near:?}");
    assert_eq!((manifest.found, manifest.train + manifest.held_out, manifest.captions), (205, 200, 199));
    assert_eq!((manifest.classes["one"], manifest.classes["two"]), (100, 100));
    assert_eq!((manifest.short_side_px.least, manifest.short_side_px.most), (40.0, 40.0));
    assert!(manifest.shards.len() > PERCENTS.len() + 1, "of 100 kB: {:?}", manifest.shards);

    // What is learnt from is what was prepared, and shares hold one another.
    let feed = |fraction: f64| {
        let text = format!(
            "[data]\npath = {:?}\nfraction = {fraction}\n[batch]\nsequences = 2\n[model]\nkind = \"vit\"\nclasses = 2\n[model.tower]\nsize = 8\npatch = 4\nlayers = 1\nwidth = 8\nheads = 2\nffn = 8\nmlp = \"gelu\"\neps = 1e-6\nnorm_first = false",
            to.display().to_string()
        );
        crate::register();
        feed::open(&train::recipe::Recipe::parse(&text, "test", &[]).unwrap()).unwrap()
    };
    let all = feed(1.0);
    assert_eq!(all.split().map(<[usize]>::len), [manifest.train as usize, manifest.held_out as usize]);
    assert_eq!(all.class_names(), ["one", "two"]);
    let name = |feed: &feed::Images, i: u64| train::feed::Feed::name(feed, i).unwrap();
    for (percent, sample) in PERCENTS.into_iter().zip(&manifest.samples) {
        let part = feed(f64::from(percent) / 100.0);
        assert_eq!(part.split()[0].len() as u64, sample.images, "{percent}%");
        let shards = shards_of(&manifest, percent);
        assert!((0..sample.images).all(|i| shards.contains(&name(&part, i).split('/').next().unwrap()) && name(&part, i) == name(&all, i)));
    }
}

#[test]
fn what_comes_out_depends_on_files_and_options_alone_and_is_taken_as_it_stands() {
    let folder = folder();
    let prepared = |raw: &Path, name: &str, options: &PrepareOptions| prepare(raw, options, &folder.path().join(name), &|_| ()).unwrap();
    let (raw, options) = (folder.path().join("raw"), PrepareOptions::default());
    let first = prepared(&raw, "first", &options);
    let moved = folder.path().join("elsewhere");
    std::fs::rename(&raw, &moved).unwrap();
    assert_eq!(prepared(&moved, "second", &options), first, "paths above the folder say nothing");
    for shard in &first.shards {
        let [a, b] = ["first", "second"].map(|name| std::fs::read(folder.path().join(name).join(&shard.file)).unwrap());
        assert!(a == b, "{}", shard.file);
    }
    assert!(!first.is_reused && prepared(&moved, "first", &options).is_reused);
    let other = PrepareOptions { captions: CaptionOptions { are_required: true, ..CaptionOptions::default() }, ..options };
    let again = prepared(&moved, "first", &other);
    assert!(!again.is_reused && told(&again, "caption_address") == 1 && again.train + again.held_out == 199, "{again:?}");
    std::fs::create_dir(folder.path().join("mine")).unwrap();
    std::fs::write(folder.path().join("mine/letter.txt"), "dear").unwrap();
    let error = prepare(&moved, &other, &folder.path().join("mine"), &|_| ()).unwrap_err().to_string();
    assert!(error.contains("something else"), "{error}");
    let wrong = PrepareOptions { near_bits: 40, ..other };
    assert!(prepare(&moved, &wrong, &folder.path().join("first"), &|_| ()).unwrap_err().to_string().contains("near_bits"));
}
