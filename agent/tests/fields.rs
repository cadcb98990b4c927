//! Fields of calls: what is read by a path is what the program has there, and none of the program's code runs for it.

use pystap_agent_protocol::{CALLER, Field, FromAgent, Part, RETURNED, Start};
use pystap_ring::fields::{Absent, Fields, LONGEST, Value};

use crate::interpreters::{self, Interpreter};
use crate::program::{Program, Pystap, functions};
use crate::rings::{LARGE, Ours};

/// Objects of every kind that store attributes, and some that must not be touched: each thing of those that runs code says so.
const OBJECTS: &str = r#"
import collections, functools
ran = []
class Plain:
    default = "of the class"
    def __init__(self, **names):
        for name, value in names.items():
            setattr(self, name, value)
class Stored(Plain):
    "Its instances have had so many attributes that the interpreter keeps a dict for them."
    def __init__(self, **names):
        self.__dict__.update(names)
class Slots:
    __slots__ = ("first", "empty")
    def __init__(self, first): self.first = first
class Both(Slots):
    __slots__ = ("second", "__dict__")
    def __init__(self, first, second, third):
        super().__init__(first)
        self.second = second
        self.third = third
class Borrowed:
    __slots__ = ()
    first = Both.second
class Computing:
    def __init__(self): self.__dict__["hidden_by_it"] = "stored"
    @property
    def prop(self): ran.append("property"); return 1
    @prop.setter
    def prop(self, value): pass
    @property
    def hidden_by_it(self): ran.append("property"); return 1
    @functools.cached_property
    def cached(self): ran.append("cached"); return 1
    def method(self): pass
    def __getattr__(self, name): ran.append(name); return 1
class Lying:
    stored = "of the class"
    def __init__(self): object.__setattr__(self, "name", "stored")
    def __getattribute__(self, name): ran.append(name); return "a lie"
class Dict(dict):
    def __getitem__(self, key): ran.append("item"); return 1
    def __missing__(self, key): ran.append("missing"); return 1
class Key(str):
    def __hash__(self): ran.append("hash"); return str.__hash__(self)
    def __eq__(self, other): ran.append("eq"); return True
class Own:
    pass
def work(it, *args, **names): pass
def other(it): pass
"#;

/// A program that has those objects, and what asks for fields of its function `work`.
struct Traced {
    program: Program,
    pystap: Pystap,
    ring: Ours,
}

fn field(argument: &str, path: &[Part]) -> Field {
    Field {
        argument: argument.to_owned(),
        path: path.to_vec(),
        at_return: false,
        functions: Vec::new(),
    }
}

fn attribute(name: &str) -> Part {
    Part::Attribute(name.to_owned())
}

fn key(name: &str) -> Part {
    Part::Key(name.to_owned())
}

impl Traced {
    fn start(interpreter: &Interpreter, fields: Vec<Field>) -> Traced {
        let mut program = Program::start(interpreter);
        program.run(OBJECTS);
        let pystap = program.attach();
        let ring = Ours::new(LARGE);
        let start = Start {
            fields,
            ..functions("*workload.py")
        };
        let answer = ring.start(&pystap, start);
        assert!(matches!(answer, FromAgent::Started(_)), "{answer:?}");
        Traced {
            program,
            pystap,
            ring,
        }
    }

    /// Runs code, and gives the bytes of the fields of its calls.
    fn fields(&mut self, code: &str) -> Vec<Vec<u8>> {
        self.program.run(code);
        self.ring.fields()
    }

    /// That none of the objects' own code ran; and the end.
    fn end(mut self) {
        let ran = self.program.run("result = ran");
        assert_eq!(ran, serde_json::json!([]));
        self.pystap.stop();
        assert_eq!(self.program.end(), Some(0));
    }
}

fn text(text: &str) -> Value<'_> {
    let (bytes, is_cut) = (text.as_bytes(), false);
    Value::Text { bytes, is_cut }
}

#[test]
fn a_field_is_what_the_program_has_there_and_nothing_of_the_program_runs_for_it() {
    let absent = |why, at| Value::Absent(why, at);
    let cases: Vec<(&str, Vec<Part>, Value<'_>)> = vec![
        ("'plain'", vec![], text("plain")),
        ("None", vec![], Value::None),
        ("True", vec![], Value::Bool(true)),
        ("-3", vec![], Value::Integer(-3)),
        ("2**63", vec![], Value::Other(b"int of more than 64 bits")),
        ("0.25", vec![], Value::Float(0.25)),
        ("Own()", vec![], Value::Other(b"Own")),
        ("Key('x')", vec![], Value::Other(b"Key")),
        (
            "'\\ud800'",
            vec![],
            Value::Text {
                bytes: b"\xed\xa0\x80",
                is_cut: false,
            },
        ),
        (
            "b'\\xff\\0'",
            vec![],
            Value::Bytes {
                bytes: b"\xff\0",
                is_cut: false,
            },
        ),
        // Attributes: inline values, dicts, slots.
        ("Plain(a=1, b='two')", vec![attribute("b")], text("two")),
        ("Stored(a=1, b='two')", vec![attribute("b")], text("two")),
        (
            "Plain(a=1)",
            vec![attribute("c")],
            absent(Absent::NoAttribute, 1),
        ),
        (
            "Stored(a=1)",
            vec![attribute("c")],
            absent(Absent::NoAttribute, 1),
        ),
        ("Plain()", vec![attribute("default")], text("of the class")),
        (
            "Plain(default='own')",
            vec![attribute("default")],
            text("own"),
        ),
        (
            "Stored(default='own')",
            vec![attribute("default")],
            text("own"),
        ),
        (
            "Slots('in a slot')",
            vec![attribute("first")],
            text("in a slot"),
        ),
        (
            "Slots('in a slot')",
            vec![attribute("empty")],
            absent(Absent::NoAttribute, 1),
        ),
        ("Both(1, 2, 3)", vec![attribute("first")], Value::Integer(1)),
        (
            "Both(1, 2, 3)",
            vec![attribute("second")],
            Value::Integer(2),
        ),
        ("Both(1, 2, 3)", vec![attribute("third")], Value::Integer(3)),
        // Its objects are too small for what the descriptor speaks of.
        (
            "Borrowed()",
            vec![attribute("first")],
            absent(Absent::Computed, 1),
        ),
        ("5", vec![attribute("real")], absent(Absent::Computed, 1)),
        (
            "5",
            vec![attribute("nothing")],
            absent(Absent::NoAttribute, 1),
        ),
        ("Plain", vec![attribute("default")], text("of the class")),
        ("Stored", vec![attribute("default")], text("of the class")),
        (
            "Stored",
            vec![attribute("nothing")],
            Value::Absent(Absent::NoAttribute, 1),
        ),
        (
            "Computing",
            vec![attribute("prop")],
            Value::Absent(Absent::Computed, 1),
        ),
        (
            "int",
            vec![attribute("real")],
            Value::Absent(Absent::Computed, 1),
        ),
        // What is computed is not asked for.
        (
            "Computing()",
            vec![attribute("prop")],
            absent(Absent::Property, 1),
        ),
        (
            "Computing()",
            vec![attribute("hidden_by_it")],
            absent(Absent::Property, 1),
        ),
        (
            "Computing()",
            vec![attribute("cached")],
            absent(Absent::Computed, 1),
        ),
        (
            "Computing()",
            vec![attribute("method")],
            absent(Absent::Computed, 1),
        ),
        (
            "Computing()",
            vec![attribute("nothing")],
            absent(Absent::NoAttribute, 1),
        ),
        ("Lying()", vec![attribute("name")], text("stored")),
        ("Lying()", vec![attribute("stored")], text("of the class")),
        // Keys and items.
        ("{'method': 'GET'}", vec![key("method")], text("GET")),
        (
            "{'method': 'GET'}",
            vec![key("nothing")],
            absent(Absent::NoKey, 1),
        ),
        (
            "{Key('other'): 1, 'method': 2}",
            vec![key("method")],
            Value::Integer(2),
        ),
        (
            "{Key('method'): 1}",
            vec![key("method")],
            absent(Absent::NoKey, 1),
        ),
        (
            "Dict(method='GET')",
            vec![key("method")],
            absent(Absent::NoDict, 1),
        ),
        (
            "collections.OrderedDict(method=1)",
            vec![key("method")],
            absent(Absent::NoDict, 1),
        ),
        (
            "{True: 'yes', 1.0: 'float'}",
            vec![Part::Number(1)],
            absent(Absent::NoKey, 1),
        ),
        ("{7: 'seven'}", vec![Part::Number(7)], text("seven")),
        (
            "dict.fromkeys(range(5000))",
            vec![Part::Number(4999)],
            absent(Absent::TooManyKeys, 1),
        ),
        ("['a', 'b']", vec![Part::Number(1)], text("b")),
        ("('a', 'b')", vec![Part::Number(-2)], text("a")),
        ("['a']", vec![Part::Number(1)], absent(Absent::NoItem, 1)),
        ("['a']", vec![Part::Number(-2)], absent(Absent::NoItem, 1)),
        ("'text'", vec![Part::Number(0)], absent(Absent::NoItems, 1)),
        (
            "[Plain(a={'k': [Slots(6)]})]",
            vec![
                Part::Number(0),
                attribute("a"),
                key("k"),
                Part::Number(0),
                attribute("first"),
            ],
            Value::Integer(6),
        ),
        (
            "[Plain(a={'k': []})]",
            vec![
                Part::Number(0),
                attribute("a"),
                key("k"),
                Part::Number(0),
                attribute("first"),
            ],
            absent(Absent::NoItem, 4),
        ),
    ];
    for interpreter in interpreters::with_lock() {
        for part in cases.chunks(16) {
            let fields = part.iter().map(|(_, path, _)| field("it", path)).collect();
            let mut traced = Traced::start(interpreter, fields);
            for (number, (object, path, expected)) in part.iter().enumerate() {
                let code = format!("it = {object}\nran.clear()\nwork(it)");
                let told = traced.fields(&code);
                let name = format!("{}: {object} {path:?}", interpreter.name());
                assert_eq!(told.len(), 1, "{name}");
                let all: Vec<_> = Fields::new(&told[0]).collect();
                assert_eq!(all.len(), part.len(), "{name}");
                assert_eq!(all[number], (number as u8, *expected), "{name}");
            }
            traced.end();
        }
    }
}

#[test]
fn a_long_text_is_told_up_to_its_limit_and_a_dict_of_ten_megabytes_costs_nothing() {
    for interpreter in interpreters::with_lock() {
        let mut traced = Traced::start(interpreter, vec![field("it", &[])]);
        let whole = format!("work('é' * {})", LONGEST / 2);
        let longer = format!("work('x' + 'é' * {})", LONGEST / 2);
        for (code, length, expected) in [
            (whole.as_str(), LONGEST, false),
            (longer.as_str(), LONGEST - 1, true),
            ("work('x' * 10_000_000)", LONGEST, true),
            ("work(b'x' * 10_000_000)", LONGEST, true),
        ] {
            let told = traced.fields(code);
            let found = Fields::new(&told[0]).next();
            let Some((0, Value::Text { bytes, is_cut } | Value::Bytes { bytes, is_cut })) = found
            else {
                panic!("{found:?}");
            };
            assert_eq!(
                (bytes.len(), is_cut),
                (length, expected),
                "{}",
                interpreter.name()
            );
        }
        traced.end();
    }
}

#[test]
fn only_functions_with_the_argument_and_the_name_have_the_field() {
    for interpreter in interpreters::with_lock() {
        let named = Field {
            functions: vec!["oth*".to_owned()],
            ..field("it", &[])
        };
        let fields = vec![
            field("args", &[Part::Number(0)]),
            field("names", &[key("flag")]),
            named,
        ];
        let mut traced = Traced::start(interpreter, fields);
        let code = "work(1, 2, flag=3); other(4); sorted([1], key=lambda it: it)";
        let told = traced.fields(code);
        let told: Vec<Vec<_>> = told
            .iter()
            .map(|bytes| Fields::new(bytes).collect())
            .collect();
        let expected = [
            vec![(0, Value::Integer(2)), (1, Value::Integer(3))],
            vec![(2, Value::Integer(4))],
        ];
        assert_eq!(told, expected, "{}", interpreter.name());
        traced.end();
    }
}

#[test]
fn arguments_that_inner_functions_use_and_those_of_generators_are_read() {
    for interpreter in interpreters::with_lock() {
        let mut traced = Traced::start(interpreter, vec![field("it", &[])]);
        traced.program.run(
            "def outer(it):\n    def inner(): return it\n    return inner\ndef counting(it):\n    yield 1\n    it = 'changed'\n    yield 2\n",
        );
        let told = traced.fields(
            "outer('cell')\nnumbers = counting('start')\nnext(numbers)\nnext(numbers)\ndel numbers",
        );
        let told: Vec<_> = told.iter().flat_map(|bytes| Fields::new(bytes)).collect();
        // A generator that goes on has its argument as it stands then.
        let expected = [text("cell"), text("start"), text("start"), text("changed")];
        let expected: Vec<_> = expected.into_iter().map(|value| (0, value)).collect();
        assert_eq!(told[..3], expected[..3], "{}", interpreter.name());
        // Where it is closed, it goes on once more, if that is told.
        assert!(
            told.len() < 5 && told[3..] == expected[3..told.len()],
            "{told:?}"
        );
        traced.end();
    }
}

#[test]
fn a_field_of_a_return_is_what_is_there_by_then_and_an_exception_has_none() {
    let at_return = |argument, path: &[Part]| Field {
        at_return: true,
        functions: vec!["counts".to_owned(), "makes".to_owned()],
        ..field(argument, path)
    };
    for interpreter in interpreters::with_lock() {
        let fields = vec![
            field("it", &[attribute("count")]),
            at_return("it", &[attribute("count")]),
            at_return(RETURNED, &[Part::Number(-1)]),
        ];
        let mut traced = Traced::start(interpreter, fields);
        traced.program.run(
            "def counts(it):\n    it.count += 1\n    return 1 / it.by, 'last'\n\
             def makes(it):\n    it.count += 1\n    yield 1\n    it.count += 1\n    return ['end']\n",
        );
        let told = traced.fields(
            "it = Plain(count=7, by=1)\ncounts(it)\nit.by = 0\n\
             try: counts(it)\nexcept ZeroDivisionError: pass\nlist(makes(it))",
        );
        let told: Vec<Vec<_>> = told
            .iter()
            .map(|bytes| Fields::new(bytes).collect())
            .collect();
        let counted = |number, count| (number, Value::Integer(count));
        let expected = [
            vec![counted(0, 7)],
            vec![counted(1, 8), (2, text("last"))],
            vec![counted(0, 8)],
            // A generator gives way without, and has them at its end.
            vec![counted(0, 9)],
            vec![counted(0, 10)],
            vec![counted(1, 11), (2, text("end"))],
        ];
        assert_eq!(told, expected, "{}", interpreter.name());
        traced.end();
    }
}

#[test]
fn integers_that_types_in_c_store_are_read() {
    // Not every interpreter here has sqlite3.
    let have = interpreters::with_lock().filter(|it| it.has("sqlite3"));
    let rows = "import sqlite3\nit = sqlite3.connect(':memory:').cursor()\n\
        it.execute('create table t (a)')\nit.execute('insert into t values (1), (2)')\nwork(it)";
    let counts: Vec<_> = have.map(|it| (it, "rowcount", rows, 2)).collect();
    assert!(!counts.is_empty());
    let code = "work(work.__code__)";
    let arguments = interpreters::with_lock().map(|it| (it, "co_argcount", code, 1));
    for (interpreter, name, code, value) in counts.into_iter().chain(arguments) {
        let mut traced = Traced::start(interpreter, vec![field("it", &[attribute(name)])]);
        let told = traced.fields(code);
        let told: Vec<_> = told.iter().flat_map(|bytes| Fields::new(bytes)).collect();
        assert_eq!(
            told,
            [(0, Value::Integer(value))],
            "{} {name}",
            interpreter.name()
        );
        traced.end();
    }
}

#[test]
fn who_called_is_the_nearest_function_in_no_file_that_is_passed_over() {
    for interpreter in interpreters::with_lock() {
        let caller = |globs: &[&str]| {
            let globs: Vec<Part> = globs.iter().map(|glob| key(glob)).collect();
            Field {
                functions: vec!["work".to_owned()],
                ..field(CALLER, &globs)
            }
        };
        let fields = vec![
            caller(&["*library.py", "*other.py"]),
            caller(&[]),
            caller(&["*"]),
        ];
        let mut traced = Traced::start(interpreter, fields);
        traced.program.run(
            "exec(compile('def inner(it): work(it)\\ndef outer(it): inner(it)', '/srv/library.py', 'exec'))\n\
             exec(compile('class Of:\\n  def service(self):\\n    outer(self)', '/srv/own.py', 'exec'))",
        );
        let told = traced.fields("Of().service()");
        let told: Vec<_> = told.iter().flat_map(|bytes| Fields::new(bytes)).collect();
        let name = match interpreter.version >= [3, 11, 0] {
            true => "Of.service (/srv/own.py:3)",
            false => "service (/srv/own.py:3)",
        };
        let expected = [
            (0, text(name)),
            (1, text("inner (/srv/library.py:1)")),
            (2, Value::Absent(Absent::Unbound, 0)),
        ];
        assert_eq!(told, expected, "{}", interpreter.name());
        traced.end();
    }
}

#[test]
fn what_is_thrown_into_a_generator_arrives_whatever_its_fields_are() {
    for interpreter in interpreters::with_lock() {
        let fields = vec![
            field("it", &[attribute("nothing")]),
            field(CALLER, &[key("*")]),
            field(CALLER, &[]),
        ];
        let mut traced = Traced::start(interpreter, fields);
        traced.fields(
            "caught = []\n\
             def work(it):\n    try: yield 1\n    except ValueError as error: caught.append(str(error))\n    yield 2\n\
             numbers = work(3)\nnext(numbers)\nnumbers.throw(ValueError('thrown'))\nnumbers.close()\n",
        );
        let caught = traced.program.run("result = caught");
        assert_eq!(
            caught,
            serde_json::json!(["thrown"]),
            "{}",
            interpreter.name()
        );
        traced.end();
    }
}

#[test]
fn a_free_threaded_interpreter_refuses_fields() {
    for interpreter in interpreters::free_threaded() {
        let mut program = Program::start(interpreter);
        let pystap = program.attach();
        let start = Start {
            fields: vec![field("it", &[])],
            ..functions("*workload.py")
        };
        let answer = Ours::new(LARGE).start(&pystap, start);
        let FromAgent::Refused(refused) = answer else {
            panic!("{answer:?}");
        };
        assert!(refused.reason.contains("fields"), "{}", refused.reason);
        drop(pystap);
        assert_eq!(program.end(), Some(0));
    }
}
