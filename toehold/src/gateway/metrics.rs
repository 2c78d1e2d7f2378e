//! What a gateway counts, and how it is told to Prometheus.

use std::fmt::Write as _;

use super::limits::Count;
use crate::counters::{Counters, counters};

counters! {
    AcceptFailed "toehold_gateway_accept_failures_total" "" "Connections that the system did not hand over.",
    ConnectionAccepted "toehold_gateway_connections_total" "outcome=\"accepted\"" "TCP connections.",
    ConnectionRefused "toehold_gateway_connections_total" "outcome=\"refused\"" "TCP connections.",
    HandshakeDone "toehold_gateway_handshakes_total" "outcome=\"done\"" "TLS handshakes.",
    HandshakeFailed "toehold_gateway_handshakes_total" "outcome=\"failed\"" "TLS handshakes.",
    ProxyHeaderBad "toehold_gateway_proxy_headers_bad_total" "" "Load balancers' headers that could not be read.",
    StrangerTimedOut "toehold_gateway_strangers_timed_out_total" "" "Connections closed since nobody authenticated in time.",
    CallRefused "toehold_gateway_calls_refused_total" "" "Calls over their source's allowance.",
    MessageRefused "toehold_gateway_messages_refused_total" "" "Messages over their agent's allowance.",
    SessionEnded "toehold_gateway_sessions_ended_total" "" "Sessions of agents that were removed or have joined anew.",
    Panic "toehold_gateway_panics_total" "" "Connections that a fault of the program ended.",
    JoinedV1 "toehold_gateway_joins_total" "protocol=\"v1\",outcome=\"joined\"" "Joins.",
    RefusedV1 "toehold_gateway_joins_total" "protocol=\"v1\",outcome=\"refused\"" "Joins.",
    JoinedV2 "toehold_gateway_joins_total" "protocol=\"v2\",outcome=\"joined\"" "Joins.",
    RefusedV2 "toehold_gateway_joins_total" "protocol=\"v2\",outcome=\"refused\"" "Joins.",
    JoinedV3 "toehold_gateway_joins_total" "protocol=\"v3\",outcome=\"joined\"" "Joins.",
    FailedV3 "toehold_gateway_joins_total" "protocol=\"v3\",outcome=\"unproven\"" "Joins.",
    RefusedV3 "toehold_gateway_joins_total" "protocol=\"v3\",outcome=\"refused\"" "Joins.",
    Authenticated "toehold_gateway_authentications_total" "outcome=\"done\"" "Agents that came back.",
    NotAuthenticated "toehold_gateway_authentications_total" "outcome=\"failed\"" "Agents that came back.",
    SignaturesMade "toehold_gateway_signatures_total" "" "Signatures over tokens for Opni's agents.",
    AuditFailed "toehold_gateway_audit_failures_total" "" "Events that are not in the audit log.",
    StoreFailed "toehold_gateway_store_failures_total" "" "Requests that the store did not answer.",
    TokensSwept "toehold_gateway_tokens_swept_total" "" "Tokens cleared away after their end.",
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

    /// How many so far.
    pub fn value(&self, counter: Counter) -> u64 {
        self.0.value(counter as usize)
    }

    /// Prometheus' text format.
    pub fn text(&self, count: Count, is_ready: bool) -> String {
        let mut text = self.0.text();
        // Writing to a text does not fail.
        let _ = writeln!(
            text,
            "# HELP toehold_gateway_open_connections Connections that are open.\n# TYPE toehold_gateway_open_connections gauge\n\
             toehold_gateway_open_connections{{of=\"agents\"}} {}\ntoehold_gateway_open_connections{{of=\"strangers\"}} {}\n\
             # HELP toehold_gateway_ready Whether it takes connections and its store answers.\n# TYPE toehold_gateway_ready gauge\n\
             toehold_gateway_ready {}",
            count.agents,
            count.strangers,
            u8::from(is_ready)
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_one_name_stand_together() {
        let metrics = Metrics::default();
        metrics.count(Counter::JoinedV3);
        metrics.add(Counter::TokensSwept, 2);
        let text = metrics.text(Count { agents: 3, strangers: 4 }, true);
        assert!(text.contains("toehold_gateway_joins_total{protocol=\"v3\",outcome=\"joined\"} 1\n"), "{text}");
        assert!(text.contains("toehold_gateway_tokens_swept_total 2\n") && text.contains("{of=\"agents\"} 3\n"), "{text}");
        assert_eq!(text.matches("# TYPE toehold_gateway_joins_total").count(), 1);
    }
}
