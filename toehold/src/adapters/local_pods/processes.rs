//! Processes of this machine, as `/proc` shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    /// When it was started, in the kernel's ticks: with the number, nobody else has had both.
    pub(super) started: u64,
    /// It has ended, and waits for its parent to see it.
    pub(super) is_zombie: bool,
}

impl Process {
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may hold brackets itself.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        Some(Self { pid, parent, started, is_zombie: state == "Z" || state == "X" })
    }

    pub(super) fn is_alive(self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.started == self.started && !now.is_zombie)
    }

    /// SIGKILL, if it is still this one.
    pub(super) fn kill(self) {
        if self.is_alive() {
            signal(self.pid, Signal::KILL);
        }
    }

    /// Whether it was started with this in its environment.
    pub(super) fn has_in_environment(self, assignment: &str) -> bool {
        let environment = fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == assignment.as_bytes())
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// All processes that can be seen.
pub(super) fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The processes below these, however deep.
fn below(roots: &BTreeSet<i32>, all: &[Process]) -> Vec<Process> {
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(*process);
    }
    let (mut found, mut next): (Vec<Process>, Vec<i32>) = (Vec::new(), roots.iter().copied().collect());
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            next.push(child.pid);
            found.push(child);
        }
    }
    found
}

/// The children of a process, as the kernel lists them; `None` where it does not.
fn children(pid: i32) -> Option<Vec<Process>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let listed = fs::read_to_string(task.path().join("children")).ok()?;
        found.extend(listed.split_ascii_whitespace().filter_map(|pid| Process::of(pid.parse().ok()?)));
    }
    Some(found)
}

/// The processes below this one, however deep. While some of them start others, some may be missing.
pub(super) fn all_below(root: i32) -> Vec<Process> {
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(pid) = next.pop() {
        match children(pid) {
            Some(children) => {
                next.extend(children.iter().map(|child| child.pid));
                found.extend(children);
            }
            // One that has ended by now has nobody below it; a kernel that lists no children is asked for all processes.
            None if pid != root => {}
            None => return below(&BTreeSet::from([root]), &all()),
        }
    }
    found
}

/// Ends those of these processes that are alive: stopped first, so that none starts another while the others are being ended.
fn end(processes: &BTreeSet<i32>) {
    for stop in [Signal::STOP, Signal::KILL] {
        for pid in processes {
            signal(*pid, stop);
        }
    }
}

/// Ends every process below this one, which is the subreaper of all of them and has another thread that sees their ends: comes back when
/// there is none.
pub(super) fn end_all_below_us() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let has_children = || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // Whoever has no child has nobody below.
        !matches!(waitid(WaitId::All, options), Err(Errno::CHILD))
    };
    while has_children() {
        let left = all_below(own);
        end(&left.iter().filter(|process| !process.is_zombie).map(|process| process.pid).collect());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends every process that was started with this in its environment, and what is below it, but for this process.
pub(super) fn end_all_with(assignment: &str) {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    loop {
        let all = all();
        let marked = |process: &&Process| process.pid != own && !process.is_zombie && process.has_in_environment(assignment);
        let roots: BTreeSet<i32> = all.iter().filter(marked).map(|process| process.pid).collect();
        if roots.is_empty() {
            return;
        }
        let lower = below(&roots, &all).into_iter().map(|process| process.pid).filter(|pid| *pid != own);
        let targets: BTreeSet<i32> = roots.iter().copied().chain(lower).collect();
        end(&targets);
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_and_all_below_it_are_found_and_ended() {
        let mut child = Command::new("sh")
            .args(["-c", "(setsid sleep 600 & setsid sleep 600 & wait) & wait"])
            .env("TOEHOLD_TEST_OF_PROCESSES", "here")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::of(pid).unwrap();
        assert_eq!(process.parent, i32::try_from(std::process::id()).unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while all_below(pid).len() < 3 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        let lower = all_below(pid);
        let numbers = |processes: &[Process]| processes.iter().map(|process| process.pid).collect::<BTreeSet<_>>();
        assert_eq!(numbers(&lower), numbers(&below(&BTreeSet::from([pid]), &all())));
        assert!(process.has_in_environment("TOEHOLD_TEST_OF_PROCESSES=here"));
        assert!(!process.has_in_environment("TOEHOLD_TEST_OF_PROCESSES=her"));
        end_all_with("TOEHOLD_TEST_OF_PROCESSES=here");
        child.wait().unwrap();
        assert!(!process.is_alive() && lower.iter().all(|process| !process.is_alive()));
    }
}
