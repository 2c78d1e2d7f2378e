//! What sshd makes of a key's options.

use std::net::IpAddr;

use toehold_core::Timestamp;

use super::from::from_matches;
use super::options::{Options, OptionsError, unquoted};

/// What the options of a line allow to whoever logs in with its key, as sshd of OpenSSH 10.5 reads them (sshd(8),
/// `AUTHORIZED_KEYS FILE FORMAT`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "sshd's own switches, each independent of the others")]
pub struct Effect {
    /// The command that runs whatever the client asks for (`command`).
    pub command: Option<Vec<u8>>,
    /// The last second at which the key is good (`expiry-time`; the earliest counts).
    pub expires_at: Option<Timestamp>,
    /// Where logins may come from (`from`).
    pub from: Option<Vec<u8>>,
    /// The key signs certificates and is not itself good for a login (`cert-authority`).
    pub certificate_authority: bool,
    /// The principals that a certificate may name (`principals`).
    pub principals: Option<Vec<u8>>,
    /// Variables for the environment, `NAME=value` (`environment`); the first of a name counts.
    pub environment: Vec<Vec<u8>>,
    /// Whether ports may be forwarded.
    pub port_forwarding: bool,
    /// The targets to which forwarding is limited (`permitopen`).
    pub permit_open: Vec<Vec<u8>>,
    /// The addresses to which listening is limited (`permitlisten`).
    pub permit_listen: Vec<Vec<u8>>,
    /// Whether the agent may be forwarded.
    pub agent_forwarding: bool,
    /// Whether X11 may be forwarded.
    pub x11_forwarding: bool,
    /// Whether a terminal may be allocated.
    pub pty: bool,
    /// Whether `~/.ssh/rc` runs.
    pub user_rc: bool,
    /// Whether a security key must have been touched.
    pub touch_required: bool,
    /// Whether a security key must have verified its user.
    pub verify_required: bool,
    /// The tunnel device that is forced (`tunnel`).
    pub tunnel: Option<Vec<u8>>,
}

impl Default for Effect {
    /// A line without options.
    fn default() -> Self {
        Self {
            command: None,
            expires_at: None,
            from: None,
            certificate_authority: false,
            principals: None,
            environment: Vec::new(),
            port_forwarding: true,
            permit_open: Vec::new(),
            permit_listen: Vec::new(),
            agent_forwarding: true,
            x11_forwarding: true,
            pty: true,
            user_rc: true,
            touch_required: true,
            verify_required: false,
            tunnel: None,
        }
    }
}

/// The most `permitopen`, `permitlisten` or `environment` options that sshd takes.
const MOST_REPEATED: usize = 4096;

impl Options {
    /// What sshd of OpenSSH 10.5 makes of these options on a host that is `utc_offset` seconds ahead of UTC.
    ///
    /// # Errors
    /// [`OptionsError::Unknown`], [`OptionsError::BadValue`] or [`OptionsError::Repeated`]: sshd refuses the whole line.
    pub fn effect(&self, utc_offset: i32) -> Result<Effect, OptionsError> {
        let mut effect = Effect::default();
        // sshd passes over empty options, as between two commas.
        for item in self.iter().filter(|item| !item.is_empty()) {
            let equals = item.iter().position(|byte| *byte == b'=');
            let (name, value) = item.split_at_checked(equals.unwrap_or(item.len())).unwrap_or_default();
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            if value.is_empty() {
                effect.flag(&name)?;
            } else {
                let value = unquoted(value.get(1..).unwrap_or_default()).ok_or_else(|| bad_value(&name))?;
                effect.value(&name, value, utc_offset)?;
            }
        }
        Ok(effect)
    }
}

impl Effect {
    fn flag(&mut self, name: &str) -> Result<(), OptionsError> {
        let (positive, on) = name.strip_prefix("no-").map_or((name, true), |positive| (positive, false));
        match positive {
            "port-forwarding" => self.port_forwarding = on,
            "agent-forwarding" => self.agent_forwarding = on,
            "x11-forwarding" => self.x11_forwarding = on,
            "touch-required" => self.touch_required = on,
            "verify-required" => self.verify_required = on,
            "pty" => self.pty = on,
            "user-rc" => self.user_rc = on,
            "cert-authority" if on => self.certificate_authority = true,
            "restrict" if on => {
                self.port_forwarding = false;
                self.agent_forwarding = false;
                self.x11_forwarding = false;
                self.pty = false;
                self.user_rc = false;
            }
            _ => return Err(OptionsError::Unknown { option: name.to_owned() }),
        }
        Ok(())
    }

    fn value(&mut self, name: &str, value: Vec<u8>, utc_offset: i32) -> Result<(), OptionsError> {
        match name {
            "command" => once(&mut self.command, name, value)?,
            "principals" => once(&mut self.principals, name, value)?,
            "from" => once(&mut self.from, name, value)?,
            "expiry-time" => {
                let text = str::from_utf8(&value).map_err(|_| bad_value(name))?;
                let at: super::ExpiryTime = text.parse().map_err(|_| bad_value(name))?;
                let at = at.instant(utc_offset);
                match at.unix_seconds() {
                    0 => return Err(bad_value(name)),
                    // sshd counts in unsigned numbers, so that times before 1970 are far in the future to it.
                    ..0 => {}
                    1.. => self.expires_at = Some(self.expires_at.map_or(at, |earlier| earlier.min(at))),
                }
            }
            "environment" => {
                let equals = value.iter().position(|byte| *byte == b'=').filter(|_| self.environment.len() <= MOST_REPEATED);
                let variable = equals.and_then(|at| value.get(..=at)).ok_or_else(|| bad_value(name))?;
                let (_, variable_name) = variable.split_last().unwrap_or((&b'=', &[]));
                if variable_name.is_empty() || !variable_name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
                    return Err(bad_value(name));
                }
                if !self.environment.iter().any(|earlier| earlier.starts_with(variable)) {
                    self.environment.push(value);
                }
            }
            "permitopen" => permit(&mut self.permit_open, name, &value, false)?,
            "permitlisten" => permit(&mut self.permit_listen, name, &value, true)?,
            "tunnel" => {
                let number = str::from_utf8(&value).ok().and_then(|text| text.parse::<u32>().ok());
                if value != b"any" && number.is_none_or(|number| number > 0x7fff_fffd) {
                    return Err(bad_value(name));
                }
                self.tunnel = Some(value);
            }
            _ => return Err(OptionsError::Unknown { option: name.to_owned() }),
        }
        Ok(())
    }

    /// Whether a login with a plain key is allowed from `peer` at `now`; without a peer, a line with `from` is refused.
    pub(super) fn admits(&self, now: Timestamp, peer: Option<IpAddr>) -> bool {
        let expired = self.expires_at.is_some_and(|end| end < now && now > Timestamp::UNIX_EPOCH);
        let from = self.from.as_ref().is_none_or(|patterns| peer.is_some_and(|peer| from_matches(patterns, peer)));
        !expired && from && !self.certificate_authority && self.principals.is_none()
    }
}

fn bad_value(name: &str) -> OptionsError {
    OptionsError::BadValue { option: name.to_owned() }
}

fn once(slot: &mut Option<Vec<u8>>, name: &str, value: Vec<u8>) -> Result<(), OptionsError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(OptionsError::Repeated { option: name.to_owned() }),
    }
}

/// `host:port`, where the port may be `*`; `port` alone where listening is meant.
fn permit(list: &mut Vec<Vec<u8>>, name: &str, value: &[u8], bare_port: bool) -> Result<(), OptionsError> {
    let text = str::from_utf8(value).map_err(|_| bad_value(name))?;
    let text = if bare_port && !text.contains(':') { format!("*:{text}") } else { text.to_owned() };
    let split = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once("]:"),
        None => text.split_once(':'),
    };
    let (host, port) = split.ok_or_else(|| bad_value(name))?;
    let valid_port = port == "*" || port.parse::<u16>().is_ok_and(|port| port > 0);
    if host.len() >= 1025 || !valid_port || list.len() > MOST_REPEATED {
        return Err(bad_value(name));
    }
    list.push(text.into_bytes());
    Ok(())
}
