//! Configurations and kubeconfigs: no panic, no endless work; what is valid is so to the last field that we rely on.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use toehold_podrun::config::{Config, GoDuration, Kubeconfig};

fuzz_target!(|text: &str| {
    if let Ok(settings) = Config::parse(text).and_then(Config::validate) {
        assert!(!settings.container.is_empty() && !settings.namespace.is_empty() && !settings.idle_command.is_empty());
        assert!(settings.cluster.server.contains("://") && !settings.ready_within.is_zero());
    }
    if let Ok(access) = Kubeconfig::parse(text).and_then(|config| config.access(None, Path::new("/x"))) {
        assert!(access.server.starts_with("http"));
    }
    if let Ok(duration) = text.parse::<GoDuration>() {
        assert_eq!(duration.to_string().parse(), Ok(duration));
    }
});
