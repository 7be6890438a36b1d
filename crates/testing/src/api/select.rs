//! Label and field selectors, as far as a proxy uses them.

use serde_json::Value;

/// Which objects a list or watch is about. The default is all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug)]
struct Requirement {
    /// From the root of the object to the value.
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Absent,
    Present,
    /// An absent value is an empty string.
    Equals(String),
    Differs(String),
}

impl Selector {
    /// Parses `labelSelector` and `fieldSelector`. Set-based requirements (`k in (a,b)`) are not known here.
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Self, String> {
        let labels = terms(labels).map(|term| {
            let (label, test) = if let Some(label) = term.strip_prefix('!') {
                (label, Test::Absent)
            } else {
                comparison(term).unwrap_or((term, Test::Present))
            };
            let path = ["metadata", "labels", label].map(str::to_owned).to_vec();
            let known = !label.is_empty() && !label.contains([' ', '(', ')', '=', '!']);
            known.then_some(Requirement { path, test }).ok_or_else(|| format!("unable to parse requirement: {term:?}"))
        });
        let fields = terms(fields).map(|term| {
            let (path, test) = comparison(term).ok_or_else(|| format!("invalid field selector: {term:?}"))?;
            Ok(Requirement { path: path.split('.').map(str::to_owned).collect(), test })
        });
        Ok(Self { requirements: labels.chain(fields).collect::<Result<_, _>>()? })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(object))
    }
}

impl Requirement {
    fn matches(&self, object: &Value) -> bool {
        let found = self.path.iter().try_fold(object, |value, key| value.get(key));
        let text = found.and_then(Value::as_str).unwrap_or_default();
        match &self.test {
            Test::Absent => found.is_none(),
            Test::Present => found.is_some(),
            Test::Equals(wanted) => text == wanted,
            Test::Differs(unwanted) => text != unwanted,
        }
    }
}

fn terms(selector: &str) -> impl Iterator<Item = &str> {
    selector.split(',').map(str::trim).filter(|term| !term.is_empty())
}

fn comparison(term: &str) -> Option<(&str, Test)> {
    if let Some((key, value)) = term.split_once("!=") {
        return Some((key, Test::Differs(value.to_owned())));
    }
    let (key, value) = term.split_once('=')?;
    Some((key, Test::Equals(value.trim_start_matches('=').to_owned())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requirements_are_all_needed() {
        let object =
            json!({"metadata": {"name": "a", "labels": {"x": "1", "y.io/z": ""}}, "spec": {"clusterIP": "None"}});
        for (labels, fields, expected) in [
            ("", "", true),
            ("!a,x", "metadata.name=a", true),
            ("x=1", "", true),
            ("x==1", "spec.clusterIP!=", true),
            ("x!=1", "", false),
            ("a!=1", "", true),
            ("!y.io/z", "", false),
            ("y.io/z", "metadata.name!=a", false),
            ("", "spec.clusterIP!=None", false),
            ("", "spec.type!=None", true),
        ] {
            let selector = Selector::parse(labels, fields).unwrap();
            assert_eq!(selector.matches(&object), expected, "{labels:?} {fields:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (labels, fields) in [("a in (b)", ""), ("!", ""), ("", "metadata.name")] {
            assert!(Selector::parse(labels, fields).is_err(), "{labels:?} {fields:?}");
        }
    }
}
