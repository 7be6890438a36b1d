//! Metrics, health state and logging.
