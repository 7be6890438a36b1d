//! Measurements against kube-proxy's ruleset shape.
