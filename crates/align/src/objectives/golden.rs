//! Losses and gradients held against PyTorch's: the fixture and the script that made it are `tests/fixtures/objectives.json` and
//! `xtask/python/align.py`.

use serde_json::Value;

use super::{dpo::Dpo, policy::Policy, reward};

fn cases(name: &str) -> Vec<Value> {
    let fixture: Value = serde_json::from_str(include_str!("../../tests/fixtures/objectives.json")).unwrap();
    fixture[name].as_array().unwrap().clone()
}

fn list(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn ranks(case: &Value) -> Vec<u32> {
    list(&case["ranks"]).into_iter().map(|rank| rank as u32).collect()
}

fn hold(name: &str, case: &Value, (loss, slope): (f64, Vec<f64>)) {
    assert!((loss - case["loss"].as_f64().unwrap()).abs() < 1e-9, "{name}: {loss} {case}");
    for (ours, theirs) in slope.iter().zip(list(&case["slope"])) {
        assert!((ours - theirs).abs() < 1e-9, "{name}: {slope:?} {case}");
    }
}

#[test]
fn losses_and_gradients_are_those_of_pytorch() {
    let number = |case: &Value, key: &str| case[key].as_f64().unwrap();
    for case in cases("pairs") {
        hold("pairs", &case, reward::of_pairs(&list(&case["x"]), &ranks(&case), number(&case, "margin")));
    }
    for case in cases("order") {
        hold("order", &case, reward::of_order(&list(&case["x"]), &ranks(&case)));
    }
    for case in cases("dpo") {
        let dpo = Dpo { beta: number(&case, "beta"), label_smoothing: number(&case, "smoothing") };
        hold("dpo", &case, dpo.rule(&list(&case["x"]), &list(&case["reference"])));
    }
    for case in cases("policy") {
        let kl_coef = number(&case, "kl_coef");
        let policy = Policy { clip: number(&case, "clip"), value_clip: 0.2, value_coef: None, kl_coef, rows: 1 };
        let [old, advantage, reference] = ["old", "advantage", "reference"].map(|key| number(&case, key));
        let (loss, slope) = policy.token(list(&case["x"])[0], old, advantage, reference);
        hold("policy", &case, (loss, vec![slope]));
    }
    for case in cases("value") {
        let policy = Policy { clip: 0.2, value_clip: number(&case, "clip"), value_coef: Some(1.0), kl_coef: 0.0, rows: 1 };
        let (loss, slope) = policy.value(list(&case["x"])[0], number(&case, "old"), number(&case, "target"));
        hold("value", &case, (loss, vec![slope]));
    }
    for case in cases("gae") {
        let mut values = list(&case["values"]);
        values.push(0.0);
        let ours = crate::rollouts::gae(&list(&case["rewards"]), &values, number(&case, "gamma"), number(&case, "lambda"));
        for (ours, theirs) in ours.iter().zip(list(&case["advantages"])) {
            assert!((ours - theirs).abs() < 1e-9, "{ours} {theirs}");
        }
    }
}
