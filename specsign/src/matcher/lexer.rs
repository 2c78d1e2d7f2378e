//! Texts into tokens, as expr-lang cuts them.

use super::{MatcherError, Problem};

/// A token and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) place: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Name(String),
    Text(String),
    Int(i64),
    Float(f64),
    /// Operators, words that are operators, and brackets.
    Sign(&'static str),
    End,
}

/// Words that are operators; those of the second list can follow `not`.
const WORDS: &[&str] = &["or", "and", "not", "let", "if", "else"];
pub(super) const AFTER_NOT: &[&str] = &["in", "matches", "contains", "startsWith", "endsWith"];

/// Longer ones first. `&`, `=`, `#` and others are tokens that no rule takes.
const SIGNS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "**", "..", "??", "?.", "::", "(", ")", "[", "]", "{", "}", ",", ";", "%", "+", "-", "^",
    "&", "!", "=", "*", "<", ">", "?", ":", "|", "/", ".", "#",
];

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, MatcherError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next()?;
        let end = token.kind == Kind::End;
        tokens.push(token);
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

fn is_name(c: char) -> bool {
    c == '_' || c == '$' || c.is_alphanumeric()
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn run(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !fits(c)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn error(&self, problem: Problem, message: &str, place: usize) -> MatcherError {
        MatcherError::new(problem, message, self.text, place)
    }

    fn invalid(&self, message: &str, place: usize) -> MatcherError {
        self.error(Problem::Invalid, message, place)
    }

    fn next(&mut self) -> Result<Token, MatcherError> {
        self.skip_blanks()?;
        let place = self.at;
        let Some(first) = self.peek() else { return Ok(Token { kind: Kind::End, place }) };
        let second = self.rest().chars().nth(1);
        let kind = match first {
            '\'' | '"' => self.quoted(first)?,
            '`' => self.raw()?,
            'b' | 'B' if matches!(second, Some('\'' | '"')) => {
                return Err(self.error(Problem::Unsupported, "byte strings (b'…') are not supported", place));
            }
            '0'..='9' => self.number()?,
            '.' if second.is_some_and(|c| c.is_ascii_digit()) => self.number()?,
            c if is_name(c) => {
                let word = self.run(is_name);
                match WORDS.iter().chain(AFTER_NOT).find(|known| **known == word) {
                    Some(word) => Kind::Sign(word),
                    None => Kind::Name(word.to_owned()),
                }
            }
            _ => match SIGNS.iter().find(|sign| self.rest().starts_with(**sign)) {
                Some(sign) => {
                    self.at += sign.len();
                    Kind::Sign(sign)
                }
                None => return Err(self.invalid("this character has no meaning here", place)),
            },
        };
        Ok(Token { kind, place })
    }

    fn skip_blanks(&mut self) -> Result<(), MatcherError> {
        loop {
            self.run(char::is_whitespace);
            let place = self.at;
            if self.rest().starts_with("//") {
                self.run(|c| c != '\n');
            } else if self.rest().starts_with("/*") {
                self.at += 2;
                let end = self.rest().find("*/").ok_or_else(|| self.invalid("the comment does not end", place))?;
                self.at += end + 2;
            } else {
                return Ok(());
            }
        }
    }

    fn number(&mut self) -> Result<Kind, MatcherError> {
        let place = self.at;
        let bad = |lexer: &Self, message: &str| lexer.invalid(message, place);
        let prefix = self.rest().get(..2).unwrap_or_default().to_ascii_lowercase();
        let radix = match prefix.as_str() {
            "0x" => 16,
            "0o" => 8,
            "0b" => 2,
            _ => 10,
        };
        if radix != 10 {
            self.at += 2;
            let digits: String = self.run(|c| c == '_' || c.is_digit(radix)).chars().filter(|c| *c != '_').collect();
            // A fraction or an exponent goes on with the number for the original, which then cannot read it.
            let goes_on = self.rest().starts_with('.') && !self.rest().starts_with("..");
            if goes_on || self.peek().is_some_and(is_name) {
                return Err(bad(self, "bad number"));
            }
            return i64::from_str_radix(&digits, radix).map(Kind::Int).map_err(|_| bad(self, "bad number"));
        }
        let start = self.at;
        let digit = |c: char| c == '_' || c.is_ascii_digit();
        self.run(digit);
        if self.rest().starts_with('.') && !self.rest().starts_with("..") {
            self.at += 1;
            self.run(digit);
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            self.at += 1;
            if matches!(self.peek(), Some('+' | '-')) {
                self.at += 1;
            }
            self.run(digit);
        }
        if self.peek().is_some_and(is_name) {
            return Err(bad(self, "bad number"));
        }
        let number: String = self.text.get(start..self.at).unwrap_or_default().chars().filter(|c| *c != '_').collect();
        if number.contains(['.', 'e', 'E']) {
            let value: f64 = number.parse().map_err(|_| bad(self, "bad number"))?;
            return if value.is_finite() { Ok(Kind::Float(value)) } else { Err(bad(self, "the number is too large")) };
        }
        number.parse().map(Kind::Int).map_err(|_| bad(self, "the number is too large"))
    }

    fn raw(&mut self) -> Result<Kind, MatcherError> {
        let place = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.bump() {
                // Two in a row stand for one.
                Some('`') if self.peek() == Some('`') => {
                    self.at += 1;
                    text.push('`');
                }
                Some('`') => return Ok(Kind::Text(text)),
                Some(c) => text.push(c),
                None => return Err(self.invalid("the text does not end", place)),
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Kind, MatcherError> {
        let place = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let here = self.at;
            match self.bump() {
                Some(c) if c == quote => return Ok(Kind::Text(text)),
                None | Some('\n') => return Err(self.invalid("the text does not end", place)),
                Some('\\') => text.push(self.escape(quote, here)?),
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self, quote: char, place: usize) -> Result<char, MatcherError> {
        let digits = match self.bump() {
            Some('a') => return Ok('\u{7}'),
            Some('b') => return Ok('\u{8}'),
            Some('f') => return Ok('\u{c}'),
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some('v') => return Ok('\u{b}'),
            Some('\\') => return Ok('\\'),
            Some(c) if c == quote => return Ok(c),
            Some('0'..='7') => {
                self.at -= 1;
                let value = self.fixed_digits(8, 3, place)?;
                return self.small(value, place);
            }
            Some('x') => {
                let value = self.fixed_digits(16, 2, place)?;
                return self.small(value, place);
            }
            Some('u') if self.peek() == Some('{') => {
                self.at += 1;
                let digits = self.run(|c| c.is_ascii_hexdigit());
                if digits.is_empty() || digits.len() > 6 || self.bump() != Some('}') {
                    return Err(self.invalid("bad escape", place));
                }
                u32::from_str_radix(digits, 16).unwrap_or(u32::MAX)
            }
            Some('u') => self.fixed_digits(16, 4, place)?,
            Some('U') => self.fixed_digits(16, 8, place)?,
            _ => return Err(self.invalid("bad escape", place)),
        };
        char::from_u32(digits).ok_or_else(|| self.invalid("the escape is no character", place))
    }

    /// `\x` and octal escapes above ASCII are bytes in one place and characters in another.
    fn small(&self, value: u32, place: usize) -> Result<char, MatcherError> {
        match char::from_u32(value) {
            Some(c) if c.is_ascii() => Ok(c),
            _ => {
                Err(self.error(Problem::Unsupported, "such escapes above 7F are not supported; write \\u and four digits", place))
            }
        }
    }

    fn fixed_digits(&mut self, radix: u32, count: usize, place: usize) -> Result<u32, MatcherError> {
        let digits = self.rest().get(..count).filter(|text| text.chars().all(|c| c.is_digit(radix)));
        let value = digits.and_then(|text| u32::from_str_radix(text, radix).ok());
        let value = value.ok_or_else(|| self.invalid("bad escape", place))?;
        self.at += count;
        Ok(value)
    }
}
