//! What an expression is made of, and the types that are known before it is evaluated.

use std::fmt;

use super::pattern::Pattern;

/// A part of an expression.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Expression,
    pub(super) place: usize,
    pub(super) of: Type,
    pub(super) depth: usize,
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
pub(super) enum Type {
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
    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Float)
    }

    pub(super) fn may_be_bool(&self) -> bool {
        matches!(self, Self::Bool | Self::Unsure)
    }

    pub(super) fn comparable(&self, other: &Self) -> bool {
        self == other
            || (self.is_number() && other.is_number())
            || matches!((self, other), (Self::List(_), Self::List(_)))
            || [self, other].into_iter().any(|of| matches!(of, Self::Nil | Self::Unsure))
    }
}
