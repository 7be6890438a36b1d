//! Medians, ratios, and what is required of them.

use std::{fs, iter};

use anyhow::{Context as _, Result};
use benches::{Bound, Requirement};
use serde_json::{Map, Value, json};

const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// Where all reports go.
const PATH: &str = "target/bench/fastpath.json";

/// What was measured on one kernel.
pub(crate) struct Report {
    kernel: String,
    /// By family.
    rounds: Map<String, Value>,
    /// By family, mode and figure.
    medians: Map<String, Value>,
    pub(crate) instructions: Value,
}

impl Report {
    pub(crate) fn new(kernel: &str, rounds: &Value, instructions: Value) -> Result<Self> {
        let rounds = rounds.as_object().context("rounds of each family")?.clone();
        let mut medians = Map::new();
        for (family, rounds) in &rounds {
            let rounds = rounds.as_array().context("rounds")?;
            let modes = rounds.first().and_then(Value::as_object).context("no round")?;
            let of_mode = |(mode, figures): (&String, &Value)| {
                let figures = figures.as_object().into_iter().flatten();
                let medians = figures.map(|(figure, _)| (figure.clone(), median(rounds, mode, figure).into()));
                (mode.clone(), Value::Object(medians.collect()))
            };
            medians.insert(family.clone(), Value::Object(modes.iter().map(of_mode).collect()));
        }
        Ok(Self { kernel: kernel.to_owned(), rounds, medians, instructions })
    }

    /// Medians and rounds are those of IPv4; those of IPv6 have names of their own.
    fn to_json(&self) -> Value {
        let of = |map: &Map<String, Value>, family: &str| map.get(family).cloned().unwrap_or_default();
        json!({
            "kernel": self.kernel,
            "medians": of(&self.medians, "ipv4"),
            "medians_ipv6": of(&self.medians, "ipv6"),
            "instructions": self.instructions,
            "rounds": of(&self.rounds, "ipv4"),
            "rounds_ipv6": of(&self.rounds, "ipv6"),
        })
    }

    /// Prints all figures, and what is required of them.
    pub(crate) fn print(&self) {
        println!("\nkernel {}", self.kernel);
        for family in FAMILIES {
            let modes = self.medians[family].as_object();
            for (mode, figures) in modes.into_iter().flatten() {
                let figures = figures.as_object().into_iter().flatten();
                let figures: Vec<_> = figures.map(|(name, median)| format!("{name} {:.1}", number(median))).collect();
                println!("  {family} {mode:<14} {}", figures.join("  "));
            }
            let costs = self.instructions[family].as_object().into_iter().flatten();
            let costs: Vec<_> = costs.map(|(name, cost)| format!("{name} {:.0}", number(cost))).collect();
            println!("  {family} instructions   {}", costs.join("  "));
        }
        self.requirements().iter().for_each(|requirement| println!("  {requirement}"));
    }

    fn requirements(&self) -> Vec<Requirement> {
        FAMILIES
            .into_iter()
            .flat_map(|family| self.costs(family).chain(self.rates(family)).collect::<Vec<_>>())
            .collect()
    }

    /// What a packet in the fast path costs next to others, and a short connection next to one without the fast path.
    fn costs(&self, family: &'static str) -> impl Iterator<Item = Requirement> {
        let costs = &self.instructions[family];
        let others =
            [("service_slow", 0.45), ("service_slow_50_rules", 0.19), ("plain_route", 0.85), ("tc_redirect", 1.5)];
        others.into_iter().map(move |(other, limit)| Requirement {
            what: format!("{family}, instructions, service_fast/{other}"),
            measured: number(&costs["service_fast"]) / number(&costs[other]),
            bound: Bound::AtMost(limit),
        })
    }

    /// How much gets through the fast path next to the slow one.
    fn rates(&self, family: &'static str) -> impl Iterator<Item = Requirement> {
        let (fast, slow) = (&self.medians[family]["service_fast"], &self.medians[family]["service_slow"]);
        let rates = [("tcp_stream", 1.1), ("small_packets", 1.1), ("crr", 0.98)];
        let rates = rates.into_iter().map(move |(figure, limit)| Requirement {
            what: format!("{family}, {figure}, service_fast/service_slow"),
            measured: number(&fast[figure]) / number(&slow[figure]),
            bound: Bound::AtLeast(limit),
        });
        rates.chain(iter::once(Requirement {
            what: format!("{family}, share of a long flow that passes forward"),
            measured: number(&fast["forwarded_per_1000"]) / 1000.0,
            bound: Bound::AtMost(0.01),
        }))
    }
}

/// Writes the reports: the first one as such, the others within it.
pub(crate) fn write(reports: &[Report]) -> Result<()> {
    let mut all = reports.iter().map(Report::to_json);
    let mut first = all.next().context("no report")?;
    first["other_kernels"] = all.collect();
    fs::create_dir_all("target/bench")?;
    fs::write(PATH, serde_json::to_string_pretty(&first)? + "\n").with_context(|| format!("cannot write {PATH}"))?;
    println!("written: {PATH}");
    Ok(())
}

/// The reports that were written last.
pub(crate) fn read() -> Result<Value> {
    let text =
        fs::read_to_string(PATH).with_context(|| format!("there is no {PATH}: run it without arguments first"))?;
    serde_json::from_str(&text).with_context(|| format!("{PATH} is not what this program writes"))
}

fn median(rounds: &[Value], mode: &str, figure: &str) -> f64 {
    let mut figures: Vec<_> = rounds.iter().map(|round| number(&round[mode][figure])).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A figure; what is missing is no number, and nothing that is required holds for it.
pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}
