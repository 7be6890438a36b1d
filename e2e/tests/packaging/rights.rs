//! What a ClusterRole grants.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::Value;
use testing::api::Right;

use crate::schema::strictly;

/// All that a role grants, one by one.
pub(crate) fn granted(role: &Value) -> BTreeSet<Right> {
    let role: ClusterRole = strictly(role).unwrap();
    let mut rights = BTreeSet::new();
    for rule in role.rules.unwrap() {
        assert_eq!((&rule.resource_names, &rule.non_resource_urls), (&None, &None));
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                rights.extend(rule.verbs.iter().map(|verb| Right::new(group, resource, verb)));
            }
        }
    }
    rights
}
