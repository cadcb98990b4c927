//! What is counted: sums by function and service, within a bound.
//!
//! The functions that come first have a series each, as many as were allowed. Those that come later are counted together, in one
//! series with the function `other`, and a series that there is never goes: a counter that vanished and came back would be
//! taken for one that began anew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::family::{Family, Kind, Value};
use crate::analysis::histogram::Histogram;
use crate::analysis::keys::{FunctionKey, KeyBuilder};
use crate::event::{LossStage, Place, Reason};

/// What all functions without a series are called.
pub(super) const OTHER: &str = "other";
/// Services that are told apart; those that come later have the name [`OTHER`].
const MOST_SERVICES: usize = 64;
/// Functions without a series that are remembered, so that each is counted once.
const MOST_DROPPED: usize = 1 << 16;
/// Names of generations of the garbage collector; the last is for collections that nobody told the generation of.
const GENERATIONS: [&str; 4] = ["0", "1", "2", "all"];

/// What was added of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) calls: u64,
    pub(super) exceptions: u64,
    pub(super) self_ns: u64,
    pub(super) durations: Histogram,
}

impl Sums {
    fn add(&mut self, more: &Sums) {
        self.calls = self.calls.saturating_add(more.calls);
        self.exceptions = self.exceptions.saturating_add(more.exceptions);
        self.self_ns = self.self_ns.saturating_add(more.self_ns);
        self.durations.merge(&more.durations);
    }
}

#[derive(Debug, Clone)]
struct Series {
    service: Arc<str>,
    /// `None` of all others.
    place: Option<Arc<Place>>,
    sums: Sums,
}

/// See the head of the module.
#[derive(Debug, Clone)]
pub struct Registry {
    most: usize,
    series: Vec<Series>,
    index: HashMap<(usize, u64), usize, KeyBuilder>,
    other: Option<usize>,
    dropped: HashSet<(usize, u64), KeyBuilder>,
    services: Vec<Arc<str>>,
    /// Whether returns tell exceptions.
    knows_exceptions: bool,
    collections: BTreeMap<(usize, usize), (u64, Histogram)>,
    waits: BTreeMap<(usize, &'static str), (u64, u64)>,
    lost: BTreeMap<&'static str, u64>,
    unpaired: u64,
    processes: Vec<usize>,
    engine: String,
    /// Whether probes are live.
    up: bool,
    /// When they began to be, in nanoseconds since the Unix epoch.
    began: u64,
    scrapes: u64,
    /// What the other side of a push has, has not, and will never have.
    pub(crate) pushes: Pushes,
}

/// How pushing goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pushes {
    /// Whether anything is pushed at all.
    pub(crate) wanted: bool,
    /// Requests that were taken.
    pub(crate) sent: u64,
    /// Requests that were not.
    pub(crate) failed: u64,
    /// Batches that were given up.
    pub(crate) dropped: u64,
}

impl Registry {
    /// Nothing yet, with room for this many functions.
    pub fn new(most: usize) -> Registry {
        Registry {
            most,
            series: Vec::new(),
            index: HashMap::default(),
            other: None,
            dropped: HashSet::default(),
            services: Vec::new(),
            knows_exceptions: false,
            collections: BTreeMap::new(),
            waits: BTreeMap::new(),
            lost: BTreeMap::new(),
            unpaired: 0,
            processes: Vec::new(),
            engine: String::new(),
            up: false,
            began: 0,
            scrapes: 0,
            pushes: Pushes::default(),
        }
    }

    /// Probes are live since `began`, nanoseconds since the Unix epoch.
    pub fn begin(&mut self, engine: &str, began: u64) {
        self.engine = engine.to_owned();
        self.began = began;
        self.up = true;
    }

    /// Probes are no longer live.
    pub(super) fn end(&mut self) {
        self.up = false;
    }

    /// When probes began to be live, in nanoseconds since the Unix epoch; 0 before that.
    pub(super) fn began(&self) -> u64 {
        self.began
    }

    /// The number of a service.
    pub fn service(&mut self, name: &str) -> usize {
        let known = self.services.iter().position(|known| **known == *name);
        known.unwrap_or_else(|| {
            let name = match self.services.len() {
                MOST_SERVICES => OTHER,
                more if more > MOST_SERVICES => return MOST_SERVICES,
                _ => name,
            };
            self.services.push(name.into());
            self.services.len() - 1
        })
    }

    /// Adds to a function of a service. Answers whether this is the first that found no series of its own.
    pub(super) fn add(&mut self, service: usize, place: &Arc<Place>, more: &Sums) -> bool {
        let mut is_first = false;
        let at = match self.at(service, place) {
            Some(at) => at,
            None => {
                is_first = self.other.is_none();
                *self.other.get_or_insert_with(|| {
                    self.series.push(Series {
                        service: OTHER.into(),
                        place: None,
                        sums: Sums::default(),
                    });
                    self.series.len() - 1
                })
            }
        };
        if let Some(series) = self.series.get_mut(at) {
            series.sums.add(more);
        }
        is_first
    }

    /// What found no room elsewhere already, of any service.
    pub(super) fn add_other(&mut self, more: &Sums) {
        let at = *self.other.get_or_insert_with(|| {
            self.series.push(Series {
                service: OTHER.into(),
                place: None,
                sums: Sums::default(),
            });
            self.series.len() - 1
        });
        if let Some(series) = self.series.get_mut(at) {
            series.sums.add(more);
        }
    }

    /// The series of a function; `None` where there is no room for one.
    fn at(&mut self, service: usize, place: &Arc<Place>) -> Option<usize> {
        let key = (service, FunctionKey::of(place).number());
        if let Some(at) = self.index.get(&key) {
            return Some(*at);
        }
        if self.index.len() >= self.most || place.is_left_out() {
            if self.dropped.len() < MOST_DROPPED {
                self.dropped.insert(key);
            }
            return None;
        }
        let service = self.services.get(service).cloned();
        self.index.insert(key, self.series.len());
        self.series.push(Series {
            service: service.unwrap_or_else(|| OTHER.into()),
            place: Some(Arc::clone(place)),
            sums: Sums::default(),
        });
        Some(self.series.len() - 1)
    }

    /// Returns tell whether an exception left the function.
    pub(super) fn tells_exceptions(&mut self) {
        self.knows_exceptions = true;
    }

    /// Counts collections of a generation, or of any.
    pub(super) fn collected(
        &mut self,
        service: usize,
        generation: Option<i64>,
        count: u64,
        pauses: &Histogram,
    ) {
        let all = GENERATIONS.len() - 1;
        let generation = generation.and_then(|it| usize::try_from(it).ok());
        let generation = generation.filter(|it| *it < all).unwrap_or(all);
        let counted = self.collections.entry((service, generation)).or_default();
        counted.0 = counted.0.saturating_add(count);
        counted.1.merge(pauses);
    }

    /// Counts a wait; without a reason it was for a processor.
    pub(super) fn waited(&mut self, service: usize, reason: Option<Reason>, ns: u64) {
        let reason = reason.map_or("processor", Reason::word);
        let counted = self.waits.entry((service, reason)).or_default();
        counted.0 = counted.0.saturating_add(1);
        counted.1 = counted.1.saturating_add(ns);
    }

    /// Counts events that did not arrive.
    pub(super) fn lost(&mut self, stage: LossStage, count: u64) {
        let lost = self.lost.entry(stage.word()).or_default();
        *lost = lost.saturating_add(count);
    }

    /// So many calls and returns are without a partner by now.
    pub(super) fn unpaired(&mut self, total: u64) {
        self.unpaired = self.unpaired.max(total);
    }

    /// So many processes of each service run by now.
    pub(super) fn processes(&mut self, of: impl Iterator<Item = usize>) {
        self.processes.clear();
        self.processes.resize(self.services.len(), 0);
        for service in of {
            if let Some(count) = self.processes.get_mut(service) {
                *count += 1;
            }
        }
    }

    /// Somebody has asked for the numbers.
    pub(super) fn scraped(&mut self) {
        self.scrapes += 1;
    }

    fn service_name(&self, service: usize) -> &str {
        self.services.get(service).map_or(OTHER, |name| name)
    }

    /// All numbers.
    pub(super) fn families(&self) -> Vec<Family<'_>> {
        let mut families = vec![
            self.of_functions(
                "pystap_calls",
                Kind::Counter,
                "Calls of a function, resumptions of generators and coroutines among them.",
                |sums| Some(Value::Number(sums.calls)),
            ),
            self.of_functions(
                "pystap_call_duration_seconds",
                Kind::Histogram,
                "How long calls took that have ended.",
                |sums| Some(Value::Durations(&sums.durations)),
            ),
            self.of_functions(
                "pystap_self_seconds",
                Kind::Time,
                "Time in a function itself, without what it called as far as that is traced.",
                |sums| Some(Value::Number(sums.self_ns)),
            ),
        ];
        if self.knows_exceptions {
            families.push(self.of_functions(
                "pystap_exceptions",
                Kind::Counter,
                "Calls that an exception left.",
                |sums| Some(Value::Number(sums.exceptions)),
            ));
        }
        let mut collections = Family::new(
            "pystap_gc_collections",
            Kind::Counter,
            "Garbage collections that ended.",
        );
        let mut pauses = Family::new(
            "pystap_gc_pause_seconds",
            Kind::Histogram,
            "How long garbage collections took.",
        );
        for ((service, generation), (count, durations)) in &self.collections {
            let labels = [
                ("service", self.service_name(*service)),
                (
                    "generation",
                    GENERATIONS.get(*generation).copied().unwrap_or("all"),
                ),
            ];
            collections = collections.with(&labels, Value::Number(*count));
            pauses = pauses.with(&labels, Value::Durations(durations));
        }
        families.extend([collections, pauses]);
        let mut waits = Family::new(
            "pystap_waits",
            Kind::Counter,
            "Waits of threads that ended, by what they were for.",
        );
        let mut waited = Family::new(
            "pystap_wait_seconds",
            Kind::Time,
            "Time in which threads waited, by what for.",
        );
        for ((service, reason), (count, ns)) in &self.waits {
            let labels = [
                ("service", self.service_name(*service)),
                ("reason", *reason),
            ];
            waits = waits.with(&labels, Value::Number(*count));
            waited = waited.with(&labels, Value::Number(*ns));
        }
        families.extend([waits, waited]);
        families.extend(self.own());
        families.retain(|family| !family.points.is_empty());
        families
    }

    fn of_functions<'a>(
        &'a self,
        name: &'static str,
        kind: Kind,
        help: &'static str,
        value: impl Fn(&'a Sums) -> Option<Value<'a>>,
    ) -> Family<'a> {
        let mut family = Family::new(name, kind, help);
        for series in &self.series {
            let (file, function) = match &series.place {
                Some(place) => (place.file.text.as_str(), place.own_name().text.as_str()),
                None => ("", OTHER),
            };
            let labels = [
                ("service", &*series.service),
                ("file", file),
                ("function", function),
            ];
            if let Some(value) = value(&series.sums) {
                family = family.with(&labels, value);
            }
        }
        family
    }

    /// What is told of pystap itself.
    fn own(&self) -> Vec<Family<'_>> {
        let number =
            |name, kind, help, value| Family::new(name, kind, help).with(&[], Value::Number(value));
        let mut processes = Family::new(
            "pystap_processes",
            Kind::Gauge,
            "Processes of a service that were seen and run.",
        );
        for (service, count) in self.processes.iter().enumerate() {
            let name = self.service_name(service);
            processes = processes.with(&[("service", name)], Value::Number(*count as u64));
        }
        let mut lost = Family::new(
            "pystap_lost_events",
            Kind::Counter,
            "Events that did not arrive, by the stage at which they were lost.",
        );
        for stage in LossStage::ALL {
            let count = self.lost.get(stage.word()).copied().unwrap_or_default();
            lost = lost.with(&[("stage", stage.word())], Value::Number(count));
        }
        let mut own = vec![
            processes,
            lost,
            number(
                "pystap_unpaired",
                Kind::Counter,
                "Calls and returns that found no partner.",
                self.unpaired,
            ),
            Family::new("pystap_build", Kind::Info, "What traces.").with(
                &[
                    ("version", env!("CARGO_PKG_VERSION")),
                    ("engine", self.engine.as_str()),
                ],
                Value::Number(1),
            ),
            number(
                "pystap_up",
                Kind::Gauge,
                "Whether probes are live.",
                u64::from(self.up),
            ),
            number(
                "pystap_series",
                Kind::Gauge,
                "Functions with a series of their own.",
                self.index.len() as u64,
            ),
            number(
                "pystap_series_dropped",
                Kind::Counter,
                "Functions that were counted as other, because there were too many (--max-series).",
                self.dropped.len() as u64,
            ),
            number(
                "pystap_scrapes",
                Kind::Counter,
                "How often these numbers were asked for.",
                self.scrapes,
            ),
        ];
        let pushes = self.pushes;
        if pushes.wanted {
            own.extend([
                number(
                    "pystap_otlp_requests",
                    Kind::Counter,
                    "Requests that the OTLP receiver has taken.",
                    pushes.sent,
                ),
                number(
                    "pystap_otlp_failures",
                    Kind::Counter,
                    "Requests that the OTLP receiver has not taken.",
                    pushes.failed,
                ),
                number(
                    "pystap_otlp_dropped_batches",
                    Kind::Counter,
                    "Batches that were given up, because the receiver did not take them.",
                    pushes.dropped,
                ),
            ]);
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::place;

    fn called(calls: u64) -> Sums {
        Sums {
            calls,
            ..Sums::default()
        }
    }

    /// What each function of a registry was called.
    fn calls(registry: &Registry) -> Vec<(String, u64)> {
        let families = registry.families();
        let calls = families.iter().find(|it| it.name == "pystap_calls");
        let points = &calls.expect("there are functions").points;
        let of = points.iter().map(|point| {
            let Value::Number(number) = point.value else {
                panic!("a counter is a number");
            };
            let name = |wanted| point.labels.iter().find(|(key, _)| *key == wanted);
            let (service, function) = (name("service"), name("function"));
            let name = [service, function].map(|it| it.expect("a label").1);
            (name.join(" "), number)
        });
        of.collect()
    }

    fn named(name: &str, calls: u64) -> (String, u64) {
        (name.to_owned(), calls)
    }

    #[test]
    fn functions_that_come_when_all_series_are_taken_are_counted_together() {
        let mut registry = Registry::new(2);
        let api = registry.service("api");
        let added: Vec<bool> = ["f", "g", "h", "i", "f", "h"]
            .iter()
            .map(|name| registry.add(api, &place(name), &called(1)))
            .collect();
        // The first that finds none is news.
        assert_eq!(added, [false, false, true, false, false, false]);
        let expected = [
            named("api f", 2),
            named("api g", 1),
            named("other other", 3),
        ];
        assert_eq!(calls(&registry), expected);
        let families = registry.families();
        let value = |name| {
            families
                .iter()
                .find(|it| it.name == name)
                .map(|it| &it.points[0].value)
        };
        assert!(matches!(value("pystap_series"), Some(Value::Number(2))));
        assert!(matches!(
            value("pystap_series_dropped"),
            Some(Value::Number(2))
        ));
    }

    #[test]
    fn a_function_has_a_series_for_each_service_and_services_have_a_bound() {
        let mut registry = Registry::new(1_000);
        for number in 0..2 * MOST_SERVICES {
            let service = registry.service(&format!("s{number}"));
            registry.add(service, &place("f"), &called(1));
        }
        let calls = calls(&registry);
        assert_eq!(calls.len(), MOST_SERVICES + 1);
        assert_eq!(calls[0], named("s0 f", 1));
        assert_eq!(calls[MOST_SERVICES], named("other f", MOST_SERVICES as u64));
    }

    #[test]
    fn ever_more_functions_take_bounded_room_and_none_of_their_calls_is_missing() {
        let mut registry = Registry::new(10);
        let service = registry.service("api");
        let many = 3 * MOST_DROPPED as u64;
        for number in 0..many {
            registry.add(service, &place(&format!("f{number}")), &called(1));
        }
        assert_eq!(registry.dropped.len(), MOST_DROPPED);
        let sum: u64 = calls(&registry).iter().map(|(_, calls)| calls).sum();
        assert_eq!(sum, many);
    }
}
