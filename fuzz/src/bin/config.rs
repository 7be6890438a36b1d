//! A configuration file: a mistake is told by its file or its field, and a good one is the same when written and read again.
#![no_main]

use config::v1alpha1::KubeProxyConfiguration;
use config::{Completed, ConfigError, Loaded};
use fuzz::{done, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Some(loaded) = load(text) {
        let written = done(serde_saphyr::to_string(&loaded.effective));
        let Some(again) = load(written.as_bytes()) else { panic!("not accepted again:\n{written}") };
        assert_eq!(again.effective, loaded.effective);
        assert_eq!(again.config, loaded.config);
    }
});

fn load(text: &[u8]) -> Option<Loaded> {
    let file = write("config.conf", text);
    let (written, warnings) = KubeProxyConfiguration::read(&file)
        .inspect_err(|error| {
            let told = error.to_string();
            assert!(told.contains("config.conf"), "{told}");
            assert!(!matches!(error, ConfigError::Malformed { message, .. } if message.is_empty()), "{told}");
            assert!(told.len() < 2_000 + 4 * text.len(), "{told}");
        })
        .ok()?;
    let completed = Completed::new(written, warnings, false).ok()?;
    let told = completed.clone().validate();
    if let Err(errors) = &told {
        assert!(errors.iter().next().is_some());
        errors
            .iter()
            .for_each(|error| assert!(error.path.contains('.') || error.path.contains("Configuration"), "{error}"));
    }
    told.ok()
}
