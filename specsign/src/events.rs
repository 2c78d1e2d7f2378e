//! Notifications as Choria's watchers send them: `CloudEvents` 1.0.

use std::fmt;

use serde::Serialize;
use toehold_core::Timestamp;

use crate::document::Format;
use crate::machine::MachineName;

/// How a pass ended: the states of Choria's watcher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::exhaustive_enums, reason = "Choria's set")]
pub enum Outcome {
    /// There was no pass yet.
    #[default]
    Unknown,
    /// There was nothing to look at.
    Skipped,
    /// Something went wrong, with one machine or with all.
    Error,
    /// Something was changed.
    Updated,
    /// Everything is as it should be.
    Unchanged,
}

impl Outcome {
    /// Whether it is told at once; others are told now and then.
    pub fn is_news(self) -> bool {
        matches!(self, Self::Error | Self::Updated)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Skipped => "skipped",
            Self::Error => "error",
            Self::Updated => "updated",
            Self::Unchanged => "unchanged",
        })
    }
}

/// Who notifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notifier {
    /// The node's name.
    pub identity: String,
    /// The id of the machine that manages the others, a UUID.
    pub machine_id: String,
    /// Its version.
    pub version: String,
    /// Its name.
    pub machine: String,
    /// The watcher's name.
    pub watcher: String,
}

/// A notification about a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    /// Whose.
    pub notifier: &'a Notifier,
    /// About what.
    pub format: Format,
    /// Its own id, a UUID.
    pub id: &'a str,
    /// When it is sent.
    pub time: Timestamp,
    /// The names of the last good list, also of those that do not belong here.
    pub names: &'a [MachineName],
    /// How the pass ended.
    pub outcome: Outcome,
    /// How long it took, in nanoseconds.
    pub run_time: u64,
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'static str,
    r#type: &'a str,
    subject: &'a str,
    datacontenttype: &'static str,
    time: Timestamp,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    protocol: &'a str,
    identity: &'a str,
    id: &'a str,
    version: &'a str,
    timestamp: i64,
    r#type: &'static str,
    machine: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    machines: Option<&'a [MachineName]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plugins: Option<&'a [MachineName]>,
    previous_outcome: Outcome,
    previous_run_time: u64,
}

impl Notification<'_> {
    /// The event as it goes out.
    ///
    /// # Errors
    /// Never for a notification; the encoding is checked all the same.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let kind = format!("io.choria.machine.watcher.{}.v1.state", self.format);
        let Notifier { identity, machine_id, version, machine, watcher } = self.notifier;
        let names = |format| (self.format == format).then_some(self.names);
        let json = serde_json::to_string(&CloudEvent {
            specversion: "1.0",
            id: self.id,
            source: "io.choria.machine",
            r#type: &kind,
            subject: identity,
            datacontenttype: "application/json",
            time: self.time,
            data: Data {
                protocol: &kind,
                identity,
                id: machine_id,
                version,
                timestamp: self.time.unix_seconds(),
                r#type: self.format.member(),
                machine,
                name: watcher,
                machines: names(Format::Machines),
                plugins: names(Format::Plugins),
                previous_outcome: self.outcome,
                previous_run_time: self.run_time,
            },
        })?;
        // As Go writes texts; these characters stand nowhere else.
        let mut escaped = String::with_capacity(json.len());
        for c in json.chars() {
            match c {
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => escaped.push(c),
            }
        }
        Ok(escaped)
    }
}

impl fmt::Display for Notification<'_> {
    /// One line for people, as Choria prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Notifier { identity, machine, watcher, .. } = self.notifier;
        let kind = match self.format {
            Format::Machines => "machines",
            Format::Plugins => "plugin",
        };
        let names = self.names.iter().map(MachineName::as_str).collect::<Vec<_>>().join(", ");
        let milliseconds = self.run_time.saturating_add(500_000) / 1_000_000;
        let (seconds, milliseconds) = (milliseconds / 1000, milliseconds % 1000);
        write!(f, "{identity} {machine}#{watcher} {kind}: {names}, previous: {} ran: {seconds}.{milliseconds:03}s", self.outcome)
    }
}
