//! From a file to its fields: strictly first, then leniently with warnings (contract §2.1).

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Error, MessageFormatter, Options, UserMessageFormatter};

use crate::error::{ConfigError, Warning};
use crate::v1alpha1::{API_VERSION, KIND, KubeProxyConfiguration, TypeMeta};

impl KubeProxyConfiguration {
    /// Reads a file, and gives every field that it does not set its default. Values are not yet checked.
    ///
    /// # Errors
    /// It cannot be read or parsed, or is of another kind. Unknown and repeated fields are warnings (contract §2.1).
    pub fn read(file: &Path) -> Result<(Self, Vec<Warning>), ConfigError> {
        let (mut configuration, warnings) = read(file)?;
        configuration.fill_in();
        Ok((configuration, warnings))
    }
}

fn read(file: &Path) -> Result<(KubeProxyConfiguration, Vec<Warning>), ConfigError> {
    let text = fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    let malformed = |error: Error| {
        let (line, column) = position(&error);
        ConfigError::Malformed { file: file.to_owned(), line, column, message: message(&error, &text) }
    };

    // Its kind first: whatever else is wrong with a file of another kind is of no interest.
    let mut unknown = Vec::new();
    let meta: TypeMeta = parse(&text, DuplicateKeyPolicy::LastWins, &mut unknown).map_err(malformed)?;
    if meta.api_version != API_VERSION || meta.kind != KIND {
        let TypeMeta { api_version, kind } = meta;
        return Err(ConfigError::WrongKind { file: file.to_owned(), api_version, kind });
    }

    let mut warnings = Vec::new();
    unknown.clear();
    let configuration = match parse(&text, DuplicateKeyPolicy::Error, &mut unknown) {
        Err(error) if matches!(error.without_snippet(), Error::DuplicateMappingKey { .. }) => {
            warnings.push(Warning::DuplicateField { line: position(&error).0, message: message(&error, &text) });
            unknown.clear();
            parse(&text, DuplicateKeyPolicy::LastWins, &mut unknown)
        }
        other => other,
    };
    let configuration = configuration.map_err(malformed)?;
    warnings.extend(unknown.into_iter().map(Warning::UnknownField));
    Ok((configuration, warnings))
}

/// Parses one document; `unknown` receives the paths of fields that `T` does not have.
///
/// More lenient than kube-proxy in one thing: a number or boolean in quotes is taken for what it says.
fn parse<T: DeserializeOwned>(
    text: &str,
    duplicate_keys: DuplicateKeyPolicy,
    unknown: &mut Vec<String>,
) -> Result<T, Error> {
    let options: Options = serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        // As in kube-proxy, `hostnameOverride: 1` is a number where a string is wanted.
        no_schema: true,
        with_snippet: false,
    };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        serde_ignored::deserialize(deserializer, |path| unknown.push(field_path(&path)))
    })
}

/// The path as one would write it, without the steps into a value that may be `null`.
fn field_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    let join = |parent: &Path<'_>, step: &str| match field_path(parent) {
        parent if parent.is_empty() => step.to_owned(),
        parent => format!("{parent}.{step}"),
    };
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => join(parent, key),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => field_path(parent),
    }
}

/// Line and column, counted from 1; 0 where unknown.
fn position(error: &Error) -> (u64, u64) {
    error.location().map_or((0, 0), |at| (at.line(), at.column()))
}

/// What is wrong, with the line of the file that it is about.
fn message(error: &Error, text: &str) -> String {
    let message = match error.without_snippet() {
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("field {key} is repeated").into(),
        Error::MultipleDocuments { .. } => "there is more than one document in the file".into(),
        Error::InvalidScalar { ty: "i32" | "u32", .. } => "a whole number of at most 32 bits is wanted here".into(),
        Error::InvalidScalar { ty: "boolean", .. } => "true or false is wanted here".into(),
        other => UserMessageFormatter.format_message(other),
    };
    let line = usize::try_from(position(error).0).ok().and_then(|line| text.lines().nth(line.checked_sub(1)?));
    match line.map(str::trim) {
        // JSON may be a single line of any length.
        Some(line) if !line.is_empty() && line.len() <= 120 => format!("{message}, in `{line}`"),
        _ => message.into_owned(),
    }
}
