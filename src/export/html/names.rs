//! The texts of a page: each once, in a bounded number of bytes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::allowance::shorten;

/// Bytes of one name.
const LONGEST: usize = 500;
/// Bytes of all names; what comes then is cut shorter.
const ENOUGH: usize = 4 << 20;
/// How much shorter.
const SHORT: usize = 60;

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Names {
    all: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    bytes: usize,
}

impl Names {
    /// The number of a text that is known to be harmless.
    pub(super) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let longest = match self.bytes > ENOUGH {
            true => SHORT,
            false => LONGEST,
        };
        let mut name = name.to_owned();
        if name.len() > longest {
            shorten(&mut name, longest);
            if let Some(number) = self.numbers.get(name.as_str()) {
                return *number;
            }
        }
        let number = self.all.len() as u32;
        self.bytes += name.len();
        let name = Arc::<str>::from(name);
        self.all.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        number
    }

    /// All of them, by their numbers.
    pub(super) fn all(&self) -> &[Arc<str>] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ever_more_long_names_are_cut_within_a_bound() {
        let mut names = Names::default();
        for number in 0..20_000 {
            names.number(&format!("{number}{}", "n".repeat(900)));
        }
        let bytes: usize = names.all().iter().map(|name| name.len()).sum();
        assert!(
            bytes < ENOUGH + 20_000 * (SHORT + 4) && bytes > ENOUGH,
            "{bytes}"
        );
        assert_eq!(names.number("f"), names.number("f"));
    }
}
