//! What is written of the metrics, in whichever format: families of points, each with its labels.

use crate::analysis::histogram::Histogram;

/// Metrics of one name.
#[derive(Debug)]
pub(super) struct Family<'a> {
    /// Without the endings that a format has for kinds.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) points: Vec<Point<'a>>,
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// How many there were.
    Counter,
    /// How many nanoseconds there were.
    Time,
    /// How many there are.
    Gauge,
    /// How long something took, in nanoseconds.
    Histogram,
    /// What never changes, told by its labels.
    Info,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Point<'a> {
    pub(super) labels: Vec<(&'static str, &'a str)>,
    pub(super) value: Value<'a>,
}

/// A number, or the distribution of many.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Number(u64),
    Durations(&'a Histogram),
}

impl<'a> Family<'a> {
    pub(super) fn new(name: &'static str, kind: Kind, help: &'static str) -> Family<'a> {
        Family {
            name,
            help,
            kind,
            points: Vec::new(),
        }
    }

    /// The same with one point more.
    pub(super) fn with(mut self, labels: &[(&'static str, &'a str)], value: Value<'a>) -> Self {
        self.points.push(Point {
            labels: labels.to_vec(),
            value,
        });
        self
    }
}
