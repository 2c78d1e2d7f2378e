//! What pods stand on here: this machine.

use serde_json::Value;

use crate::gateway::file_of;
use crate::support::Toehold;

/// Expands to the pod's name in a shell in it.
pub(crate) const POD_NAME: &str = "$TOEHOLD_POD";

/// How much may be on its way between a client and a process, in bytes.
pub(crate) const ON_ITS_WAY: usize = 20_000_000;

/// This machine.
#[derive(Clone, Debug)]
pub(crate) struct Ground;

impl Ground {
    pub(crate) fn new() -> Self {
        Self
    }

    /// The options that say which pods are meant.
    #[expect(clippy::unused_self, reason = "other grounds have something to say")]
    pub(crate) fn options(&self, toehold: &Toehold, config: &Value) -> Vec<String> {
        let mut options = vec!["--backend".to_owned(), "local".to_owned()];
        if config.as_object().is_some_and(|config| !config.is_empty()) {
            let path = file_of(toehold, "config.json");
            std::fs::write(&path, config.to_string()).unwrap();
            options.extend(["--config".to_owned(), path.to_str().unwrap().to_owned()]);
        }
        options
    }

    /// Whether no directory of a pod is left.
    pub(crate) fn is_empty(&self, toehold: &Toehold) -> bool {
        self.directories(toehold) == 0
    }

    /// How many directories of pods there are.
    #[expect(clippy::unused_self, reason = "other grounds have something to say")]
    pub(crate) fn directories(&self, toehold: &Toehold) -> usize {
        std::fs::read_dir(toehold.state().join("pods")).unwrap().count()
    }

    /// Whether a process of a pod runs that it knows by this number.
    #[expect(clippy::unused_self, reason = "other grounds have something to say")]
    pub(crate) fn is_alive(&self, number: i32) -> bool {
        crate::gateway::is_alive(number)
    }
}
