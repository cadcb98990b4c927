//! The language of `--field`: a name, and a path that begins at an argument and leads through attributes, keys and items to a
//! value. Read here and followed by the agent (`agent/src/fields.rs`). Also what one that leads nowhere is said to lack.

use std::collections::BTreeMap;
use std::fmt;

use pystap_agent_protocol::{CALLER, CURRENT_SPAN, Part, RETURNED};
use pystap_glob::{Glob, lower};
use pystap_ring::fields::{Absent, MOST_FIELDS};

use crate::event::paths::{AT_RETURN, OR};

/// Longest text of a field in bytes.
const LONGEST: usize = 1024;
/// Most parts of a path.
const MOST_PARTS: usize = 32;

/// A field that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// What it is called.
    pub name: String,
    /// The argument with which its path begins.
    pub argument: String,
    /// The way from there.
    pub path: Vec<Part>,
    /// Whether it is read when a value is returned, and not when the call begins.
    pub at_return: bool,
    /// Of which functions; of all that are traced where none is named.
    pub functions: Vec<Glob>,
}

/// What is wrong with the text of a field, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wanted}, at character {at}{}", found(.rest))]
pub struct FieldError {
    wanted: String,
    /// Counted from 1.
    at: usize,
    /// What stands there.
    rest: String,
}

/// What stands where something else should.
fn found(rest: &str) -> String {
    /// Characters of it that are shown.
    const SHOWN: usize = 20;
    let beginning: String = rest.chars().take(SHOWN).collect();
    match rest.chars().count() {
        0 => ", where it ends".to_owned(),
        1..=SHOWN => format!(", before {beginning:?}"),
        _ => format!(", before {:?}", beginning + "\u{2026}"),
    }
}

impl FieldError {
    /// At which character it is, counted from 1.
    pub fn at(&self) -> usize {
        self.at
    }
}

impl Field {
    /// Reads `NAME=EXPRESSION` or `GLOB:NAME=EXPRESSION`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Field, FieldError> {
        let mut reader = Reader { text, rest: text };
        if text.len() > LONGEST {
            return Err(reader.error(format!("a field has at most {LONGEST} bytes")));
        }
        let Some((left, _)) = text.split_once('=') else {
            reader.rest = "";
            return Err(reader.error("write NAME=EXPRESSION, such as request=ctxt.request_id"));
        };
        let mut functions = Vec::new();
        if let Some((glob, _)) = left.rsplit_once(':') {
            let glob = Glob::new(glob).map_err(|error| reader.error(error.to_string()))?;
            functions.push(glob);
            reader.rest = &text[left.rfind(':').map_or(0, |at| at + 1)..];
        }
        let (name, at_return) = reader.name_and_time()?;
        reader.take('=')?;
        let (argument, path) = reader.path()?;
        Ok(Field {
            at_return: at_return || argument == RETURNED,
            name,
            argument,
            path,
            functions,
        })
    }

    /// Reads a name, with [`AT_RETURN`] or without, and a path that belongs to it, for all functions.
    ///
    /// # Errors
    /// What is wrong with the path, and where; of the name, too, which is not shown.
    pub fn named(name: &str, path: &str) -> Result<Field, FieldError> {
        let mut reader = Reader {
            text: name,
            rest: name,
        };
        let (name, at_return) = reader.name_and_time()?;
        if !reader.rest.is_empty() {
            return Err(reader.error(format!("nothing or {AT_RETURN} must come")));
        }
        let mut reader = Reader {
            text: path,
            rest: path,
        };
        if path.len() > LONGEST {
            return Err(reader.error(format!("a path has at most {LONGEST} bytes")));
        }
        let (argument, path) = reader.path()?;
        Ok(Field {
            at_return: at_return || argument == RETURNED,
            name,
            argument,
            path,
            functions: Vec::new(),
        })
    }

    /// Who called, as `NAME (FILE:LINE)`: the nearest function that is in none of these files.
    pub fn caller<'a>(name: &str, passed_over: impl IntoIterator<Item = &'a Glob>) -> Field {
        let key = |glob: &Glob| Part::Key(glob.as_str().to_owned());
        Field {
            name: name.to_owned(),
            argument: CALLER.to_owned(),
            path: passed_over.into_iter().map(key).collect(),
            at_return: false,
            functions: Vec::new(),
        }
    }

    /// The span of OpenTelemetry's API that is current in these calls.
    pub fn current_span(name: &str) -> Field {
        Field {
            name: name.to_owned(),
            argument: CURRENT_SPAN.to_owned(),
            path: Vec::new(),
            at_return: false,
            functions: Vec::new(),
        }
    }

    /// Whether its value is left out where values of such names are: its own name, and the last one on its path.
    pub fn is_hidden(&self, hidden: &[Glob]) -> bool {
        if self.argument == CALLER {
            return false;
        }
        let names = self.path.iter().rev().find_map(|part| match part {
            Part::Attribute(name) | Part::Key(name) => Some(name),
            Part::Number(_) => None,
        });
        let last = names.unwrap_or(&self.argument);
        [&self.name, last].into_iter().any(|name| {
            let name = lower(name);
            let mut globs = hidden.iter();
            globs.any(|glob| match Glob::caseless(glob.as_str()) {
                Ok(glob) => glob.matches(name.as_bytes()),
                Err(_) => true,
            })
        })
    }

    /// Its path, as it is typed, and [`AT_RETURN`] behind it where it is not read before.
    pub fn path(&self) -> impl fmt::Display {
        let path = Path(&self.argument, Some(&self.path));
        format!("{path}{}", self.when())
    }

    /// What says that it is read at the return, where the path does not.
    fn when(&self) -> &'static str {
        match self.at_return && self.argument != RETURNED {
            true => AT_RETURN,
            false => "",
        }
    }

    /// Why it has no value in a call, at this part of its path.
    pub fn absence(&self, why: Absent, at: u8) -> String {
        let at = usize::from(at);
        // What it was looked for in.
        let before = Path(&self.argument, self.path.get(..at.saturating_sub(1)));
        let part = at.checked_sub(1).and_then(|at| self.path.get(at));
        let wanted = match part {
            Some(Part::Attribute(name)) => format!("{name:?}"),
            Some(Part::Key(key)) => format!("{key:?}"),
            Some(Part::Number(number)) => number.to_string(),
            None => self.argument.clone(),
        };
        match why {
            Absent::Unbound if self.argument == CURRENT_SPAN => {
                "no span of OpenTelemetry was current".to_owned()
            }
            Absent::Unbound if self.argument == CALLER => {
                "no caller was found outside of the files that are passed over".to_owned()
            }
            Absent::Unbound => format!("{} has no value", self.argument),
            Absent::NoAttribute => format!("{before} has no attribute {wanted}"),
            Absent::Property => format!(
                "{wanted} of {before} is a property, which only the program's own code could tell"
            ),
            Absent::Computed => format!(
                "{wanted} of {before} is computed by its class and not stored, so only code could tell it"
            ),
            Absent::OwnStorage => {
                format!("{before} keeps its attributes in a way that is not read")
            }
            Absent::NoDict => format!("{before} is no plain dict"),
            Absent::NoKey => format!("{before} has no key {wanted}"),
            Absent::TooManyKeys => format!("{before} has too many keys to look through"),
            Absent::NoItems => format!("{before} is no plain list, tuple or dict"),
            Absent::NoItem => format!("{before} has no item {wanted}"),
        }
    }
}

/// The paths of fields by their names, as sessions and recordings have them.
pub fn paths<'a>(fields: impl IntoIterator<Item = &'a Field>) -> BTreeMap<String, String> {
    let mut paths: BTreeMap<String, String> = BTreeMap::new();
    for field in fields {
        let path = field.path().to_string();
        let known = paths.entry(field.name.clone()).or_default();
        if known.is_empty() {
            *known = path;
        } else if !known.split(OR).any(|it| it == path) {
            known.push_str(OR);
            known.push_str(&path);
        }
    }
    paths
}

/// The names of fields, each with whether it is read when calls return, and never before.
pub fn told_by_returns<'a>(fields: impl IntoIterator<Item = &'a Field>) -> BTreeMap<String, bool> {
    let mut told = BTreeMap::new();
    for field in fields {
        let at_return = told.entry(field.name.clone()).or_insert(true);
        *at_return &= field.at_return;
    }
    told
}

/// The fields of a session in the order of their names. Of those with one name, the first that a call has is its value.
///
/// # Errors
/// What cannot be, as a sentence.
pub fn together(mut fields: Vec<Field>) -> Result<Vec<Field>, String> {
    fields.sort_by(|one, other| one.name.cmp(&other.name));
    if fields.len() > MOST_FIELDS {
        return Err(format!(
            "{} fields are too many, {MOST_FIELDS} are told at most; leave some out",
            fields.len()
        ));
    }
    Ok(fields)
}

/// A path, as it is typed.
struct Path<'a>(&'a str, Option<&'a [Part]>);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        if self.0 == CALLER {
            return Ok(());
        }
        for part in self.1.unwrap_or_default() {
            match part {
                Part::Attribute(name) => write!(f, ".{name}")?,
                Part::Key(key) => write!(f, "[{key:?}]")?,
                Part::Number(number) => write!(f, "[{number}]")?,
            }
        }
        Ok(())
    }
}

/// As it is typed, without the functions.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = Path(&self.argument, Some(&self.path));
        write!(f, "{}{}={path}", self.name, self.when())
    }
}

/// A text from its beginning to its end.
struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn error(&self, wanted: impl Into<String>) -> FieldError {
        let read = self.text.len() - self.rest.len();
        FieldError {
            wanted: wanted.into(),
            at: self.text[..read].chars().count() + 1,
            rest: self.rest.to_owned(),
        }
    }

    /// Takes a character that must come.
    fn take(&mut self, character: char) -> Result<(), FieldError> {
        self.rest = self
            .rest
            .strip_prefix(character)
            .ok_or_else(|| self.error(format!("{character:?} must come")))?;
        Ok(())
    }

    /// Takes a name, such as Python's names are.
    fn name(&mut self, what: &str) -> Result<&'a str, FieldError> {
        let is_inner = |it: char| it == '_' || it.is_alphanumeric();
        let end = self.rest.find(|it| !is_inner(it));
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        if name.is_empty() || name.starts_with(|it: char| it.is_numeric()) {
            return Err(self.error(format!("{what} must come")));
        }
        self.rest = rest;
        Ok(name)
    }

    /// Takes the name of a field, and whether it is read when a value is returned.
    fn name_and_time(&mut self) -> Result<(String, bool), FieldError> {
        let name = self.name("the name of a field")?.to_owned();
        if !self.rest.starts_with('@') {
            return Ok((name, false));
        }
        self.rest = (self.rest.strip_prefix(AT_RETURN))
            .ok_or_else(|| self.error(format!("{AT_RETURN} must come, or no @")))?;
        Ok((name, true))
    }

    /// Takes all that is left: an argument, and the way from there.
    fn path(&mut self) -> Result<(String, Vec<Part>), FieldError> {
        let argument = self.name("the name of an argument")?.to_owned();
        let mut path = Vec::new();
        while !self.rest.is_empty() {
            if path.len() >= MOST_PARTS {
                return Err(self.error(format!("a path has at most {MOST_PARTS} parts")));
            }
            path.push(self.part()?);
        }
        Ok((argument, path))
    }

    fn part(&mut self) -> Result<Part, FieldError> {
        if self.rest.starts_with('.') {
            self.take('.')?;
            let name = self.name("the name of an attribute")?;
            return Ok(Part::Attribute(name.to_owned()));
        }
        if !self.rest.starts_with('[') {
            return Err(self.error("a dot or a bracket must come"));
        }
        self.take('[')?;
        let part = match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => Part::Key(self.string(quote)?),
            _ => Part::Number(self.number()?),
        };
        self.take(']')?;
        Ok(part)
    }

    fn number(&mut self) -> Result<i64, FieldError> {
        let digits = self.rest.strip_prefix('-').unwrap_or(self.rest);
        let end = digits.find(|it: char| !it.is_ascii_digit());
        let length = end.unwrap_or(digits.len()) + (self.rest.len() - digits.len());
        let (number, rest) = self.rest.split_at(length);
        let number = number.parse().map_err(|_| {
            self.error("a whole number or a key in quotes must come, such as [0] or ['method']")
        })?;
        self.rest = rest;
        Ok(number)
    }

    /// Takes a string in such quotes, in which a backslash stands before a quote and a backslash.
    fn string(&mut self, quote: char) -> Result<String, FieldError> {
        self.take(quote)?;
        let mut text = String::new();
        loop {
            let mut characters = self.rest.chars();
            let next = characters.next();
            let after = characters.as_str();
            match next {
                None => return Err(self.error(format!("{quote} must come, which ends the key"))),
                Some('\\') => match characters.next() {
                    Some(escaped @ ('\\' | '\'' | '"')) => {
                        text.push(escaped);
                        self.rest = characters.as_str();
                    }
                    _ => {
                        return Err(
                            self.error("a backslash stands only before a quote or another one")
                        );
                    }
                },
                Some(it) if it == quote => {
                    self.rest = after;
                    return Ok(text);
                }
                Some(other) => {
                    text.push(other);
                    self.rest = after;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::paths::are_of_returns;

    fn attribute(name: &str) -> Part {
        Part::Attribute(name.to_owned())
    }

    fn key(name: &str) -> Part {
        Part::Key(name.to_owned())
    }

    #[test]
    fn a_path_is_read_part_by_part() {
        for (text, argument, path) in [
            ("f=statement", "statement", vec![]),
            ("f=ctxt.request_id", "ctxt", vec![attribute("request_id")]),
            ("f=message['method']", "message", vec![key("method")]),
            ("f=m[\"it's\"]", "m", vec![key("it's")]),
            (r"f=m['a\'b\\c']", "m", vec![key(r"a'b\c")]),
            ("f=m['']", "m", vec![key("")]),
            (
                "f=args[0].größe[-12]",
                "args",
                vec![Part::Number(0), attribute("größe"), Part::Number(-12)],
            ),
        ] {
            let field = Field::parse(text).expect(text);
            assert_eq!(
                (field.name.as_str(), field.argument.as_str()),
                ("f", argument)
            );
            assert_eq!(field.path, path, "{text}");
            assert!(field.functions.is_empty());
        }
    }

    #[test]
    fn functions_stand_before_the_name() {
        let field = Field::parse("Server.*:method=message['a:b=c']").expect("a field");
        assert_eq!(field.functions, [Glob::new("Server.*").expect("a glob")]);
        assert_eq!(field.name, "method");
        assert_eq!(field.path, [key("a:b=c")]);
    }

    #[test]
    fn what_is_read_at_the_return_is_marked_or_begins_with_it() {
        for (text, at_return, shown) in [
            (
                "rows@return=cursor.rowcount",
                true,
                "cursor.rowcount@return",
            ),
            ("glob*:rows@return=cursor", true, "cursor@return"),
            ("rows=return", true, "return"),
            ("rows=return[0].count", true, "return[0].count"),
            ("rows@return=return", true, "return"),
            ("rows=cursor.rowcount", false, "cursor.rowcount"),
            ("rows=returned.rows", false, "returned.rows"),
        ] {
            let field = Field::parse(text).expect(text);
            assert_eq!(field.at_return, at_return, "{text}");
            assert_eq!(field.path().to_string(), shown, "{text}");
            assert_eq!(are_of_returns(shown), at_return, "{text}");
            let name = text.split_once('=').map_or("", |(name, _)| name);
            let name = name.trim_start_matches("glob*:");
            let path = text.split_once('=').map_or("", |(_, path)| path);
            let named = Field::named(name, path).expect(text);
            assert_eq!((named.name.as_str(), named.at_return), ("rows", at_return));
        }
        // One that a call can have when it begins is nothing of returns.
        assert!(!are_of_returns("cursor.rowcount@return or rows"));
        assert!(are_of_returns("cursor.rowcount@return or return.rows"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, expected) in [
            (
                "",
                "write NAME=EXPRESSION, such as request=ctxt.request_id, at character 1, where it ends",
            ),
            (
                "=a",
                "the name of a field must come, at character 1, before \"=a\"",
            ),
            (
                "f",
                "write NAME=EXPRESSION, such as request=ctxt.request_id, at character 2, where it ends",
            ),
            (
                "f=",
                "the name of an argument must come, at character 3, where it ends",
            ),
            (
                "f=0",
                "the name of an argument must come, at character 3, before \"0\"",
            ),
            (
                "f=a.",
                "the name of an attribute must come, at character 5, where it ends",
            ),
            (
                "f=a..b",
                "the name of an attribute must come, at character 5, before \".b\"",
            ),
            (
                "f=a b",
                "a dot or a bracket must come, at character 4, before \" b\"",
            ),
            (
                "f=a()",
                "a dot or a bracket must come, at character 4, before \"()\"",
            ),
            (
                "f=a[method]",
                "a whole number or a key in quotes must come, such as [0] or ['method'], at character 5, before \"method]\"",
            ),
            ("f=a[0:2]", "']' must come, at character 6, before \":2]\""),
            (
                "f=a['x]",
                "' must come, which ends the key, at character 8, where it ends",
            ),
            (
                r"f=a['\n']",
                r#"a backslash stands only before a quote or another one, at character 6, before "\\n']""#,
            ),
            ("f g=a", "'=' must come, at character 2, before \" g=a\""),
            (
                "f@exit=a",
                "@return must come, or no @, at character 2, before \"@exit=a\"",
            ),
            (
                "f=a[99999999999999999999]",
                "a whole number or a key in quotes must come, such as [0] or ['method'], at character 5, before \"99999999999999999999\u{2026}\"",
            ),
        ] {
            let error = Field::parse(text).expect_err(text);
            assert_eq!(error.to_string(), expected, "{text}");
        }
        let deep = format!("f=a{}", ".b".repeat(MOST_PARTS + 1));
        assert!(Field::parse(&deep).is_err());
        let long = format!("f={}", "a".repeat(LONGEST));
        assert!(Field::parse(&long).is_err());
    }

    #[test]
    fn the_last_name_and_its_own_decide_whether_a_field_is_hidden() {
        let hidden = ["*password*", "*token*"].map(|glob| Glob::new(glob).expect("a glob"));
        for (text, expected) in [
            ("f=password", true),
            ("f=user.Password", true),
            ("f=names['user_password'][0]", true),
            ("my_token=user.name", true),
            ("f=token.user_id", false),
            ("f=user.name", false),
        ] {
            let field = Field::parse(text).expect(text);
            assert_eq!(field.is_hidden(&hidden), expected, "{text}");
            assert!(!field.is_hidden(&[]));
        }
    }

    #[test]
    fn what_is_missing_is_said_with_the_part_of_the_path() {
        let field = Field::parse("f=message['args'][0].name").expect("a field");
        for (why, at, expected) in [
            (Absent::Unbound, 0, "message has no value"),
            (Absent::NoKey, 1, "message has no key \"args\""),
            (Absent::NoItem, 2, "message[\"args\"] has no item 0"),
            (
                Absent::NoAttribute,
                3,
                "message[\"args\"][0] has no attribute \"name\"",
            ),
        ] {
            assert_eq!(field.absence(why, at), expected);
        }
        // Whatever a program claims.
        for why in Absent::ALL {
            assert!(!field.absence(why, 255).is_empty());
        }
    }

    #[test]
    fn fields_are_told_by_name_in_the_order_that_they_were_given_and_are_not_too_many() {
        let fields = |names: &[&str]| {
            let all = names.iter().map(|name| Field::parse(&format!("{name}=a")));
            all.map(|field| field.expect("a field")).collect::<Vec<_>>()
        };
        let sorted = together(fields(&["b", "a"])).expect("two");
        assert_eq!(sorted, fields(&["a", "b"]));
        let typed = ["a=second", "b=one", "a=first"].map(|it| Field::parse(it).expect("a field"));
        let sorted: Vec<String> = together(typed.into())
            .expect("three")
            .iter()
            .map(Field::to_string)
            .collect();
        assert_eq!(sorted, ["a=second", "a=first", "b=one"]);
        let many: Vec<String> = (0..=MOST_FIELDS).map(|it| format!("f{it}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(together(fields(&many)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_field_or_an_error_at_a_place_in_it(text in "\\PC{0,40}|[a-c.:=\\[\\]'\"\\\\0-9-]{0,24}") {
            match Field::parse(&text) {
                Ok(field) => {
                    // As it is written, it is read again.
                    let again = Field::parse(&field.to_string().replace('\0', ""));
                    if field.path.iter().all(|part| !matches!(part, Part::Key(key) if key.chars().any(|it| !it.is_ascii_graphic()))) {
                        prop_assert_eq!(again, Ok(Field { functions: Vec::new(), ..field }));
                    }
                }
                Err(error) => prop_assert!(error.at <= text.chars().count() + 1),
            }
        }
    }
}
