//! Metrics of requests to the API server, under the names and with the meaning that client-go gives them.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec};

use super::register::{self, Register};
use super::{Metrics, MetricsError};

#[derive(Debug)]
pub(super) struct Requests {
    total: IntCounterVec,
    duration: HistogramVec,
    request_size: HistogramVec,
    response_size: HistogramVec,
}

impl Requests {
    pub(super) fn new(register: &Register<'_>) -> Result<Self, MetricsError> {
        let of_host = &["verb", "host"];
        Ok(Self {
            total: register.counters_by(
                "rest_client_requests_total",
                "[ALPHA] Requests to the API server, by HTTP status code (<error> if there was no answer), method and host",
                &["code", "method", "host"],
            )?,
            duration: register.histograms_by(
                "rest_client_request_duration_seconds",
                "[ALPHA] How long requests to the API server took, except watches, up to the end of the answer, in seconds",
                of_host,
                register::request_buckets(),
            )?,
            request_size: register.histograms_by(
                "rest_client_request_size_bytes",
                "[ALPHA] Bodies of requests to the API server, except watches, in bytes",
                of_host,
                register::size_buckets(),
            )?,
            response_size: register.histograms_by(
                "rest_client_response_size_bytes",
                "[ALPHA] Bodies of the API server's answers, except to watches, in bytes",
                of_host,
                register::size_buckets(),
            )?,
        })
    }
}

impl Metrics {
    /// A request was answered with this HTTP status code, or was not answered.
    pub fn request_answered(&self, code: Option<u16>, method: &str, host: &str) {
        let code = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        self.requests.total.with_label_values(&[code.as_str(), method, host]).inc();
    }

    /// A request, which is not a watch, is over after `elapsed`. So many bytes of body were sent, and so many came if there was an
    /// answer.
    pub fn request_completed(&self, method: &str, host: &str, elapsed: Duration, sent: u64, received: Option<u64>) {
        let Requests { duration, request_size, response_size, .. } = &self.requests;
        duration.with_label_values(&[method, host]).observe(elapsed.as_secs_f64());
        let sizes = [(request_size, Some(sent)), (response_size, received)];
        for (size, bytes) in sizes.into_iter().filter_map(|(size, bytes)| Some((size, bytes?))) {
            size.with_label_values(&[method, host]).observe(bytes as f64);
        }
    }
}
