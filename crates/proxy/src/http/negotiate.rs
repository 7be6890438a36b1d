//! `/flagz` and `/statusz`: text for people, or, for who asks for exactly that, an object of `config.k8s.io`.

use std::collections::BTreeMap;

use axum::http::header::{ACCEPT, WARNING};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::pages::text;
use super::plain;

/// What a client is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json(Version),
    Yaml(Version),
}

/// Of the API group `config.k8s.io`. They have the same fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1Beta1,
    V1Alpha1,
}

/// An object of this kind with these fields, or a page with these lines.
pub(super) fn answer(headers: &HeaderMap, kind: &str, lines: &str, fields: Value) -> Response {
    let object = |version: Version| {
        let mut object = json!({"kind": kind, "apiVersion": version.api_version(), "metadata": {"name": "kube-proxy"}});
        if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
            object.extend(fields);
        }
        object
    };
    match negotiate(headers, kind) {
        Some(Form::Text) => text(page(kind, lines)),
        Some(Form::Json(version)) => versioned(version, plain("application/json", object(version).to_string())),
        Some(Form::Yaml(version)) => {
            let yaml = serde_saphyr::to_string(&object(version)).unwrap_or_else(|error| format!("# {error}\n"));
            versioned(version, plain("application/yaml", yaml))
        }
        None => (StatusCode::NOT_ACCEPTABLE, text(refusal(kind))).into_response(),
    }
}

fn page(kind: &str, lines: &str) -> String {
    let name = kind.to_lowercase();
    format!(
        "\nkube-proxy {name}\nWarning: this page is for people, and its form may change; programs ask for an object by the Accept header.\n\n\
         {lines}"
    )
}

fn refusal(kind: &str) -> String {
    format!(
        "there is text/plain, and application/json or application/yaml with the parameters as={kind};g={GROUP};v={}\n",
        Version::V1Beta1.name()
    )
}

fn versioned(version: Version, mut response: Response) -> Response {
    if version == Version::V1Alpha1 {
        let warning = HeaderValue::from_static("299 - \"v1alpha1 is deprecated: ask for v=v1beta1\"");
        response.headers_mut().insert(WARNING, warning);
    }
    response
}

/// The first form of those that the client likes best; `None` if there is none.
fn negotiate(headers: &HeaderMap, kind: &str) -> Option<Form> {
    let accepted: Vec<_> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accepted = accepted.join(",");
    if accepted.trim().is_empty() {
        return Some(Form::Text);
    }
    let mut ranges: Vec<_> = accepted.split(',').map(Range::new).collect();
    ranges.sort_by(|one, other| other.quality().total_cmp(&one.quality()));
    ranges.iter().filter(|range| range.quality() > 0.0).find_map(|range| range.form(kind))
}

/// One of the media types that a client accepts, with its parameters.
struct Range<'a> {
    media_type: &'a str,
    parameters: BTreeMap<&'a str, &'a str>,
}

const GROUP: &str = "config.k8s.io";

impl<'a> Range<'a> {
    fn new(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let parameters = parts.filter_map(|part| part.split_once('=')).collect();
        Self { media_type, parameters }
    }

    /// How much the client likes it: 1 if it does not say.
    fn quality(&self) -> f32 {
        self.parameters.get("q").map_or(1.0, |quality| quality.parse().unwrap_or(0.0))
    }

    /// An object is only sent to those who say which one.
    fn form(&self, kind: &str) -> Option<Form> {
        match (self.media_type, self.parameters.get("as")) {
            ("*/*" | "text/*" | "text/plain", None) => Some(Form::Text),
            ("*/*" | "application/json", Some(_)) => Some(Form::Json(self.version(kind)?)),
            ("application/yaml", Some(_)) => Some(Form::Yaml(self.version(kind)?)),
            _ => None,
        }
    }

    fn version(&self, kind: &str) -> Option<Version> {
        let is = |name, value| self.parameters.get(name) == Some(&value);
        let known = [Version::V1Beta1, Version::V1Alpha1];
        known.into_iter().find(|version| is("as", kind) && is("g", GROUP) && is("v", version.name()))
    }
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::V1Beta1 => "v1beta1",
            Self::V1Alpha1 => "v1alpha1",
        }
    }

    fn api_version(self) -> String {
        format!("{GROUP}/{}", self.name())
    }
}
