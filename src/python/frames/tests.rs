//! Stacks of an interpreter that was made up, in each layout, whole and damaged.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::attributes::attribute;
use super::glimpse::{Glimpse, Near};
use super::layout::{self, Attributes, Frames, Gil, Kept, Layout, States, Unknown};
use super::made_up::*;
use super::memory::Unread;
use super::objects::Reader;
use super::{Awaits, Made, Parked, PythonThread, Stack, Stacks, Tasks, runtime, stack};

#[test]
fn a_stack_is_read_in_every_layout() {
    for layout in layout::known() {
        let stacks = stacks(interpreter(&layout), layout);
        let found = stacks.threads(&tasks()).expect("it has a thread");
        assert_eq!(found.threads.len(), 1, "{layout:?}");
        let thread = found.threads[0];
        assert_eq!((thread.task, thread.interpreter), (Some(ID + 1), 0));
        assert!(stacks.is_holder(&found.gils[0], &thread), "{layout:?}");
        let stack = stacks.stack(&thread).expect("it has a stack");
        let lines: Vec<_> = stack.frames.iter().map(|frame| frame.line).collect();
        assert_eq!(lines, [Some(41), Some(42)], "{layout:?}");
        for frame in &stack.frames {
            assert_eq!((&*frame.function, &*frame.file), ("näme", "/file.py"));
        }
        assert!(stack.same && !stack.cut);
        let glimpse = stacks.glimpse(&thread, false, &mut Near::default());
        assert_eq!(glimpse, Some(Glimpse::Whole(stack)), "{layout:?}");
    }
}

/// The one thread that there is.
fn only_thread(stacks: &Stacks<MadeUp>) -> PythonThread {
    let found = stacks.threads(&tasks()).expect("it has a thread");
    found.threads[0]
}

/// The stack of a thread, of which all must be told.
fn whole(stacks: &Stacks<MadeUp>, thread: &PythonThread, near: &mut Near) -> Stack {
    match stacks.glimpse(thread, false, near) {
        Some(Glimpse::Whole(stack)) => stack,
        other => panic!("{other:?}"),
    }
}

/// Where a thread has its innermost frame, as a place in what was made up.
fn place_of_innermost(layout: &Layout) -> usize {
    let place = match layout.frames.innermost() {
        (_, Some(at)) => CFRAME + at,
        (at, None) => THREAD + at,
    };
    (place - BEGIN) as usize
}

#[test]
fn a_function_that_returns_while_its_stack_is_read_is_told_if_it_was_read_at_once() {
    for layout in layout::known() {
        let mut stacks = stacks(interpreter(&layout), layout);
        let thread = only_thread(&stacks);
        let mut near = Near::default();
        // The first word, and what it points to where it does.
        let words = 1 + usize::from(layout.frames.innermost().1.is_some());
        let returns_behind = |stacks: &mut Stacks<MadeUp>, reads: usize| {
            let memory = &mut stacks.reader.memory;
            memory.reads.set(0);
            memory.change = Some((reads + 1, place_of_innermost(&layout), CALLER));
        };
        // Which pages there are to read at once nobody knows yet; one behind the other, the frame may be another one by then.
        returns_behind(&mut stacks, words);
        let glimpse = stacks.glimpse(&thread, false, &mut near);
        let Some(Glimpse::Innermost(frame)) = glimpse else {
            panic!("{layout:?}: {glimpse:?}");
        };
        assert_eq!(frame.line, Some(41), "{layout:?}");
        // Now they are known: those of the words, of the frame and of its caller.
        returns_behind(&mut stacks, words + 2);
        let stack = whole(&stacks, &thread, &mut near);
        assert_eq!((stack.frames.len(), stack.same), (2, false), "{layout:?}");
        // Afterwards it is the caller's.
        let stack = whole(&stacks, &thread, &mut near);
        assert_eq!((stack.frames.len(), stack.same), (1, true), "{layout:?}");
    }
}

#[test]
fn a_stack_whose_callers_are_others_meanwhile_is_not_told() {
    for layout in layout::known() {
        let mut stacks = stacks(interpreter(&layout), layout);
        let thread = only_thread(&stacks);
        let mut near = Near::default();
        let of_another = match layout.frames {
            Frames::Objects { .. } => FRAME_OBJECT,
            Frames::Structures { .. } => GREENLET_FRAME,
        };
        let mut told = 0;
        for reads in 1..24 {
            let memory = &mut stacks.reader.memory;
            memory.reads.set(0);
            memory.change = Some((reads, place_of_innermost(&layout), of_another));
            let Some(Glimpse::Whole(stack)) = stacks.glimpse(&thread, false, &mut near) else {
                continue;
            };
            // Before it changed, or behind that.
            assert!(stack.same, "{layout:?} {reads}");
            told += 1;
        }
        assert!((1..23).contains(&told), "{layout:?} {told}");
    }
}

#[test]
fn a_frame_that_has_lost_its_code_has_returned_to_its_caller() {
    for layout in layout::known() {
        let Frames::Structures { code, .. } = layout.frames else {
            continue;
        };
        let mut made_up = interpreter(&layout);
        made_up.point(FRAME + code, 0);
        made_up.point(CALLER + code, CODE);
        let stacks = stacks(made_up, layout);
        let thread = only_thread(&stacks);
        let mut near = Near::default();
        // What there is to read at once is known behind that.
        let _ = stacks.glimpse(&thread, false, &mut near);
        let lines: Vec<_> = whole(&stacks, &thread, &mut near)
            .frames
            .iter()
            .map(|frame| frame.line)
            .collect();
        assert_eq!(lines, [Some(42)], "{layout:?}");
    }
}

#[test]
fn a_frame_of_an_owner_that_there_is_not_is_none() {
    for layout in layout::known() {
        let Frames::Structures { code, owner, .. } = layout.frames else {
            continue;
        };
        let mut made_up = interpreter(&layout);
        // As where a thread has made room for a frame in C, and has not yet written it.
        made_up.point(FRAME + code, 0);
        made_up.put(FRAME + owner, &[127]);
        let stacks = stacks(made_up, layout);
        let thread = only_thread(&stacks);
        let glimpse = stacks.glimpse(&thread, false, &mut Near::default());
        assert_eq!(glimpse, None, "{layout:?}");
        assert_eq!(stacks.stack(&thread), None, "{layout:?}");
    }
}

#[test]
fn a_stack_that_ends_in_a_generator_that_nobody_has_resumed_is_not_whole() {
    for layout in layout::known() {
        let Frames::Structures { owner, .. } = layout.frames else {
            continue;
        };
        let mut made_up = interpreter(&layout);
        made_up.put(CALLER + owner, &[stack::OF_A_GENERATOR]);
        let stacks = stacks(made_up, layout);
        let thread = only_thread(&stacks);
        let mut near = Near::default();
        for _ in 0..2 {
            let glimpse = stacks.glimpse(&thread, false, &mut near);
            let Some(Glimpse::Innermost(frame)) = glimpse else {
                panic!("{layout:?}: {glimpse:?}");
            };
            assert_eq!(frame.line, Some(41), "{layout:?}");
        }
    }
}

/// Each layout with each way of keeping attributes.
fn with_each_way() -> impl Iterator<Item = Layout> {
    let ways = [Kept::Dictionary, Kept::Apart, Kept::Marked, Kept::Within];
    layout::known().into_iter().flat_map(move |layout| {
        ways.map(|kept| {
            let attributes = Attributes {
                kept,
                ..layout.attributes
            };
            Layout {
                attributes,
                ..layout
            }
        })
    })
}

#[test]
fn attributes_are_found_by_their_names_however_they_are_kept() {
    for layout in with_each_way() {
        let reader = Reader::new(interpreter(&layout), layout);
        let attribute = |name| attribute(&reader, INSTANCE, name).expect("it is readable");
        assert_eq!(attribute("näme"), Some(FILE), "{layout:?}");
        assert_eq!(attribute("nam"), None, "{layout:?}");
    }
}

/// Has the object have two attributes, with the names that are in the page of its keys: its file, and this number.
fn add_number(made_up: &mut MadeUp, layout: &Layout, number: u32) {
    let (name, second, value) = (KEYS + 512, KEYS + 768, KEYS + 1024);
    made_up.point(value + layout.objects.object_type, INT_TYPE);
    made_up.point(value + 16, 8);
    made_up.put(value + 24, &number.to_ne_bytes());
    match layout.attributes.kept {
        Kept::Dictionary => {
            made_up.point(KEYS + 32, 2);
            made_up.point(KEYS + 40 + 8 + 8, name);
            made_up.point(KEYS + 40 + 8 + 24 + 8, second);
            made_up.point(KEYS + 40 + 8 + 24 + 16, value);
        }
        kept => {
            made_up.point(KEYS + 24, 2);
            made_up.point(KEYS + 32 + 8, name);
            made_up.point(KEYS + 32 + 8 + 16, second);
            let values = match kept {
                Kept::Within => INSTANCE + 40,
                _ => ELSEWHERE,
            };
            made_up.point(values + 8, value);
        }
    }
}

#[test]
fn a_thread_has_the_name_of_the_object_whose_method_began_it_and_no_other_has_one() {
    for layout in with_each_way() {
        let named = |method: &str, file: &str, number: u32| {
            let mut made_up = interpreter(&layout);
            for (at, word) in [(NAME, method), (FILE, file)] {
                text(&mut made_up, &layout, at, word);
            }
            // Its attributes are `_name` and `_native_id`, and the flag that says how a reference is counted is set.
            text(&mut made_up, &layout, KEYS + 512, "_name");
            text(&mut made_up, &layout, KEYS + 768, "_native_id");
            add_number(&mut made_up, &layout, number);
            made_up.point(CALLER + layout.locals, INSTANCE | 1);
            let stacks = stacks(made_up, layout);
            let found = stacks.threads(&tasks()).expect("it has a thread");
            stacks.name(&found.threads[0])
        };
        for method in ["_bootstrap", "Thread._bootstrap"] {
            let name = named(method, "/lib/threading.py", ID);
            assert_eq!(name.as_deref(), Some("/lib/threading.py"), "{layout:?}");
        }
        assert_eq!(named("_bootstrap", "/home/mine.py", ID), None);
        assert_eq!(named("main", "/lib/threading.py", ID), None);
        // It is the object of the thread that had this thread state before.
        assert_eq!(named("_bootstrap", "/lib/threading.py", ID - 1), None);
    }
}

#[test]
fn a_gil_that_nobody_holds_has_no_holder() {
    for layout in layout::known() {
        let mut made_up = interpreter(&layout);
        let gil = match layout.gil {
            Gil::InRuntime(at) => RUNTIME + at,
            Gil::OfInterpreter(_) => GIL,
        };
        made_up.put(gil + layout.gil_locked, &0_u32.to_ne_bytes());
        let stacks = stacks(made_up, layout);
        let found = stacks.threads(&tasks()).expect("it has a thread");
        assert!(!stacks.is_holder(&found.gils[0], &found.threads[0]));
    }
}

#[test]
fn what_is_no_code_object_is_no_frame_and_no_known_build() {
    for layout in layout::known() {
        let mut made_up = interpreter(&layout);
        made_up.put(TYPE_NAMES, b"cell\0");
        let stacks = stacks(made_up, layout);
        let found = stacks.threads(&tasks()).expect("it has a thread");
        assert!(stacks.stack(&found.threads[0]).is_none());
        assert!(!stacks.has_recognised());
    }
}

#[test]
fn threads_that_are_none_of_the_process_mean_another_layout() {
    for layout in layout::known() {
        let stacks = stacks(interpreter(&layout), layout);
        let others = HashMap::from([(1, 1), (2, 2)]);
        let said = stacks.threads(&others).expect_err("it is not").to_string();
        assert!(
            said.contains("not laid out as that of Python 3.99"),
            "{said}"
        );
    }
}

#[test]
fn a_stack_that_goes_in_circles_is_not_read() {
    for layout in layout::known() {
        let mut made_up = interpreter(&layout);
        let (Frames::Objects { back: at, .. } | Frames::Structures { previous: at, .. }) =
            layout.frames;
        made_up.point(CALLER + at, FRAME);
        let reader = Reader::new(made_up, layout);
        assert!(matches!(
            stack::read(&reader, THREAD),
            Err(Unread::Senseless)
        ));
    }
}

#[test]
fn a_list_of_threads_that_goes_in_circles_is_not_read() {
    for layout in layout::known() {
        let mut made_up = interpreter(&layout);
        made_up.point(THREAD + layout.thread_next, THREAD);
        let reader = Reader::new(made_up, layout);
        assert!(runtime::threads(&reader, RUNTIME).is_err());
    }
}

#[test]
fn a_stack_that_changes_between_two_looks_says_so() {
    for layout in layout::known() {
        let whole = Reader::new(interpreter(&layout), layout);
        let first = stack::read(&whole, THREAD).expect("a stack");
        assert!(first.same);
        let reads = whole.memory.reads.get();
        let mut made_up = interpreter(&layout);
        let (Frames::Objects { back: at, .. } | Frames::Structures { previous: at, .. }) =
            layout.frames;
        // The caller of the innermost frame is another one from the last reads on.
        made_up.change = Some((reads - 1, (FRAME + at - BEGIN) as usize, 0));
        let reader = Reader::new(made_up, layout);
        let read = stack::read(&reader, THREAD).expect("a stack");
        assert_eq!(read.frames, first.frames);
        assert!(!read.same, "{layout:?}");
    }
}

#[test]
fn an_interpreter_that_states_its_layout_is_believed_within_reason() {
    let mut made_up = MadeUp::default();
    made_up.put(RUNTIME, &[0; PAGE as usize]);
    made_up.put(RUNTIME, b"xdebugpy");
    let of = |made_up: &MadeUp| Layout::of(made_up, RUNTIME, None).map_err(|_| "unread");
    let version = |made_up: &mut MadeUp, hex: u32| made_up.point(RUNTIME + 8, u64::from(hex));
    version(&mut made_up, 0x030e_00f0);
    assert!(of(&made_up).expect("read").is_ok());
    made_up.point(RUNTIME + 40, 1 << 40);
    assert_eq!(of(&made_up).expect("read"), Err(Unknown::Table));
    made_up.point(RUNTIME + 16, 1);
    assert_eq!(of(&made_up).expect("read"), Err(Unknown::FreeThreaded));
    let unknown = |text: &str| Err(Unknown::Version(text.to_owned()));
    version(&mut made_up, 0x030e_00a7);
    assert_eq!(of(&made_up).expect("read"), unknown("3.14.0a7"));
    version(&mut made_up, 0x0310_00f0);
    assert_eq!(of(&made_up).expect("read"), unknown("3.16.0"));
}

#[test]
fn no_more_is_searched_for_lines_than_half_a_second_takes() {
    for layout in layout::known() {
        let mut made_up = interpreter(&layout);
        made_up.point(LINES + layout.objects.bytes_size, 1 << 20);
        made_up.put(LINES + (1 << 20) + PAGE, &[0; PAGE as usize]);
        let stacks = stacks(made_up, layout);
        let found = stacks.threads(&tasks()).expect("it has a thread");
        let lines = || {
            let stack = stacks.stack(&found.threads[0]).expect("it has a stack");
            stack.frames.first().and_then(|frame| frame.line)
        };
        // Two frames a look, with a megabyte each.
        let known = (0..200).take_while(|_| lines().is_some()).count();
        assert_eq!(known, 128, "{layout:?}");
    }
}

#[test]
fn a_version_without_a_table_is_named() {
    let mut made_up = MadeUp::default();
    made_up.put(RUNTIME, &[0; PAGE as usize]);
    for (text, is_known) in [
        ("3.7.16", false),
        ("3.8.18", true),
        ("3.12.1", true),
        ("3.12.0rc1", false),
        ("3.13.0", false),
    ] {
        let version = text.parse().expect("a version");
        let layout = Layout::of(&made_up, RUNTIME, Some(&version)).map_err(|_| "unread");
        match layout.expect("read") {
            Ok(_) => assert!(is_known, "{text}"),
            Err(unknown) => {
                assert!(!is_known, "{text}");
                assert_eq!(unknown, Unknown::Version(text.to_owned()));
            }
        }
    }
}

#[test]
fn the_c_librarys_thread_ids_are_found_where_all_of_them_are() {
    // As another C library has them: at 48.
    let layout = layout::known()[0];
    let mut made_up = interpreter(&layout);
    made_up.put(STRUCTURE + 720, &0_u32.to_ne_bytes());
    made_up.put(STRUCTURE + 48, &ID.to_ne_bytes());
    let stacks = stacks(made_up, layout);
    let found = stacks.threads(&tasks()).expect("it has a thread");
    assert_eq!(found.threads[0].task, Some(ID + 1));
}

#[test]
fn a_function_is_found_in_every_layout_by_its_code_wherever_it_has_that() {
    for layout in layout::known() {
        for (code_at, qualname_at) in [(16, 104), (48, 40)] {
            let mut made_up = interpreter(&layout);
            made_up.put(TYPE_NAMES + 224, b"function\0");
            made_up.point(GREENLET + layout.objects.object_type, FRAME_TYPE);
            made_up.point(GREENLET + code_at, CODE);
            made_up.point(GREENLET + qualname_at, NAME);
            let stacks = stacks(made_up, layout);
            let made = Made {
                name: "näme".to_owned(),
                qualname: "näme".to_owned(),
                file: "/file.py".to_owned(),
            };
            let found = functions(&stacks, &[collector(&layout)]);
            assert_eq!(found, [made], "{layout:?}");
            let none = functions(
                &self::stacks(interpreter(&layout), layout),
                &[collector(&layout)],
            );
            assert!(none.is_empty(), "{layout:?}");
        }
    }
}

fn parked_in(stacks: &Stacks<MadeUp>) -> Parked {
    parked(stacks, &[collector(&stacks.reader.layout)], None)
}

#[test]
fn the_name_of_a_task_is_known_by_its_coroutine_while_it_runs_and_of_some_only_so_many_are_read() {
    for layout in layout::known() {
        let mut made_up = interpreter(&layout);
        if matches!(layout.generators.states, States::Running(_)) {
            doing(&mut made_up, &layout, 1);
        }
        let stacks = stacks(made_up, layout);
        let some = |most| parked(&stacks, &[collector(&layout)], Some(most));
        let all = some(2);
        let [((frame, code), name)] = &*all.names else {
            panic!("{layout:?}: {all:?}");
        };
        assert_eq!((*code, name.as_str()), (CODE, "näme"), "{layout:?}");
        assert!(*frame >= COROUTINE, "{layout:?}");
        assert_eq!((all.found, all.read), ((1, 1), (1, 1)), "{layout:?}");
        let none = some(0);
        assert_eq!((none.found, none.read), ((1, 1), (0, 0)), "{layout:?}");
        assert!(none.names.is_empty() && none.tasks.is_empty());
    }
}

#[test]
fn a_task_is_found_in_every_layout() {
    for layout in layout::known() {
        let parked = parked_in(&stacks(interpreter(&layout), layout));
        assert_eq!(
            (parked.objects, parked.complete, parked.unread),
            (2, true, 0)
        );
        let [task] = &*parked.tasks else {
            panic!("{layout:?}: {parked:?}");
        };
        assert_eq!((&*task.names, task.count), (&["näme".to_owned()][..], 1));
        assert_eq!(task.awaits, Awaits::Object("_asyncio.Future".to_owned()));
        let frames = task.frames.iter();
        let frames: Vec<_> = frames.map(|it| (&*it.function, it.line)).collect();
        assert_eq!(frames, [("näme", Some(41))], "{layout:?}");
        assert!(task.same && !task.cut);
    }
}

#[test]
fn only_tasks_that_wait_are_shown() {
    for layout in layout::known() {
        let with = |state: i8| {
            let mut made_up = interpreter(&layout);
            doing(&mut made_up, &layout, state);
            parked_in(&stacks(made_up, layout))
        };
        let (runs, finished) = match layout.generators.states {
            States::Running(_) => (1, None),
            States::Byte { created, .. } => {
                let parked = with(created);
                assert_eq!(parked.tasks[0].awaits, Awaits::Start, "{layout:?}");
                (0, Some(4))
            }
        };
        for state in [Some(runs), finished].into_iter().flatten() {
            let parked = with(state);
            assert_eq!((&*parked.tasks, parked.unread), (&[][..], 0), "{layout:?}");
        }
    }
}

#[test]
fn a_task_that_awaits_a_task_names_it() {
    for layout in layout::known() {
        let mut made_up = interpreter(&layout);
        made_up.point(OF_FUTURE + 16, TASK);
        let parked = parked_in(&stacks(made_up, layout));
        let awaits = parked.tasks.iter().map(|tasks| tasks.awaits.clone());
        let expected = [Awaits::Task("näme".to_owned())];
        assert!(awaits.eq(expected), "{layout:?}: {parked:?}");
    }
}

#[test]
fn a_task_that_awaits_what_cannot_be_awaited_is_not_believed() {
    for layout in layout::known() {
        // Its type has no next values.
        let mut made_up = interpreter(&layout);
        made_up.put(TYPE_NAMES + 128, b"NoneType\0\0");
        let parked = parked_in(&stacks(made_up, layout));
        assert_eq!((parked.tasks.len(), parked.unread), (0, 1), "{layout:?}");
    }
}

#[test]
fn coroutines_that_await_each_other_are_cut() {
    for layout in layout::known() {
        // As one that stands for a coroutine, what should await a future leads back to it.
        let mut made_up = interpreter(&layout);
        made_up.put(TYPE_NAMES + 128, b"coroutine_wrapper\0\0");
        made_up.point(OF_FUTURE + 16, COROUTINE);
        let parked = parked_in(&stacks(made_up, layout));
        let [Tasks { frames, cut, .. }] = &*parked.tasks else {
            panic!("{layout:?}: {parked:?}");
        };
        assert_eq!((frames.len(), *cut), (1024, true), "{layout:?}");
        // And one that leads to itself leads nowhere.
        let mut made_up = interpreter(&layout);
        made_up.put(TYPE_NAMES + 128, b"coroutine_wrapper\0\0");
        made_up.point(OF_FUTURE + 16, OF_FUTURE);
        let parked = parked_in(&stacks(made_up, layout));
        assert_eq!((parked.tasks.len(), parked.unread), (0, 1), "{layout:?}");
        // It was looked at, so that no other stands for it.
        assert_eq!((parked.found, parked.read), ((1, 1), (1, 1)), "{layout:?}");
    }
}

#[test]
fn a_task_that_is_another_one_at_each_look_says_so() {
    for layout in layout::known() {
        let mut made_up = interpreter(&layout);
        made_up.restless = Some((OF_FUTURE + 16 - BEGIN) as usize);
        let parked = parked_in(&stacks(made_up, layout));
        let [task] = &*parked.tasks else {
            panic!("{layout:?}: {parked:?}");
        };
        assert!(!task.same, "{layout:?}");
        assert_eq!(task.frames.len(), 1, "{layout:?}");
    }
}

#[test]
fn a_greenlet_is_found_in_every_layout() {
    for layout in layout::known() {
        let parked = parked_in(&stacks(interpreter(&layout), layout));
        assert_eq!(parked.unread_greenlets, 0, "{layout:?}");
        let [greenlet] = &*parked.greenlets else {
            panic!("{layout:?}: {parked:?}");
        };
        let frames = greenlet.frames.iter();
        let frames: Vec<_> = frames.map(|it| (&*it.function, it.line)).collect();
        assert_eq!(frames, [("näme", Some(42))], "{layout:?}");
        assert_eq!(greenlet.count, 1);
        assert!(greenlet.same && !greenlet.cut);
    }
}

/// Where the greenlet has the lowest address of its stack, and its innermost frame.
fn of_greenlet(layout: &Layout) -> (u64, u64) {
    match layout.frames {
        Frames::Objects { .. } => (GREENLET + 16, GREENLET + 72),
        Frames::Structures { .. } => (FIELDS + 56, FIELDS + 104),
    }
}

#[test]
fn only_greenlets_that_are_switched_out_are_shown() {
    for layout in layout::known() {
        let with = |stack: u64, frame: u64| {
            let mut made_up = interpreter(&layout);
            let at = of_greenlet(&layout);
            made_up.point(at.0, stack);
            made_up.point(at.1, frame);
            let parked = parked_in(&stacks(made_up, layout));
            (parked.greenlets.len(), parked.unread_greenlets)
        };
        // It runs, or has finished.
        assert_eq!(with(0x7000_0000, 0), (0, 0), "{layout:?}");
        assert_eq!(with(0, 0), (0, 0), "{layout:?}");
        // It has a frame, but no stack as we know it.
        assert_eq!(with(0, FRAME_OBJECT), (0, 1), "{layout:?}");
        assert_eq!(with(u64::MAX, FRAME_OBJECT), (0, 1), "{layout:?}");
        // What it has in place of a frame is none, so nothing says that it is switched out.
        assert_eq!(with(0x7000_0000, FUTURE), (0, 0), "{layout:?}");
    }
}

#[test]
fn a_list_of_objects_that_does_not_come_back_is_not_complete() {
    for layout in layout::known() {
        for next in [TASK - 16, TASK, 0, 8, u64::MAX] {
            let mut made_up = interpreter(&layout);
            made_up.point(TASK - 16, next);
            made_up.point(VALUES + 8, collector(&layout) + HEAD);
            let parked = parked_in(&stacks(made_up, layout));
            assert!(!parked.complete, "{layout:?}: {next:#x}");
            assert!(parked.objects <= 4096, "{layout:?}: {next:#x}");
        }
    }
}

#[test]
fn a_list_that_is_being_collected_is_walked_and_not_said_to_be_whole() {
    for layout in layout::known() {
        let mut made_up = interpreter(&layout);
        // Its last object has gone to another list, and the first one holds a number where its link to the one before was.
        made_up.point(collector(&layout) + HEAD + 8, VALUES);
        made_up.point(TASK - 16 + 8, 4 | 2);
        let parked = parked_in(&stacks(made_up, layout));
        let seen = (parked.objects, parked.found, parked.complete);
        assert_eq!(seen, (2, (1, 1), false), "{layout:?}");
        // Others may be on lists that nothing leads to.
        let mut made_up = interpreter(&layout);
        made_up.point(collector(&layout) + layout.collecting, 1);
        let parked = parked_in(&stacks(made_up, layout));
        let seen = (parked.objects, parked.found, parked.complete);
        assert_eq!(seen, (2, (1, 1), false), "{layout:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a hostile or a changing process has in its memory: no panic, no loop, no more memory than the bounds.
    #[test]
    fn no_memory_is_too_strange(which in 0..20_usize,
                                scribbles in proptest::collection::vec((0..PAGES * PAGE / 8, any::<u64>(), 0..4_u8), 1..40)) {
        let layout = with_each_way().nth(which).expect("there are so many");
        let mut made_up = interpreter(&layout);
        for (place, number, kind) in scribbles {
            let number = match kind {
                0 => number,
                // Into the made-up memory, so that structures are taken for others.
                1 => BEGIN + number % (PAGES * PAGE),
                2 => number % 1000,
                _ => u64::MAX,
            };
            made_up.point(BEGIN + place * 8, number);
        }
        look_at(made_up, layout);
    }

    /// The same for the fields that are really followed.
    #[test]
    fn no_field_is_too_strange(which in 0..20_usize,
                               fields in proptest::collection::vec((0..28_usize, 0..40_u64, any::<u64>(), 0..3_u8), 1..12)) {
        const STRUCTURES: [u64; 28] = [RUNTIME, INTERPRETER, THREAD, STRUCTURE, FRAME, CALLER, CODE, CODE_TYPE, STR_TYPE,
            BYTES_TYPE, NAME, FILE, LINES, CFRAME, TYPE_NAMES, GIL, TASK - 16, COROUTINE, OF_FUTURE, FUTURE, TASK_TYPE,
            COROUTINE_TYPE, COROUTINE_FRAME, VALUES, INSTANCE - 64, INSTANCE_TYPE, KEYS, ELSEWHERE];
        let layout = with_each_way().nth(which).expect("there are so many");
        let mut made_up = interpreter(&layout);
        for (structure, field, number, kind) in fields {
            let number = match kind {
                0 => number,
                1 => STRUCTURES[(number % 28) as usize],
                _ => u64::MAX >> (number % 64),
            };
            made_up.point(STRUCTURES[structure] + field * 8, number);
        }
        look_at(made_up, layout);
    }

    #[test]
    fn no_stated_layout_is_too_strange(words in proptest::collection::btree_map(3..115_u64, any::<u64>(), 0..30),
                                       minor in 13..16_u32) {
        let mut made_up = MadeUp::default();
        made_up.put(page(21), &[0; PAGE as usize]);
        made_up.put(RUNTIME, b"xdebugpy");
        made_up.point(RUNTIME + 8, u64::from(0x0300_00f0 | (minor << 16)));
        let words: BTreeMap<u64, u64> = words;
        for (place, number) in words {
            made_up.point(RUNTIME + place * 8, number % 5000);
        }
        if let Ok(Ok(layout)) = Layout::of(&made_up, RUNTIME, None) {
            look_at(made_up, layout);
        }
    }
}
