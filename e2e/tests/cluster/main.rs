//! The proxy with an API server, and packets. Where `SLIPSTREAM_E2E_KUBECONFIG` names the kubeconfig of a cluster's administrator, the
//! objects are made in that cluster, in a namespace of each test, and the proxy follows it with the rights of kube-proxy; without, a
//! fake API server that knows no other rights stands in. Node, pods and clients are network namespaces of this machine in any case.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod services;
mod world;
