//! What a command for authorized keys prints: lines, or one JSON document with what the login brings along.

use std::collections::{BTreeMap, BTreeSet};

use base64ct::{Base64, Encoding as _};
use serde::Deserialize;
use toehold_core::SecretBytes;
use toehold_keygen::authorized_keys::AuthorizedKeys;
use toehold_podrun::supervisor::{EnvironmentName, FilePath, FileToWrite, MAX_ENVIRONMENT, MAX_FILES};
use toehold_podrun::{Marks, SecretText};

use super::lines::is_principal;

/// What a login may set of the environment, in bytes; the rest is for what the client sets.
const MAX_LOGIN_ENVIRONMENT: usize = MAX_ENVIRONMENT / 2;

/// How many files a login may bring along.
const MAX_LOGIN_FILES: usize = 64;

/// A file's permissions where the document has none.
const MODE: u16 = 0o600;

/// What a login brings along into its pod.
#[derive(Debug, Default)]
pub struct LoginMetadata {
    environment: Vec<(EnvironmentName, SecretBytes)>,
    files: Vec<FileToWrite>,
    marks: BTreeMap<String, String>,
}

impl LoginMetadata {
    /// Variables for every command; what a client sets of the same name does not count. A copy, for one start.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (EnvironmentName, SecretBytes)> {
        self.environment.iter().map(|(name, value)| (name.clone(), SecretBytes::new(value.expose().to_vec())))
    }

    /// Files that are to be there before the first command. A copy, for one start.
    pub(crate) fn files(&self) -> Vec<FileToWrite> {
        let copy = |file: &FileToWrite| FileToWrite {
            path: file.path.clone(),
            mode: file.mode,
            content: SecretBytes::new(file.content.expose().to_vec()),
        };
        self.files.iter().map(copy).collect()
    }

    /// Whether there are files.
    pub(crate) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Whether a command without a shell would miss something.
    pub(crate) fn needs_shell(&self) -> bool {
        self.has_files() || !self.environment.is_empty()
    }

    /// What the pod is marked with.
    pub(crate) fn marks(&self) -> impl Iterator<Item = (&str, &str)> {
        self.marks.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// An answer that was read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) keys: AuthorizedKeys,
    /// Who it is, for all of these keys.
    pub(super) principal: Option<String>,
    pub(super) metadata: LoginMetadata,
}

/// The document; a member that is not known is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    keys: Vec<String>,
    #[serde(default)]
    principal: Option<String>,
    #[serde(default)]
    environment: BTreeMap<String, SecretText>,
    #[serde(default)]
    files: Vec<DocumentFile>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentFile {
    path: String,
    #[serde(default)]
    mode: Option<String>,
    content: SecretText,
}

impl Answer {
    /// Reads what was printed: a JSON document where it begins with `{`, which no line does, otherwise lines.
    pub(super) fn read(printed: &[u8]) -> Result<Self, String> {
        if !printed.trim_ascii_start().starts_with(b"{") {
            let keys = AuthorizedKeys::parse(printed.to_vec());
            return Ok(Self { keys, principal: None, metadata: LoginMetadata::default() });
        }
        // Nothing of the document stands in the error but where it is wrong.
        let document: Document = serde_json::from_slice(printed).map_err(|error| wrong(&error))?;
        if document.keys.iter().any(|line| line.contains(['\n', '\r'])) {
            return Err("keys: each is one line".to_owned());
        }
        if document.principal.as_deref().is_some_and(|principal| !is_principal(principal)) {
            return Err("principal: it must not be empty nor have control characters".to_owned());
        }
        let environment = environment(document.environment)?;
        let files = files(document.files)?;
        let marks = document.metadata;
        let pairs = marks.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Marks::new().with_metadata(pairs).map_err(|error| format!("metadata: {error}"))?;
        Ok(Self {
            keys: AuthorizedKeys::parse(document.keys.join("\n").into_bytes()),
            principal: document.principal,
            metadata: LoginMetadata { environment, files, marks },
        })
    }
}

/// What serde says quotes values, which may be secret; what it says of members' names does not.
fn wrong(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let says_name = ["unknown field", "missing field", "duplicate field"].iter().any(|what| text.starts_with(what));
    let what = if says_name { text.split(" at line").next().unwrap_or_default() } else { "it is not of the kind that is wanted" };
    format!("the document: {what} (line {}, column {})", error.line(), error.column())
}

fn environment(given: BTreeMap<String, SecretText>) -> Result<Vec<(EnvironmentName, SecretBytes)>, String> {
    let mut variables = Vec::with_capacity(given.len());
    let mut bytes = 0;
    for (name, value) in given {
        let known = name.parse().map_err(|error| format!("environment: \"{}\": {error}", name.escape_debug()))?;
        if value.expose().contains('\0') {
            return Err(format!("environment: {name} has a NUL in it"));
        }
        bytes += name.len() + value.expose().len();
        variables.push((known, SecretBytes::new(value.expose().as_bytes().to_vec())));
    }
    if bytes > MAX_LOGIN_ENVIRONMENT {
        return Err(format!("environment: {bytes} bytes are over the limit of {MAX_LOGIN_ENVIRONMENT}"));
    }
    Ok(variables)
}

fn files(given: Vec<DocumentFile>) -> Result<Vec<FileToWrite>, String> {
    if given.len() > MAX_LOGIN_FILES {
        return Err(format!("files: there are more than {MAX_LOGIN_FILES}"));
    }
    let (mut files, mut paths, mut bytes) = (Vec::with_capacity(given.len()), BTreeSet::new(), 0);
    for file in given {
        let named = |what: String| format!("files: \"{}\": {what}", file.path.escape_debug());
        let path: FilePath = file.path.parse().map_err(|error| named(format!("{error}")))?;
        if !paths.insert(path.clone()) {
            return Err(named("it is there twice".to_owned()));
        }
        let mode = match &file.mode {
            None => MODE,
            Some(text) => mode(text).ok_or_else(|| named("mode: it is octal digits up to \"0777\", in quotes".to_owned()))?,
        };
        // Sized by base64ct before it decodes.
        let content = Base64::decode_vec(file.content.expose()).map_err(|_| named("content: it is no base64".to_owned()))?;
        bytes += content.len();
        if bytes > MAX_FILES {
            return Err(format!("files: their content is over the limit of {MAX_FILES} bytes"));
        }
        files.push(FileToWrite { path, mode, content: SecretBytes::new(content) });
    }
    Ok(files)
}

fn mode(text: &str) -> Option<u16> {
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u16::from_str_radix(text, 8).ok().filter(|_| is_octal)?;
    (mode <= 0o777).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_whole() {
        let text = br#"
            {"keys": ["ssh-ed25519 AAAA a", "ssh-ed25519 BBBB b"], "principal": "alice@example.org",
             "environment": {"TOKEN": "s3cret"},
             "files": [{"path": "~/.netrc", "content": "aGVsbG8="}, {"path": "/etc/x", "mode": "0644", "content": ""}],
             "metadata": {"team": "blue"}}"#;
        let answer = Answer::read(text).unwrap();
        assert_eq!((answer.keys.entries().count(), answer.principal.as_deref()), (2, Some("alice@example.org")));
        let files = answer.metadata.files();
        assert_eq!((files[0].path.as_str(), files[0].mode, files[0].content.expose()), ("~/.netrc", 0o600, &b"hello"[..]));
        assert_eq!((files[1].path.as_str(), files[1].mode, files[1].content.len()), ("/etc/x", 0o644, 0));
        assert_eq!(answer.metadata.environment().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), ["TOKEN"]);
        assert_eq!(answer.metadata.marks().collect::<Vec<_>>(), [("team", "blue")]);
        let debug = format!("{answer:?}");
        assert!(!debug.contains("s3cret") && !debug.contains("aGVsbG8") && !debug.contains("hello"), "{debug}");
    }

    #[test]
    fn lines_are_lines() {
        let answer = Answer::read(b"# none of it is JSON\nssh-ed25519 AAAA a\n").unwrap();
        assert_eq!((answer.keys.entries().count(), answer.principal), (2, None));
        assert!(!answer.metadata.needs_shell());
        assert!(Answer::read(b"").unwrap().keys.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_without_a_value() {
        let with = |member: &str| Answer::read(format!("{{\"keys\": [], {member}}}").as_bytes()).unwrap_err();
        for (member, said) in [
            (r#""key": "s3cret""#, "unknown field `key`"),
            (r#""keys": "s3cret""#, "duplicate field"),
            (r#""principal": 53"#, "not of the kind"),
            (r#""principal": "a\nb""#, "principal"),
            (r#""environment": {"A B": "s3cret"}"#, "\"A B\""),
            (r#""environment": {"A": 42}"#, "not of the kind"),
            (r#""environment": {"A": "s3cret\u0000"}"#, "NUL"),
            (r#""files": [{"path": "~/../x", "content": ""}]"#, "no \"..\""),
            (r#""files": [{"path": "/x", "content": "", "mode": "4755"}]"#, "mode"),
            (r#""files": [{"path": "/x", "content": "", "mode": 384}]"#, "not of the kind"),
            (r#""files": [{"path": "/x", "content": "s3cret"}]"#, "no base64"),
            (r#""files": [{"path": "/x", "content": ""}, {"path": "/x", "content": ""}]"#, "twice"),
            (r#""files": [{"path": "/x"}]"#, "missing field `content`"),
        ] {
            let error = with(member);
            assert!(error.contains(said) && !error.contains("s3cret"), "{member}: {error}");
        }
        assert!(
            Answer::read(br#"{"keys": ["a\nb"]}"#).is_err() && Answer::read(b"{} {}").is_err() && Answer::read(b"{").is_err()
        );
        let large = "x".repeat(MAX_LOGIN_ENVIRONMENT);
        assert!(with(&format!("\"environment\": {{\"A\": \"{large}\"}}")).contains("over the limit"));
        assert!(with(&format!("\"metadata\": {{\"A\": \"{}\"}}", "x".repeat(200_000))).contains("over the limit"));
        let file = |number: usize| format!("{{\"path\": \"/{number}\", \"content\": \"{}\"}}", "A".repeat(400_000));
        let files: Vec<String> = (0..4).map(file).collect();
        assert!(with(&format!("\"files\": [{}]", files.join(","))).contains("over the limit"));
    }
}
