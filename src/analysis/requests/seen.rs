//! Which requests there are: ids, with when calls that have them began and ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::id::{id_of, names_requests};
use crate::analysis::keys::KeyBuilder;
use crate::analysis::pairing::{FrameId, Step};
use crate::event::{Fields, Manner, Session, What};

/// Requests that are told apart; calls of further ones are counted.
const MOST: usize = 1 << 16;
/// Processes that are told of one.
const MOST_PROCESSES: usize = 64;

/// A request, as far as calls name it.
#[derive(Debug, Clone, Default)]
pub struct SeenRequest {
    /// When the first call that has its id began, in nanoseconds since the Unix epoch.
    pub begin: u64,
    /// When the last one ended that was seen to.
    pub end: u64,
    /// Calls that have its id.
    pub calls: u64,
    /// Of these, such as an exception left.
    pub exceptions: u64,
    /// In which processes: number of the recording, process id.
    pub processes: BTreeSet<(usize, u32)>,
}

/// The requests of some recordings.
#[derive(Debug, Default)]
pub struct SeenRequests {
    /// Fields that were asked for; those that are called like requests where none was.
    wanted: Vec<String>,
    /// Every field, whatever it is called.
    any: bool,
    /// The fields that count in this recording.
    fields: BTreeSet<String>,
    recording: usize,
    numbers: HashMap<String, usize>,
    requests: Vec<SeenRequest>,
    open: HashMap<FrameId, Vec<usize>, KeyBuilder>,
    left_out: u64,
}

impl SeenRequests {
    /// By these fields, or by those that are called like requests where none is named.
    pub fn new(fields: &[String]) -> SeenRequests {
        SeenRequests {
            wanted: fields.to_vec(),
            ..SeenRequests::default()
        }
    }

    /// By every field.
    pub fn of_all_fields() -> SeenRequests {
        SeenRequests {
            any: true,
            ..SeenRequests::default()
        }
    }

    /// Another recording begins. Whether it has a field that counts.
    pub fn recording(&mut self, number: usize, session: &Session) -> bool {
        self.recording = number;
        self.open.clear();
        let counts = |name: &str, path: &str| match self.wanted.is_empty() {
            true => self.any || names_requests(name, path),
            false => self.wanted.iter().any(|it| it == name),
        };
        let all = session.fields.iter();
        let those = all.filter(|(name, path)| counts(name, path));
        self.fields = those.map(|(name, _)| name.clone()).collect();
        !self.fields.is_empty()
    }

    /// Takes an event.
    pub fn take(&mut self, step: &Step<'_>) {
        let event = step.event;
        match &event.what {
            What::Call { frame, .. } => {
                let Some(fields) = &frame.fields else { return };
                let numbers = self.numbers(fields, event.pid, event.ts);
                for &number in &numbers {
                    if let Some(request) = self.requests.get_mut(number) {
                        request.calls += u64::from(frame.manner != Manner::Suspension);
                    }
                }
                if let Some(id) = step.entered
                    && !numbers.is_empty()
                {
                    self.open.insert(id, numbers);
                }
            }
            What::Return { frame, .. } => {
                let Some(finished) = step.finished else {
                    return;
                };
                let numbers = match (finished.frame, &frame.fields) {
                    (Some(id), _) => self.open.remove(&id).unwrap_or_default(),
                    // There was no event for its call.
                    (None, Some(fields)) => {
                        let began = event.ts.saturating_sub(finished.inclusive_ns.unwrap_or(0));
                        let numbers = self.numbers(fields, event.pid, began);
                        for &number in &numbers {
                            if let Some(request) = self.requests.get_mut(number) {
                                request.calls += 1;
                            }
                        }
                        numbers
                    }
                    (None, None) => return,
                };
                for number in numbers {
                    if let Some(request) = self.requests.get_mut(number) {
                        request.end = request.end.max(event.ts);
                        request.exceptions += u64::from(frame.manner == Manner::Exception);
                    }
                }
            }
            _ => {}
        }
        for given_up in step.given_up {
            self.open.remove(&given_up.frame);
        }
    }

    /// The requests that these fields name, by their numbers.
    fn numbers(&mut self, fields: &Fields, pid: u32, began: u64) -> Vec<usize> {
        let mut found = Vec::new();
        for field in fields.present() {
            if !self.fields.contains(&*field.name) {
                continue;
            }
            let Some(id) = id_of(&field.value) else {
                continue;
            };
            let number = match self.numbers.get(&*id) {
                Some(&number) => number,
                None if self.requests.len() >= MOST => {
                    self.left_out += 1;
                    continue;
                }
                None => {
                    let number = self.requests.len();
                    self.numbers.insert(id.into_owned(), number);
                    self.requests.push(SeenRequest {
                        begin: began,
                        end: began,
                        ..SeenRequest::default()
                    });
                    number
                }
            };
            if found.contains(&number) {
                continue;
            }
            found.push(number);
            if let Some(request) = self.requests.get_mut(number) {
                request.begin = request.begin.min(began);
                request.end = request.end.max(began);
                if request.processes.len() < MOST_PROCESSES {
                    request.processes.insert((self.recording, pid));
                }
            }
        }
        found
    }

    /// The requests by their ids.
    pub fn requests(&self) -> BTreeMap<&str, &SeenRequest> {
        let all = self.numbers.iter();
        all.filter_map(|(id, &number)| Some((id.as_str(), self.requests.get(number)?)))
            .collect()
    }

    /// Calls of requests for which there was no room.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}
