//! The compiler through its front door: changes in, packets out.
//!
//! What kube-proxy's own tests pin (contract §12.1) is here or, with real sockets, in `e2e/tests/it`, under these names. Not every
//! flow of every line is there yet, least of all as a trace.
//!
//! | kube-proxy | traced | over sockets |
//! |---|---|---|
//! | `OverallNFTablesRules` | `rules::ipv4`, `ipv6`: the rules, not the elements | |
//! | `NoEndpointsReject` | `packets::without_endpoints_every_frontend_refuses` | `frontends::` the same |
//! | `ClusterIPGeneral` | `packets::cluster_ip`, `one_port_number_of_three_protocols` | `frontends::every_frontend_reaches_all_endpoints` |
//! | `LoadBalancer` | `source_ranges::` | `source_ranges::` |
//! | `NodePorts` | `packets::node_ports_are_open_where_the_configuration_says` | `configuration::node_ports_answer_where_…`, `node_ports::` |
//! | `ExternalTrafficPolicyLocal`, `-Cluster` | `packets::external_policy_…` | `policies::external_policy_local_…`, `frontends::` |
//! | `InternalTrafficPolicy` | `packets::internal_policy_local` | `policies::internal_policy_local` |
//! | `TerminatingEndpointsTrafficPolicy…` | `packets::terminating_endpoints_…` | `policies::terminating_endpoints` |
//! | `InternalExternalMasquerade` | `packets::who_is_masqueraded`, a part | `masquerade::`, all flows of all variants |
//! | `UpdateEndpointsMap` | `upkeep::` (conntrack), `model/tests/state.rs` | `udp::` |
//! | `SyncProxyRulesRepeated` | `shape::a_change_touches_only_its_own_elements`, `chains_that_nothing_needs_are_swept` | |
//! | `SyncProxyRulesStartup` | `reconcile::` | `adoption::`, `takeover::` |
//! | `OnServiceCIDRsChanged` | `service_cidrs::` | `source_ranges::unallocated_cluster_ips_…` |
//! | `LoadBalancerIngressRouteTypeProxy` | | `frontends::a_load_balancer_that_is_a_proxy_is_none_of_ours` |
//! | headless, `ExternalName`, `BadIPs` | `informer/src/convert/tests`, `model/src/address.rs` | |
//!
//! Chains have no names made of Services here, so that `servicePortChainNameBase` has nothing to test.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world has failed")]

mod affinity;
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
