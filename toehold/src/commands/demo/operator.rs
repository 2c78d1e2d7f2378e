//! Runs the installation command in a local `sh`, and prints every step with its time.

use std::time::Instant;

use serde_json::json;
use toehold_core::{Fingerprint, Route};
use toehold_keygen::install::InstallCommand;
use toehold_session::{Installed, Operator, Progress, SessionRecord};

use super::super::via::Via;
use super::milliseconds;
use crate::cli::{Output, Signals};

pub(super) struct DemoOperator {
    output: Output,
    signals: Signals,
    step: Option<(&'static str, Instant)>,
}

impl DemoOperator {
    pub(super) fn new(output: Output, signals: Signals) -> Self {
        Self { output, signals, step: None }
    }

    /// Prints the step that has just ended.
    pub(super) fn finish(&mut self) {
        if let Some((step, since)) = self.step.take() {
            let took = since.elapsed();
            self.output.document(&json!({ "event": "step", "step": step, "milliseconds": milliseconds(took) }));
            self.output.text(format_args!("{:>9.1} ms  {step}", took.as_secs_f64() * 1000.0));
        }
    }
}

impl Operator for DemoOperator {
    async fn install(&mut self, record: &SessionRecord, command: &InstallCommand<'_>) -> Result<Installed, String> {
        let line = command.script().map_err(|error| error.to_string())?;
        let shell = Via::parse("sh").map_err(|failure| failure.message)?;
        let stop = async {
            self.signals.wait().await;
            "interrupted".to_owned()
        };
        shell.run(&record.route.account, line.expose().as_bytes(), stop).await?;
        Ok(Installed::Ran)
    }

    async fn is_right_host_key(&mut self, _: &Route, _: Fingerprint) -> bool {
        false
    }

    fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Step(step) => {
                let step = if step == "showing the command" { "running the pasted line in sh" } else { step };
                if self.step.is_none_or(|(last, _)| last != step) {
                    self.finish();
                    self.step = (step != "done").then(|| (step, Instant::now()));
                }
            }
            Progress::Warning(text) => self.output.text(format_args!("              {text}")),
            _ => {}
        }
    }

    async fn wants_out(&mut self) {
        self.signals.wait().await;
    }

    fn is_leaving(&self) -> bool {
        self.signals.came()
    }
}
