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
fn a_unet_has_the_parameters_of_the_released_weights() {
    // diffusers' UNet2DConditionModel from the config.json of stable-diffusion-v1-5 and stable-diffusion-2-1.
    for (preset, want) in [("sd1-unet", 859_520_964), ("sd2-unet", 865_910_724)] {
        let model = build(&format!("kind = \"unet\"\npreset = \"{preset}\"").parse().unwrap()).unwrap();
        assert_eq!(model.params().elements(), want, "{preset}");
    }
}
