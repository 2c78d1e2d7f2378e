//! The options in front of a key.

use std::fmt;
use std::str::FromStr;

use super::expiry::ExpiryTime;

/// The options of one line, in their order, each kept as it was written.
///
/// ```
/// use toehold_keygen::authorized_keys::Options;
///
/// let options = Options::new().restrict().command("internal-sftp")?.from("192.0.2.0/24,*.example.net")?;
/// assert_eq!(options.to_string(), r#"restrict,command="internal-sftp",from="192.0.2.0/24,*.example.net""#);
/// assert_eq!(options.value("COMMAND"), Some(b"internal-sftp".to_vec()));
/// # Ok::<(), toehold_keygen::authorized_keys::OptionsError>(())
/// ```
///
/// Two values are equal when they are written alike. What sshd makes of them is [`Options::effect`].
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Options {
    items: Vec<Vec<u8>>,
}

/// Why options cannot be written, or are not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// A quoted value has no end.
    #[error("a quote in the options of a key is not closed")]
    OpenQuote,
    /// A blank outside quotes would end the options.
    #[error("the options of a key have a blank outside quotes")]
    Blank,
    /// A line feed, carriage return or NUL.
    #[error("the key option {option} has a line break or a NUL in it")]
    ControlCharacter {
        /// The option's name.
        option: String,
    },
    /// A value that ends with `\`: in the file, that would escape the closing quote, and there is no way to write it.
    #[error("the value of the key option {option} ends with a backslash, which authorized_keys cannot express")]
    TrailingBackslash {
        /// The option's name.
        option: String,
    },
    /// A name that is empty or has other characters than letters, digits, `-`, `_`, `@` and `.`.
    #[error("\"{0}\" is not the name of a key option")]
    BadName(String),
    /// sshd does not know the option, and refuses the line for it.
    #[error("sshd does not know the key option {option}")]
    Unknown {
        /// The option as it stands.
        option: String,
    },
    /// sshd does not take this value, and refuses the line for it.
    #[error("sshd does not accept this value of the key option {option}")]
    BadValue {
        /// The option's name.
        option: String,
    },
    /// sshd allows the option once.
    #[error("the key option {option} stands there more than once")]
    Repeated {
        /// The option's name.
        option: String,
    },
}

impl Options {
    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads options as they stand in a file. Unknown ones are kept.
    ///
    /// # Errors
    /// [`OptionsError::OpenQuote`], [`OptionsError::Blank`] or [`OptionsError::ControlCharacter`].
    pub fn parse(text: &[u8]) -> Result<Self, OptionsError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut items = vec![Vec::new()];
        let mut quoted = false;
        let mut bytes = text.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            let mut escaped = None;
            match byte {
                b'\\' => escaped = bytes.next_if_eq(&b'"'),
                b'"' => quoted = !quoted,
                b',' if !quoted => {
                    items.push(Vec::new());
                    continue;
                }
                b' ' | b'\t' if !quoted => return Err(OptionsError::Blank),
                b'\n' | 0 => return Err(OptionsError::ControlCharacter { option: String::from_utf8_lossy(text).into_owned() }),
                _ => {}
            }
            if let Some(item) = items.last_mut() {
                item.push(byte);
                item.extend(escaped);
            }
        }
        if quoted { Err(OptionsError::OpenQuote) } else { Ok(Self { items }) }
    }

    /// Adds `restrict`: no forwarding, no terminal, no `~/.ssh/rc`, and whatever else OpenSSH will think of.
    #[must_use]
    pub fn restrict(mut self) -> Self {
        self.items.push(b"restrict".to_vec());
        self
    }

    /// Adds `command="…"`: whatever the client asks for, this is what runs.
    ///
    /// # Errors
    /// As [`Options::value_of`].
    pub fn command(self, command: &str) -> Result<Self, OptionsError> {
        self.value_of("command", command)
    }

    /// Adds `from="…"`: a comma-separated list of host name patterns, addresses and CIDR networks (sshd(8)).
    ///
    /// # Errors
    /// As [`Options::value_of`].
    pub fn from(self, patterns: &str) -> Result<Self, OptionsError> {
        self.value_of("from", patterns)
    }

    /// Adds `expiry-time="…"`.
    #[must_use]
    pub fn expiry_time(mut self, expiry: &ExpiryTime) -> Self {
        self.items.push(expiry_item(expiry));
        self
    }

    /// Adds an option without a value, such as `no-pty`.
    ///
    /// # Errors
    /// [`OptionsError::BadName`].
    pub fn flag(mut self, name: &str) -> Result<Self, OptionsError> {
        check_name(name)?;
        self.items.push(name.as_bytes().to_vec());
        Ok(self)
    }

    /// Adds an option with a value, in quotes, a quote within it as `\"`; sshd knows no other escape.
    ///
    /// # Errors
    /// [`OptionsError::BadName`]; [`OptionsError::ControlCharacter`] or [`OptionsError::TrailingBackslash`] for a value
    /// that cannot be written.
    pub fn value_of(mut self, name: &str, value: &str) -> Result<Self, OptionsError> {
        check_name(name)?;
        if value.contains(['\n', '\r', '\0']) {
            return Err(OptionsError::ControlCharacter { option: name.to_owned() });
        }
        if value.ends_with('\\') {
            return Err(OptionsError::TrailingBackslash { option: name.to_owned() });
        }
        self.items.push(format!("{name}=\"{}\"", value.replace('"', "\\\"")).into_bytes());
        Ok(self)
    }

    /// Sets when the key ends, or lets it end never; all other options stay as they are, in their places. The first
    /// `expiry-time` is replaced where it stands and further ones go; where there was none, it comes last.
    pub fn set_expiry_time(&mut self, expiry: Option<&ExpiryTime>) {
        let mut item = expiry.map(expiry_item);
        self.items.retain_mut(|old| {
            if !named(old, "expiry-time") {
                return true;
            }
            item.take().is_some_and(|new| {
                *old = new;
                true
            })
        });
        self.items.extend(item);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Each option as it stands.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.items.iter().map(Vec::as_slice)
    }

    /// Whether an option of this name is there, with or without a value; upper and lower case do not matter.
    pub fn has(&self, name: &str) -> bool {
        self.items.iter().any(|item| named(item, name))
    }

    /// The value of the first option of this name, without quotes; `None` also where its value is not quoted.
    pub fn value(&self, name: &str) -> Option<Vec<u8>> {
        self.items.iter().find(|item| named(item, name)).and_then(|item| unquoted(item.get(name.len() + 1..)?))
    }

    /// The options as they stand in a file: [`Options::parse`] of these bytes gives the same options, and the other way round.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.items.join(&b',')
    }
}

fn expiry_item(expiry: &ExpiryTime) -> Vec<u8> {
    format!("expiry-time=\"{expiry}\"").into_bytes()
}

fn check_name(name: &str) -> Result<(), OptionsError> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_@.".contains(&byte);
    if name.is_empty() || !name.bytes().all(valid) { Err(OptionsError::BadName(name.to_owned())) } else { Ok(()) }
}

/// Whether `item` is the option `name`, or that with a value.
fn named(item: &[u8], name: &str) -> bool {
    let (head, tail) = item.split_at_checked(name.len()).unwrap_or_default();
    head.eq_ignore_ascii_case(name.as_bytes()) && matches!(tail, [] | [b'=', ..])
}

/// What stands between the quotes, `\"` read as `"`; `None` where `text` is not one quoted value.
pub(super) fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    let inner = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut value = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return None,
            // A backslash at the very end escapes the quote that was taken for the closing one.
            b'\\' if bytes.peek().is_none() => return None,
            b'\\' => value.push(bytes.next_if_eq(&b'"').unwrap_or(byte)),
            byte => value.push(byte),
        }
    }
    Some(value)
}

impl FromStr for Options {
    type Err = OptionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes())
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Options({})", self.to_bytes().escape_ascii())
    }
}
