//! How to log.

use super::{Check, non_empty, quoted};
use crate::LogFormat;
use crate::config::Logging;
use crate::error::{ErrorKind, FieldErrors};
use crate::features::FeatureGates;
use crate::v1alpha1::{self, OutputRouting};

use super::numbers::POSITIVE;

/// Checks this section alone, before anything else (contract §2.4).
pub(crate) fn logging(written: &v1alpha1::Logging, features: &FeatureGates) -> Result<Logging, FieldErrors> {
    let mut check = Check::default();
    let logging = check.logging(written, features);
    if check.errors.is_empty() { Ok(logging) } else { Err(FieldErrors(check.errors)) }
}

impl Check {
    pub(super) fn logging(&mut self, written: &v1alpha1::Logging, features: &FeatureGates) -> Logging {
        let format = written.format.parse().unwrap_or_else(|error| {
            self.in_logging("format", ErrorKind::Invalid, quoted(&written.format), error);
            LogFormat::Text
        });
        let flush_frequency = written.flush_frequency.0;
        if flush_frequency.to_std().is_none_or(|frequency| frequency.is_zero()) {
            self.in_logging("flushFrequency", ErrorKind::Invalid, flush_frequency, POSITIVE);
        }
        self.verbosity("verbosity", written.verbosity);
        if format != LogFormat::Text && !written.vmodule.is_empty() {
            self.in_logging("vmodule", ErrorKind::Forbidden, "", "only the text format has it");
        }
        for (i, item) in written.vmodule.iter().enumerate() {
            let path = format!("vmodule[{i}].filePattern");
            match non_empty(&item.file_pattern) {
                None => self.in_logging(&path, ErrorKind::Required, "", "must name source files"),
                Some(pattern) if pattern.contains(['=', ',']) => {
                    self.in_logging(
                        &path,
                        ErrorKind::Invalid,
                        quoted(pattern),
                        "must have no equals sign and no comma",
                    );
                }
                Some(_) => {}
            }
            self.verbosity(&format!("vmodule[{i}].verbosity"), item.verbosity);
        }
        if !features.logging_alpha_options() {
            self.no_routing("text", &written.options.text);
            self.no_routing("json", &written.options.json);
        }
        Logging { format, verbosity: written.verbosity }
    }

    fn verbosity(&mut self, field: &str, verbosity: u32) {
        if i32::try_from(verbosity).is_err() {
            let detail = format!("must be less than or equal to {}", i32::MAX);
            self.in_logging(field, ErrorKind::Invalid, verbosity, detail);
        }
    }

    fn no_routing(&mut self, format: &str, written: &OutputRouting) {
        let set = [("splitStream", written.split_stream), ("infoBufferSize", !written.info_buffer_size.is_zero())];
        for (field, _) in set.into_iter().filter(|(_, set)| *set) {
            let path = format!("options.{format}.{field}");
            self.in_logging(&path, ErrorKind::Forbidden, "", "the feature gate LoggingAlphaOptions is off");
        }
    }

    fn in_logging(&mut self, field: &str, kind: ErrorKind, value: impl ToString, detail: impl ToString) {
        self.add(format!("logging.{field}"), kind, value, detail);
    }
}
