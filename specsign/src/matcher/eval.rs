//! What an expression says with given facts.

use std::borrow::Cow;
use std::cell::RefCell;
use std::cmp::Ordering;

use super::facts::{FactError, Facts};
use super::pattern::Pattern;
use super::tree::{Argument, Binary, Expression, Node, Order};
use super::{Answer, MAX_EXPRESSION, MatcherError, Problem};

/// The value of a part. `Unknown` is what a fact that could not be had makes of everything that rests on it.
#[derive(Clone, Debug)]
enum Value<'a> {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Nil,
    List(Vec<Value<'a>>),
    Unknown,
}

pub(super) fn evaluate<F: Facts + ?Sized>(text: &str, root: &Node, facts: &F) -> Result<Answer, MatcherError> {
    let evaluator = Evaluator { text, facts, missing: RefCell::new(None) };
    match evaluator.bool(root)? {
        Some(true) => Ok(Answer::Yes),
        Some(false) => Ok(Answer::No),
        None => Ok(Answer::Unknown(evaluator.missing.into_inner().unwrap_or_default())),
    }
}

struct Evaluator<'a, F: ?Sized> {
    text: &'a str,
    facts: &'a F,
    /// The first fact that could not be had.
    missing: RefCell<Option<String>>,
}

impl<'a, F: Facts + ?Sized> Evaluator<'a, F> {
    fn error(&self, problem: Problem, message: &str, place: usize) -> MatcherError {
        MatcherError::new(problem, message, self.text, place)
    }

    fn fact(&self, answer: Result<bool, FactError>) -> Option<bool> {
        answer.map_err(|error| _ = self.missing.borrow_mut().get_or_insert(error.0)).ok()
    }

    /// The truth value of a part, `None` for unknown.
    fn bool(&self, node: &'a Node) -> Result<Option<bool>, MatcherError> {
        match &node.kind {
            Expression::All(nodes) => self.junction(nodes, true),
            Expression::Any(nodes) => self.junction(nodes, false),
            Expression::Not(inner) => Ok(self.bool(inner)?.map(|value| !value)),
            Expression::HasFile(path) => self.with_text(path, |path| self.facts.has_file(path)),
            Expression::HasDirectory(path) => self.with_text(path, |path| self.facts.has_directory(path)),
            Expression::HasCommand(name) => self.with_text(name, |name| self.facts.has_command(name)),
            Expression::Identity(pattern) => match self.facts.identity() {
                Ok(identity) => self.pattern(pattern, identity, node.place),
                Err(error) => Ok(self.fact(Err(error))),
            },
            Expression::Matches(text, pattern) => match self.value(text)? {
                Value::Text(text) => self.pattern(pattern, &text, node.place),
                _ => Ok(None),
            },
            Expression::Chain(first, rest) => self.chain(first, rest, node.place),
            _ => match self.value(node)? {
                Value::Bool(value) => Ok(Some(value)),
                Value::Unknown => Ok(None),
                _ => Err(self.error(Problem::Fault, "this is not a truth value after all", node.place)),
            },
        }
    }

    /// From left to right until one decides; an unknown one leaves it to those behind it.
    fn junction(&self, nodes: &'a [Node], all: bool) -> Result<Option<bool>, MatcherError> {
        let mut unknown = false;
        for node in nodes {
            match self.bool(node)? {
                Some(value) if value != all => return Ok(Some(value)),
                Some(_) => {}
                None => unknown = true,
            }
        }
        Ok(if unknown { None } else { Some(all) })
    }

    fn with_text(&self, node: &'a Node, ask: impl FnOnce(&str) -> Result<bool, FactError>) -> Result<Option<bool>, MatcherError> {
        match &node.kind {
            Expression::Text(text) => Ok(self.fact(ask(text))),
            _ => match self.value(node)? {
                Value::Text(text) => Ok(self.fact(ask(&text))),
                _ => Ok(None),
            },
        }
    }

    fn pattern(&self, pattern: &'a Argument, text: &str, place: usize) -> Result<Option<bool>, MatcherError> {
        let unsupported = |message: &str| self.error(Problem::Unsupported, message, place);
        match pattern {
            Argument::Known(pattern) => pattern.is_in(text).map(Some).map_err(unsupported),
            Argument::Computed(node) => match self.value(node)? {
                Value::Text(pattern) => {
                    let pattern = Pattern::new(&pattern).map_err(|message| unsupported(&message))?;
                    pattern.is_in(text).map(Some).map_err(unsupported)
                }
                _ => Ok(None),
            },
        }
    }

    fn chain(&self, first: &'a Node, rest: &'a [(Order, Node)], place: usize) -> Result<Option<bool>, MatcherError> {
        let mut left = self.value(first)?;
        let mut unknown = false;
        for (order, node) in rest {
            let right = self.value(node)?;
            let found = match (&left, &right) {
                (Value::Unknown, _) | (_, Value::Unknown) => None,
                (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
                (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
                (a, b) => match float(a).zip(float(b)).and_then(|(a, b)| a.partial_cmp(&b)) {
                    Some(found) => Some(found),
                    None => return Err(self.error(Problem::Fault, "these cannot be compared", place)),
                },
            };
            match found.map(|found| holds(*order, found)) {
                Some(false) => return Ok(Some(false)),
                Some(true) => {}
                None => unknown = true,
            }
            left = right;
        }
        Ok(if unknown { None } else { Some(true) })
    }

    fn value(&self, node: &'a Node) -> Result<Value<'a>, MatcherError> {
        Ok(match &node.kind {
            Expression::Bool(value) => Value::Bool(*value),
            Expression::Int(value) => Value::Int(*value),
            Expression::Float(value) => Value::Float(*value),
            Expression::Text(text) => Value::Text(Cow::Borrowed(text)),
            Expression::Nil => Value::Nil,
            Expression::List(nodes) => Value::List(nodes.iter().map(|node| self.value(node)).collect::<Result<_, _>>()?),
            Expression::Minus(inner) => match self.value(inner)? {
                Value::Int(value) => Value::Int(value.checked_neg().ok_or_else(|| self.overflow(node.place))?),
                Value::Float(value) => Value::Float(-value),
                _ => Value::Unknown,
            },
            Expression::Choice(parts) => {
                let (condition, yes, no) = &**parts;
                match self.bool(condition)? {
                    Some(true) => self.value(yes)?,
                    Some(false) => self.value(no)?,
                    None => {
                        let (yes, no) = (self.value(yes)?, self.value(no)?);
                        match equal(&yes, &no) {
                            Some(true) => yes,
                            _ => Value::Unknown,
                        }
                    }
                }
            }
            Expression::Binary(sign, operands) => {
                let (left, right) = (self.value(&operands.0)?, self.value(&operands.1)?);
                self.binary(*sign, &left, &right, node.place)?
            }
            Expression::Identity(_)
            | Expression::HasFile(_)
            | Expression::HasDirectory(_)
            | Expression::HasCommand(_)
            | Expression::Matches(..)
            | Expression::All(_)
            | Expression::Any(_)
            | Expression::Not(_)
            | Expression::Chain(..) => self.bool(node)?.map_or(Value::Unknown, Value::Bool),
        })
    }

    fn overflow(&self, place: usize) -> MatcherError {
        self.error(Problem::Unsupported, "numbers that do not fit are not supported", place)
    }

    fn binary(&self, sign: Binary, left: &Value<'a>, right: &Value<'a>, place: usize) -> Result<Value<'a>, MatcherError> {
        if matches!(left, Value::Unknown) || matches!(right, Value::Unknown) {
            return Ok(Value::Unknown);
        }
        let truth = |value: Option<bool>| value.map_or(Value::Unknown, Value::Bool);
        Ok(match (sign, left, right) {
            (Binary::Equal, a, b) => truth(equal(a, b)),
            (Binary::NotEqual, a, b) => truth(equal(a, b).map(|value| !value)),
            (Binary::In, a, Value::List(list)) => truth(is_in(a, list)),
            (Binary::Contains, Value::Text(a), Value::Text(b)) => Value::Bool(a.contains(b.as_ref())),
            (Binary::StartsWith, Value::Text(a), Value::Text(b)) => Value::Bool(a.starts_with(b.as_ref())),
            (Binary::EndsWith, Value::Text(a), Value::Text(b)) => Value::Bool(a.ends_with(b.as_ref())),
            (Binary::Plus, Value::Text(a), Value::Text(b)) => {
                if a.len() + b.len() > MAX_EXPRESSION {
                    return Err(self.error(Problem::TooLarge, "the text becomes too long", place));
                }
                Value::Text(Cow::Owned([a.as_ref(), b.as_ref()].concat()))
            }
            (Binary::Plus | Binary::Minus | Binary::Times | Binary::Remainder, Value::Int(a), Value::Int(b)) => {
                let result = match sign {
                    Binary::Plus => a.checked_add(*b),
                    Binary::Minus => a.checked_sub(*b),
                    Binary::Times => a.checked_mul(*b),
                    _ if *b == 0 => return Err(self.error(Problem::Fault, "division by zero", place)),
                    _ => a.checked_rem(*b),
                };
                Value::Int(result.ok_or_else(|| self.overflow(place))?)
            }
            (_, a, b) => {
                let Some((a, b)) = float(a).zip(float(b)) else {
                    return Err(self.error(Problem::Fault, "this does not go together after all", place));
                };
                let result = match sign {
                    Binary::Plus => a + b,
                    Binary::Minus => a - b,
                    Binary::Times => a * b,
                    Binary::Divide if b != 0.0 => a / b,
                    Binary::Power => power(a, b).ok_or_else(|| self.overflow(place))?,
                    _ => return Err(self.error(Problem::Unsupported, "division by zero is not supported", place)),
                };
                if !result.is_finite() {
                    return Err(self.overflow(place));
                }
                Value::Float(result)
            }
        })
    }
}

fn holds(order: Order, found: Ordering) -> bool {
    match order {
        Order::Less => found.is_lt(),
        Order::LessOrEqual => found.is_le(),
        Order::Greater => found.is_gt(),
        Order::GreaterOrEqual => found.is_ge(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "as the original converts")]
fn float(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Int(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        _ => None,
    }
}

/// Whole numbers to whole powers, where every library agrees on the last bit; `None` for others.
fn power(base: f64, exponent: f64) -> Option<f64> {
    if base.fract() != 0.0 || exponent.fract() != 0.0 || !(0.0..=1024.0).contains(&exponent) {
        return None;
    }
    let mut result = 1.0;
    let mut left = exponent;
    while left > 0.0 {
        result *= base;
        left -= 1.0;
    }
    // 2^53: beyond it not every whole number is a float.
    (result.abs() <= 9_007_199_254_740_992.0).then_some(result)
}

#[expect(clippy::float_cmp, reason = "the language compares numbers exactly")]
fn equal(left: &Value<'_>, right: &Value<'_>) -> Option<bool> {
    Some(match (left, right) {
        (Value::Unknown, _) | (_, Value::Unknown) => return None,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => a == b,
        (Value::Nil, Value::Nil) => true,
        (Value::List(a), Value::List(b)) => {
            if a.len() != b.len() {
                return Some(false);
            }
            let pairs: Vec<Option<bool>> = a.iter().zip(b).map(|(a, b)| equal(a, b)).collect();
            if pairs.contains(&Some(false)) {
                false
            } else if pairs.contains(&None) {
                return None;
            } else {
                true
            }
        }
        (a, b) => float(a).zip(float(b)).is_some_and(|(a, b)| a == b),
    })
}

fn is_in(needle: &Value<'_>, list: &[Value<'_>]) -> Option<bool> {
    let answers: Vec<Option<bool>> = list.iter().map(|value| equal(needle, value)).collect();
    if answers.contains(&Some(true)) {
        Some(true)
    } else if answers.contains(&None) {
        None
    } else {
        Some(false)
    }
}
