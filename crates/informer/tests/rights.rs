//! The rights in `manifests/rbac.yaml` are those that the informer uses, and within those of `system:node-proxier`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};

const MANIFEST: &str = include_str!("../../../manifests/rbac.yaml");

#[test]
fn the_manifest_grants_what_is_asked_for_and_no_more() {
    let documents: Vec<_> = MANIFEST.split("\n---\n").collect();
    let [account, role, binding] = documents.as_slice() else { panic!("three documents, not {}", documents.len()) };
    let account: ServiceAccount = serde_saphyr::from_str(account).expect("a ServiceAccount");
    let role: ClusterRole = serde_saphyr::from_str(role).expect("a ClusterRole");
    let binding: ClusterRoleBinding = serde_saphyr::from_str(binding).expect("a ClusterRoleBinding");

    assert_eq!(Some(&binding.role_ref.name), role.metadata.name.as_ref());
    let subject = &binding.subjects.as_deref().unwrap_or_default()[0];
    assert_eq!(
        (Some(&subject.name), &subject.namespace),
        (account.metadata.name.as_ref(), &account.metadata.namespace)
    );

    let mut granted = BTreeSet::new();
    for rule in role.rules.unwrap_or_default() {
        for group in rule.api_groups.unwrap_or_default() {
            for resource in rule.resources.iter().flatten() {
                granted.extend(rule.verbs.iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
    // Contract §10.2 grants these to every kube-proxy.
    let used = [
        "list /nodes",
        "list /services",
        "list discovery.k8s.io/endpointslices",
        "list networking.k8s.io/servicecidrs",
        "watch /nodes",
        "watch /services",
        "watch discovery.k8s.io/endpointslices",
        "watch networking.k8s.io/servicecidrs",
    ];
    assert_eq!(granted, used.map(str::to_owned).into());
}
