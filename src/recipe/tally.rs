//! Adds up the calls that a recipe counts, by the values of fields.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;

use super::callers::{CallerNames, Callers};
use super::{CALLER, OTHERS, Recipe, Role};
use crate::analysis::histogram::Histogram;
use crate::analysis::keys::{FunctionKey, KeyBuilder};
use crate::analysis::lifetimes::{Lifetimes, Whose};
use crate::analysis::pairing::{FinishedCall, Step};
use crate::event::{FieldValue, Fields, Frame, Manner, Place, ProcessChange, What};

/// Functions of which it is remembered what they are; all are looked at anew beyond that.
const MOST_KNOWN: usize = 1 << 16;
/// Groups, and the bytes of their values; calls of further ones are one group.
const MOST_GROUPS: usize = 4096;
const MOST_BYTES: usize = 16 << 20;
/// Values that are remembered as they were made alike, and the bytes of all of them.
const MOST_MADE: usize = 4096;
const MOST_MADE_BYTES: usize = 16 << 20;
/// Calls within counted ones that are open; all are forgotten beyond that.
const MOST_INNER: usize = 1 << 16;
/// Bytes of the fields that are told within calls which are open; all are forgotten beyond that.
const MOST_TOLD: usize = 16 << 20;

/// What stands for a value that was not found.
const NONE: &str = "(none)";
/// From this status on a call has failed, as HTTP has it.
const FAILED: i64 = 500;

/// Calls with the same values.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// In the order of the recipe.
    pub(super) values: Rc<[String]>,
    /// Calls that ended.
    pub(super) calls: u64,
    /// Those of them that an exception left, or whose status says that they failed.
    pub(super) errors: u64,
    /// Durations, of those of which they are known.
    pub(super) durations: Histogram,
    /// How many had which status, where a field tells it.
    pub(super) statuses: Vec<(i64, u64)>,
    /// Rows of those calls whose rows are known, and how many these are.
    pub(super) rows: Rows,
    /// Who called, and how often, where that is asked for.
    pub(super) callers: Callers,
}

/// How many rows calls were about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) sum: u64,
    pub(super) calls: u64,
}

/// One call among the slowest.
#[derive(Debug, Clone)]
pub(super) struct Slow {
    /// When it began, in nanoseconds since the Unix epoch.
    pub(super) ts: u64,
    pub(super) duration_ns: u64,
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) values: Rc<[String]>,
    /// The value of the field that names its request.
    pub(super) request: Option<String>,
    pub(super) status: Option<i64>,
    pub(super) rows: Option<u64>,
    pub(super) caller: Option<Arc<str>>,
    pub(super) is_error: bool,
}

/// Groups by their values.
#[derive(Debug, Default)]
pub(super) struct Groups {
    rows: Vec<Group>,
    index: HashMap<Rc<[String]>, usize>,
    bytes: usize,
    /// Calls whose values had no room.
    pub(super) without_room: u64,
}

impl Groups {
    /// The group of these values, or that of all others.
    fn of(&mut self, values: &Rc<[String]>) -> Option<&mut Group> {
        let next = self.rows.len();
        let bytes = values.iter().map(String::len).sum::<usize>();
        let known = self.index.contains_key(values);
        let others: Rc<[String]>;
        let mut values = values;
        if !known && (next >= MOST_GROUPS || self.bytes + bytes > MOST_BYTES) {
            self.without_room += 1;
            others = values.iter().map(|_| OTHERS.to_owned()).collect();
            values = &others;
        }
        let at = match self.index.entry(Rc::clone(values)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(fresh) => {
                self.bytes += bytes;
                self.rows.push(Group {
                    values: Rc::clone(values),
                    calls: 0,
                    errors: 0,
                    durations: Histogram::fine(),
                    statuses: Vec::new(),
                    rows: Rows::default(),
                    callers: Callers::default(),
                });
                *fresh.insert(next)
            }
        };
        self.rows.get_mut(at)
    }

    /// Those that took longest altogether first.
    pub(super) fn sorted(&self) -> Vec<&Group> {
        let mut rows: Vec<&Group> = self.rows.iter().collect();
        rows.sort_by(|one, other| {
            let by = |it: &Group| (it.durations.sum(), it.calls);
            (by(other).cmp(&by(one))).then_with(|| one.values.cmp(&other.values))
        });
        rows
    }

    /// Begins anew.
    pub(super) fn clear(&mut self) {
        *self = Groups::default();
    }
}

/// A call that is open, across the times that it gives way: where it runs, and since when.
type Call = (u32, u32, Option<NonZeroU64>, u64);

/// What was added up.
#[derive(Debug)]
pub(super) struct Tally {
    recipe: Recipe,
    keep: usize,
    roles: HashMap<FunctionKey, Role, KeyBuilder>,
    lifetimes: Lifetimes,
    /// Fields that were told within calls which are open, by those.
    told: HashMap<Call, Vec<(Arc<str>, FieldValue)>>,
    told_bytes: usize,
    /// Calls that began within counted ones. An exception can go on in a coroutine without those that await it, so where it
    /// ends does not tell.
    inner: HashSet<(Whose, u64)>,
    /// Values as they were made alike.
    made: HashMap<String, String>,
    made_bytes: usize,
    callers: CallerNames,
    pub(super) all: Groups,
    pub(super) recent: Groups,
    /// Slowest first.
    pub(super) slowest: Vec<Slow>,
    /// Calls without any field that were not seen to begin: they were under way before tracing began, as a rule.
    pub(super) under_way: u64,
    /// Calls without any field though they were seen to begin: it had no room.
    pub(super) fieldless: u64,
    /// Calls in which the field that is required was not found.
    pub(super) passed_over: u64,
    /// Calls that were given up because a bound was reached.
    pub(super) given_up: u64,
}

impl Tally {
    /// Nothing yet; `keep` slowest calls are kept.
    pub(super) fn new(recipe: Recipe, keep: usize) -> Tally {
        Tally {
            recipe,
            keep,
            roles: HashMap::default(),
            lifetimes: Lifetimes::default(),
            told: HashMap::new(),
            told_bytes: 0,
            inner: HashSet::new(),
            made: HashMap::new(),
            made_bytes: 0,
            callers: CallerNames::default(),
            all: Groups::default(),
            recent: Groups::default(),
            slowest: Vec::new(),
            under_way: 0,
            fieldless: 0,
            passed_over: 0,
            given_up: 0,
        }
    }

    pub(super) fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    fn role(&mut self, key: FunctionKey, place: &Place) -> Role {
        if self.roles.len() >= MOST_KNOWN && !self.roles.contains_key(&key) {
            self.roles.clear();
        }
        let recipe = &self.recipe;
        *self.roles.entry(key).or_insert_with(|| recipe.role(place))
    }

    /// Counts an event with what pairing said of it.
    pub(super) fn take(&mut self, step: &Step<'_>) {
        for gone in step.given_up.iter().filter(|gone| gone.by_bound) {
            let is_counted = self.role(gone.key, &gone.place) == Role::Counted;
            self.given_up += u64::from(is_counted);
        }
        let event = step.event;
        match &event.what {
            What::Process {
                change: ProcessChange::Exec | ProcessChange::Exit,
                ..
            } if [0, event.pid].contains(&event.tid) => {
                self.lifetimes.forget_process(event.pid);
                self.told.retain(|(pid, ..), _| *pid != event.pid);
                self.inner.retain(|(whose, _)| whose.pid != event.pid);
            }
            What::Call { place, frame, .. } => {
                let Some(key) = step.key else { return };
                match self.role(key, place) {
                    Role::Counted => {
                        self.lifetimes.entered(step, key, frame);
                        let is_new = !matches!(frame.manner, Manner::Suspension | Manner::Running);
                        if is_new && self.is_inner(step, frame) {
                            self.begins_inner((Whose::of(step, key, frame), event.ts));
                        }
                    }
                    Role::Within => self.tells(step, frame),
                    Role::Around | Role::Other => {}
                }
            }
            What::Return { place, frame, .. } => {
                let (Some(key), Some(finished)) = (step.key, &step.finished) else {
                    return;
                };
                if self.role(key, place) == Role::Counted {
                    self.left(step, key, finished, frame);
                }
            }
            _ => {}
        }
    }

    /// Whether a call that is counted, or keeps others from it, is open around this one in its greenlet, task or thread.
    fn is_inner(&mut self, step: &Step<'_>, frame: &Frame) -> bool {
        for open in step.stack_of(frame.context) {
            let role = self.role(open.key, open.place);
            if step.entered != Some(open.frame) && matches!(role, Role::Counted | Role::Around) {
                return true;
            }
        }
        false
    }

    fn begins_inner(&mut self, call: (Whose, u64)) {
        if self.inner.len() >= MOST_INNER {
            self.inner.clear();
        }
        self.inner.insert(call);
    }

    /// Fields that a function tells are those of the outermost counted call in whose course it runs.
    fn tells(&mut self, step: &Step<'_>, frame: &Frame) {
        let Some(fields) = &frame.fields else { return };
        let mut outermost = None;
        for open in step.stack_of(frame.context) {
            if self.role(open.key, open.place) == Role::Counted {
                outermost = Some(open);
            }
        }
        let Some(open) = outermost else { return };
        let Some(since) = self.lifetimes.since(open.frame) else {
            return;
        };
        if self.told_bytes > MOST_TOLD {
            self.told.clear();
            self.told_bytes = 0;
        }
        let call = (open.pid, open.tid, open.context, since);
        let told = self.told.entry(call).or_default();
        for field in fields.present() {
            told.retain(|(name, _)| *name != field.name);
            told.push((Arc::clone(&field.name), field.value.clone()));
        }
        // What takes the place of another is counted as well: it is never less than there is.
        self.told_bytes += fields.bytes() + size_of::<Call>();
    }

    fn left(&mut self, step: &Step<'_>, key: FunctionKey, finished: &FinishedCall, frame: &Frame) {
        let Some(id) = finished.frame else { return };
        if frame.manner == Manner::Suspension {
            let whose = Whose::of(step, key, frame);
            self.lifetimes.gives_way(whose, id);
            return;
        }
        let event = step.event;
        let since = self.lifetimes.ends(id);
        let call = since.map(|since| (event.pid, event.tid, frame.context, since));
        let told = call.and_then(|call| self.told.remove(&call));
        if self.told.is_empty() {
            self.told_bytes = 0;
        }
        let began_inner =
            since.is_some_and(|since| self.inner.remove(&(Whose::of(step, key, frame), since)));
        if began_inner || self.is_inner(step, frame) {
            return;
        }
        let Some(fields) = frame.fields.as_deref() else {
            match since {
                Some(_) => self.fieldless += 1,
                None => self.under_way += 1,
            }
            return;
        };
        let told = told.unwrap_or_default();
        let value = |name: &str| value_of(name, &told, fields);
        let required = self.recipe.require.as_deref();
        if required.is_some_and(|name| value(name).is_none()) {
            self.passed_over += 1;
            return;
        }
        let status = self
            .recipe
            .status
            .as_deref()
            .and_then(value)
            .and_then(status);
        let rows = self.recipe.rows.as_deref().and_then(value).and_then(rows);
        let caller = (self.recipe.caller)
            .then(|| value(CALLER).map_or_else(|| NONE.to_owned(), ToString::to_string));
        let caller = caller.and_then(|name| self.callers.of(&name));
        let request = self.recipe.request.as_deref().and_then(value);
        let request = request.map(ToString::to_string);
        let names = self.recipe.group_by.clone();
        let values = names.iter().map(|name| match value(name) {
            Some(value) => self.made_alike(name, value),
            None => NONE.to_owned(),
        });
        let values: Rc<[String]> = values.collect();
        let is_error =
            frame.manner == Manner::Exception || status.is_some_and(|status| status >= FAILED);
        let duration = since
            .filter(|_| finished.likely)
            .and_then(|since| event.ts.checked_sub(since));
        for groups in [&mut self.all, &mut self.recent] {
            let Some(group) = groups.of(&values) else {
                continue;
            };
            group.calls += 1;
            group.errors += u64::from(is_error);
            if let Some(duration) = duration {
                group.durations.add(duration);
            }
            if let Some(rows) = rows {
                group.rows.sum = group.rows.sum.saturating_add(rows);
                group.rows.calls += 1;
            }
            if self.recipe.caller {
                group.callers.add(caller.as_ref());
            }
            if let Some(status) = status {
                match group.statuses.binary_search_by_key(&status, |(it, _)| *it) {
                    Ok(at) => group.statuses[at].1 += 1,
                    Err(at) => group.statuses.insert(at, (status, 1)),
                }
            }
        }
        if let (Some(duration_ns), Some(ts)) = (duration, since) {
            self.keep_slow(Slow {
                ts,
                duration_ns,
                pid: event.pid,
                tid: event.tid,
                values,
                request,
                status,
                rows,
                caller,
                is_error,
            });
        }
    }

    fn keep_slow(&mut self, slow: Slow) {
        let at = self
            .slowest
            .partition_point(|known| known.duration_ns >= slow.duration_ns);
        if at < self.keep {
            self.slowest.truncate(self.keep - 1);
            self.slowest.insert(at, slow);
        }
    }

    /// A value as the recipe says that it is made like others.
    fn made_alike(&mut self, name: &str, value: &FieldValue) -> String {
        let (FieldValue::Text(text) | FieldValue::Bytes(text)) = value else {
            return value.to_string();
        };
        let Some(normal) = self.recipe.normal(name) else {
            return text.to_string();
        };
        // Two fields can be made alike in different ways, but no text is both.
        if let Some(made) = self.made.get(&text.text).filter(|_| !text.cut) {
            return made.clone();
        }
        let made = normal.apply(&text.text, text.cut);
        let bytes = text.text.len() + made.len();
        if self.made.len() >= MOST_MADE || self.made_bytes + bytes > MOST_MADE_BYTES {
            self.made.clear();
            self.made_bytes = 0;
        }
        if !text.cut {
            self.made_bytes += bytes;
            self.made.insert(text.text.clone(), made.clone());
        }
        made
    }
}

/// The value of a field in a call: as it was told in its course, else as it was when it began.
fn value_of<'a>(
    name: &str,
    told: &'a [(Arc<str>, FieldValue)],
    fields: &'a Fields,
) -> Option<&'a FieldValue> {
    let later = told.iter().find(|(told, _)| **told == *name);
    let value = later.map(|(_, value)| value).or_else(|| fields.get(name))?;
    (!matches!(value, FieldValue::Absent(_))).then_some(value)
}

/// A number of rows. Drivers say -1 where they do not know.
fn rows(value: &FieldValue) -> Option<u64> {
    match value {
        FieldValue::Integer(rows) => u64::try_from(*rows).ok(),
        // What PostgreSQL says of a statement, such as INSERT 0 20.
        FieldValue::Text(tag) => tag.text.rsplit_once(' ')?.1.parse().ok(),
        _ => None,
    }
}

/// A status such as 200 or `200 OK`.
fn status(value: &FieldValue) -> Option<i64> {
    match value {
        FieldValue::Integer(status) => Some(*status),
        FieldValue::Text(text) => {
            let digits = text.text.split(' ').next()?;
            digits.parse().ok().filter(|_| digits.len() == 3)
        }
        _ => None,
    }
}
