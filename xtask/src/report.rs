//! Steps, their times, and the table at the end.

use std::time::{Duration, Instant};

use crate::Result;

/// The steps of one run. A step that fails does not keep the next one from running.
#[derive(Debug, Default)]
pub(crate) struct Report {
    steps: Vec<Step>,
    only: Vec<String>,
    left_out: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    took: Duration,
    error: Option<String>,
}

impl Report {
    /// A report of the steps in `only`, or of all of them where it is empty.
    pub(crate) fn new(only: Vec<String>) -> Self {
        Self { only, ..Self::default() }
    }

    /// Whether a step of this name is to run.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }

    /// Runs a step, unless only others are wanted.
    pub(crate) fn step(&mut self, name: &'static str, step: impl FnOnce(&mut Self) -> Result<()>) {
        if !self.wants(name) {
            return;
        }
        println!("\n== {name}");
        let start = Instant::now();
        let error = step(self).err().map(|error| error.to_string());
        let took = start.elapsed();
        match &error {
            None => println!("== {name}: ok, {}", seconds(took)),
            Some(error) => println!("{error}\n== {name}: FAILED, {}", seconds(took)),
        }
        self.steps.push(Step { name, took, error });
    }

    /// Something that was not checked, to be said in the last lines.
    pub(crate) fn leave_out(&mut self, what: impl Into<String>) {
        self.left_out.push(what.into());
    }

    /// Something worth a look that fails nothing.
    pub(crate) fn warn(&mut self, what: impl Into<String>) {
        let what = what.into();
        println!("warning: {what}");
        self.warnings.push(what);
    }

    /// Prints the table; an error where a step failed or none ran.
    pub(crate) fn finish(self) -> Result<()> {
        println!("\n{:<16} {:>9}  result", "step", "time");
        for step in &self.steps {
            println!("{:<16} {:>9}  {}", step.name, seconds(step.took), if step.error.is_none() { "ok" } else { "FAILED" });
        }
        let total = self.steps.iter().map(|step| step.took).sum();
        println!("{:<16} {:>9}", "all", seconds(total));
        for warning in &self.warnings {
            println!("warning: {warning}");
        }
        if !self.only.is_empty() {
            println!("only these steps were asked for: {}", self.only.join(", "));
        }
        match self.left_out.as_slice() {
            [] => println!("nothing was left out"),
            left_out => left_out.iter().for_each(|what| println!("left out: {what}")),
        }
        let failed: Vec<&str> = self.steps.iter().filter(|step| step.error.is_some()).map(|step| step.name).collect();
        if self.steps.is_empty() {
            return Err("no step ran: --only names none of them".into());
        }
        if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
    }
}

/// A duration for people.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
