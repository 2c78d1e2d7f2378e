//! The status page: HTML that is made here and works as it is; where there is JavaScript, it follows the changes.
//!
//! Whatever comes from the store goes through the template, which escapes it: names, labels and comments are strangers' words.

use std::fmt::Write as _;
use std::sync::LazyLock;

use base64ct::{Base64, Encoding as _};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};
use toehold_core::{HostPhase, PublicKey, Timestamp};
use toehold_joinproto::admission::AgentState;

use super::board::{Condition, TaskState};
use super::picture::Taken;
use super::snapshot::{Host, OpenRotation, Snapshot};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/live.js");

/// How many rows of a table are shown at once.
pub const ROWS: usize = 200;

/// What a browser may do with the page: run this script and apply this style, talk to us, and nothing else.
pub static CONTENT_SECURITY_POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| format!("'sha256-{}'", Base64::encode_string(&Sha256::digest(text)));
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
});

/// Which page of each long table is wanted, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    hosts: usize,
    agents: usize,
}

impl Pages {
    /// Out of a query such as `hosts=2`; what it does not say, or says otherwise, is the first page.
    pub fn of(query: Option<&str>) -> Self {
        let mut pages = Self { hosts: 1, agents: 1 };
        for (name, value) in query.unwrap_or_default().split('&').filter_map(|part| part.split_once('=')) {
            let Ok(page @ 1..=1_000_000) = value.parse::<usize>() else { continue };
            match name {
                "hosts" => pages.hosts = page,
                "agents" => pages.agents = page,
                _ => {}
            }
        }
        pages
    }

    fn link(self, section: &str) -> String {
        let mut link = String::from("/");
        for (name, page) in [("hosts", self.hosts), ("agents", self.agents)] {
            if page > 1 {
                let first = link.len() == 1;
                // Writing to a text does not fail.
                let _ = write!(link, "{}{name}={page}", if first { '?' } else { '&' });
            }
        }
        let _ = write!(link, "#{section}");
        link
    }
}

/// What the page is made of.
#[derive(Debug)]
pub struct View<'v> {
    /// What was read.
    pub taken: &'v Taken,
    /// The tasks of this process.
    pub tasks: &'v [TaskState],
    /// Why it is not ready.
    pub reasons: &'v [String],
    /// How many agents are connected to the gateway of this process, where it has one.
    pub connected: Option<usize>,
    /// What the cluster says of its pods, where it is looked at: name, principal, user.
    pub cluster: Option<&'v [(String, String, String)]>,
    /// Which pages.
    pub pages: Pages,
    /// The time.
    pub now: Timestamp,
    /// What stands for all of this in the events.
    pub version: &'v str,
}

/// The page.
pub fn page(view: &View<'_>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { "Toehold" }
                style { (PreEscaped(STYLE)) }
            }
            body data-version=(view.version) {
                a.skip href="#hosts" { "To the hosts" }
                div.wide {
                    (state(view))
                    footer {
                        "Toehold " (env!("CARGO_PKG_VERSION")) ", read only. Times are UTC. "
                        noscript { "Without JavaScript this page stands still: reload it. " }
                        span #live role="status" {}
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

/// What changes.
fn state(view: &View<'_>) -> Markup {
    let snapshot = &*view.taken.snapshot;
    html! {
        main #state {
            header {
                h1 { "Toehold" }
                @if view.reasons.is_empty() { span.word.good { "ready" } } @else { span.word.bad { "not ready" } }
                @if let Some(at) = view.taken.at { span.faint { "as of " (time(at)) } }
            }
            (alarms(view))
            (counts(view, snapshot))
            (tasks(view))
            (keys(snapshot, view.now))
            (owed(snapshot))
            (hosts(snapshot, view))
            (sessions(snapshot, view.now))
            (grants(snapshot, view.now))
            (agents(snapshot, view))
            (pods(snapshot, view))
            (audit(snapshot))
        }
    }
}

fn alarms(view: &View<'_>) -> Markup {
    let unread = view.taken.failed.iter().map(|reason| format!("this picture is old: {reason}"));
    let words: Vec<String> =
        view.reasons.iter().cloned().chain(unread).chain(view.taken.snapshot.faults.iter().cloned()).collect();
    html! {
        @if !words.is_empty() {
            div.alarm role="alert" { ul { @for word in &words { li { (shown(word)) } } } }
        }
    }
}

fn counts(view: &View<'_>, snapshot: &Snapshot) -> Markup {
    let counts = [
        ("hosts", "hosts", snapshot.hosts.len()),
        ("owed", "owed", snapshot.owed()),
        ("sessions", "open sessions", snapshot.sessions.len()),
        ("grants", "grants", snapshot.grants.len()),
        ("agents", "agents", snapshot.agents.len()),
        ("pods", "pods", view.cluster.map_or(snapshot.pods.len(), <[_]>::len)),
    ];
    html! {
        nav aria-label="Sections" {
            ul.counts {
                @for (section, name, count) in counts {
                    li { a href={ "#" (section) } { b { (count) } span { (name) } } }
                }
            }
        }
    }
}

/// A table with headings, or a sentence where it is empty.
fn table(headings: &[&str], rows: &[Vec<Markup>], empty: &str) -> Markup {
    html! {
        @if rows.is_empty() { p.faint { (empty) } } @else {
            // The roles are said because a narrow screen shows cells as blocks, which takes their own away.
            table role="table" {
                thead role="rowgroup" { tr role="row" { @for heading in headings { th role="columnheader" scope="col" { (heading) } } } }
                tbody role="rowgroup" {
                    @for row in rows {
                        tr role="row" { @for (cell, heading) in row.iter().zip(headings) { td role="cell" data-of=(heading) { (cell) } } }
                    }
                }
            }
        }
    }
}

fn section(id: &str, title: &str, aside: &str, body: &Markup) -> Markup {
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (title) @if !aside.is_empty() { small { (aside) } } }
            (body)
        }
    }
}

fn tasks(view: &View<'_>) -> Markup {
    let row = |task: &TaskState| {
        let color = match task.condition {
            Condition::Running => "good",
            Condition::Failing { .. } => "bad",
            Condition::Starting | Condition::Standby { .. } => "rest",
        };
        let words = match &task.condition {
            Condition::Standby { holder } => format!("{holder} has the lease"),
            Condition::Failing { reason } => reason.clone(),
            Condition::Running | Condition::Starting => task.note.clone().unwrap_or_default(),
        };
        vec![
            html! { (task.name) },
            html! { span.word.(color) { (task.condition.word()) } },
            time(task.since),
            html! { @if let Some(at) = task.ran_at { (time(at)) } },
            html! { (shown(&words)) },
        ]
    };
    let rows: Vec<_> = view.tasks.iter().map(row).collect();
    section(
        "tasks",
        "Tasks of this process",
        "",
        &table(&["Task", "State", "Since", "Last turn", "What it says"], &rows, "There are none."),
    )
}

fn keys(snapshot: &Snapshot, now: Timestamp) -> Markup {
    let rows: Vec<_> = snapshot
        .keys
        .iter()
        .map(|key| {
            vec![
                fingerprint(&key.public_key),
                html! { @if key.is_current { span.word.good { "current" } } @else { span.word.rest { "held" } } },
                html! { (key.public_key.algorithm().to_string()) },
                html! { (key.generation) },
                html! { (time(key.made_at)) " " span.faint.age { "(" (age(now, key.made_at)) " ago)" } },
            ]
        })
        .collect();
    let body = html! {
        @if let Some(rotation) = &snapshot.rotation { (open_rotation(rotation)) }
        @if let Some((due_at, reason)) = &snapshot.renewal {
            p { "The next renewal is due at " (time(*due_at)) "." @if let Some(reason) = reason { " The last one failed: " (shown(reason)) } }
        }
        (table(&["Master key", "State", "Kind", "Generation", "Made"], &rows, "There is no master key yet."))
    };
    section("keys", "Keys", "", &body)
}

fn open_rotation(rotation: &OpenRotation) -> Markup {
    html! {
        p {
            "Rotation " (rotation.number) " is open: " span.word.rest { (shown(&rotation.phase)) } ", led by " (shown(&rotation.operator))
            ", last seen " (time(rotation.seen_at)) "."
            @if let Some(reason) = &rotation.reason { " " (shown(reason)) }
        }
    }
}

fn owed(snapshot: &Snapshot) -> Markup {
    let owed: Vec<&Host> = snapshot.hosts.iter().filter(|host| host.is_owed).collect();
    let rows: Vec<_> = owed
        .iter()
        .take(ROWS)
        .map(|host| vec![account(&host.route), html! { (shown(host.reason.as_deref().unwrap_or("it was away"))) }])
        .collect();
    let body = table(&["Host", "Why"], &rows, "Every host was led to where it should be.");
    section("owed", "Owed hosts", &of_all(rows.len(), owed.len()), &body)
}

fn hosts(snapshot: &Snapshot, view: &View<'_>) -> Markup {
    let current = snapshot.keys.iter().find(|key| key.is_current).map(|key| &key.public_key);
    let (page, from, rows) = cut(&snapshot.hosts, view.pages.hosts);
    let rows: Vec<_> = rows
        .iter()
        .map(|host| {
            vec![
                account(&host.route),
                html! { (shown(host.label.as_deref().unwrap_or_default())) },
                html! { @for (name, value) in &host.tags { span.tag { (shown(name)) "=" (shown(value)) } } },
                html! {
                    @match &host.key {
                        Some(key) if Some(key) == current => { span.good { "current" } }
                        Some(key) => { (fingerprint(key)) }
                        None => { span.bad { "none on record" } }
                    }
                },
                host_state(host, snapshot.rotation.is_some()),
                time(host.since),
            ]
        })
        .collect();
    let body = html! {
        (table(&["Host", "Label", "Tags", "Key", "State", "Managed since"], &rows, "No host is managed yet."))
        (page_links(view.pages, "hosts", page, snapshot.hosts.len(), |pages, page| pages.hosts = page))
    };
    section("hosts", "Hosts", &range(from, rows.len(), snapshot.hosts.len()), &body)
}

fn host_state(host: &Host, is_rotating: bool) -> Markup {
    html! {
        @match host.phase {
            _ if host.is_owed => { span.word.bad { "owed" } }
            Some(phase) if is_rotating && phase != HostPhase::Settled => { span.rest { (phase.name()) } }
            _ => { span.good { "settled" } }
        }
    }
}

fn sessions(snapshot: &Snapshot, now: Timestamp) -> Markup {
    let rows: Vec<_> = snapshot
        .sessions
        .iter()
        .take(ROWS)
        .map(|session| {
            let end = match (session.without_expiry, session.is_expired(now)) {
                (true, _) => html! { "only by hand" },
                (false, true) => html! { span.rest { "has ended" } },
                (false, false) => time(session.expires_at),
            };
            vec![
                html! { code { (session.id.to_string()) } },
                account(&session.route.to_string()),
                html! { (shown(session.label.as_deref().unwrap_or_default())) },
                html! { span.word { (session.status.to_string()) } },
                end,
                html! { (shown(session.reason.as_deref().unwrap_or_default())) },
            ]
        })
        .collect();
    let aside = format!("{}{} closed", prefixed(&of_all(rows.len(), snapshot.sessions.len())), snapshot.closed_sessions);
    let body = table(&["Session", "Host", "Label", "State", "Key ends", "Why"], &rows, "No session is open.");
    section("sessions", "Open sessions", &aside, &body)
}

fn grants(snapshot: &Snapshot, now: Timestamp) -> Markup {
    let rows: Vec<_> = snapshot
        .grants
        .iter()
        .take(ROWS)
        .map(|grant| {
            vec![
                account(&grant.account().to_string()),
                html! { @if grant.comment.is_empty() { (fingerprint(&grant.public_key)) } @else { (shown(&grant.comment)) } },
                time(grant.expires_at),
                html! { @if grant.is_owed(now) { span.word.bad { "to be swept" } } @else { (grant.status.as_str()) } },
                html! { (shown(grant.reason.as_deref().unwrap_or_default())) },
            ]
        })
        .collect();
    let body = table(&["Host", "Key", "Until", "State", "Why"], &rows, "Nothing is granted.");
    section("grants", "Grants", &of_all(rows.len(), snapshot.grants.len()), &body)
}

fn agents(snapshot: &Snapshot, view: &View<'_>) -> Markup {
    let (page, from, rows) = cut(&snapshot.agents, view.pages.agents);
    let rows: Vec<_> = rows
        .iter()
        .map(|(id, agent)| {
            let state = match agent.state {
                AgentState::Pending => html! { span.rest { "pending" } },
                _ => html! { span.good { "joined" } },
            };
            vec![
                html! { code { (shown(id)) } },
                html! { (shown(&agent.role.to_string())) },
                state,
                time(agent.since),
                html! { @for (name, value) in &agent.labels { span.tag { (shown(name)) "=" (shown(value)) } } },
            ]
        })
        .collect();
    let body = html! {
        (table(&["Agent", "Role", "State", "Since", "Labels"], &rows, "No agent has joined."))
        (page_links(view.pages, "agents", page, snapshot.agents.len(), |pages, page| pages.agents = page))
    };
    let connected = view.connected.map(|count| format!("{count} connections here; ")).unwrap_or_default();
    let aside = format!("{connected}{}", range(from, rows.len(), snapshot.agents.len()));
    section("agents", "Agents", aside.trim_end_matches("; "), &body)
}

fn pods(snapshot: &Snapshot, view: &View<'_>) -> Markup {
    let (rows, total, headings): (Vec<_>, usize, &[&str]) = match view.cluster {
        Some(cluster) => {
            let row = |(name, principal, user): &(String, String, String)| {
                vec![html! { code { (shown(name)) } }, html! { (shown(principal)) }, html! { (shown(user)) }]
            };
            (cluster.iter().take(ROWS).map(row).collect(), cluster.len(), &["Pod", "Principal", "User"])
        }
        None => {
            let row = |pod: &super::snapshot::Pod| {
                vec![
                    html! { code { (shown(&pod.name)) } },
                    html! { (shown(&pod.principal)) },
                    html! { (shown(&pod.user)) },
                    html! { (shown(&pod.address)) },
                    time(pod.since),
                ]
            };
            let rows = snapshot.pods.iter().take(ROWS).map(row).collect();
            (rows, snapshot.pods.len(), &["Pod", "Principal", "User", "From", "Since"])
        }
    };
    section("pods", "Pods", &of_all(rows.len(), total), &table(headings, &rows, "There are no pods."))
}

fn audit(snapshot: &Snapshot) -> Markup {
    let rows: Vec<_> = snapshot
        .audit
        .iter()
        .map(|entry| {
            vec![
                time(entry.at),
                html! { (shown(&entry.what)) },
                html! { (shown(&entry.subject)) },
                html! { @for (name, value) in &entry.details { span.tag { (shown(name)) "=" (shown(value)) } } },
                html! { span.faint { (shown(&entry.writer)) } },
            ]
        })
        .collect();
    let body = table(&["When", "What", "To what", "Details", "Written by"], &rows, "Nothing has happened yet.");
    section("audit", "Audit log", "its end, as it is written and not verified", &body)
}

/// A page of a list: its number, the place of its first row, and its rows.
fn cut<T>(rows: &[T], page: usize) -> (usize, usize, &[T]) {
    let page = page.min(rows.len().div_ceil(ROWS)).max(1);
    let from = (page - 1) * ROWS;
    let to = rows.len().min(from + ROWS);
    (page, from, rows.get(from..to).unwrap_or_default())
}

fn page_links(pages: Pages, section: &str, page: usize, total: usize, set: impl Fn(&mut Pages, usize)) -> Markup {
    let to = |page: usize| {
        let mut pages = pages;
        set(&mut pages, page);
        pages.link(section)
    };
    html! {
        @if total > ROWS {
            nav.pages aria-label={ "Pages of " (section) } {
                @if page > 1 { a href=(to(page - 1)) rel="prev" { "previous" } }
                span.faint { "page " (page) " of " (total.div_ceil(ROWS)) }
                @if page * ROWS < total { a href=(to(page + 1)) rel="next" { "next" } }
            }
        }
    }
}

fn range(from: usize, shown: usize, total: usize) -> String {
    if total > shown { format!("{} to {} of {total}", from + 1, from + shown) } else { String::new() }
}

fn of_all(shown: usize, total: usize) -> String {
    if total > shown { format!("the first {shown} of {total}") } else { String::new() }
}

fn prefixed(aside: &str) -> String {
    if aside.is_empty() { String::new() } else { format!("{aside}; ") }
}

/// Somebody's words, without what turns their direction or cannot be seen.
fn shown(text: &str) -> String {
    let is_hidden = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

fn account(route: &str) -> Markup {
    html! { span.word { (shown(route)) } }
}

fn fingerprint(key: &PublicKey) -> Markup {
    html! { code { (key.fingerprint().to_string()) } }
}

fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at.to_string()) { (at.strftime("%Y-%m-%d %H:%M:%S")) } }
}

/// How long ago, in its largest whole unit.
fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.saturating_since(then).as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
