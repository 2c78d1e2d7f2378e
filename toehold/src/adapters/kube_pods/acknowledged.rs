//! Whether the other end of a TCP connection still acknowledges what is sent to it, as the kernel knows it.
//!
//! A process that takes no input, and a network that is dead, look the same from outside: nothing can be written, nothing comes. But to a
//! peer that is there the kernel's probes are answered, and to one that is not they are sent again and again. `TCP_USER_TIMEOUT` does not
//! tell the two apart: it ends both.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use http::Response;
use hyper_util::client::legacy::connect::HttpInfo;

/// What Linux counts before it gives up after a quarter of an hour: how often the same bytes went out again without an answer. The third
/// time is well over a second after the first.
const RETRIES: u32 = 3;
/// The same of the probes that a closed window is asked with.
const PROBES: u32 = 2;

/// Which of a socket's timers runs (`proc_net_tcp.txt` in the kernel's documentation).
const RETRANSMIT: u32 = 1;
const ZERO_WINDOW: u32 = 4;

/// A connection's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    local: SocketAddr,
    remote: SocketAddr,
}

impl Ends {
    /// Of the connection that an answer came by.
    pub(super) fn of<B>(answer: &Response<B>) -> Option<Self> {
        let info: &HttpInfo = answer.extensions().get()?;
        Some(Self { local: info.local_addr(), remote: info.remote_addr() })
    }

    /// Whether what was sent is unanswered by the other end's kernel, after several tries. Reads the list of all connections: not for
    /// every day.
    pub(super) fn are_silent(self) -> bool {
        let file = if self.local.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
        // Where it cannot be read, the kernel's own patience is what is left.
        fs::read_to_string(file).is_ok_and(|list| list.lines().any(|line| self.is_silent(line) == Some(true)))
    }

    /// `None`: the line is another connection's.
    fn is_silent(self, line: &str) -> Option<bool> {
        let mut words = line.split_ascii_whitespace().skip(1);
        if address(words.next()?)? != self.local || address(words.next()?)? != self.remote {
            return None;
        }
        let mut words = words.skip(2);
        let timer = u32::from_str_radix(words.next()?.split(':').next()?, 16).ok()?;
        let retries = u32::from_str_radix(words.next()?, 16).ok()?;
        let probes: u32 = words.nth(1)?.parse().ok()?;
        Some(timer == RETRANSMIT && retries >= RETRIES || timer == ZERO_WINDOW && probes >= PROBES)
    }
}

/// As the kernel prints it: each 32 bits of the address as a number of this machine's byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let number = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::from(number(0)?),
        32 => {
            let mut all = [0; 16];
            for (place, part) in all.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&number(place * 8)?);
            }
            IpAddr::from(all)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(local: &str, remote: &str) -> Ends {
        Ends { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_lines_are_read() {
        let ends = ends("127.0.0.1:50452", "10.0.2.3:6443");
        let line = |timer: &str, retries: &str, probes: &str| {
            format!(
                "   4: 0100007F:C514 0302000A:192B 01 00000029:00000000 {timer}:00000AE2 {retries}     0        {probes} 31337 1 0 20 4 30"
            )
        };
        assert_eq!(ends.is_silent(&line("00", "00000000", "0")), Some(false));
        // Sent again for the second time; a window that is closed, and somebody who says so.
        assert_eq!(ends.is_silent(&line("01", "00000002", "0")), Some(false));
        assert_eq!(ends.is_silent(&line("04", "00000000", "1")), Some(false));
        assert_eq!(ends.is_silent(&line("01", "00000003", "0")), Some(true));
        assert_eq!(ends.is_silent(&line("01", "0000000A", "0")), Some(true));
        assert_eq!(ends.is_silent(&line("04", "00000000", "2")), Some(true));
        // Keep-alives end by themselves.
        assert_eq!(ends.is_silent(&line("02", "00000000", "2")), Some(false));
        let other = line("01", "00000003", "0").replace("C514", "C515");
        assert_eq!(ends.is_silent(&other), None);
        let header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(ends.is_silent(header), None);
        let six = "   0: 000080FE00000000FF00FE0001000002:1F90 B80D0120000000000000000001000000:01BB 01 00000000:00000000 01:0 00000005 0 0 1";
        let ends = super::tests::ends("[fe80::ff:fe00:ff:200:1]:8080", "[2001:db8::1]:443");
        assert_eq!(ends.is_silent(six), None, "another one's");
        let ends = Ends { local: address("000080FE00000000FF00FE0001000002:1F90").unwrap(), ..ends };
        assert_eq!((ends.is_silent(six), ends.local.port()), (Some(true), 8080));
    }

    /// The list of this machine has them in this form.
    #[test]
    fn an_open_connection_is_in_the_list_and_answers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ends = Ends { local: tcp.local_addr().unwrap(), remote: tcp.peer_addr().unwrap() };
        let list = fs::read_to_string("/proc/self/net/tcp").unwrap();
        assert_eq!(list.lines().filter_map(|line| ends.is_silent(line)).collect::<Vec<_>>(), [false]);
        assert!(!ends.are_silent());
        // A window that nobody opens is asked, and answers: however long that lasts, it is no silence.
        tcp.set_nonblocking(true).unwrap();
        while std::io::Write::write(&mut &tcp, &vec![0; 65_536]).is_ok() {}
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let asked = || {
            fs::read_to_string("/proc/self/net/tcp").unwrap().lines().any(|line| {
                ends.is_silent(line).is_some()
                    && line.split_ascii_whitespace().nth(5).is_some_and(|timer| timer.starts_with("04"))
            })
        };
        while !asked() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(!ends.are_silent());
    }
}
