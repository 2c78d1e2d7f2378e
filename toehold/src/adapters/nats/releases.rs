//! Which release of nats-server each server is.

use std::collections::BTreeMap;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::NatsAddress;
use super::asking::TRY;

/// The most bytes of what a server says first.
const MAX_LINE: u64 = 64 * 1024;

/// A release, such as 2.9.21.
pub(super) type Release = [u32; 3];

/// The releases of the servers that an address names, by the servers' names; without those that do not tell. It is in the line with
/// which a server begins every connection, before anything is sent to it.
pub(super) async fn of(address: &NatsAddress) -> BTreeMap<String, Release> {
    let each = address.servers().map(async |server| timeout(TRY, greeting(&server)).await.ok().flatten());
    futures_util::future::join_all(each).await.into_iter().flatten().collect()
}

async fn greeting(server: &str) -> Option<(String, Release)> {
    let stream = TcpStream::connect(server.strip_prefix("nats://")?).await.ok()?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line).await.ok()?;
    said(&line)
}

/// The name and the release of a server that begins so.
fn said(line: &str) -> Option<(String, Release)> {
    let info: serde_json::Value = serde_json::from_str(line.strip_prefix("INFO ")?).ok()?;
    let text = |name: &str| info.get(name)?.as_str();
    let mut numbers = text("version")?.split(['.', '-', '+']).map(str::parse);
    let release = [numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?];
    Some((text("server_name")?.to_owned(), release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_who_it_is_and_which_release() {
        let line = |version: &str| format!("INFO {{\"server_name\":\"n1\",\"version\":\"{version}\",\"max_payload\":1}} \r\n");
        for (version, release) in [("2.9.10", Some([2, 9, 10])), ("2.10.0-beta.3", Some([2, 10, 0])), ("2.9", None), ("x", None)]
        {
            assert_eq!(said(&line(version)), release.map(|release| ("n1".to_owned(), release)), "{version}");
        }
        for other in ["", "INFO", "INFO {}", "-ERR 'no'\r\n"] {
            assert_eq!(said(other), None, "{other}");
        }
    }
}
