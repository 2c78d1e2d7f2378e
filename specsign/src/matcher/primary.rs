//! What stands between operators: texts, numbers, lists, calls, and what is in brackets.

use super::MatcherError;
use super::lexer::{Kind, Token};
use super::names::{LIBRARY, NOT, SIGN};
use super::parser::Parser;
use super::tree::{Expression, Node, Type};

impl Parser<'_> {
    pub(super) fn primary(&mut self) -> Result<Node, MatcherError> {
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
