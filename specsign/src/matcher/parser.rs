//! Tokens into a tree whose types fit.

use std::fmt;

use super::lexer::{AFTER_NOT, Kind, Token, tokens};
use super::pattern::Pattern;
use super::{MAX_DEPTH, MatcherError, Problem};

/// A part of an expression.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Expression,
    pub(super) place: usize,
    of: Type,
    depth: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Expression {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Nil,
    List(Vec<Node>),
    Identity(Argument),
    HasFile(Box<Node>),
    HasDirectory(Box<Node>),
    HasCommand(Box<Node>),
    Matches(Box<Node>, Argument),
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Minus(Box<Node>),
    /// `a < b <= c`: each is compared with the next.
    Chain(Box<Node>, Vec<(Order, Node)>),
    Binary(Binary, Box<(Node, Node)>),
    Choice(Box<(Node, Node, Node)>),
}

/// A regular expression: most are there when the expression is read.
#[derive(Clone, Debug)]
pub(super) enum Argument {
    Known(Pattern),
    Computed(Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Equal,
    NotEqual,
    In,
    Contains,
    StartsWith,
    EndsWith,
    Plus,
    Minus,
    Times,
    Divide,
    Remainder,
    Power,
}

/// What an expression gives, as far as can be told before it is evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Type {
    Bool,
    Int,
    Float,
    Text,
    Nil,
    /// A list and what its elements have in common; `Unsure` where that is nothing.
    List(Box<Type>),
    /// Two kinds come together, as in `x ? 1 : 'a'`.
    Unsure,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "a truth value",
            Self::Int => "an integer",
            Self::Float => "a fraction",
            Self::Text => "a text",
            Self::Nil => "nil",
            Self::List(_) => "a list",
            Self::Unsure => "a value of several kinds",
        })
    }
}

impl Type {
    fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Float)
    }

    fn may_be_bool(&self) -> bool {
        matches!(self, Self::Bool | Self::Unsure)
    }

    fn comparable(&self, other: &Self) -> bool {
        self == other
            || (self.is_number() && other.is_number())
            || matches!((self, other), (Self::List(_), Self::List(_)))
            || [self, other].into_iter().any(|of| matches!(of, Self::Nil | Self::Unsure))
    }
}

/// Functions and names of the original's library; who uses them hears that, and not that there is no such thing.
const LIBRARY: &[&str] = &[
    "$env",
    "abs",
    "all",
    "any",
    "bitand",
    "bitnand",
    "bitnot",
    "bitor",
    "bitshl",
    "bitshr",
    "bitushr",
    "bitxor",
    "ceil",
    "concat",
    "count",
    "date",
    "duration",
    "filter",
    "find",
    "findIndex",
    "findLast",
    "findLastIndex",
    "first",
    "flatten",
    "float",
    "floor",
    "fromBase64",
    "fromJSON",
    "fromPairs",
    "get",
    "groupBy",
    "hasPrefix",
    "hasSuffix",
    "indexOf",
    "int",
    "join",
    "keys",
    "last",
    "lastIndexOf",
    "len",
    "lower",
    "map",
    "max",
    "mean",
    "median",
    "min",
    "none",
    "now",
    "one",
    "reduce",
    "repeat",
    "replace",
    "reverse",
    "round",
    "sort",
    "sortBy",
    "split",
    "splitAfter",
    "string",
    "sum",
    "take",
    "timezone",
    "toBase64",
    "toJSON",
    "toPairs",
    "trim",
    "trimPrefix",
    "trimSuffix",
    "type",
    "uniq",
    "upper",
    "values",
];

const BINARY: &[(&str, u8)] = &[
    ("|", 0),
    ("or", 10),
    ("||", 10),
    ("and", 15),
    ("&&", 15),
    ("==", 20),
    ("!=", 20),
    ("<", 20),
    (">", 20),
    ("<=", 20),
    (">=", 20),
    ("in", 20),
    ("matches", 20),
    ("contains", 20),
    ("startsWith", 20),
    ("endsWith", 20),
    ("..", 25),
    ("+", 30),
    ("-", 30),
    ("*", 60),
    ("/", 60),
    ("%", 60),
    ("**", 100),
    ("^", 100),
    ("??", 250),
];

const NOT: u8 = 50;
const SIGN: u8 = 90;

fn precedence(sign: &str) -> Option<u8> {
    BINARY.iter().find(|(name, _)| *name == sign).map(|(_, precedence)| *precedence)
}

fn order(sign: &str) -> Option<Order> {
    Some(match sign {
        "<" => Order::Less,
        "<=" => Order::LessOrEqual,
        ">" => Order::Greater,
        ">=" => Order::GreaterOrEqual,
        _ => return None,
    })
}

pub(super) fn parse(text: &str) -> Result<Node, MatcherError> {
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, depth: 0 };
    let root = parser.expression(0)?;
    if parser.peek().kind != Kind::End {
        return Err(parser.unexpected());
    }
    if !root.of.may_be_bool() {
        return Err(parser.invalid(format!("the expression is {}, not a truth value", root.of), root.place));
    }
    Ok(root)
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

static END: Token = Token { kind: Kind::End, place: usize::MAX };

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&END)
    }

    fn sign(&self) -> Option<&'static str> {
        self.sign_at(self.at)
    }

    fn sign_at(&self, at: usize) -> Option<&'static str> {
        match self.tokens.get(at)?.kind {
            Kind::Sign(sign) => Some(sign),
            _ => None,
        }
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.sign() == Some(sign);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), MatcherError> {
        if self.take(sign) {
            Ok(())
        } else {
            Err(self.error(Problem::Invalid, format!("expected {sign:?} here"), self.peek().place))
        }
    }

    fn error(&self, problem: Problem, message: impl Into<String>, place: usize) -> MatcherError {
        MatcherError::new(problem, message, self.text, place.min(self.text.len()))
    }

    fn invalid(&self, message: impl Into<String>, place: usize) -> MatcherError {
        self.error(Problem::Invalid, message, place)
    }

    fn unsupported(&self, what: &str, place: usize) -> MatcherError {
        self.error(Problem::Unsupported, format!("{what} not supported"), place)
    }

    fn unexpected(&self) -> MatcherError {
        let token = self.peek();
        match &token.kind {
            Kind::End => self.invalid("the expression ends too early", self.text.len()),
            Kind::Sign(sign @ ("{" | "#" | ";" | "?." | "??" | "::" | ".." | "." | "|" | "let" | "if")) => {
                self.unsupported(&format!("{sign:?} is"), token.place)
            }
            Kind::Sign(sign) => self.invalid(format!("{sign:?} does not fit here"), token.place),
            _ => self.invalid("this does not fit here", token.place),
        }
    }

    fn leaf(kind: Expression, of: Type, place: usize) -> Node {
        Node { kind, place, of, depth: 1 }
    }

    fn not(&self, inner: Node, place: usize) -> Result<Node, MatcherError> {
        let depth = inner.depth + 1;
        self.check_depth(depth, place)?;
        Ok(Node { kind: Expression::Not(Box::new(inner)), place, of: Type::Bool, depth })
    }

    fn check_depth(&self, depth: usize, place: usize) -> Result<(), MatcherError> {
        if depth > MAX_DEPTH {
            return Err(self.error(Problem::TooLarge, format!("nested deeper than {MAX_DEPTH} levels"), place));
        }
        Ok(())
    }

    fn expression(&mut self, lowest: u8) -> Result<Node, MatcherError> {
        self.depth += 1;
        self.check_depth(self.depth, self.peek().place)?;
        let mut left = self.primary()?;
        while let Some(sign) = self.sign() {
            let place = self.peek().place;
            let (sign, negated) = if sign == "not" {
                let Some(next) = self.sign_at(self.at + 1).filter(|next| AFTER_NOT.contains(next)) else {
                    return Err(self.invalid("\"not\" does not fit here", place));
                };
                (next, true)
            } else {
                (sign, false)
            };
            let Some(own) = precedence(sign).filter(|own| *own >= lowest) else { break };
            self.at += if negated { 2 } else { 1 };
            left = if order(sign).is_some() { self.chain(left, own)? } else { self.binary(left, sign, own, place)? };
            if negated {
                left = self.not(left, place)?;
            }
        }
        if lowest == 0 {
            while self.sign() == Some("?") {
                left = self.choice(left)?;
            }
        }
        self.depth -= 1;
        Ok(left)
    }

    fn choice(&mut self, condition: Node) -> Result<Node, MatcherError> {
        let place = self.peek().place;
        self.at += 1;
        if self.sign() == Some(":") {
            return Err(self.unsupported("\"?:\" without a middle is", place));
        }
        let yes = self.expression(0)?;
        self.expect(":")?;
        let no = self.expression(0)?;
        if !condition.of.may_be_bool() {
            return Err(self.invalid(format!("{} cannot be a condition", condition.of), condition.place));
        }
        let of = match (&yes.of, &no.of) {
            (a, b) if a == b => a.clone(),
            (Type::Nil, other) | (other, Type::Nil) => other.clone(),
            _ => Type::Unsure,
        };
        let depth = [&condition, &yes, &no].map(|node| node.depth).into_iter().max().unwrap_or_default() + 1;
        self.check_depth(depth, place)?;
        Ok(Node { kind: Expression::Choice(Box::new((condition, yes, no))), place, of, depth })
    }

    fn chain(&mut self, first: Node, own: u8) -> Result<Node, MatcherError> {
        let place = first.place;
        let mut rest: Vec<(Order, Node)> = Vec::new();
        self.at -= 1;
        while let Some(order) = self.sign().and_then(order) {
            let place = self.peek().place;
            self.at += 1;
            let right = self.expression(own + 1)?;
            let left = rest.last().map_or(&first, |(_, node)| node);
            let fits = (left.of.is_number() && right.of.is_number()) || (left.of == Type::Text && right.of == Type::Text);
            if !fits {
                return Err(self.mismatch("compared", &left.of, &right.of, place));
            }
            rest.push((order, right));
        }
        let depth = rest.iter().map(|(_, node)| node.depth).fold(first.depth, usize::max) + 1;
        self.check_depth(depth, place)?;
        Ok(Node { kind: Expression::Chain(Box::new(first), rest), place, of: Type::Bool, depth })
    }

    fn mismatch(&self, doing: &str, left: &Type, right: &Type, place: usize) -> MatcherError {
        if [left, right].into_iter().any(|of| *of == Type::Unsure) {
            return self.unsupported(&format!("{} here is", Type::Unsure), place);
        }
        self.invalid(format!("{left} and {right} cannot be {doing}"), place)
    }

    fn binary(&mut self, left: Node, sign: &'static str, own: u8, place: usize) -> Result<Node, MatcherError> {
        if matches!(sign, "|" | ".." | "??") {
            self.at -= 1;
            return Err(self.unexpected());
        }
        let right = self.expression(if matches!(sign, "**" | "^") { own } else { own + 1 })?;
        let both = |of: &Type| left.of == *of && right.of == *of;
        let numbers = left.of.is_number() && right.of.is_number();
        let promoted = if both(&Type::Int) { Type::Int } else { Type::Float };
        let (kind, of, fits, doing) = match sign {
            "or" | "||" | "and" | "&&" => {
                if !left.of.may_be_bool() || !right.of.may_be_bool() {
                    return Err(self.mismatch("combined", &left.of, &right.of, place));
                }
                return self.junction(left, right, matches!(sign, "and" | "&&"), place);
            }
            "==" => (Binary::Equal, Type::Bool, left.of.comparable(&right.of), "compared"),
            "!=" => (Binary::NotEqual, Type::Bool, left.of.comparable(&right.of), "compared"),
            "in" => {
                let fits = matches!(&right.of, Type::List(inner) if left.of.comparable(inner));
                (Binary::In, Type::Bool, fits, "looked for in each other")
            }
            "matches" => return self.matches(left, right, place),
            "contains" => (Binary::Contains, Type::Bool, both(&Type::Text), "searched"),
            "startsWith" => (Binary::StartsWith, Type::Bool, both(&Type::Text), "searched"),
            "endsWith" => (Binary::EndsWith, Type::Bool, both(&Type::Text), "searched"),
            "+" if both(&Type::Text) => (Binary::Plus, Type::Text, true, "added"),
            "+" => (Binary::Plus, promoted, numbers, "added"),
            "-" => (Binary::Minus, promoted, numbers, "subtracted"),
            "*" => (Binary::Times, promoted, numbers, "multiplied"),
            "/" => (Binary::Divide, Type::Float, numbers, "divided"),
            "%" => (Binary::Remainder, Type::Int, both(&Type::Int), "divided for a remainder"),
            _ => (Binary::Power, Type::Float, numbers, "raised"),
        };
        if !fits {
            return Err(self.mismatch(doing, &left.of, &right.of, place));
        }
        let depth = left.depth.max(right.depth) + 1;
        self.check_depth(depth, place)?;
        Ok(Node { kind: Expression::Binary(kind, Box::new((left, right))), place, of, depth })
    }

    /// `a && b && c` is one node, so that a long row of them is not deep.
    fn junction(&self, left: Node, right: Node, all: bool, place: usize) -> Result<Node, MatcherError> {
        let depth = left.depth.max(right.depth + 1);
        let (mut nodes, depth) = match (left.kind, all) {
            (Expression::All(nodes), true) | (Expression::Any(nodes), false) => (nodes, depth),
            (kind, _) => (vec![Node { kind, ..left }], depth.max(left.depth + 1)),
        };
        nodes.push(right);
        self.check_depth(depth, place)?;
        let kind = if all { Expression::All(nodes) } else { Expression::Any(nodes) };
        Ok(Node { kind, place, of: Type::Bool, depth })
    }

    fn matches(&self, left: Node, right: Node, place: usize) -> Result<Node, MatcherError> {
        if left.of != Type::Text || right.of != Type::Text {
            return Err(self.mismatch("matched", &left.of, &right.of, place));
        }
        let depth = left.depth.max(right.depth) + 1;
        self.check_depth(depth, place)?;
        let argument = self.argument(right)?;
        Ok(Node { kind: Expression::Matches(Box::new(left), argument), place, of: Type::Bool, depth })
    }

    fn argument(&self, node: Node) -> Result<Argument, MatcherError> {
        match &node.kind {
            Expression::Text(pattern) => Pattern::new(pattern)
                .map(Argument::Known)
                .map_err(|message| self.error(Problem::Unsupported, message, node.place)),
            _ => Ok(Argument::Computed(Box::new(node))),
        }
    }

    fn primary(&mut self) -> Result<Node, MatcherError> {
        let place = self.peek().place;
        match self.sign() {
            Some(sign @ ("!" | "not")) => {
                let mut count = 0_usize;
                while self.take("!") || self.take("not") {
                    count += 1;
                }
                let inner = self.expression(NOT)?;
                if !inner.of.may_be_bool() {
                    return Err(self.invalid(format!("{sign:?} cannot be said of {}", inner.of), place));
                }
                // An even number of them still makes a truth value of what is of several kinds.
                let mut node = self.not(inner, place)?;
                if count.is_multiple_of(2) {
                    node = self.not(node, place)?;
                }
                self.no_postfix(node)
            }
            Some(sign @ ("-" | "+")) => {
                self.at += 1;
                let inner = self.expression(SIGN)?;
                if !inner.of.is_number() {
                    return Err(self.invalid(format!("{sign:?} cannot be said of {}", inner.of), place));
                }
                if sign == "+" {
                    return self.no_postfix(inner);
                }
                let (of, depth) = (inner.of.clone(), inner.depth + 1);
                self.check_depth(depth, place)?;
                self.no_postfix(Node { kind: Expression::Minus(Box::new(inner)), place, of, depth })
            }
            Some("(") => {
                self.at += 1;
                let inner = self.expression(0)?;
                self.expect(")")?;
                self.no_postfix(inner)
            }
            Some("[") => self.list(),
            Some(_) => Err(self.unexpected()),
            None => self.value(),
        }
    }

    fn value(&mut self) -> Result<Node, MatcherError> {
        let Token { kind, place } = self.peek().clone();
        self.at += 1;
        let (kind, of) = match kind {
            Kind::Int(value) => (Expression::Int(value), Type::Int),
            Kind::Float(value) => (Expression::Float(value), Type::Float),
            Kind::Text(text) => (Expression::Text(text), Type::Text),
            Kind::Name(name) => match name.as_str() {
                "true" => (Expression::Bool(true), Type::Bool),
                "false" => (Expression::Bool(false), Type::Bool),
                "nil" => (Expression::Nil, Type::Nil),
                _ => return self.call(&name, place),
            },
            _ => {
                self.at -= 1;
                return Err(self.unexpected());
            }
        };
        self.no_postfix(Self::leaf(kind, of, place))
    }

    /// Member access and slices are the original's; who writes them hears that.
    fn no_postfix(&self, node: Node) -> Result<Node, MatcherError> {
        match self.sign() {
            Some("[" | "." | "?.") => Err(self.unsupported("access to members is", self.peek().place)),
            _ => Ok(node),
        }
    }

    fn list(&mut self) -> Result<Node, MatcherError> {
        let place = self.peek().place;
        self.at += 1;
        let mut nodes: Vec<Node> = Vec::new();
        while self.sign() != Some("]") {
            if !nodes.is_empty() {
                self.expect(",")?;
                // One comma may stand before the end.
                if self.sign() == Some("]") {
                    break;
                }
            }
            let node = self.expression(0)?;
            if node.of == Type::Nil {
                return Err(self.unsupported("nil in a list is", node.place));
            }
            nodes.push(node);
        }
        self.expect("]")?;
        let first = nodes.first().map_or(Type::Unsure, |node| node.of.clone());
        let inner = if nodes.iter().all(|node| node.of == first) { first } else { Type::Unsure };
        let depth = nodes.iter().map(|node| node.depth).max().unwrap_or_default() + 1;
        self.check_depth(depth, place)?;
        self.no_postfix(Node { kind: Expression::List(nodes), place, of: Type::List(Box::new(inner)), depth })
    }

    fn call(&mut self, name: &str, place: usize) -> Result<Node, MatcherError> {
        let ours = matches!(name, "identity" | "has_file" | "has_directory" | "has_command");
        if !ours && LIBRARY.contains(&name) {
            return Err(self.unsupported(&format!("{name:?} is"), place));
        }
        if !ours {
            let shown: String = name.chars().take(40).collect();
            return Err(self.invalid(format!("there is nothing called {shown:?}"), place));
        }
        if !self.take("(") {
            return Err(self.invalid(format!("{name} is a function: {name}('…')"), place));
        }
        if self.sign() == Some(")") {
            return Err(self.invalid(format!("{name} needs a text"), self.peek().place));
        }
        let argument = self.expression(0)?;
        self.take(",");
        if self.sign() != Some(")") {
            return Err(self.invalid(format!("{name} takes one text"), self.peek().place));
        }
        self.at += 1;
        if argument.of != Type::Text {
            return Err(match argument.of {
                Type::Unsure => self.unsupported(&format!("{} here is", Type::Unsure), argument.place),
                of => self.invalid(format!("{name} takes a text, not {of}"), argument.place),
            });
        }
        let depth = argument.depth + 1;
        let kind = match name {
            "identity" => Expression::Identity(self.argument(argument)?),
            "has_file" => Expression::HasFile(Box::new(argument)),
            "has_directory" => Expression::HasDirectory(Box::new(argument)),
            _ => Expression::HasCommand(Box::new(argument)),
        };
        self.check_depth(depth, place)?;
        self.no_postfix(Node { kind, place, of: Type::Bool, depth })
    }
}
