//! One file on loopback over HTTP, for programs that fetch it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use crate::Result;

/// A server of one file, which ends with this process.
#[derive(Debug)]
pub(super) struct Web(SocketAddr);

impl Web {
    pub(super) fn start(file: &Path) -> Result<Self> {
        let content: Arc<[u8]> = std::fs::read(file)?.into();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let content = Arc::clone(&content);
                // A client that goes away needs no answer.
                std::thread::spawn(move || drop(answer(&stream, &content)));
            }
        });
        Ok(Self(address))
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/archive.tgz", self.0)
    }
}

fn answer(stream: &TcpStream, content: &[u8]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
    { stream }.write_all(head.as_bytes())?;
    { stream }.write_all(content)
}
