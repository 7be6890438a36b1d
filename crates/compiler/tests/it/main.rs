//! The compiler through its front door: changes in, packets out.
//!
//! What kube-proxy's own tests pin (contract §12.1, and §12.2 for topology and conntrack) is here or, with real sockets, in
//! `e2e/tests/it`, under these names.
//!
//! | kube-proxy | traced | over sockets |
//! |---|---|---|
//! | `OverallNFTablesRules` | `rules::ipv4`, `ipv6`, the elements of one Service: `elements_of_a_worked_service` | |
//! | `NoEndpointsReject` | `packets::without_endpoints_every_frontend_refuses` | `frontends::` the same |
//! | `ClusterIPGeneral` | `packets::cluster_ip`, `a_port_belongs_to_…`, `one_port_number_of_three_protocols`, `service_cidrs::` | `frontends::every_frontend_reaches_all_endpoints` |
//! | `LoadBalancer` | `source_ranges::`, with affinity and policies `affinity::` | `source_ranges::` |
//! | `NodePorts` | `node_ports::`, both families | `configuration::node_ports_answer_where_…`, `node_ports::` |
//! | `ExternalTrafficPolicyLocal`, `-Cluster` | `packets::external_policy_…` | `policies::external_policy_local_…`, `frontends::` |
//! | `InternalTrafficPolicy` | `packets::internal_policy_local` | `policies::internal_policy_local` |
//! | `TerminatingEndpointsTrafficPolicy…` | `packets::terminating_endpoints_…` | `policies::terminating_endpoints` |
//! | `InternalExternalMasquerade` | `masquerade::`, all flows of all variants, both families, each way to tell pods | `masquerade::`, `local_traffic::` |
//! | `BuildServiceMapServiceUpdate` | `packets::a_service_that_becomes_a_load_balancer_…` | `changes::services_come_change_and_go` |
//! | `UpdateEndpointsMap` | `flow_checks::` (conntrack), `model/tests/state.rs` | `udp::` |
//! | `SyncProxyRulesRepeated` | `shape::each_change_of_a_sequence_…`, `a_change_touches_only_…`, `chains_that_nothing_needs_are_swept` | |
//! | `SyncProxyRulesStartup` | `reconcile::` | `adoption::`, `takeover::` |
//! | `OnServiceCIDRsChanged` | `service_cidrs::`, `rules::service_cidrs` | `source_ranges::unallocated_cluster_ips_…` |
//! | `topology_test.go` | `topology::`, `model/tests/topology.rs` | `topology::` |
//! | `conntrack` (§12.2) | `flow_checks::`, `proxy/src/flows` | `udp::` |
//! | `HealthCheckNodePortWhenTerminating`, `NoEndpointsMetric` | | `health_checks::` |
//! | packet tracer (`helpers_test.go`) | `tracing::` | |
//! | `LoadBalancerIngressRouteTypeProxy` | `informer/src/convert/tests/services.rs` | `frontends::a_load_balancer_that_is_a_proxy_is_none_of_ours` |
//! | headless, `ExternalName`, `BadIPs` | `informer/src/convert/tests`, `model/src/address.rs` | |
//!
//! Chains have no names made of Services here, so that `servicePortChainNameBase` has nothing to test.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world has failed")]

mod affinity;
mod claims;
mod fastpath;
mod flow_checks;
mod histories;
mod masquerade;
mod node_ports;
mod packets;
mod reconcile;
mod rules;
mod service_cidrs;
mod shape;
mod source_ranges;
mod topology;
mod tracing;
mod upkeep;
mod world;
