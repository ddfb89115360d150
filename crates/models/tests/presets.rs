//! Presets have the parameters that were published.

use models::build;

#[test]
fn parameter_counts_equal_the_published_ones() {
    // From the released weights where there are some; GPT-3 and BloombergGPT by their papers' own rounding.
    let exact: [(&str, u64); 9] = [
        ("gpt2-124m", 124_439_808),
        ("gpt2-355m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1.5b", 1_557_611_200),
        ("llama-7b", 6_738_415_616),
        ("llama-13b", 13_015_864_320),
        ("llama-33b", 32_528_943_616),
        ("llama-65b", 65_285_660_672),
        ("llama3-8b", 8_030_261_248),
    ];
    let params = |preset: &str| build(&format!("preset = \"{preset}\"").parse().unwrap()).unwrap().params().elements();
    for (preset, want) in exact {
        assert_eq!(params(preset), want, "{preset}");
    }
    for (preset, billions, digits) in [("gpt3-175b", 174.6, 0.05), ("falcon-40b", 41.3, 0.05), ("bloomberggpt-50b", 50.6, 0.05)] {
        let got = params(preset) as f64 / 1e9;
        assert!((got - billions).abs() <= digits, "{preset}: {got}B");
    }
}

#[test]
fn mixtures_have_the_parameters_of_the_published_ones_and_a_token_reads_as_many_as_they_say() {
    // Released weights, as transformers counts them; what a token reads by the papers' and model cards' own rounding.
    for (preset, want, active_billions) in [
        ("mixtral-8x7b", 46_702_792_704, 12.9),
        ("mixtral-8x22b", 140_620_634_112, 39.1),
        ("olmoe-1b-7b", 6_919_161_856, 1.3),
        ("qwen3-30b-a3b", 30_532_122_624, 3.3),
        ("qwen3-235b-a22b", 235_093_634_560, 22.2),
        ("deepseek-moe-16b", 16_375_728_128, 2.8),
        ("deepseek-v2-lite", 15_706_484_224, 2.7),
        ("deepseek-v2", 235_741_434_880, 21.4),
        // And the bias of each expert in the choice, which transformers does not count.
        ("deepseek-v3", 671_026_404_352 + 58 * 256, 37.6),
    ] {
        let model = build(&format!("preset = \"{preset}\"").parse().unwrap()).unwrap();
        assert_eq!(model.params().elements(), want, "{preset}");
        let active = model.params().active_elements() as f64 / 1e9;
        assert!((active - active_billions).abs() <= 0.06, "{preset}: a token reads {active}B");
    }
}

#[test]
fn a_unet_has_the_parameters_of_the_released_weights() {
    // diffusers' UNet2DConditionModel from the config.json of stable-diffusion-v1-5 and stable-diffusion-2-1.
    for (preset, want) in [("sd1-unet", 859_520_964), ("sd2-unet", 865_910_724)] {
        let model = build(&format!("kind = \"unet\"\npreset = \"{preset}\"").parse().unwrap()).unwrap();
        assert_eq!(model.params().elements(), want, "{preset}");
    }
}

#[test]
fn models_of_images_have_the_parameters_of_the_published_ones() {
    let params = |kind: &str, preset: &str| {
        let table = format!("kind = \"{kind}\"\npreset = \"{preset}\"").parse().unwrap();
        build(&table).unwrap().params().elements()
    };
    // Released weights, as transformers counts them; of MAE what is trained, of DiT without its fixed positions.
    for (kind, preset, want) in [
        ("vit", "vit-s-16", 22_050_664),
        ("vit", "vit-b-16", 86_567_656),
        ("vit", "vit-l-16", 304_326_632),
        ("clip", "clip-vit-b-32", 151_277_313),
        ("clip", "clip-vit-b-16", 149_620_737),
        ("clip", "clip-vit-l-14", 427_616_513),
        ("clip", "siglip-b-16", 203_155_970),
        ("autoencoder", "sd-autoencoder", 83_653_863),
        ("vit_mae", "mae-vit-l-16", 329_239_296),
        ("dit", "dit-xl-2", 675_129_632 - 256 * 1152),
    ] {
        assert_eq!(params(kind, preset), want, "{preset}");
    }
    // By their authors' own rounding, without 1,000 classes: arXiv:2010.11929, arXiv:2106.04560, arXiv:2111.06377, arXiv:2212.09748.
    for (kind, preset, millions, digits) in [
        ("vit", "vit-h-14", 632.0, 1.5),
        ("vit", "vit-g-14", 1011.0, 3.0),
        ("vit", "vit-gg-14", 1843.0, 3.0),
        ("clip", "clip-vit-h-14", 986.1, 0.1),
        ("dit", "dit-s-2", 33.0, 0.5),
        ("dit", "dit-b-2", 130.0, 0.5),
        ("dit", "dit-l-2", 458.0, 0.5),
    ] {
        let got = params(kind, preset) as f64 / 1e6;
        assert!((got - millions).abs() <= digits, "{preset}: {got}M");
    }
}

#[test]
fn what_a_recipe_says_of_a_part_leaves_the_rest_of_the_preset() {
    let table = "kind = \"clip\"\npreset = \"clip-vit-b-16\"\nimage = { layers = 2 }".parse().unwrap();
    let config = build(&table).unwrap().config();
    let of = |part: &str, key: &str| config[part][key].as_integer();
    assert_eq!((of("image", "layers"), of("image", "width"), of("text", "layers")), (Some(2), Some(768), Some(12)));
}
