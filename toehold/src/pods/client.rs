//! What a client asks for, as russh hands it to us. Nothing here waits for a pod or a process: while a handler waits, russh neither
//! reads nor writes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use russh::server::{self, Auth, ChannelOpenHandle, Handle, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Disconnect, MethodKind, MethodSet, Pty, Sig};
use toehold_core::{Fingerprint, PublicKey};
use toehold_podrun::Signal;
use toehold_podrun::channel::{
    ChannelAction, ChannelEvent, ChannelRequest, Channels, MAX_SET, MAX_VARIABLES, Start, Terminal, Wanted, plan,
};
use toehold_podrun::exec::TerminalSize;
use tokio::sync::mpsc;

use super::authentication::{Admission, Applicant, Authenticator};
use super::channel::STDERR;
use super::hub::{Hub, SharedBackend};
use super::metrics::Counter;
use super::stream::{Intake, TooMuch, Waiting};

/// How many keys may be offered: guessing is slow, and so is asking.
const MAX_OFFERS: usize = 64;

/// The longest user name, in bytes.
const MAX_USER: usize = 256;

/// Where a command that a key is bound to finds what was asked for, as sshd has it.
pub(super) const ORIGINAL_COMMAND: &str = "SSH_ORIGINAL_COMMAND";

/// What both tasks of a connection know.
pub(super) struct Link {
    pub(super) intake: Arc<Intake>,
    channels: Mutex<Channels>,
    /// russh's names of the channels that are open.
    ids: Mutex<HashMap<u32, ChannelId>>,
}

impl Link {
    pub(super) fn new(intake: Arc<Intake>, channels: usize) -> Self {
        Self { intake, channels: Mutex::new(Channels::new(channels)), ids: Mutex::default() }
    }

    pub(super) fn channels(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ids(&self) -> MutexGuard<'_, HashMap<u32, ChannelId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a handler has to tell.
pub(super) enum FromClient {
    /// Somebody has logged in.
    LoggedIn { admission: Admission, user: String, key: Fingerprint, handle: Handle },
    /// Something is to be started.
    Start(Job),
}

/// Something to start in a channel.
pub(super) struct Job {
    pub(super) number: u32,
    pub(super) write: ChannelWriteHalf<Msg>,
    pub(super) start: Start,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    /// What came first of it, once that was looked at.
    pub(super) early: Option<Input>,
    pub(super) input: mpsc::UnboundedReceiver<Input>,
    pub(super) to_input: mpsc::UnboundedSender<Input>,
    /// Why it is not run.
    pub(super) refusal: Option<String>,
}

/// What passes by the input of a process.
pub(super) enum Order {
    Signal(Signal),
    /// Nobody is there any more.
    End,
}

/// What goes into a process.
pub(super) enum Input {
    Bytes(Bytes, Waiting),
    Resize(TerminalSize),
    End,
}

struct Slot {
    write: Option<ChannelWriteHalf<Msg>>,
    orders: mpsc::UnboundedSender<Order>,
    input: mpsc::UnboundedSender<Input>,
    receivers: Option<(mpsc::UnboundedReceiver<Order>, mpsc::UnboundedReceiver<Input>)>,
    /// Why what is asked for next is not run.
    refusal: Option<String>,
}

pub(super) struct Client<B, A> {
    hub: Arc<Hub<B, A>>,
    link: Arc<Link>,
    address: SocketAddr,
    tell: mpsc::UnboundedSender<FromClient>,
    slots: HashMap<u32, Slot>,
    offers: usize,
    admitted: Option<(Admission, String, Fingerprint)>,
    /// Once somebody has logged in.
    admission: Option<Admission>,
}

fn refused() -> Auth {
    // Without the list the client would be told that no method is left, and could not try another key.
    let mut methods = MethodSet::empty();
    methods.push(MethodKind::PublicKey);
    Auth::Reject { proceed_with_methods: Some(methods), partial_success: false }
}

fn size(columns: u32, rows: u32) -> TerminalSize {
    let fits = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    TerminalSize { columns: fits(columns), rows: fits(rows) }
}

impl<B: SharedBackend, A: Authenticator> Client<B, A> {
    pub(super) fn new(
        hub: Arc<Hub<B, A>>,
        link: Arc<Link>,
        address: SocketAddr,
        tell: mpsc::UnboundedSender<FromClient>,
    ) -> Self {
        Self { hub, link, address, tell, slots: HashMap::new(), offers: 0, admitted: None, admission: None }
    }

    async fn admits(&self, user: &str, key: &russh::keys::PublicKey) -> Option<(Admission, Fingerprint)> {
        if user.len() > MAX_USER {
            return None;
        }
        let key = PublicKey::from_blob(&key.to_bytes().ok()?).ok()?;
        let applicant = Applicant { user, key: &key, address: self.address.ip().to_canonical() };
        match self.hub.authenticator.admit(applicant).await {
            Ok(admission) => Some((admission?, key.fingerprint())),
            Err(error) => {
                tracing::error!("nobody can log in: {error}");
                None
            }
        }
    }

    /// Takes a request out of its source's allowance.
    fn may_ask(&self) -> bool {
        let may = self.hub.limits.call(self.address.ip(), Instant::now());
        if !may {
            self.hub.metrics.count(Counter::RequestRefused);
        }
        may
    }

    fn request(&mut self, id: ChannelId, request: ChannelRequest, session: &mut Session) -> Result<(), russh::Error> {
        if !self.may_ask() {
            return session.channel_failure(id);
        }
        self.link.intake.note(1);
        self.event(id, ChannelEvent::Requested { request, want_reply: true }, session)
    }

    fn event(&mut self, id: ChannelId, event: ChannelEvent, session: &mut Session) -> Result<(), russh::Error> {
        let number = id.number();
        let is_close = event == ChannelEvent::Closed;
        let actions = self.link.channels().handle(number, event);
        for action in actions {
            match action {
                // russh answers only where an answer is wanted.
                ChannelAction::Reply(true) => session.channel_success(id)?,
                ChannelAction::Reply(false) => session.channel_failure(id)?,
                ChannelAction::Start(start) => self.start(number, start),
                ChannelAction::Resize(size) => self.input(number, Input::Resize(size)),
                ChannelAction::CloseInput => self.input(number, Input::End),
                ChannelAction::SendSignal(signal) => self.order(number, Order::Signal(signal)),
                ChannelAction::EndProcess => self.order(number, Order::End),
                // What ends before it has begun, such as a line that no shell can be given.
                ChannelAction::WriteError(line) => session.extended_data(id, STDERR, format!("{line}\r\n"))?,
                ChannelAction::ExitStatus(status) => session.exit_status_request(id, status)?,
                ChannelAction::SendEof => session.eof(id)?,
                // russh has answered the client's.
                ChannelAction::Close if is_close => {}
                ChannelAction::Close => {
                    session.close(id)?;
                    self.slots.remove(&number);
                    self.link.ids().remove(&number);
                }
                // It follows an end, which is not ours to tell of.
                ChannelAction::ExitSignal(_) => {}
            }
        }
        Ok(())
    }

    fn order(&self, number: u32, order: Order) {
        if let Some(slot) = self.slots.get(&number) {
            // What has ended needs no order.
            let _ = slot.orders.send(order);
        }
    }

    fn input(&self, number: u32, input: Input) {
        if let Some(slot) = self.slots.get(&number) {
            // What has ended takes nothing any more.
            let _ = slot.input.send(input);
        }
    }

    fn start(&mut self, number: u32, start: Start) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        if let (Some(write), Some((orders, input))) = (slot.write.take(), slot.receivers.take()) {
            let (to_input, refusal) = (slot.input.clone(), slot.refusal.take());
            let job = Job { number, write, start, orders, early: None, input, to_input, refusal };
            // The other task is there as long as the connection.
            let _ = self.tell.send(FromClient::Start(job));
        }
    }

    /// Hands what is asked for over to the command that a key is bound to. That must not run as if nothing had been asked for: where it cannot be
    /// told, it is not run.
    fn hand_over(&mut self, number: u32, asked: Vec<u8>) {
        let (bytes, has_nul) = (asked.len(), asked.contains(&0));
        let request = ChannelRequest::Environment { name: ORIGINAL_COMMAND.to_owned(), value: asked };
        let answer = self.link.channels().handle(number, ChannelEvent::Requested { request, want_reply: true });
        if answer == [ChannelAction::Reply(true)] {
            return;
        }
        let most = MAX_SET - ORIGINAL_COMMAND.len();
        let why = if has_nul {
            "has a NUL in it".to_owned()
        } else if bytes > most {
            format!("has {bytes} bytes, and {most} are the most")
        } else {
            format!(
                "has no room beside what the client sets (its SendEnv and SetEnv), of {MAX_SET} bytes and {MAX_VARIABLES} variables"
            )
        };
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.refusal =
                Some(format!("the key is bound to a command, and the line that it is to see as {ORIGINAL_COMMAND} {why}"));
        }
    }

    /// What is run: what is asked for, or what the key is bound to.
    fn run(&mut self, id: ChannelId, wanted: Wanted, session: &mut Session) -> Result<(), russh::Error> {
        let bound = self.admission.as_ref().and_then(|admission| admission.command.clone());
        let wanted = match bound {
            None => wanted,
            Some(command) => {
                let asked = match wanted {
                    Wanted::Command(line) => line,
                    Wanted::Subsystem(name) => name.into_bytes(),
                    Wanted::Shell => Vec::new(),
                };
                if !asked.is_empty() {
                    self.hand_over(id.number(), asked);
                }
                if command == b"internal-sftp" { Wanted::Subsystem("sftp".to_owned()) } else { Wanted::Command(command) }
            }
        };
        if plan(&self.hub.settings, &wanted).is_none() {
            return session.channel_failure(id);
        }
        self.request(id, ChannelRequest::Run(wanted), session)
    }
}

impl<B: SharedBackend, A: Authenticator> server::Handler for Client<B, A> {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, russh::Error> {
        Ok(refused())
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, russh::Error> {
        self.offers += 1;
        if self.offers > MAX_OFFERS {
            return Err(russh::Error::Disconnect);
        }
        Ok(self.admits(user, offer.public_key).await.map_or_else(refused, |_| Auth::Accept))
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        Ok(match self.admits(user, key.public_key).await {
            None => {
                self.hub.metrics.count(Counter::LoginRefused);
                refused()
            }
            Some((admission, fingerprint)) => {
                self.admitted = Some((admission, user.to_owned(), fingerprint));
                Auth::Accept
            }
        })
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), russh::Error> {
        let (admission, user, key) = self.admitted.take().ok_or(russh::Error::Disconnect)?;
        self.admission = Some(admission.clone());
        let told = self.tell.send(FromClient::LoggedIn { admission, user, key, handle: session.handle() });
        told.map_err(|_| russh::Error::Disconnect)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        let id = channel.id();
        if !self.may_ask() || !self.link.channels().open(id.number()) {
            self.hub.metrics.count(Counter::ChannelRefused);
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        self.hub.metrics.count(Counter::ChannelOpened);
        // russh does not tell of a client's answer to a close of ours.
        self.slots.retain(|_, slot| !slot.input.is_closed());
        {
            let mut ids = self.link.ids();
            ids.retain(|number, _| self.slots.contains_key(number));
            ids.insert(id.number(), id);
        }
        // What comes is handed over in `data`: a channel that is not read would hold russh up.
        let (_, write) = channel.split();
        let (orders, order_receiver) = mpsc::unbounded_channel();
        let (input, input_receiver) = mpsc::unbounded_channel();
        let receivers = Some((order_receiver, input_receiver));
        let slot = Slot { write: Some(write), orders, input, receivers, refusal: None };
        self.slots.insert(id.number(), slot);
        reply.accept().await;
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        self.event(id, ChannelEvent::InputEnded, session)
    }

    async fn channel_close(&mut self, id: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        self.event(id, ChannelEvent::Closed, session)?;
        self.slots.remove(&id.number());
        self.link.ids().remove(&id.number());
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        let words = match self.link.intake.take(data.len()) {
            Ok(waiting) => {
                self.input(id.number(), Input::Bytes(Bytes::copy_from_slice(data), waiting));
                return Ok(());
            }
            Err(TooMuch::Ungranted) => "more was sent than was granted",
            Err(TooMuch::InAll) => "too much input waits here for processes that do not take it",
        };
        tracing::warn!("{}: {words}", self.address);
        self.hub.metrics.count(Counter::Cut);
        session.disconnect(Disconnect::ByApplication, words, "")
    }

    fn adjust_window(&mut self, _: ChannelId, _: u32) -> u32 {
        self.link.intake.grant()
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        if !self.admission.as_ref().is_some_and(|admission| admission.terminal) {
            return session.channel_failure(id);
        }
        let terminal = Terminal { kind: term.to_owned(), size: size(columns, rows) };
        self.request(id, ChannelRequest::PseudoTerminal(terminal), session)
    }

    async fn env_request(&mut self, id: ChannelId, name: &str, value: &str, session: &mut Session) -> Result<(), russh::Error> {
        // A variable can make a program run another one: who is let in for one command chooses none but the language (sshd's AcceptEnv).
        let is_language = name == "LANG" || name.starts_with("LC_");
        if !is_language && self.admission.as_ref().is_none_or(|admission| admission.command.is_some()) {
            return session.channel_failure(id);
        }
        let request = ChannelRequest::Environment { name: name.to_owned(), value: value.as_bytes().to_vec() };
        self.request(id, request, session)
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        self.run(id, Wanted::Shell, session)
    }

    async fn exec_request(&mut self, id: ChannelId, line: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        self.run(id, Wanted::Command(line.to_vec()), session)
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, session: &mut Session) -> Result<(), russh::Error> {
        self.run(id, Wanted::Subsystem(name.to_owned()), session)
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.request(id, ChannelRequest::WindowChange(size(columns, rows)), session)
    }

    async fn signal(&mut self, id: ChannelId, signal: Sig, session: &mut Session) -> Result<(), russh::Error> {
        let name = match signal {
            Sig::Custom(name) => name,
            known => format!("{known:?}"),
        };
        self.request(id, ChannelRequest::Signal(name), session)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_failure(id)
    }
}
