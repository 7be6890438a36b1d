//! Kubernetes API and manifest directory as one stream of model updates.
