//! What a gateway and the first process of a pod tell each other: one message a packet, descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 192 * 1024;

/// Start a process; stdin, stdout and stderr come beside it, or a terminal for all three.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// Names it in the answers.
    pub(super) number: u64,
    /// Program and arguments.
    pub(super) arguments: Vec<String>,
    /// Where it starts.
    pub(super) directory: PathBuf,
    /// Its whole environment.
    pub(super) environment: Vec<(String, String)>,
}

/// What the first process says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Orders are taken.
    Ready,
    /// A process has ended with this code; 128 and its number for a signal.
    Ended {
        /// Which.
        number: u64,
        /// How.
        code: u8,
    },
    /// A process could not be started.
    Failed {
        /// Which.
        number: u64,
        /// Why.
        reason: String,
    },
}

/// Both ends of a connection.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

pub(super) fn send(socket: BorrowedFd<'_>, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next order with its descriptors; `None` at the end.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Order, Vec<OwnedFd>)>> {
    let mut text = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            got => break got?,
        }
    };
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let order = serde_json::from_slice(text.get(..got.bytes).unwrap_or_default())?;
    Ok(Some((order, descriptors)))
}

/// The standard input, as a descriptor of its own.
pub(super) fn standard_input() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}
