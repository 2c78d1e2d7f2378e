//! The one line that a new machine gets.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::endpoint::Endpoint;
use crate::pin::Pin;
use crate::token::Token;

/// The most pins in a line.
pub const MAX_PINS: usize = 8;

/// Which protocol a line is for. A line never falls back to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Opni's first.
    V1,
    /// Opni's second.
    V2,
    /// Ours.
    V3,
}

impl Protocol {
    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// Why a text is not a line to join with. Holds nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The endpoint is none.
    #[error("the line's endpoint is not a host and a port")]
    Endpoint,
    /// Another beginning, or not four parts.
    #[error("a line to join with is toehold-join-v3/ENDPOINT/TOKEN/PIN, with v1 or v2 for Opni's protocols, copied whole")]
    Form,
    /// A pin is none, or there are none or over 8.
    #[error("the line's pins are not 1 to 8 pins such as sha256:…, with commas between them")]
    Pins,
    /// The token is none.
    #[error("the line's token is none; was it copied whole?")]
    Token,
}

/// The one line that a new machine gets: `toehold-join-v3/ENDPOINT/TOKEN/PIN[,PIN…]`. Holds the token's secret.
///
/// The pins are the gateway's present one and the next ones (J4), so that a line stays good over a change of keys.
#[derive(Debug, PartialEq, Eq)]
pub struct JoinLine {
    /// Which protocol.
    pub protocol: Protocol,
    /// Where the gateway listens.
    pub endpoint: Endpoint,
    /// The token.
    pub token: Token,
    /// By what the gateway is known; at least one.
    pub pins: Vec<Pin>,
}

impl JoinLine {
    /// The text form, which holds the token's secret.
    pub fn expose(&self) -> Zeroizing<String> {
        let token = self.token.expose_text();
        let pins: Vec<String> = self.pins.iter().map(Pin::to_string).collect();
        let (endpoint, pins) = (self.endpoint.to_string(), pins.join(","));
        let mut text = Zeroizing::new(String::with_capacity(24 + endpoint.len() + token.len() + pins.len()));
        for part in [&format!("toehold-join-v{}", self.protocol.number()), "/", &endpoint, "/", &token, "/", &pins] {
            text.push_str(part);
        }
        text
    }
}

impl FromStr for JoinLine {
    type Err = LineError;

    fn from_str(text: &str) -> Result<Self, LineError> {
        let mut parts = text.splitn(5, '/');
        let (Some(head), Some(endpoint), Some(token), Some(pins), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(LineError::Form);
        };
        let protocol = [Protocol::V1, Protocol::V2, Protocol::V3]
            .into_iter()
            .find(|protocol| head.strip_prefix("toehold-join-v") == Some(protocol.number().to_string().as_str()))
            .ok_or(LineError::Form)?;
        let endpoint: Endpoint = endpoint.parse().map_err(|_| LineError::Endpoint)?;
        let token = Token::parse(token).map_err(|_| LineError::Token)?;
        let pins: Vec<Pin> = pins.split(',').map(|pin| pin.parse().map_err(|_| LineError::Pins)).collect::<Result<_, _>>()?;
        if pins.len() > MAX_PINS {
            return Err(LineError::Pins);
        }
        Ok(Self { protocol, endpoint, token, pins })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pin::PinAlgorithm;

    #[test]
    fn printed_and_read_and_nothing_else() {
        let pins = vec![Pin::new(PinAlgorithm::Sha256, [1; 32]), Pin::new(PinAlgorithm::Blake2b256, [2; 32])];
        let endpoint = "gw.example.net:7443".parse().unwrap();
        let token = Token::parse(&format!("{}.{}", "03".repeat(6), "07".repeat(26))).unwrap();
        let line = JoinLine { protocol: Protocol::V3, endpoint, token, pins };
        let text = line.expose();
        assert_eq!(text.parse().as_ref(), Ok(&line));
        assert!(!format!("{line:?}").contains("0707") && !format!("{line:?}").contains("7, 7"), "the secret is printed");
        let error = |text: String| text.parse::<JoinLine>().unwrap_err();
        assert_eq!(error(text.replace("-v3", "-v4")), LineError::Form);
        assert_eq!(error(text.replace("-v3", "-v03")), LineError::Form);
        assert_eq!(error(format!("{}/", *text)), LineError::Form);
        assert_eq!(error(format!(" {}", *text)), LineError::Form);
        assert_eq!(error(format!("{},", *text)), LineError::Pins);
        assert_eq!(error(format!("{}\n", *text)), LineError::Pins);
        assert_eq!(error(text.replace("03.", "03")), LineError::Token);
        assert_eq!(error(text.replace(":7443", "")), LineError::Endpoint);
    }
}
