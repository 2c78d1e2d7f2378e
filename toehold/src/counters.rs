//! What a server counts, and how it is told to Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter's name, its labels and its help text. Those of one name stand together.
pub(crate) type Description = (&'static str, &'static str, &'static str);

/// Makes the enumeration `Counter` and its table `COUNTERS` of [`Description`]s.
macro_rules! counters {
    ($($variant:ident $name:literal $labels:literal $help:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each has its help text")]
        pub enum Counter { $($variant,)* }

        const COUNTERS: &[$crate::counters::Description] = &[$(($name, $labels, $help),)*];
    };
}
pub(crate) use counters;

/// Counts, by their places in the table.
#[derive(Debug)]
pub(crate) struct Counters {
    descriptions: &'static [Description],
    values: Vec<AtomicU64>,
}

impl Counters {
    /// None counted yet.
    pub(crate) fn new(descriptions: &'static [Description]) -> Self {
        Self { descriptions, values: descriptions.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    /// So many more.
    pub(crate) fn add(&self, place: usize, many: u64) {
        if let Some(value) = self.values.get(place) {
            value.fetch_add(many, Ordering::Relaxed);
        }
    }

    /// How many so far.
    pub(crate) fn value(&self, place: usize) -> u64 {
        self.values.get(place).map_or(0, |value| value.load(Ordering::Relaxed))
    }

    /// Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut last = "";
        for ((name, labels, help), value) in self.descriptions.iter().zip(&self.values) {
            if *name != last {
                // Writing to a text does not fail.
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
                last = name;
            }
            let value = value.load(Ordering::Relaxed);
            let _ =
                if labels.is_empty() { writeln!(text, "{name} {value}") } else { writeln!(text, "{name}{{{labels}}} {value}") };
        }
        text
    }
}
