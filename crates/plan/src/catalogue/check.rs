//! What a row of the catalogue must be, so that a user's own file cannot make a plan of infinities: names, months and sizes.
//! Which keys there are, serde says.

use super::{Catalogue, month};
use crate::units::MOST;

/// A millionth of any unit that the rows have.
const LEAST: f64 = 1e-6;

impl Catalogue {
    /// Sizes that something is divided by or paid with are above zero, months are months, and no name is there twice.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut sizes: Vec<(&str, &str, Option<f64>)> = Vec::new();
        for a in &self.accelerators {
            sizes.extend([
                (a.name.as_str(), "memory_gib", Some(a.memory_gib)),
                (&a.name, "peak_tflops", Some(a.peak_tflops)),
                (&a.name, "attainable_tflops", a.attainable_tflops),
                (&a.name, "single_tflops", a.single_tflops),
                (&a.name, "units", Some(a.units)),
                (&a.name, "memory_gb_per_sec", Some(a.memory_gb_per_sec)),
                (&a.name, "link_gb_per_sec", Some(a.link_gb_per_sec.or(a.pci_gb_per_sec).unwrap_or_default())),
                (&a.name, "pci_gb_per_sec", a.pci_gb_per_sec),
                (&a.name, "switch_share", a.switch_share),
                (&a.name, "mma_share", a.mma_share),
                (&a.name, "watts", a.watts),
            ]);
        }
        for i in &self.instances {
            sizes.extend([(i.name.as_str(), "net_gbps", Some(i.net_gbps)), (&i.name, "vcpus", Some(i.vcpus as f64))]);
            sizes.push((&i.name, "memory_gib", Some(i.memory_gib)));
            sizes.extend(i.prices.iter().map(|p| (i.name.as_str(), "usd_per_hour", Some(p.usd_per_hour))));
            sizes.push((&i.name, "count", i.accelerator.as_ref().map(|_| i.count as f64)));
            if let Some(p) =
                i.prices.iter().find(|p| month(&p.from).is_none() || [&p.until, &p.seen].into_iter().flatten().any(|m| month(m).is_none()))
            {
                return Err(format!("`{}`: the months of the price {} are not like `2020-11`", i.name, p.usd_per_hour));
            }
        }
        for l in &self.languages {
            let b = l.bytes_per_token;
            sizes.extend([b.of_50k, b.of_100k, b.of_200k].map(|v| (l.name.as_str(), "bytes_per_token", Some(v))));
        }
        for m in &self.models {
            let all = [("params", Some(m.params)), ("active_params", m.active_params), ("context", Some(m.context)), ("tokens", m.tokens)];
            sizes.extend(all.map(|(key, value)| (m.name.as_str(), key, value)));
        }
        for r in &self.runs {
            let all = [("params", Some(r.params)), ("tokens", r.tokens), ("samples", r.samples), ("days", r.days), ("hours", r.hours)];
            sizes.extend(all.map(|(key, value)| (r.name.as_str(), key, value)));
        }
        sizes.extend(self.stages.iter().map(|s| (s.name.as_str(), "mb_per_sec", Some(s.mb_per_sec))));
        let rates =
            self.images.iter().flat_map(|i| [("decoded_per_sec", i.decoded_per_sec), ("made_per_sec", i.made_per_sec)].map(|r| (i, r)));
        sizes.extend(rates.map(|(i, (key, rate))| (i.name.as_str(), key, Some(rate))));
        sizes.extend(self.storage.iter().map(|s| (s.name.as_str(), "usd_per_gb_month", Some(s.usd_per_gb_month))));
        // What is smaller or larger than anything that there is would only come back as infinities.
        let is_size = |value: f64| (LEAST..=MOST).contains(&value);
        if let Some((name, key, Some(value))) = sizes.iter().find(|(_, _, value)| value.is_some_and(|value| !is_size(value))) {
            return Err(format!("`{name}`: `{key}` is {value}, and must lie from {LEAST:e} to {MOST:e}"));
        }
        let names = |kind: &'static str, names: Vec<&str>| twice(names).map(|name| format!("{kind} `{name}` is there twice"));
        let twice = names("accelerator", self.accelerators.iter().map(|r| r.name.as_str()).collect())
            .or(names("images", self.images.iter().map(|r| r.name.as_str()).collect()))
            .or(names("instance", self.instances.iter().map(|r| r.name.as_str()).collect()))
            .or(names("language", self.languages.iter().map(|r| r.name.as_str()).collect()))
            .or(names("model", self.models.iter().map(|r| r.name.as_str()).collect()))
            .or(names("run", self.runs.iter().map(|r| r.name.as_str()).collect()))
            .or(names("stage", self.stages.iter().map(|r| r.name.as_str()).collect()))
            .or(names("storage", self.storage.iter().map(|r| r.name.as_str()).collect()));
        twice.map_or(Ok(()), Err)
    }
}

/// A name that stands in more than one row.
fn twice(mut names: Vec<&str>) -> Option<String> {
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].to_owned())
}
