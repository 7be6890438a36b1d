//! What a ClusterRole grants.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::Value;
use testing::api::Request;

use crate::schema::strictly;

/// Group, resource and verb.
pub(crate) type Right = (String, String, String);

/// What `system:node-proxier` grants (contract §10.2): the most that a drop-in may ask for.
pub(crate) const NODE_PROXIER: [(&str, &str, &[&str]); 7] = [
    ("", "services", &["list", "watch"]),
    ("", "endpoints", &["list", "watch"]),
    ("", "nodes", &["get", "list", "watch"]),
    ("networking.k8s.io", "servicecidrs", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("", "events", &["create", "patch", "update"]),
    ("events.k8s.io", "events", &["create", "patch", "update"]),
];

/// All that a role grants, one by one.
pub(crate) fn granted(role: &Value) -> BTreeSet<Right> {
    let role: ClusterRole = strictly(role).unwrap();
    let mut rights = BTreeSet::new();
    for rule in role.rules.unwrap() {
        assert_eq!((&rule.resource_names, &rule.non_resource_urls), (&None, &None));
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                rights.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
            }
        }
    }
    rights
}

/// What a role has to grant for this request to be answered.
pub(crate) fn needed(request: &Request) -> Right {
    let mut parts = request.path.trim_start_matches('/').split('/');
    let group = if parts.next() == Some("api") { "" } else { parts.next().unwrap() };
    let mut parts = parts.skip(1).peekable();
    if parts.next_if_eq(&"namespaces").is_some() {
        parts.next();
    }
    let resource = parts.next().unwrap();
    let verb = match (request.method.as_str(), parts.next()) {
        ("GET", _) if request.query.contains_key("watch") => "watch",
        ("GET", Some(_)) => "get",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PATCH", _) => "patch",
        ("PUT", _) => "update",
        (other, _) => panic!("nothing should ask for {other} {}", request.path),
    };
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}
