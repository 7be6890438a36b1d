//! What a sync costs by the number of Services, drawn.

use anyhow::Result;
use benches::{Legend, Line, Plot};

use crate::figures::Figures;
use crate::{Library, Shape};

const X: &str = "Services with 10 endpoints each";
const Y: &str = "milliseconds";

pub(crate) fn draw(library: &[Library]) -> Result<()> {
    let line = |name: &str, shape, figure: fn(&Figures) -> f64| -> Line {
        let of_shape = library.iter().filter(|at| at.shape == shape);
        (name.to_owned(), of_shape.map(|at| (f64::from(at.services), figure(&at.figures))).collect())
    };
    let cold_sync = Plot {
        path: "target/bench/scale-cold.svg",
        title: "From complete lists to committed rules",
        x: X,
        y: Y,
        legend: Legend::UpperLeft,
        lines: vec![
            line("kube-proxy 1.36's layout, by nft", Shape::KubeProxy, |f| f.cold_sync_ms),
            line("Slipstream", Shape::Slipstream, |f| f.cold_sync_ms),
            line("of that, the kernel", Shape::Slipstream, |f| f.cold_sync_kernel_ms),
        ],
    };
    let change = Plot {
        path: "target/bench/scale-change.svg",
        title: "One change, median",
        x: X,
        y: Y,
        legend: Legend::MiddleRight,
        lines: vec![
            line("kube-proxy 1.36's layout, by nft", Shape::KubeProxy, |f| f.change_p50_ms),
            line("Slipstream", Shape::Slipstream, |f| f.change_p50_ms),
            line("of that, the kernel", Shape::Slipstream, |f| f.change_kernel_p50_ms),
            line("of that, Slipstream's own", Shape::Slipstream, |f| f.change_own_p50_ms),
        ],
    };
    [cold_sync, change].iter().try_for_each(Plot::draw)
}
