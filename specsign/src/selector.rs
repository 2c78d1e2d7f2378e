//! Which machines of a list belong on a node.

use std::collections::HashMap;

use crate::machine::ManagedMachine;
use crate::matcher::{Answer, CachedFacts, Facts, Matcher};
use crate::plan::Belongs;

/// Judges the machines of a list against one node, each fact and each expression once: a long list has few expressions. Make a
/// new one for the next evaluation, when the facts may be others.
#[derive(Debug)]
pub struct Selector<F> {
    facts: CachedFacts<F>,
    answers: HashMap<String, Belongs>,
}

impl<F: Facts> Selector<F> {
    /// Over these facts.
    pub fn new(facts: F) -> Self {
        Self { facts: CachedFacts::new(facts), answers: HashMap::new() }
    }

    /// Whether a machine belongs there.
    pub fn belongs(&mut self, machine: &ManagedMachine) -> Belongs {
        let Some(text) = &machine.matcher else { return Belongs::Yes };
        if let Some(answer) = self.answers.get(text) {
            return answer.clone();
        }
        let answer = match Matcher::compile(text).and_then(|matcher| matcher.evaluate(&self.facts)) {
            Ok(Answer::Yes) => Belongs::Yes,
            Ok(Answer::No) => Belongs::No,
            Ok(Answer::Unknown(reason)) => Belongs::Unknown(reason),
            Err(error) => Belongs::Invalid(error.to_string()),
        };
        self.answers.insert(text.clone(), answer.clone());
        answer
    }
}
