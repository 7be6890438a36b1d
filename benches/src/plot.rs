//! Plots on logarithmic axes, as SVG.

use std::ops::Range;

use anyhow::{Result, anyhow};
/// A place within a plot.
pub use plotters::chart::SeriesLabelPosition as Legend;
use plotters::prelude::*;

const SIZE: (u32, u32) = (760, 420);
const COLOURS: [RGBColor; 4] =
    [RGBColor(170, 60, 50), RGBColor(40, 110, 180), RGBColor(60, 140, 80), RGBColor(130, 90, 160)];

/// A line with what it is called.
pub type Line = (String, Vec<(f64, f64)>);

/// A plot on logarithmic axes, which have no 0.
#[derive(Clone, Debug)]
pub struct Plot {
    /// The file it is written to.
    pub path: &'static str,
    /// What stands above it.
    pub title: &'static str,
    /// What stands at the horizontal axis.
    pub x: &'static str,
    /// What stands at the vertical axis.
    pub y: &'static str,
    /// Where the names of the lines stand, so that they cover none.
    pub legend: Legend,
    /// At most four, each with another colour.
    pub lines: Vec<Line>,
}

impl Plot {
    /// Draws it into its file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn draw(&self) -> Result<()> {
        self.try_draw().map_err(|error| anyhow!("cannot draw {}: {error}", self.path))?;
        println!("written: {}", self.path);
        Ok(())
    }

    fn try_draw(&self) -> Result<(), Box<dyn std::error::Error + '_>> {
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
        let number = |number: &f64| format!("{number}");
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(self.x).y_desc(self.y).x_label_formatter(&number).y_label_formatter(&number);
        // Of ten, some would overlap where there is one power of ten.
        mesh.x_labels(9).light_line_style(WHITE).draw()?;
        for ((name, line), colour) in self.lines.iter().zip(COLOURS) {
            let series = LineSeries::new(line.iter().copied(), colour.stroke_width(2)).point_size(3);
            chart
                .draw_series(series)?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
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
