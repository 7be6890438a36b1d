//! The kube-proxy binary.
