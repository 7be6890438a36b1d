//! Requests over time, drawn.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::stampede::Comeback;

const PATH: &str = "target/bench/cluster-comeback.svg";
const SIZE: (u32, u32) = (760, 420);
const COLOURS: [RGBColor; 5] = [
    RGBColor(170, 60, 50),
    RGBColor(40, 110, 180),
    RGBColor(60, 140, 80),
    RGBColor(130, 90, 160),
    RGBColor(200, 140, 30),
];
/// What is drawn, in seconds from when the server was well again.
const SECONDS: usize = 70;

/// Draws how many requests there were in each second.
pub(crate) fn draw(comebacks: &[Comeback]) -> Result<()> {
    lines(comebacks).map_err(|error| anyhow!("cannot draw {PATH}: {error}"))?;
    println!("written: {PATH}");
    Ok(())
}

fn lines(comebacks: &[Comeback]) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(PATH, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let most = comebacks.iter().flat_map(Comeback::since_well).max().copied().unwrap_or_default();
    let mut chart = ChartBuilder::on(&area)
        .caption("Requests of 5,000 nodes whose API server failed all of them at once", ("sans-serif", 17))
        .margin(12)
        .margin_right(30)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0..SECONDS, 0..most)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("seconds since the server is well again").y_desc("requests in a second");
    mesh.light_line_style(WHITE).draw()?;
    for (comeback, colour) in comebacks.iter().zip(COLOURS) {
        let since_well = comeback.since_well().iter().copied().chain([0]).enumerate().take(SECONDS);
        chart
            .draw_series(LineSeries::new(since_well, colour.stroke_width(2)))?
            .label(comeback.fault.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}
