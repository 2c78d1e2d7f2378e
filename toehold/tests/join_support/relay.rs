//! Somebody in the middle who has no key: passes the bytes of TLS connections on, keeps them, and cuts where it is told to.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Gateway,
}

/// Where a connection is to be cut: in the middle of a side's record with this number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub side: Side,
    pub record: usize,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    cut: Option<Cut>,
    /// What the client said, by connection.
    said: Vec<Vec<u8>>,
    /// Whether the last connection was cut.
    was_cut: bool,
}

/// A relay on a port of its own.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

impl Relay {
    /// Towards a gateway.
    pub fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared { to, cut: None, said: Vec::new(), was_cut: false };
        let shared = Arc::new(Mutex::new(shared));
        let for_connections = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), shared) = (client, Arc::clone(&for_connections)) else { return };
                thread::spawn(move || pass(&client, &shared));
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Another gateway from now on.
    pub fn lead_to(&self, to: SocketAddr) {
        self.shared.lock().unwrap().to = to;
    }

    /// Cuts connections from now on, or lets them be.
    pub fn cut(&self, cut: Option<Cut>) {
        let mut shared = self.shared.lock().unwrap();
        shared.cut = cut;
        shared.was_cut = false;
    }

    /// Whether one was cut since that was asked for.
    pub fn was_cut(&self) -> bool {
        self.shared.lock().unwrap().was_cut
    }

    /// How many there were.
    pub fn connections(&self) -> usize {
        self.shared.lock().unwrap().said.len()
    }

    /// All that the client said in the connection with this number, from 0.
    pub fn said(&self, connection: usize) -> Vec<u8> {
        self.shared.lock().unwrap().said[connection].clone()
    }
}

fn pass(client: &TcpStream, shared: &Arc<Mutex<Shared>>) {
    let (to, connection) = {
        let mut shared = shared.lock().unwrap();
        shared.said.push(Vec::new());
        (shared.to, shared.said.len() - 1)
    };
    let Ok(gateway) = TcpStream::connect(to) else { return };
    for stream in [client, &gateway] {
        stream.set_nodelay(true).unwrap();
    }
    thread::scope(|scope| {
        scope.spawn(|| records(Side::Client, connection, client, &gateway, shared));
        records(Side::Gateway, connection, &gateway, client, shared);
    });
}

/// Passes one direction on, record by record (RFC 8446, 5.1: a type, a version, a length of two bytes).
fn records(side: Side, connection: usize, mut from: &TcpStream, mut to: &TcpStream, shared: &Arc<Mutex<Shared>>) {
    for number in 0.. {
        let mut record = vec![0; 5];
        if from.read_exact(&mut record).is_err() {
            break;
        }
        let length = u16::from_be_bytes([record[3], record[4]]);
        record.resize(5 + usize::from(length), 0);
        if from.read_exact(&mut record[5..]).is_err() {
            break;
        }
        {
            let mut shared = shared.lock().unwrap();
            if shared.cut == Some(Cut { side, record: number }) {
                shared.was_cut = true;
                let _ = to.write_all(&record[..record.len() / 2]);
                let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
                return;
            }
            if side == Side::Client {
                shared.said[connection].extend_from_slice(&record);
            }
        }
        if to.write_all(&record).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
