//! What a packet costs, drawn.

use anyhow::Result;
use benches::{Legend, Plot};
use serde_json::Value;

use crate::report::number;

/// Draws what the number of foreign rules and the threshold do.
pub(crate) fn draw(instructions: &Value) -> Result<()> {
    let points = |list: &Value, x: &str, y: &str| {
        // A logarithmic axis has no 0; the first point stands at its edge.
        let point = |at: &Value| (number(&at[x]).max(1.0), number(&at[y]));
        list.as_array().into_iter().flatten().map(point).collect::<Vec<_>>()
    };
    let rules = &instructions["foreign_rules"];
    let by_rules = Plot {
        path: "target/bench/fastpath-rules.svg",
        title: "A packet of a long Service connection, by other programs' rules in forward",
        x: "rules of other programs in forward (the leftmost point: none)",
        y: "instructions",
        legend: Legend::MiddleLeft,
        lines: vec![
            ("slow path".into(), points(rules, "rules", "service_slow")),
            ("fast path".into(), points(rules, "rules", "service_fast")),
        ],
    };
    let thresholds = instructions["thresholds"].as_array().into_iter().flatten();
    let line = |at: &Value| {
        let threshold = number(&at["threshold"]);
        let name = if threshold > 0.0 { format!("threshold {threshold}") } else { "no fast path".into() };
        let means = at["mean_by_length"].as_array().into_iter().flatten();
        (name, means.map(|pair| (number(&pair[0]), number(&pair[1]))).collect())
    };
    let by_threshold = Plot {
        path: "target/bench/fastpath-threshold.svg",
        title: "A packet of a Service connection on average, by the threshold",
        x: "packets of the connection in one direction, after the first question and answer",
        y: "instructions",
        legend: Legend::MiddleLeft,
        lines: thresholds.map(line).collect(),
    };
    [by_rules, by_threshold].iter().try_for_each(Plot::draw)
}
