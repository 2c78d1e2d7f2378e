//! The way into a pod: an upgrade to a WebSocket (RFC 6455) that speaks `v5.channel.k8s.io` or `v4.channel.k8s.io`.

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, Request, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use toehold_podrun::backend::{BackendError, ExecRequest};
use toehold_podrun::exec::{MAX_INPUT, OFFERED, Protocol};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::acknowledged::Ends;
use super::api::{Api, encoded, pods, refusal, unanswered, unreadable};

const DOING: &str = "starting a process in a pod";

/// What is read at once, in bytes: as much as a kubelet puts into one message.
const READ_BUFFER: usize = 33 * 1024;

/// The longest message that is taken, in bytes.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// A stream into a pod.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

fn path(request: &ExecRequest) -> String {
    let what = if request.command.is_some() { "exec" } else { "attach" };
    let mut path = format!(
        "{}/{what}?container={}&stdin=true&stdout=true",
        pods(&request.namespace, Some(&request.pod)),
        encoded(&request.container)
    );
    // With a terminal there is one stream out, and asking for the other is refused.
    path.push_str(if request.terminal.is_some() { "&tty=true" } else { "&stderr=true" });
    for word in request.command.iter().flatten() {
        path.push_str("&command=");
        path.push_str(&encoded(word));
    }
    path
}

/// What the server has chosen.
fn protocol(headers: &HeaderMap, key: &str) -> Result<Protocol, &'static str> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if header(SEC_WEBSOCKET_ACCEPT) != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err("it speaks no WebSocket");
    }
    Protocol::chosen(header(SEC_WEBSOCKET_PROTOCOL)).ok_or("it has chosen no protocol that was offered")
}

/// A stream that was opened.
pub(super) struct Opened {
    pub(super) socket: Socket,
    pub(super) protocol: Protocol,
    /// Those of the connection below it, where they are known.
    pub(super) ends: Option<Ends>,
}

/// Opens it. The exec has begun, or a refusal has come, when it is back.
pub(super) async fn open(api: &Api, request: &ExecRequest) -> Result<Opened, BackendError> {
    let key = generate_key();
    let asked = Request::get(path(request))
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key)
        .header(SEC_WEBSOCKET_PROTOCOL, OFFERED.join(", "))
        .body(Body::empty())
        .map_err(|error| unanswered(DOING, error))?;
    api.within(DOING, async {
        let answer = api.stream(DOING, asked).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(DOING, answer, true).await);
        }
        let protocol = protocol(answer.headers(), &key).map_err(|what| unreadable(DOING, what))?;
        let ends = Ends::of(&answer);
        let upgraded = hyper::upgrade::on(answer).await.map_err(|error| unanswered(DOING, error))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            // Whatever is written goes out at once, and no more than a message or two waits for the kernel.
            .write_buffer_size(0)
            .max_write_buffer_size(4 * MAX_INPUT)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await;
        Ok(Opened { socket, protocol, ends })
    })
    .await
}

#[cfg(test)]
mod tests {
    use toehold_podrun::exec::TerminalSize;

    use super::*;

    #[test]
    fn what_is_asked_for_stands_in_the_query() {
        let mut request = ExecRequest {
            namespace: "guests".to_owned(),
            pod: "p".to_owned(),
            uid: "u".parse().unwrap(),
            container: "shell".to_owned(),
            command: Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), "a & b=c\n".to_owned()]),
            terminal: None,
        };
        let start = "/api/v1/namespaces/guests/pods/p/";
        let command = "&command=%2Fbin%2Fsh&command=-c&command=a%20%26%20b%3Dc%0A";
        assert_eq!(path(&request), format!("{start}exec?container=shell&stdin=true&stdout=true&stderr=true{command}"));
        request.terminal = Some(TerminalSize { columns: 80, rows: 24 });
        assert_eq!(path(&request), format!("{start}exec?container=shell&stdin=true&stdout=true&tty=true{command}"));
        request.command = None;
        assert_eq!(path(&request), format!("{start}attach?container=shell&stdin=true&stdout=true&tty=true"));
    }
}
