//! What is in a file: documents, lists, objects.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::lenient::Lenient;
use crate::slim::{self, ApiObject};

/// An object in a file, or a document that could not be read.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where in the file, such as `document 2, items[3]`.
    pub(super) place: String,
    /// What is there, or what is wrong.
    pub(super) content: Result<Content, String>,
}

#[derive(Debug)]
pub(super) enum Content {
    Service(Box<Lenient<slim::Service>>),
    Slice(Lenient<slim::EndpointSlice>),
    ServiceCidr(Lenient<slim::ServiceCidr>),
    Node(Lenient<slim::Node>),
    /// A kind that means nothing here.
    Other(String),
}

/// Whether a file of this name is read: `*.yaml`, `*.yml` and `*.json`, but not hidden ones, as editors and ConfigMap
/// volumes make them.
pub(super) fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// Everything in a file, in order. A mistake costs one document.
pub(super) fn parse(path: &Path, text: &str) -> Vec<Entry> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = if path.extension().is_some_and(|extension| extension == "json") { json(text) } else { yaml(text) };
    let mut entries = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        let place = format!("document {}", index + 1);
        match document {
            Ok(Value::Null) => {}
            Ok(value) => objects(value, place, &mut entries),
            Err(message) => entries.push(Entry { place, content: Err(message) }),
        }
    }
    entries
}

fn json(text: &str) -> Vec<Result<Value, String>> {
    let documents = serde_json::Deserializer::from_str(text).into_iter();
    documents.map(|document| document.map_err(|error| format!("is not JSON: {error}"))).collect()
}

/// Splits before parsing, so that a syntax error ends with its document. `---` in the first column is a document marker
/// wherever it stands (YAML 1.2.2, rule 203).
fn yaml(text: &str) -> Vec<Result<Value, String>> {
    let is_marker = |line: &str| {
        line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let mut documents = vec![(0_u64, String::new())];
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        if is_marker(line) {
            documents.push((number, String::new()));
        }
        if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
        }
    }
    let is_blank =
        |line: &str| is_marker(line) && line[3..].trim().is_empty() || line.trim().is_empty() || line.starts_with('#');
    documents.retain(|(_, document)| !document.lines().all(is_blank));
    documents.into_iter().map(|(offset, document)| yaml_document(&document, offset)).collect()
}

fn yaml_document(document: &str, line_offset: u64) -> Result<Value, String> {
    // The parser's budget is made for input from strangers; ten thousand Services exceed it. Its limit on aliases stays.
    let options = serde_saphyr::options! { budget: None };
    serde_saphyr::from_str_with_options(document, options).map_err(|error| {
        let options =
            serde_saphyr::render_options! { snippets: serde_saphyr::SnippetMode::Off, line_offset: line_offset };
        format!("is not YAML: {}", error.render_with_options(options))
    })
}

/// Takes lists apart. An item of a `ServiceList` need not say its kind again.
fn objects(mut document: Value, place: String, entries: &mut Vec<Entry>) {
    let kind = document["kind"].as_str().unwrap_or_default().to_owned();
    let Some(item_kind) = kind.strip_suffix("List") else {
        entries.push(Entry { place, content: object(document, &kind) });
        return;
    };
    match document["items"].take() {
        Value::Array(items) => entries.extend(items.into_iter().enumerate().map(|(index, item)| {
            let kind = item["kind"].as_str().unwrap_or(item_kind).to_owned();
            Entry { place: format!("{place}, items[{index}]"), content: object(item, &kind) }
        })),
        Value::Null => {}
        _ => entries.push(Entry { place, content: Err("items is not a list".to_owned()) }),
    }
}

fn object(value: Value, kind: &str) -> Result<Content, String> {
    match kind {
        "Service" => typed(value).map(|service| Content::Service(Box::new(service))),
        "EndpointSlice" => typed(value).map(Content::Slice),
        "ServiceCIDR" => typed(value).map(Content::ServiceCidr),
        "Node" => typed(value).map(Content::Node),
        "" => Err("has no kind".to_owned()),
        _ => Ok(Content::Other(kind.to_owned())),
    }
}

fn typed<T: ApiObject + DeserializeOwned>(value: Value) -> Result<Lenient<T>, String> {
    let wanted = if T::GROUP.is_empty() { "v1".to_owned() } else { format!("{}/v1", T::GROUP) };
    if let Some(version) = value["apiVersion"].as_str().filter(|version| *version != wanted) {
        return Err(format!("apiVersion {version:?} of {} is not understood: it must be {wanted:?}", T::KIND));
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(name: &str, text: &str) -> Vec<String> {
        let entries = parse(Path::new(name), text);
        let what = |content: Result<Content, String>| match content {
            Ok(Content::Service(service)) => {
                let meta = service.value().and_then(|service| service.metadata.value());
                format!("Service {:?}", meta.and_then(|meta| meta.name.value()))
            }
            Ok(Content::Slice(_)) => "EndpointSlice".to_owned(),
            Ok(Content::ServiceCidr(_)) => "ServiceCIDR".to_owned(),
            Ok(Content::Node(_)) => "Node".to_owned(),
            Ok(Content::Other(kind)) => format!("other {kind}"),
            Err(message) => message,
        };
        entries.into_iter().map(|entry| format!("{}: {}", entry.place, what(entry.content))).collect()
    }

    #[test]
    fn documents_and_lists() {
        let text = "# A comment.\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n---\nkind: Pod\n--- # more\n\
                    apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node}\n- 5\n\
                    - {apiVersion: networking.k8s.io/v1, kind: ServiceCIDR}\n---\n\
                    apiVersion: discovery.k8s.io/v1\nkind: EndpointSliceList\nitems:\n- {metadata: {name: x}}\n";
        let wanted = [
            "document 1: Service Some(\"a\")",
            "document 2: other Pod",
            "document 3, items[0]: Node",
            "document 3, items[1]: has no kind",
            "document 3, items[2]: ServiceCIDR",
            "document 4, items[0]: EndpointSlice",
        ];
        assert_eq!(summary("a.yaml", text), wanted);
        assert_eq!(summary("a.yaml", ""), [""; 0]);
        assert_eq!(summary("a.yaml", "\u{feff}# Nothing.\r\n---\r\n"), [""; 0]);
    }

    #[test]
    fn a_mistake_costs_one_document_and_says_its_line() {
        let text = "kind: Service\nmetadata: {name: a}\n---\nkind: Service\n  metadata: [\n---\nkind: Service\n";
        let found = summary("a.yml", text);
        assert_eq!(found.len(), 3);
        assert!(found[1].starts_with("document 2: is not YAML: ") && found[1].contains("line 5"), "{found:?}");
        assert!(!found[1].contains('\n'), "{found:?}");
        assert_eq!(found[2], "document 3: Service None");
    }

    #[test]
    fn json_files() {
        let text = "{\"kind\": \"Service\", \"apiVersion\": \"v1\", \"metadata\": {\"name\": \"a\"}}\n{\"kind\": \n";
        let found = summary("a.json", text);
        assert_eq!(found[0], "document 1: Service Some(\"a\")");
        assert!(found[1].starts_with("document 2: is not JSON: EOF"), "{found:?}");
    }

    #[test]
    fn versions_and_shapes() {
        let beta = "{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1beta1}";
        assert_eq!(
            summary("a.yaml", beta),
            ["document 1: apiVersion \"discovery.k8s.io/v1beta1\" of EndpointSlice is not understood: it must be \
              \"discovery.k8s.io/v1\""]
        );
        assert_eq!(summary("a.yaml", "kind: ServiceList\nitems: 5"), ["document 1: items is not a list"]);
        assert_eq!(summary("a.yaml", "just text"), ["document 1: has no kind"]);
    }

    #[test]
    fn which_files_are_manifests() {
        let named = |name: &str| is_manifest(&Path::new("/etc/manifests").join(name));
        assert!(["a.yaml", "a.yml", "a.json"].into_iter().all(named));
        assert!(![".a.yaml", "a.yaml~", "a.txt", "..data", "yaml", ".yaml"].into_iter().any(named));
    }
}
