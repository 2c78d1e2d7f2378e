//! A web server on loopback that does what a test wants it to, also to the harm of who asks.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What a page is, and how the server misbehaves with it.
#[derive(Clone, Debug)]
pub enum Page {
    /// The whole of it, or the part that is asked for.
    Good(Vec<u8>),
    /// The whole of it, whatever part is asked for.
    WithoutRanges(Vec<u8>),
    /// So many bytes at a time, then the connection breaks.
    Breaks(Vec<u8>, usize),
    /// So many bytes, then it breaks; whoever goes on gets other bytes.
    Changes(Vec<u8>, usize, Vec<u8>),
    /// So many bytes, then nothing.
    Stalls(Vec<u8>, usize),
    /// Announces so many more, or fewer, than it sends.
    Lies(Vec<u8>, isize),
    /// Without a length: the end of the connection is its end.
    Endless(Vec<u8>),
    /// Bytes without an end.
    Flood,
    /// This status, with these bytes.
    Status(u16, Vec<u8>),
    /// Leads elsewhere.
    Redirect(String),
    /// This very answer.
    Answer(Answer),
}

/// A status, headers, and as much of a body as is sent; to whoever gives a name and a password, where they are asked for.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub breaks_after: Option<usize>,
    pub authorization: Option<String>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub target: String,
    /// By name in lower case.
    pub headers: HashMap<String, String>,
}

#[derive(Default)]
struct Shared {
    pages: Mutex<HashMap<String, Page>>,
    seen: Mutex<Vec<Seen>>,
    over: AtomicBool,
}

/// The server; it ends when it is dropped.
pub struct Web {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Web {
    pub fn start() -> Self {
        Self::with(Some)
    }

    /// With a wrapping around each connection, such as TLS.
    pub fn with<S: Read + Write>(wrap: impl Fn(TcpStream) -> Option<S> + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if theirs.over.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), shared, wrap) = (stream, Arc::clone(&theirs), wrap.clone()) else { continue };
                std::thread::spawn(move || {
                    // A client that goes away is a client's right.
                    let _ = wrap(stream).map(|stream| answer(stream, &shared));
                });
            }
        });
        Self { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn serve(&self, path: &str, page: Page) {
        self.shared.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    /// What came since the last time.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn answer<S: Read + Write>(stream: S, shared: &Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let from = headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let page = shared.pages.lock().unwrap().get(&target).cloned();
    let authorization = headers.get("authorization").cloned();
    shared.seen.lock().unwrap().push(Seen { target, headers });
    let stream = stream.get_mut();
    match page {
        Some(Page::Answer(page)) if page.authorization.is_some() && page.authorization != authorization => {
            let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(head.as_bytes())?;
        }
        Some(page) => send(stream, page, from)?,
        None => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?,
    }
    stream.flush()
}

fn ok(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
}

fn part(from: usize, length: usize) -> String {
    format!(
        "HTTP/1.1 206 Partial Content\r\nETag: \"v1\"\r\nContent-Range: bytes {from}-{}/{length}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        length - 1,
        length - from
    )
}

fn send<S: Read + Write>(stream: &mut S, page: Page, from: Option<usize>) -> std::io::Result<()> {
    let head = |length: usize| match from {
        Some(from) if from < length => part(from, length),
        _ => ok(length),
    };
    match page {
        Page::Good(body) => {
            stream.write_all(head(body.len()).as_bytes())?;
            stream.write_all(&body[from.unwrap_or_default().min(body.len())..])
        }
        Page::WithoutRanges(body) => {
            stream.write_all(ok(body.len()).as_bytes())?;
            stream.write_all(&body)
        }
        Page::Breaks(body, bytes) => {
            let begin = from.unwrap_or_default().min(body.len());
            stream.write_all(head(body.len()).as_bytes())?;
            stream.write_all(&body[begin..(begin + bytes).min(body.len())])
        }
        Page::Changes(body, bytes, other) => match from {
            None => {
                stream.write_all(ok(body.len()).as_bytes())?;
                stream.write_all(&body[..bytes])
            }
            Some(from) => {
                stream.write_all(part(from, other.len()).as_bytes())?;
                stream.write_all(&other[from..])
            }
        },
        Page::Stalls(body, bytes) => {
            stream.write_all(ok(body.len()).as_bytes())?;
            stream.write_all(&body[..bytes])?;
            stream.flush()?;
            // Until the client has had enough.
            stream.read(&mut [0]).map(drop)
        }
        Page::Lies(body, by) => {
            stream.write_all(ok(body.len().saturating_add_signed(by)).as_bytes())?;
            stream.write_all(&body)
        }
        Page::Endless(body) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            stream.write_all(&body)
        }
        Page::Flood => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            while stream.write_all(&[0; 8192]).is_ok() {}
            Ok(())
        }
        Page::Status(status, body) => {
            let head = format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes())?;
            stream.write_all(&body)
        }
        Page::Redirect(to) => {
            let head = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes())
        }
        Page::Answer(Answer { status, headers, body, breaks_after, .. }) => {
            let mut head = format!("HTTP/1.1 {status} So\r\nConnection: close\r\n");
            if status != 204 {
                head += &format!("Content-Length: {}\r\n", body.len());
            }
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            stream.write_all(format!("{head}\r\n").as_bytes())?;
            stream.write_all(&body[..breaks_after.unwrap_or(body.len()).min(body.len())])
        }
    }
}
