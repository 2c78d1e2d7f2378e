//! How much is done, by the environment.

/// How much is done in each of the tests.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub hosts: usize,
    pub joins: usize,
    pub tokens: usize,
}

impl Size {
    pub fn of_environment() -> Self {
        let number = |name: &str, usual: usize| {
            std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
        };
        let size =
            Self { hosts: number("TOEHOLD_HOSTS", 6), joins: number("TOEHOLD_JOINS", 40), tokens: number("TOEHOLD_TOKENS", 4) };
        assert!(size.hosts >= 2 && size.tokens >= 1 && size.joins >= size.tokens, "{size:?}");
        size
    }

    /// Whether one of the tests at a time is enough for this machine.
    pub fn is_large(self) -> bool {
        self.hosts > 20 || self.joins > 200
    }
}
