//! `toehold serve` as a process of its own, and a client of its HTTP that sends what it likes.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    unreachable_pub,
    reason = "test code: a broken assumption is a failed test, and no test uses all of it"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use toehold::adapters::sqlite::SqliteStore;
use toehold_core::{HostRecord, Stored};

use crate::support::fleet::wait;
use crate::support::{Toehold, eventually};

/// Killed when it is dropped.
#[derive(Debug)]
pub struct Serve {
    child: Child,
    events: Arc<Mutex<Vec<Value>>>,
    reading: Option<JoinHandle<()>>,
    pub http: SocketAddr,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub events: Vec<Value>,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Serve {
    /// With a status page on a port of its own.
    pub fn start(toehold: &Toehold, more: &[&str]) -> Self {
        Self::begin(toehold.command(arguments(more)))
    }

    pub fn begin(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("serve");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first: Value = serde_json::from_str(&lines.next().expect("it ended").unwrap()).unwrap();
        assert_eq!(first["event"], "serving", "{first}");
        let http = first["http"].as_str().unwrap().parse().unwrap();
        let events = Arc::new(Mutex::new(vec![first]));
        let written = Arc::clone(&events);
        let reading = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                written.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, events, reading: Some(reading), http }
    }

    /// The last event that this is true of, once there is one.
    pub fn event(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let find = || self.events.lock().unwrap().iter().rev().find(|event| wanted(event)).cloned();
        eventually(what, || find().is_some());
        find().unwrap()
    }

    /// Waits until a task has come to a state.
    pub fn task_is(&self, task: &str, state: &str) {
        eventually(&format!("{task} is {state}"), || self.state_of(task).as_deref() == Some(state));
    }

    /// The state that a task has come to last.
    pub fn state_of(&self, task: &str) -> Option<String> {
        let events = self.events.lock().unwrap();
        let last = events.iter().rev().find(|event| event["event"] == "task" && event["task"] == task)?;
        Some(last["state"].as_str().unwrap().to_owned())
    }

    /// Where the gateway listens.
    pub fn gateway(&self) -> SocketAddr {
        self.event("the gateway listens", |event| event["event"] == "listening")["address"].as_str().unwrap().parse().unwrap()
    }

    pub fn get(&self, path: &str) -> Answer {
        ask(self.http, "GET", path, &[("host", "localhost")])
    }

    /// A section of the status page.
    pub fn section(&self, id: &str) -> String {
        let page = self.get("/").body;
        let (_, rest) =
            page.split_once(&format!("<section aria-labelledby=\"{id}\">")).unwrap_or_else(|| panic!("no {id} in {page}"));
        rest.split("</section>").next().unwrap().to_owned()
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        ask(self.http, method, path, headers)
    }

    pub fn is_ready(&self) {
        eventually("it is ready", || self.get("/readyz").status == 200);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGTERM; how it ended.
    pub fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.ends()
    }

    pub fn ends(mut self) -> Ended {
        let status = self.child.wait().unwrap();
        self.reading.take().unwrap().join().unwrap();
        Ended { code: status.code().unwrap_or(-1), events: self.events.lock().unwrap().clone() }
    }

    /// SIGKILL, as by a crash; waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Those of a `serve` on ports of its own.
pub fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["--json", "serve", "--http", "127.0.0.1:0"];
    if !more.contains(&"--lease") {
        arguments.extend(["--lease", "2s"]);
    }
    if !more.contains(&"--no-gateway") && !more.contains(&"--listen") {
        arguments.extend(["--listen", "127.0.0.1:0"]);
    }
    arguments.extend(more);
    arguments
}

/// Opens a connection and asks.
pub fn open(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> TcpStream {
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    // Refused at once, it may be closed before all was said.
    let _ = tcp.write_all(format!("{method} {path} HTTP/1.1\r\n{headers}\r\n").as_bytes());
    tcp
}

pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut text = Vec::new();
    let _ = open(address, method, path, headers).read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Answer { status: 0, headers: BTreeMap::new(), body: text };
    };
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Answer { status, headers: headers.collect(), body: body.to_owned() }
}

/// A host's record, written through the store as another process writes it.
pub fn add_host(toehold: &Toehold, account: &str) {
    let record = json!({
        "account": account, "keys": [{ "role": "master", "public_key": toehold.master_key() }],
        "session": "0".repeat(32), "managed_since": "2026-01-01T00:00:00Z",
    });
    let record: HostRecord = serde_json::from_value(record).unwrap();
    let store = SqliteStore::open(&toehold.state()).unwrap();
    let key = HostRecord::key(&record.route.account).unwrap();
    wait(async { Stored::create(&store, key, record).await.unwrap() });
}
