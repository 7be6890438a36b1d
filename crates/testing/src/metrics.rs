//! A strict reader of what `/metrics` serves, and the form in which `docs/metrics.md` lists it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// All metrics of one name.
#[derive(Clone, Debug, Default)]
pub struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// What the page says about it.
    pub help: String,
    /// The value of each sample, by the rest of its name, such as `_count`, and its labels as they are written, without braces.
    pub samples: BTreeMap<(String, String), f64>,
}

/// Reads a page in the text format of Prometheus, version 0.0.4.
///
/// # Errors
/// It is not of that format, or something in it contradicts something else.
pub fn parse(page: &str) -> Result<BTreeMap<String, Family>> {
    ensure!(page.ends_with('\n'), "the last line is incomplete");
    let mut families = BTreeMap::<String, Family>::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) = line
            .strip_prefix("# HELP ")
            .and_then(|help| help.split_once(' '))
            .with_context(|| format!("not the help of a family: {line:?}"))?;
        let (of, kind) = lines
            .next()
            .and_then(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .with_context(|| format!("{name} has no type"))?;
        ensure!(of == name, "the type of {of} follows the help of {name}");
        let mut family = Family { kind: kind.to_owned(), help: help.to_owned(), samples: BTreeMap::new() };
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            family.take(name, line).with_context(|| format!("{line:?}"))?;
        }
        family.check().with_context(|| name.to_owned())?;
        ensure!(families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
    }
    Ok(families)
}

/// A Markdown table of families, and one of the buckets of their histograms, as lines.
pub fn tables(families: &BTreeMap<String, Family>) -> (Vec<String>, Vec<String>) {
    let text = |words: Vec<String>| if words.is_empty() { String::new() } else { format!("`{}`", words.join("`, `")) };
    let row = |(name, family): (&String, &Family)| {
        // Markdown would take it for HTML.
        let help = family.help.replace('<', "&lt;");
        format!("| `{name}` | {} | {} | {help} |", family.kind, text(family.labels()))
    };
    let histogram = |(name, family): (&String, &Family)| {
        (family.kind == "histogram").then(|| format!("| `{name}` | {} |", family.buckets().join(", ")))
    };
    (families.iter().map(row).collect(), families.iter().filter_map(histogram).collect())
}

impl Family {
    /// The names of its labels, without that of buckets.
    pub fn labels(&self) -> Vec<String> {
        let labels = self.samples.keys().next().map_or("", |(_, labels)| labels);
        let names = split(labels).unwrap_or_default().into_iter().map(|(name, _)| name.to_owned());
        names.filter(|name| name != "le").collect()
    }

    /// The upper bounds of a histogram's buckets, as they are written.
    pub fn buckets(&self) -> Vec<String> {
        let bounds = |labels| split(labels).unwrap_or_default().into_iter().filter(|(name, _)| *name == "le");
        let all = self.samples.keys().flat_map(|(_, labels)| bounds(labels)).map(|(_, bound)| bound.to_owned());
        let mut buckets: Vec<String> = all.collect();
        // What Rust cannot read is last; it reads `+Inf`.
        buckets.sort_by(|one, other| one.parse().unwrap_or(f64::NAN).total_cmp(&other.parse().unwrap_or(f64::NAN)));
        buckets.dedup();
        buckets
    }

    /// Takes in `name{label="value"} 1`.
    fn take(&mut self, name: &str, line: &str) -> Result<()> {
        let (sample, value) = line.rsplit_once(' ').context("no value")?;
        let (sample, labels) = match sample.split_once('{') {
            Some((sample, labels)) => (sample, labels.strip_suffix('}').context("no closing brace")?),
            None => (sample, ""),
        };
        let suffix = sample.strip_prefix(name).context("not of this family")?;
        let value = value.parse().context("not a number")?;
        split(labels).context("malformed labels")?;
        ensure!(self.samples.insert((suffix.to_owned(), labels.to_owned()), value).is_none(), "a second time");
        Ok(())
    }

    /// That it has samples, all of the same labels, and such as its type has.
    fn check(&self) -> Result<()> {
        ensure!(!self.help.is_empty() && !self.samples.is_empty(), "no help, or no samples");
        for ((suffix, labels), value) in &self.samples {
            let names: Vec<_> = split(labels).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
            let expected = self.labels();
            ensure!(names.iter().filter(|name| **name != "le").eq(expected.iter()), "{labels} instead of {expected:?}");
            match (self.kind.as_str(), suffix.as_str()) {
                ("gauge", "") | ("histogram", "_sum") => {}
                ("counter", "") | ("histogram", "_count") => ensure!(*value >= 0.0, "less than none"),
                ("histogram", "_bucket") => ensure!(names.contains(&"le"), "a bucket without a bound"),
                (kind, suffix) => bail!("a {kind} has no {suffix}"),
            }
        }
        Ok(())
    }
}

/// `a="1",b="2"` as pairs; `None` if it is anything else. No value of ours has a quote or a comma in it.
fn split(labels: &str) -> Option<Vec<(&str, &str)>> {
    let pairs = labels.split(',').filter(|label| !label.is_empty());
    pairs
        .map(|label| {
            let (name, value) = label.split_once('=')?;
            let value = value.strip_prefix('"')?.strip_suffix('"')?;
            let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') && !name.is_empty();
            (is_name && !value.contains('"')).then_some((name, value))
        })
        .collect()
}
