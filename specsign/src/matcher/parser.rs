//! Tokens into a tree whose types fit: operators and how they bind.

use super::lexer::{AFTER_NOT, Kind, Token, tokens};
use super::names::{order, precedence};
use super::pattern::Pattern;
use super::tree::{Argument, Binary, Expression, Node, Order, Type};
use super::{MAX_DEPTH, MatcherError, Problem};

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

pub(super) struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    pub(super) at: usize,
    depth: usize,
}

static END: Token = Token { kind: Kind::End, place: usize::MAX };

impl Parser<'_> {
    pub(super) fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&END)
    }

    pub(super) fn sign(&self) -> Option<&'static str> {
        self.sign_at(self.at)
    }

    fn sign_at(&self, at: usize) -> Option<&'static str> {
        match self.tokens.get(at)?.kind {
            Kind::Sign(sign) => Some(sign),
            _ => None,
        }
    }

    pub(super) fn take(&mut self, sign: &str) -> bool {
        let found = self.sign() == Some(sign);
        if found {
            self.at += 1;
        }
        found
    }

    pub(super) fn expect(&mut self, sign: &str) -> Result<(), MatcherError> {
        if self.take(sign) {
            Ok(())
        } else {
            Err(self.error(Problem::Invalid, format!("expected {sign:?} here"), self.peek().place))
        }
    }

    fn error(&self, problem: Problem, message: impl Into<String>, place: usize) -> MatcherError {
        MatcherError::new(problem, message, self.text, place.min(self.text.len()))
    }

    pub(super) fn invalid(&self, message: impl Into<String>, place: usize) -> MatcherError {
        self.error(Problem::Invalid, message, place)
    }

    pub(super) fn unsupported(&self, what: &str, place: usize) -> MatcherError {
        self.error(Problem::Unsupported, format!("{what} not supported"), place)
    }

    pub(super) fn unexpected(&self) -> MatcherError {
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

    pub(super) fn leaf(kind: Expression, of: Type, place: usize) -> Node {
        Node { kind, place, of, depth: 1 }
    }

    pub(super) fn not(&self, inner: Node, place: usize) -> Result<Node, MatcherError> {
        let depth = inner.depth + 1;
        self.check_depth(depth, place)?;
        Ok(Node { kind: Expression::Not(Box::new(inner)), place, of: Type::Bool, depth })
    }

    pub(super) fn check_depth(&self, depth: usize, place: usize) -> Result<(), MatcherError> {
        if depth > MAX_DEPTH {
            return Err(self.error(Problem::TooLarge, format!("nested deeper than {MAX_DEPTH} levels"), place));
        }
        Ok(())
    }

    pub(super) fn expression(&mut self, lowest: u8) -> Result<Node, MatcherError> {
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

    pub(super) fn argument(&self, node: Node) -> Result<Argument, MatcherError> {
        match &node.kind {
            Expression::Text(pattern) => Pattern::new(pattern)
                .map(Argument::Known)
                .map_err(|message| self.error(Problem::Unsupported, message, node.place)),
            _ => Ok(Argument::Computed(Box::new(node))),
        }
    }
}
