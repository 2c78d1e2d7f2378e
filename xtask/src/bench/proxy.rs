//! A TCP proxy on loopback that adds to the round trip of what passes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Result;

/// The round trip that is added, shared by any number of proxies and changed at any time.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundTrip(Arc<AtomicU64>);

impl RoundTrip {
    pub(super) fn set(&self, round_trip: Duration) {
        self.0.store(u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn one_way(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed) / 2)
    }
}

/// A proxy to one port of 127.0.0.1; it takes no further connections once it is dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    port: u16,
    ended: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(super) fn start(to: u16, round_trip: &RoundTrip) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let ended = Arc::new(AtomicBool::new(false));
        let accepting = std::thread::spawn({
            let (ended, round_trip) = (Arc::clone(&ended), round_trip.clone());
            move || {
                for client in listener.incoming() {
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                    let round_trip = round_trip.clone();
                    // A connection that cannot be made is one that the other side sees closed.
                    std::thread::spawn(move || client.and_then(|client| pass(client, to, &round_trip)));
                }
            }
        });
        Ok(Self { port, ended, accepting: Some(accepting) })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

/// Passes one connection on. Its handshake costs a round trip, too.
fn pass(client: TcpStream, to: u16, round_trip: &RoundTrip) -> std::io::Result<()> {
    std::thread::sleep(round_trip.one_way() * 2);
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    for (from, into) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        let (late, arriving) = channel();
        let round_trip = round_trip.clone();
        std::thread::spawn(move || deliver(into, &arriving));
        std::thread::spawn(move || {
            let mut from = from;
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                if late.send((Instant::now() + round_trip.one_way(), bytes)).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

/// Writes each piece when its time has come.
fn deliver(mut into: TcpStream, arriving: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, bytes)) = arriving.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if into.write_all(&bytes).is_err() {
            break;
        }
    }
    drop(into.shutdown(Shutdown::Write));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_both_ways_and_take_the_time_that_was_asked_for() {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = echo.local_addr().unwrap().port();
        let echoing = std::thread::spawn(move || {
            let (mut client, _) = echo.accept().unwrap();
            let mut all = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = client.read(&mut buffer) {
                all.extend_from_slice(&buffer[..length]);
                client.write_all(&buffer[..length]).unwrap();
            }
            all
        });
        let round_trip = RoundTrip::default();
        round_trip.set(Duration::from_millis(40));
        let proxy = Proxy::start(to, &round_trip).unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        let begun = Instant::now();
        client.write_all(b"there and back").unwrap();
        let mut back = [0; 14];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"there and back");
        assert!(begun.elapsed() >= Duration::from_millis(80), "the connection and the message: {:?}", begun.elapsed());
        client.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        assert_eq!(echoing.join().unwrap(), b"there and back");
    }
}
