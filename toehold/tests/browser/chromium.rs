//! Debian's Chromium, without a window, with a profile of its own; led through chromedriver by the `WebDriver` protocol.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

/// No window, no profile of anybody's, and no host but this one. The tests may run as root, where Chromium's own sandbox does not start.
fn arguments(profile: &TempDir) -> Vec<String> {
    let profile = format!("--user-data-dir={}", profile.path().display());
    let fixed = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--no-proxy-server",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ];
    fixed.into_iter().map(str::to_owned).chain([profile]).collect()
}

/// A browser with a page; ended by its process group when it is dropped.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromedriver");
        command.args(["--port=0", "--allowed-ips=127.0.0.1"]).env("HOME", profile.path());
        // A group of its own: the browser that it starts is in it.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().expect("chromedriver");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| line.split_once("started successfully on port ").map(|(_, port)| port.to_owned()));
        let port: u16 = port.expect("chromedriver says no port").trim_end_matches('.').parse().unwrap();
        // What else it says must not hold it up.
        std::thread::spawn(move || lines.for_each(drop));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let options = json!({ "args": arguments(&profile), "binary": "/usr/bin/chromium" });
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        let made = browser.call("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        made["sessionId"].as_str().unwrap_or_else(|| panic!("{made}")).clone_into(&mut browser.session);
        browser
    }

    pub(crate) fn go_to(&self, url: &str) {
        self.of_session("POST", "url", &json!({ "url": url }));
    }

    /// What a script returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.of_session("POST", "execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Runs no script of a page any more.
    pub(crate) fn run_no_scripts(&self) {
        self.debug("Emulation.setScriptExecutionDisabled", &json!({ "value": true }));
    }

    /// The page as it stands, without any script's help.
    pub(crate) fn document(&self) -> String {
        let root = self.debug("DOM.getDocument", &json!({ "depth": 0 }))["root"]["nodeId"].clone();
        let html = self.debug("DOM.getOuterHTML", &json!({ "nodeId": root }));
        html["outerHTML"].as_str().unwrap().to_owned()
    }

    /// A command of Chrome's protocol for developer tools.
    fn debug(&self, command: &str, parameters: &Value) -> Value {
        self.of_session("POST", "goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Shows the page as a screen of this width does.
    pub(crate) fn be_wide(&self, width: u32) {
        let screen = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.debug("Emulation.setDeviceMetricsOverride", &screen);
    }

    /// What stands in the console.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.of_session("POST", "se/log", &json!({ "type": "browser" }));
        log.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    fn of_session(&self, method: &str, path: &str, body: &Value) -> Value {
        self.call(method, &format!("/session/{}/{path}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut tcp = TcpStream::connect(self.address).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        tcp.write_all(head.as_bytes()).unwrap();
        tcp.write_all(body.as_bytes()).unwrap();
        let mut reader = BufReader::new(tcp);
        let mut length = None;
        loop {
            let mut line = String::new();
            assert_ne!(reader.read_line(&mut line).unwrap(), 0, "chromedriver has gone");
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse::<u64>().ok();
            }
        }
        let mut text = String::new();
        reader.take(length.expect("no length")).read_to_string(&mut text).unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.driver), Signal::KILL);
        let _ = self.driver.wait();
    }
}
