//! Regular expressions: what Go's RE2 and the engine here read alike, and nothing else.
//!
//! A pattern is read, and written anew so that only one reading is left. What Go refuses and others take, or takes and
//! others refuse, is named and refused: a matcher that silently meant something else would be a wrong answer.

use regex_lite::{Regex, RegexBuilder};

/// The largest count in `{n,m}` that Go takes.
const MAX_REPEAT: u32 = 1000;
/// The deepest nesting of groups.
const MAX_GROUPS: usize = 50;

/// A pattern that is looked for anywhere in a text.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    /// Plain characters, perhaps bound to the beginning and the end.
    Plain { start: bool, text: String, end: bool },
    /// All the rest. `folds`: without regard to case, which the engine knows for ASCII only.
    Full { regex: Box<Regex>, folds: bool },
}

impl Pattern {
    /// Reads a pattern; the error names what is in the way.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        if let Some(plain) = plain(pattern) {
            return Ok(plain);
        }
        let mut writer = Writer {
            rest: pattern,
            out: String::with_capacity(pattern.len() + 16),
            groups: 0,
            folds: false,
            counted: Vec::new(),
        };
        writer.write()?;
        let folds = writer.folds;
        if folds && !pattern.is_ascii() {
            return Err("(?i) with letters beyond ASCII is not supported".to_owned());
        }
        let regex = RegexBuilder::new(&writer.out).size_limit(1 << 20).nest_limit(120).build();
        let regex = regex.map_err(|_| "the regular expression does not compile".to_owned())?;
        Ok(Self::Full { regex: Box::new(regex), folds })
    }

    /// Whether it is found in `text`; the error names what is in the way.
    pub(super) fn is_in(&self, text: &str) -> Result<bool, &'static str> {
        match self {
            Self::Plain { start: true, text: plain, end: true } => Ok(text == plain),
            Self::Plain { start: true, text: plain, end: false } => Ok(text.starts_with(plain.as_str())),
            Self::Plain { start: false, text: plain, end: true } => Ok(text.ends_with(plain.as_str())),
            Self::Plain { start: false, text: plain, end: false } => Ok(text.contains(plain.as_str())),
            // The Kelvin sign and the long s are letters k and s to Go.
            Self::Full { folds: true, .. } if !text.is_ascii() => Err("(?i) on a text beyond ASCII is not supported"),
            Self::Full { regex, .. } => Ok(regex.is_match(text)),
        }
    }
}

fn plain(pattern: &str) -> Option<Pattern> {
    let (start, rest) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
    let (rest, end) = rest.strip_suffix('$').map_or((rest, false), |rest| (rest, true));
    let mut text = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            // An escaped mark, such as the dot of a name. At the end it would have escaped the `$`.
            '\\' => text.push(chars.next().filter(char::is_ascii_punctuation)?),
            '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' => return None,
            c => text.push(c),
        }
    }
    Some(Pattern::Plain { start, text, end })
}

struct Writer<'a> {
    rest: &'a str,
    out: String,
    groups: usize,
    folds: bool,
    /// For each open group whether it holds a count in braces.
    counted: Vec<bool>,
}

const PERL: &[(char, &str, &str)] = &[
    ('d', "[0-9]", "0-9"),
    ('D', "[^0-9]", ""),
    ('s', "[\\t\\n\\x0C\\r ]", "\\t\\n\\x0C\\r "),
    ('S', "[^\\t\\n\\x0C\\r ]", ""),
    ('w', "[0-9A-Za-z_]", "0-9A-Za-z_"),
    ('W', "[^0-9A-Za-z_]", ""),
];

impl Writer<'_> {
    fn bump(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
        Some(c)
    }

    fn take(&mut self, prefix: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(prefix) else { return false };
        self.rest = rest;
        true
    }

    fn literal(&mut self, c: char) {
        // Not every mark: `\<` is a boundary of words to some.
        if "\\.+*?()|[]{}^$#&-~".contains(c) {
            self.out.push('\\');
        }
        self.out.push(c);
    }

    fn write(&mut self) -> Result<(), String> {
        // Whether a repetition may follow: there is something before it that is not one.
        let mut repeatable = false;
        // Whether what stands before holds a count; Go bounds their product.
        let mut holds_count = false;
        while let Some(c) = self.bump() {
            match c {
                '.' => {
                    self.out.push('.');
                    repeatable = true;
                }
                '|' => {
                    self.out.push('|');
                    repeatable = false;
                }
                '^' | '$' => {
                    self.out.push(c);
                    // Go repeats an assertion as if it were a character; engines differ.
                    repeatable = false;
                }
                '(' => {
                    repeatable = false;
                    if self.group()? {
                        self.counted.push(false);
                    }
                    self.groups += 1;
                    if self.counted.len() > MAX_GROUPS || self.groups > 500 {
                        return Err("the regular expression has too many groups".to_owned());
                    }
                }
                ')' => {
                    let counted = self.counted.pop().ok_or("the regular expression has a \")\" too many")?;
                    if let Some(outer) = self.counted.last_mut() {
                        *outer |= counted;
                    }
                    self.out.push(')');
                    repeatable = true;
                    holds_count = counted;
                    continue;
                }
                '*' | '+' | '?' => {
                    self.repetition(repeatable, &c.to_string())?;
                    repeatable = false;
                }
                '{' => match self.counts()? {
                    Some(_) if holds_count => {
                        return Err("counts within counts in a regular expression are not supported".to_owned());
                    }
                    Some(counts) => {
                        self.repetition(repeatable, &counts)?;
                        if let Some(group) = self.counted.last_mut() {
                            *group = true;
                        }
                        repeatable = false;
                    }
                    None => {
                        self.literal('{');
                        repeatable = true;
                    }
                },
                '[' => {
                    self.class()?;
                    repeatable = true;
                }
                '\\' => repeatable = self.escape()?,
                c => {
                    self.literal(c);
                    repeatable = true;
                }
            }
            holds_count = false;
        }
        if self.counted.is_empty() { Ok(()) } else { Err("the regular expression has a \"(\" too many".to_owned()) }
    }

    /// Reads what follows `(`; whether a group is open now.
    fn group(&mut self) -> Result<bool, String> {
        if !self.take("?") {
            // Nothing is captured here.
            self.out.push_str("(?:");
            return Ok(true);
        }
        if self.take("P<") || self.take("<") {
            let name = self.rest.split('>').next().unwrap_or_default();
            let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !fits || self.rest.len() == name.len() {
                return Err("look-behind or a broken group name in the regular expression is not supported".to_owned());
            }
            self.rest = self.rest.get(name.len() + 1..).unwrap_or_default();
            self.out.push_str("(?:");
            return Ok(true);
        }
        let flags: String = self.rest.chars().take_while(|c| matches!(c, 'i' | 'm' | 's' | '-')).collect();
        self.rest = self.rest.get(flags.len()..).unwrap_or_default();
        let signs = flags.matches('-').count();
        if signs > 1 || flags.ends_with('-') || (flags.is_empty() && !self.rest.starts_with(':')) {
            return Err("this group of the regular expression is not supported (look-around, or another flag)".to_owned());
        }
        self.folds |= flags.split('-').next().is_some_and(|on| on.contains('i'));
        self.out.push_str("(?");
        self.out.push_str(&flags);
        match self.bump() {
            Some(':') => {
                self.out.push(':');
                Ok(true)
            }
            Some(')') => {
                self.out.push(')');
                Ok(false)
            }
            _ => Err("this group of the regular expression is not supported (look-around, or another flag)".to_owned()),
        }
    }

    fn repetition(&mut self, repeatable: bool, written: &str) -> Result<(), String> {
        if !repeatable {
            return Err("the regular expression repeats nothing, an assertion or a repetition".to_owned());
        }
        self.out.push_str(written);
        if self.take("?") {
            self.out.push('?');
        }
        Ok(())
    }

    /// `{n}`, `{n,}` or `{n,m}`; anything else is a plain brace to Go.
    fn counts(&mut self) -> Result<Option<String>, String> {
        let Some((inner, rest)) = self.rest.split_once('}') else { return Ok(None) };
        let number = |text: &str| {
            let plain =
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
            plain.then(|| text.parse::<u32>().unwrap_or(u32::MAX))
        };
        let (low, high) = match inner.split_once(',') {
            None => (number(inner), number(inner)),
            Some((low, "")) => (number(low), Some(0)),
            Some((low, high)) => (number(low), number(high)),
        };
        let (Some(low), Some(high)) = (low, high) else { return Ok(None) };
        if low > MAX_REPEAT || high > MAX_REPEAT || (high < low && !inner.ends_with(',')) {
            return Err("the regular expression has a bad count in braces".to_owned());
        }
        self.rest = rest;
        Ok(Some(format!("{{{inner}}}")))
    }

    /// An escape outside of a class; whether it can be repeated.
    fn escape(&mut self) -> Result<bool, String> {
        let c = self.bump().ok_or("the regular expression ends with a backslash")?;
        if let Some((_, class, _)) = PERL.iter().find(|(letter, ..)| *letter == c) {
            self.out.push_str(class);
            return Ok(true);
        }
        match c {
            'A' => self.out.push_str("\\A"),
            'z' => self.out.push_str("\\z"),
            'b' => self.out.push_str("\\b"),
            'B' => self.out.push_str("\\B"),
            _ => {
                let c = self.character(c)?;
                self.literal_or_control(c);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn literal_or_control(&mut self, c: char) {
        if c.is_control() {
            self.out.push_str(&format!("\\x{{{:X}}}", u32::from(c)));
        } else {
            self.literal(c);
        }
    }

    /// The one character that an escape stands for.
    fn character(&mut self, c: char) -> Result<char, String> {
        Ok(match c {
            'a' => '\u{7}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            'x' => {
                let digits = if self.take("{") {
                    let (digits, rest) = self.rest.split_once('}').ok_or("the regular expression has a broken escape")?;
                    self.rest = rest;
                    digits
                } else {
                    let (digits, rest) = self.rest.split_at_checked(2).ok_or("the regular expression has a broken escape")?;
                    self.rest = rest;
                    digits
                };
                let fits = !digits.is_empty() && digits.len() <= 6 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                let value = if fits { u32::from_str_radix(digits, 16).ok().and_then(char::from_u32) } else { None };
                value.ok_or("the regular expression has a broken escape")?
            }
            c if c.is_ascii_punctuation() => c,
            c => return Err(format!("\\{c} in a regular expression is not supported")),
        })
    }

    fn class(&mut self) -> Result<(), String> {
        const BROKEN: &str = "the regular expression has a broken class";
        self.out.push('[');
        if self.take("^") {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            if self.rest.starts_with("[:") {
                return Err("named classes ([:alpha:]) in a regular expression are not supported".to_owned());
            }
            let c = self.bump().ok_or(BROKEN)?;
            if c == ']' && !first {
                self.out.push(']');
                return Ok(());
            }
            if c == '-' && !first && !self.rest.starts_with(']') {
                return Err(BROKEN.to_owned());
            }
            first = false;
            if c == '\\'
                && let Some((letter, _, inner)) = self.rest.chars().next().and_then(|l| PERL.iter().find(|(p, ..)| *p == l))
            {
                if inner.is_empty() {
                    return Err(format!("\\{letter} in a class of a regular expression is not supported"));
                }
                self.bump();
                self.out.push_str(inner);
                continue;
            }
            let low = self.class_character(c)?;
            self.literal_or_control(low);
            let mut ahead = self.rest.chars();
            if ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']') {
                self.bump();
                let c = self.bump().ok_or(BROKEN)?;
                let high = self.class_character(c)?;
                if high < low {
                    return Err(BROKEN.to_owned());
                }
                self.out.push('-');
                self.literal_or_control(high);
            }
        }
    }

    fn class_character(&mut self, c: char) -> Result<char, String> {
        if c != '\\' {
            return Ok(c);
        }
        let c = self.bump().ok_or("the regular expression has a broken class")?;
        self.character(c)
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    fn found(pattern: &str, text: &str) -> Result<bool, String> {
        Pattern::new(pattern)?.is_in(text).map_err(str::to_owned)
    }

    #[test]
    fn means_what_go_means_by_it() {
        for (pattern, text, expected) in [
            ("^web", "web1", true),
            ("^web$", "web1", false),
            ("web\\.", "web1", false),
            ("\\.net$", "a.net", true),
            ("a\\$", "a$", true),
            ("a\\$", "a", false),
            ("\\d", "٣", false),
            ("\\w+$", "é", false),
            ("^.$", "é", true),
            ("a.b", "a\nb", false),
            ("(?s)a.b", "a\nb", true),
            ("(?m)^b", "a\nb", true),
            ("^b", "a\nb", false),
            ("a$", "a\n", false),
            ("x{2}", "xx", true),
            ("x{,2}", "x{,2}", true),
            ("x{,2}", "xx", false),
            ("[]a]", "]", true),
            ("[a&&b]", "&", true),
            ("[a-]", "-", true),
            ("[\\d-]", "-", true),
            ("[^[]", "[", false),
            ("[~~]", "~", true),
            ("(?i)WEB", "web", true),
            ("(?i:W)eb", "Web", true),
            ("(?P<n>w)\\x65", "we", true),
            ("a\\x{62}c", "abc", true),
            ("(a|b)+c", "abac", true),
            ("\\bweb\\b", "a web b", true),
            ("", "", true),
            ("a  b #", "a  b #", true),
            ("a<b>\\<|x", "a<b><", true),
            ("(a{2}b)+", "aabaab", true),
        ] {
            assert_eq!(found(pattern, text), Ok(expected), "{pattern} in {text}");
        }
    }

    #[test]
    fn what_engines_read_otherwise_is_refused() {
        for pattern in [
            "[",
            "(",
            ")",
            "a**",
            "*a",
            "a{2}{3}",
            "a{1001}",
            "a{3,2}",
            "(?=a)",
            "(?<=a)",
            "(?<!a)",
            "(?x)a b",
            "(?U)a*",
            "\\pL",
            "\\Qa.b\\E",
            "\\1",
            "\\u0061",
            "\\h",
            "\\Z",
            "\\C",
            "[[:alpha:]]",
            "[b-a]",
            "[a-b-c]",
            "[\\D]",
            "^*",
            "\\",
            "[a",
            "a\\x{110000}",
            "(?i)ü",
            "(a{9}){9}",
            "((a{9}))?{9}",
            "(b(a{9})c){9}",
        ] {
            assert!(found(pattern, "a").is_err(), "{pattern}");
        }
        assert!(found("(?i)k", "\u{212a}").is_err());
    }
}
