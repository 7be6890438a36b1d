//! What a packet costs, drawn.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde_json::Value;

use crate::report::number;

const SIZE: (u32, u32) = (760, 420);
const COLOURS: [RGBColor; 4] =
    [RGBColor(170, 60, 50), RGBColor(40, 110, 180), RGBColor(60, 140, 80), RGBColor(130, 90, 160)];

/// A line with what it is called.
type Line = (String, Vec<(f64, f64)>);

/// A plot on logarithmic axes.
struct Plot {
    path: &'static str,
    title: &'static str,
    x: &'static str,
    lines: Vec<Line>,
}

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
        lines: thresholds.map(line).collect(),
    };
    [by_rules, by_threshold].iter().try_for_each(|plot| {
        plot.draw().map_err(|error| anyhow!("cannot draw {}: {error}", plot.path))?;
        println!("written: {}", plot.path);
        Ok(())
    })
}

impl Plot {
    fn draw(&self) -> Result<(), Box<dyn std::error::Error + '_>> {
        let area = SVGBackend::new(self.path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (xs, ys) = (self.range(|point| point.0), decades(&self.range(|point| point.1)));
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 17))
            .margin(12)
            .margin_right(30)
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d((xs.start..xs.end).log_scale(), (ys.start..ys.end).log_scale())?;
        let number = |number: &f64| format!("{number:.0}");
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(self.x).y_desc("instructions").x_label_formatter(&number).y_label_formatter(&number);
        mesh.light_line_style(WHITE).draw()?;
        for ((name, line), colour) in self.lines.iter().zip(COLOURS) {
            let series = LineSeries::new(line.iter().copied(), colour.stroke_width(2)).point_size(3);
            chart
                .draw_series(series)?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::MiddleLeft)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
        Ok(())
    }

    /// From the least to the greatest of all points.
    fn range(&self, of: impl Fn(&(f64, f64)) -> f64) -> Range<f64> {
        let all = self.lines.iter().flat_map(|(_, points)| points.iter().map(&of));
        all.fold(f64::INFINITY..f64::NEG_INFINITY, |range, at| range.start.min(at)..range.end.max(at))
    }
}

/// The powers of ten around a range, which a logarithmic axis has marks at.
fn decades(range: &Range<f64>) -> Range<f64> {
    10_f64.powf(range.start.log10().floor())..10_f64.powf(range.end.log10().ceil())
}
