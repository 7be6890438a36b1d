//! Who may ask what: a client has the rights of kube-proxy, and no others.

use std::fmt;

use axum::http::Method;

/// The rules of ClusterRole `system:node-proxier` (contract §10.2): API group, resource, verbs.
const NODE_PROXIER: [(&str, &str, &[&str]); 7] = [
    ("", "services", &["list", "watch"]),
    ("", "endpoints", &["list", "watch"]),
    ("", "nodes", &["get", "list", "watch"]),
    ("networking.k8s.io", "servicecidrs", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("", "events", &["create", "patch", "update"]),
    ("events.k8s.io", "events", &["create", "patch", "update"]),
];

/// A right to do something, as a rule of a role gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The API group; that of the core is empty.
    pub group: String,
    /// The resource, in the plural, with its subresource if there is one.
    pub resource: String,
    /// What may be done.
    pub verb: String,
}

impl Right {
    /// One of these.
    pub fn new(group: &str, resource: &str, verb: &str) -> Self {
        Self { group: group.to_owned(), resource: resource.to_owned(), verb: verb.to_owned() }
    }

    /// What a request takes; `None` if it is for no resource, such as `/version`, which everyone may ask for.
    pub(super) fn for_request(method: &Method, path: &str, watching: bool) -> Option<Self> {
        let parts: Vec<_> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match &parts[..] {
            ["api", _version, rest @ ..] => ("", rest),
            ["apis", group, _version, rest @ ..] => (*group, rest),
            _ => return None,
        };
        let rest = if let ["namespaces", _, rest @ ..] = rest { rest } else { rest };
        let [resource, name @ ..] = rest else { return None };
        let verb = match (method.as_str(), name.is_empty()) {
            ("GET" | "HEAD", true) if watching => "watch",
            ("GET" | "HEAD", true) => "list",
            ("GET" | "HEAD", false) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "deletecollection",
            _ => "delete",
        };
        // A subresource has a name of its own, which no rule here gives.
        let resource = [resource].into_iter().chain(name.iter().skip(1)).copied().collect::<Vec<_>>().join("/");
        Some(Self::new(group, &resource, verb))
    }

    /// Whether kube-proxy has it: ClusterRole `system:node-proxier` (contract §10.2).
    pub fn is_kube_proxys(&self) -> bool {
        NODE_PROXIER.iter().any(|(group, resource, verbs)| {
            (self.group == *group && self.resource == *resource) && verbs.contains(&self.verb.as_str())
        })
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in API group {:?}", self.verb, self.resource, self.group)
    }
}
