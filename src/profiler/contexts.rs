//! In what kind of greenlet or task functions run, as `pystap top --by-context` calls it: by the name of a task without its number, by
//! its coroutine where nobody named it, and by what a greenlet is for.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::analysis::contexts::kind as kind_of_name;
use crate::analysis::roles;
use crate::python::frames::{Frame, Stack, Tasks, is_a_number};

/// Names of tasks of one process, by the places of the frames of their coroutines.
pub(super) type Names = HashMap<(u64, u64), String, RandomState>;

/// What a greenlet is called of which nothing says what it is for.
const GREENLET: &str = "greenlet";

/// The kind of a task with this name, if it is known, and this coroutine.
pub(super) fn of_task(name: Option<&str>, coroutine: &str) -> String {
    match name.filter(|name| !is_a_number(name)) {
        Some(name) => kind_of_name(name),
        None => kind_of_name(&format!("Task ({coroutine})")),
    }
}

/// Those of tasks that wait at the same place, with how many of them there are. Of more than are named here, these stand for all.
pub(super) fn of_tasks(tasks: &Tasks) -> Vec<(String, usize)> {
    let coroutine = tasks.frames.last().map_or("", |frame| &frame.function);
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for name in &tasks.names {
        let kind = of_task(Some(name), coroutine);
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind, 1)),
        }
    }
    if kinds.is_empty() {
        return vec![(of_task(None, coroutine), tasks.count)];
    }
    let mut left = tasks.count;
    let named = tasks.names.len().max(1);
    let others = kinds.iter_mut().skip(1);
    for (_, count) in others {
        *count = (*count * tasks.count / named).min(left);
        left -= *count;
    }
    if let Some((_, count)) = kinds.first_mut() {
        *count = left;
    }
    kinds
}

/// The kind of a greenlet with these frames, the innermost first.
pub(super) fn of_greenlet(frames: &[Frame], cut: bool) -> String {
    let names = frames.iter().map(|it| (&*it.function, &*it.file));
    let role = (!cut).then(|| roles::role(names)).flatten();
    kind_of_name(role.as_deref().unwrap_or(GREENLET))
}

/// What runs on the stack of a thread; `None` outside of all greenlets and tasks.
pub(super) fn on_thread(
    stack: &Stack,
    names: Option<&Names>,
    has_greenlets: bool,
) -> Option<String> {
    if let Some(task) = &stack.task {
        let name = names.and_then(|names| names.get(&task.place));
        return Some(of_task(name.map(String::as_str), &task.coroutine));
    }
    let outermost = stack.frames.last().filter(|_| !stack.cut)?;
    (has_greenlets && !begins_a_thread(outermost)).then(|| of_greenlet(&stack.frames, false))
}

/// Whether a thread begins so, or the program: then no greenlet does.
fn begins_a_thread(outermost: &Frame) -> bool {
    let name = outermost.function.rsplit('.').next();
    let is_thread = name == Some("_bootstrap") && outermost.file.ends_with("/threading.py");
    is_thread || outermost.function == "<module>" || outermost.file.starts_with("<frozen ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::frames::{Awaits, RunningTask};

    fn frames(functions: &[(&str, &str)]) -> Vec<Frame> {
        let frames = functions.iter().map(|(function, file)| Frame {
            function: (*function).to_owned(),
            file: (*file).to_owned(),
            line: None,
        });
        frames.collect()
    }

    fn stack(functions: &[(&str, &str)], task: Option<RunningTask>) -> Stack {
        Stack {
            frames: frames(functions),
            cut: false,
            same: true,
            task,
        }
    }

    #[test]
    fn a_task_is_called_by_its_name_without_its_number_or_by_its_coroutine() {
        assert_eq!(of_task(Some("worker-12"), "run"), "worker");
        assert_eq!(
            of_task(Some("Task-7"), "Server.handle"),
            "Task (Server.handle)"
        );
        assert_eq!(of_task(None, "handle"), "Task (handle)");
        let running = RunningTask {
            coroutine: "handle".to_owned(),
            place: (1, 2),
        };
        let seen = stack(&[("handle", "/a.py")], Some(running));
        let names: Names = [((1, 2), "worker-3".to_owned())].into_iter().collect();
        assert_eq!(
            on_thread(&seen, Some(&names), false).as_deref(),
            Some("worker")
        );
        assert_eq!(
            on_thread(&seen, None, false).as_deref(),
            Some("Task (handle)")
        );
    }

    #[test]
    fn tasks_at_one_place_are_as_many_as_there_are_whatever_they_are_called() {
        let tasks = |names: &[&str], count| Tasks {
            names: names.iter().map(|it| (*it).to_owned()).collect(),
            count,
            frames: frames(&[("get", "/q.py"), ("serve", "/a.py")]),
            cut: false,
            awaits: Awaits::Start,
            same: true,
        };
        let kind = |name: &str, count| (name.to_owned(), count);
        assert_eq!(
            of_tasks(&tasks(&["a-1", "a-2", "b-1", "Task-9"], 4)),
            [kind("a", 2), kind("b", 1), kind("Task (serve)", 1)]
        );
        assert_eq!(
            of_tasks(&tasks(&["a-1", "a-2", "b-1"], 301)),
            [kind("a", 201), kind("b", 100)]
        );
        assert_eq!(of_tasks(&tasks(&[], 5)), [kind("Task (serve)", 5)]);
    }

    #[test]
    fn a_greenlet_is_called_by_what_it_is_for_and_a_thread_is_none() {
        let hub = [
            ("wait", "/x/poll.py"),
            ("BaseHub.run", "/x/eventlet/hubs/hub.py"),
        ];
        assert_eq!(
            on_thread(&stack(&hub, None), None, true).as_deref(),
            Some("hub")
        );
        assert_eq!(on_thread(&stack(&hub, None), None, false), None);
        let main = [("f", "/a.py"), ("<module>", "/a.py")];
        assert_eq!(on_thread(&stack(&main, None), None, true), None);
        let thread = [
            ("f", "/a.py"),
            ("Thread._bootstrap", "/usr/lib/python3.11/threading.py"),
        ];
        assert_eq!(on_thread(&stack(&thread, None), None, true), None);
        let begun = [("wait", "/a.py"), ("consume", "/a.py")];
        assert_eq!(
            on_thread(&stack(&begun, None), None, true).as_deref(),
            Some("consume")
        );
    }
}
