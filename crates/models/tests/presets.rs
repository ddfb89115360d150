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
