//! What is given to the image's `/bin/sh`, so that no program of ours has to be in an image: [`Launch`] sets a command's environment
//! and files and then becomes that command; [`Leash`] delivers signals, and ends what runs when its stream ends.
//!
//! Both are constant texts. Whatever comes from a user (environment, files, the command itself) goes through stdin, in a form
//! that no shell reads as anything but data (P6): arguments of an exec stand in the cluster's audit log.

mod epilogue;
mod launch;
mod leash;
mod preface;

pub use epilogue::Epilogue;
pub use launch::{EnvironmentName, FilePath, FileToWrite, Launch, LaunchError, MAX_ENVIRONMENT, MAX_FILES};
pub use leash::{Leash, ProcessNumber};
pub use preface::{Preface, PrefaceState};

/// `text` in a form that reaches a process unchanged through a pod's `command` and `args`, in which Kubernetes replaces `$(NAME)`
/// and `$$` before any shell runs. (In an exec's command it does not.)
pub fn escape_pod_argument(text: &str) -> String {
    text.replace('$', "$$")
}

/// The shell that every image with a shell has.
const SHELL: &str = "/bin/sh";
