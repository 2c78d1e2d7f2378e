//! What a gateway of pods counts, and how it is told to Prometheus.

use std::fmt::Write as _;

use crate::counters::{Counters, counters};
use crate::gateway::limits::Count;

counters! {
    AcceptFailed "toehold_pods_accept_failures_total" "" "Connections that the system did not hand over.",
    ConnectionAccepted "toehold_pods_connections_total" "outcome=\"accepted\"" "TCP connections.",
    ConnectionRefused "toehold_pods_connections_total" "outcome=\"refused\"" "TCP connections.",
    Cut "toehold_pods_cut_total" "" "Connections that were cut for what they sent.",
    HandshakeFailed "toehold_pods_handshakes_failed_total" "" "Connections that ended before anybody had logged in.",
    LoggedIn "toehold_pods_logins_total" "outcome=\"done\"" "Logins.",
    LoginRefused "toehold_pods_logins_total" "outcome=\"refused\"" "Logins.",
    LoginTimedOut "toehold_pods_logins_total" "outcome=\"too_late\"" "Logins.",
    PodReady "toehold_pods_pods_total" "outcome=\"ready\"" "Pods for connections and channels.",
    PodFailed "toehold_pods_pods_total" "outcome=\"failed\"" "Pods for connections and channels.",
    ChannelOpened "toehold_pods_channels_total" "outcome=\"opened\"" "Session channels.",
    ChannelRefused "toehold_pods_channels_total" "outcome=\"refused\"" "Session channels.",
    RequestRefused "toehold_pods_requests_refused_total" "" "Requests over their source's allowance.",
    Started "toehold_pods_processes_total" "" "Shells, commands and subsystems.",
    Panic "toehold_pods_panics_total" "" "Connections that a fault of the program ended.",
    Reaped "toehold_pods_reaped_total" "" "Pods, owners and records of gateways that are gone, cleared away.",
    AuditFailed "toehold_pods_audit_failures_total" "" "Events that are not in the audit log.",
}

/// Counts.
#[derive(Debug)]
pub struct Metrics(Counters);

impl Default for Metrics {
    fn default() -> Self {
        Self(Counters::new(COUNTERS))
    }
}

impl Metrics {
    /// One more.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Several more.
    pub fn add(&self, counter: Counter, many: u64) {
        self.0.add(counter as usize, many);
    }

    /// Prometheus' text format.
    pub fn text(&self, count: Count, pods: usize, is_ready: bool) -> String {
        let mut text = self.0.text();
        for (name, help, value) in [
            ("toehold_pods_open_connections", "Connections on which somebody has logged in.", count.agents),
            ("toehold_pods_open_strangers", "Connections on which nobody has logged in yet.", count.strangers),
            ("toehold_pods_pods", "Pods that are there or on their way.", pods),
            ("toehold_pods_ready", "Whether connections are taken and the backend answers.", usize::from(is_ready)),
        ] {
            // Writing to a text does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_one_name_stand_together() {
        let metrics = Metrics::default();
        metrics.count(Counter::LoggedIn);
        let text = metrics.text(Count { agents: 3, strangers: 4 }, 2, true);
        assert!(
            text.contains("toehold_pods_logins_total{outcome=\"done\"} 1\n") && text.contains("toehold_pods_pods 2\n"),
            "{text}"
        );
        assert_eq!(text.matches("# TYPE toehold_pods_logins_total").count(), 1);
    }
}
