//! Exec and attach over WebSocket: frames and outcomes (`k8s.io/apimachinery/pkg/util/remotecommand`, protocols v4 and v5).

mod frame;
mod outcome;

pub use frame::{Frame, MAX_INPUT, OFFERED, Protocol, TerminalSize, encode_resize, encode_stdin};
pub use outcome::{ExecEnd, MAX_STATUS, Outcome};
