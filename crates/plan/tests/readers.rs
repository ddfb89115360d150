//! Whatever a person writes into a flag or a file is read or refused with what, where and how to mend it: nothing panics, nothing comes
//! back as infinity.

use miette::Diagnostic;
use plan::{
    PlanError,
    catalogue::Catalogue,
    laws::Law,
    laws::{Observation, fit},
    questions::corpus::Source,
    units::{self, Amount},
};
use proptest::prelude::*;

fn bytes_or_tokens(amount: Amount) -> f64 {
    match amount {
        Amount::Tokens(n) | Amount::Bytes(n) => n,
    }
}

/// What a refusal owes: a message, a code that docs/errors.md lists, and help.
fn is_told(e: &PlanError) -> bool {
    !e.to_string().is_empty() && e.code().is_some() && e.help().is_some_and(|help| !help.to_string().is_empty())
}

fn holds(result: Result<f64, PlanError>) -> bool {
    match result {
        Ok(value) => value > 0.0 && value <= 1e18,
        Err(e) => is_told(&e),
    }
}

fn catalogue(text: &str) -> Result<Catalogue, PlanError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    std::fs::write(&path, text).unwrap();
    Catalogue::load(Some(&path))
}

/// Numbers as they come out of spreadsheets, and as they do not.
fn cell() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<f64>().prop_map(|v| format!("{v}")),
        any::<f64>().prop_map(|v| format!("{v:e}")),
        (1.0..1e13_f64).prop_map(|v| format!("{v}")),
        (1_u32..999).prop_map(|v| format!("{v}B")),
        prop::sample::select(vec!["", " ", "NaN", "inf", "-0", "1e400", "1_0", "1,000", "\"1\"", "é", "٣", "0x1", "1 B", "K"])
            .prop_map(str::to_owned),
    ]
}

fn row() -> impl Strategy<Value = String> {
    prop::collection::vec(cell(), 0..5).prop_map(|cells| cells.join(","))
}

/// One byte of a text that was good is another, or the text is torn.
fn spoiled(text: &'static str) -> impl Strategy<Value = String> {
    (0..text.len(), any::<u8>(), any::<bool>()).prop_map(move |(at, byte, is_torn)| {
        let mut bytes = text.as_bytes().to_vec();
        if is_torn {
            bytes.truncate(at);
        } else {
            bytes[at] = byte;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

const ROWS: &str = r#"
[[accelerator]]
name = "X1"
memory_gib = 80
peak_tflops = 900
units = 132
memory_gb_per_sec = 3000
link_gb_per_sec = 400
source = "a card"
date = "2026-11"
[[instance]]
name = "x1.large"
accelerator = "X1"
count = 8
net_gbps = 3200
vcpus = 192
memory_gib = 2048
prices = [{ usd_per_hour = 10, from = "2026-11", service = "ec2", term = "on-demand", source = "a contract" }]
"#;

const LAW: &str = r#"{"name":"x","best":{"floor":1.8,"params_scale":480,"params_exponent":0.35,"tokens_scale":2000,"tokens_exponent":0.37},
"draws":[{"floor":1.7,"params_scale":490,"params_exponent":0.36,"tokens_scale":2100,"tokens_exponent":0.36}],"scatter_ratio":0.01,
"drift_ratio":0.04,"fitted":{"params":[1e7,1e10],"tokens":[1e8,1e11],"flops":[1e17,1e22]}}"#;

#[test]
fn the_texts_that_are_spoiled_below_are_good() {
    assert!(catalogue(ROWS).unwrap().instance("x1.large").is_ok());
    assert!(Law::read(LAW, "law.json").is_ok());
}

proptest! {
    #[test]
    fn any_text_is_a_quantity_or_refused(text in ".{0,40}") {
        prop_assert!(holds(units::count(&text)) && holds(units::secs(&text)) && holds(units::number(&text)) && holds(units::share(&text)));
        let is_amount = holds(units::amount(&text).map(bytes_or_tokens));
        prop_assert!(is_amount);
    }

    #[test]
    fn any_number_with_any_unit_is_a_quantity_or_refused(
        number in cell(),
        unit in prop::sample::select(vec!["", "k", "M", "B", "T", "TB", "GiB", "days", "months", "tokens", "x4", "%", "µ"]),
    ) {
        let text = format!("{number}{unit}");
        prop_assert!(holds(units::count(&text)) && holds(units::secs(&text)) && holds(units::bytes(&text)));
    }

    #[test]
    fn any_source_is_read_or_refused(text in "[a-zé]{0,4}=?(en|de|xx)?:?[0-9.]{0,8}(TB|B|GB)?( x[0-9.e-]{0,6})?") {
        match Source::parse(&text, &Catalogue::load(None).unwrap(), 50_304) {
            Ok(source) => prop_assert!(source.bytes.is_finite() && source.tokens.is_finite() && source.epochs.is_finite()),
            Err(e) => prop_assert!(is_told(&e), "{e}"),
        }
    }

    #[test]
    fn any_csv_is_runs_or_refused_with_its_line(head in "(params,tokens,loss|loss,params,tokens,x|params,tokens|)", rows in prop::collection::vec(row(), 0..8)) {
        match fit::read(&format!("{head}\n{}", rows.join("\n")), "runs.csv") {
            Ok(runs) => {
                prop_assert!(runs.iter().all(|run| [run.params, run.tokens, run.loss].iter().all(|v| *v > 0.0 && v.is_finite())));
                prop_assert!(fit::fit(&runs, "runs", 20, 1).map_or_else(|e| is_told(&e), |_| true));
            }
            Err(e) => prop_assert!(is_told(&e) && e.to_string().starts_with("runs.csv: line "), "{e}"),
        }
    }

    #[test]
    fn runs_of_any_size_and_loss_give_a_law_or_a_refusal(
        runs in prop::collection::vec((1.0..40.0_f64, 1.0..40.0_f64, -40.0..40.0_f64), 6..20),
    ) {
        let runs: Vec<Observation> = runs.iter().map(|(n, d, l)| Observation { params: n.exp(), tokens: d.exp(), loss: l.exp() }).collect();
        match fit::fit(&runs, "runs", 20, 1) {
            Ok(law) => {
                let said = law.predict(1e9, 1e10, 1e10);
                prop_assert!(said.loss.is_finite() && said.interval.iter().all(|v| v.is_finite() && *v >= 0.0), "{law:?} {said:?}");
                prop_assert!(said.interval[0] <= said.loss && said.loss <= said.interval[1]);
                let text = serde_json::to_string(&law).unwrap();
                prop_assert_eq!(Law::read(&text, "law.json").unwrap(), law, "what is printed is read again");
            }
            Err(e) => prop_assert!(is_told(&e), "{e}"),
        }
    }

    #[test]
    fn a_spoiled_catalogue_is_read_or_refused(text in spoiled(ROWS)) {
        prop_assert!(catalogue(&text).map_or_else(|e| is_told(&e) && e.to_string().contains("mine.toml"), |all| all.instances.len() > 30));
    }

    #[test]
    fn a_spoiled_law_is_read_or_refused(text in spoiled(LAW)) {
        match Law::read(&text, "law.json") {
            Ok(law) => prop_assert!(law.predict(1e11, 1e13, 1e12).interval.iter().all(|v| v.is_finite())),
            Err(e) => prop_assert!(is_told(&e) && e.to_string().starts_with("law.json: "), "{e}"),
        }
    }
}
