//! A TCP proxy that stops passing bytes on when it is told to.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Passes connections on to a server of 127.0.0.1 until the server's bytes reach a limit; then it holds them and says
/// nothing more.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    passed: Arc<AtomicU64>,
    stalled: Arc<Notify>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// A proxy to `port` that lets through `limit` bytes of what the server says on each connection.
    pub async fn start(port: u16, limit: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let passed = Arc::new(AtomicU64::new(0));
        let stalled = Arc::new(Notify::new());
        let mut accepting = JoinSet::new();
        let (counter, notify) = (Arc::clone(&passed), Arc::clone(&stalled));
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, port, limit, Arc::clone(&counter), Arc::clone(&notify)));
            }
        });
        Self { port: own, passed, stalled, _accepting: accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that the server said and the proxy passed on, over all connections.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// Ends once a connection has reached the limit.
    pub async fn stalled(&self) {
        self.stalled.notified().await;
    }
}

async fn pass(client: TcpStream, port: u16, limit: u64, passed: Arc<AtomicU64>, stalled: Arc<Notify>) {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let down = async {
        let mut left = limit;
        let mut buffer = [0; 16 * 1024];
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let Ok(length @ 1..) = from_server.read(&mut buffer[..most]).await else {
                let _ = to_client.shutdown().await;
                return;
            };
            if to_client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
            left -= length as u64;
            passed.fetch_add(length as u64, Ordering::SeqCst);
        }
        stalled.notify_one();
        std::future::pending::<()>().await;
    };
    tokio::join!(up, down);
}
