//! What users install: the manifests and the Helm chart, rendered by kubectl and Helm, the alerts and the dashboard, asked by
//! promtool, and the image, run by a container runtime. `make unit` runs the former, `make image-test` the latter.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod chart;
mod container;
mod image;
mod manifests;
mod monitoring;
mod render;
mod rights;
mod schema;
