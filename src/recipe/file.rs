//! Recipes as TOML. Whatever is wrong with one is said with its line, which is shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use serde::Deserialize;
use toml::{Spanned, Value};

use super::normal::Normal;
use super::{CALLER, Function, Recipe};
use crate::field::{self, Field};
use crate::script::filter::Glob;

/// What is wrong with a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What it is, in one line, with its place.
    pub(super) message: String,
    /// The line, with a mark below; empty where it has no place.
    pub(super) excerpt: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    description: Spanned<String>,
    group_by: Spanned<Vec<Spanned<String>>>,
    request: Option<Spanned<String>>,
    status: Option<Spanned<String>>,
    rows: Option<Spanned<String>>,
    callers_outside: Option<Vec<Spanned<String>>>,
    require: Option<Spanned<String>>,
    #[serde(default)]
    normalise: BTreeMap<Spanned<String>, Normal>,
    #[serde(default)]
    function: Vec<WrittenFunction>,
    #[serde(default)]
    within: Vec<WrittenFunction>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFunction {
    function: Spanned<String>,
    file: Option<Spanned<String>>,
    fields: BTreeMap<Spanned<String>, Spanned<Value>>,
}

/// Reads a recipe of this name.
pub(super) fn parse(name: &str, text: &str) -> Result<Recipe, Wrong> {
    let source = Source(text);
    let written: Written = toml::from_str(text).map_err(|error| {
        // A report of several lines says the same at greater length.
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        match error.span() {
            Some(span) => source.wrong(span, &message),
            None => Wrong {
                message,
                excerpt: String::new(),
            },
        }
    })?;
    let mut functions = source.functions(&written.function)?;
    if let Some(passed_over) = &written.callers_outside {
        let globs = passed_over.iter().map(|glob| source.glob(glob));
        let caller = Field::caller(CALLER, &globs.collect::<Result<Vec<_>, Wrong>>()?);
        for function in functions.iter_mut().filter(|it| !it.fields.is_empty()) {
            function.fields.push(caller.clone());
        }
    }
    let within = source.functions(&written.within)?;
    let of_returns = (written.within.iter()).flat_map(|it| it.fields.iter());
    for (name, paths) in of_returns {
        let paths = source.fields(name, paths)?;
        if paths.iter().any(|it| it.at_return) {
            let wanted = "what [[within]] tells is read as its function begins; leave out @return and return";
            return Err(source.wrong(name.span(), wanted));
        }
    }
    if functions.is_empty() {
        return Err(source.wrong(0..0, "it has no [[function]], so there is nothing to count"));
    }
    let all = || functions.iter().chain(&within);
    let known = |named: &Spanned<String>| {
        let has = |it: &Function| it.fields.iter().any(|it| it.name == *named.get_ref());
        match all().any(has) {
            true => Ok(named.get_ref().clone()),
            false => Err(source.wrong(
                named.span(),
                &format!("no function has a field {:?}", named.get_ref()),
            )),
        }
    };
    let optional = |named: &Option<Spanned<String>>| named.as_ref().map(known).transpose();
    if written.group_by.get_ref().is_empty() {
        return Err(source.wrong(written.group_by.span(), "at least one field must be named"));
    }
    if written.description.get_ref().lines().count() != 1 {
        return Err(source.wrong(written.description.span(), "it must be one line"));
    }
    let group_by = written.group_by.get_ref().iter().map(known);
    let normalise = (written.normalise.iter()).map(|(name, how)| Ok((known(name)?, *how)));
    let recipe = Recipe {
        name: name.to_owned(),
        description: written.description.get_ref().clone(),
        group_by: group_by.collect::<Result<_, Wrong>>()?,
        request: optional(&written.request)?,
        status: optional(&written.status)?,
        rows: optional(&written.rows)?,
        caller: written.callers_outside.is_some(),
        require: optional(&written.require)?,
        normalise: normalise.collect::<Result<_, Wrong>>()?,
        functions,
        within,
    };
    field::together(recipe.fields()).map_err(|problem| source.wrong(0..0, &problem))?;
    Ok(recipe)
}

/// The text of a recipe.
struct Source<'a>(&'a str);

impl Source<'_> {
    /// Something is wrong at these bytes.
    fn wrong(&self, span: Range<usize>, message: &str) -> Wrong {
        let before = self.0.get(..span.start).unwrap_or(self.0);
        let begins = before.rfind('\n').map_or(0, |at| at + 1);
        let number = before.matches('\n').count() + 1;
        let column = before.get(begins..).unwrap_or_default().chars().count() + 1;
        let line = self.0.get(begins..).unwrap_or_default();
        let line = line.lines().next().unwrap_or_default();
        let marked = self.0.get(span).unwrap_or_default();
        let marks = marked.lines().next().unwrap_or_default().chars().count();
        let mut excerpt = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(excerpt, "{number:>4} | {line}");
        let blank = " ".repeat(column - 1);
        let _ = writeln!(excerpt, "     | {blank}{}", "^".repeat(marks.max(1)));
        Wrong {
            message: format!("line {number}, column {column}: {message}"),
            excerpt,
        }
    }

    fn functions(&self, written: &[WrittenFunction]) -> Result<Vec<Function>, Wrong> {
        let function = |written: &WrittenFunction| {
            let fields = written.fields.iter();
            let fields = fields.map(|(name, paths)| self.fields(name, paths));
            Ok(Function {
                name: self.glob(&written.function)?,
                file: (written.file.as_ref())
                    .map(|file| self.glob(file))
                    .transpose()?,
                fields: fields.collect::<Result<Vec<_>, Wrong>>()?.concat(),
            })
        };
        written.iter().map(function).collect()
    }

    fn glob(&self, text: &Spanned<String>) -> Result<Glob, Wrong> {
        Glob::new(text.get_ref()).map_err(|error| self.wrong(text.span(), &error.to_string()))
    }

    /// A field by one path, or by the first of several.
    fn fields(&self, name: &Spanned<String>, paths: &Spanned<Value>) -> Result<Vec<Field>, Wrong> {
        let wrong = || {
            self.wrong(
                paths.span(),
                "a path in quotes, or a list of such, must come",
            )
        };
        let Ok(named) = Field::named(name.get_ref(), "a") else {
            let wanted = "a field has a name such as Python's are, and may have @return behind it";
            return Err(self.wrong(name.span(), wanted));
        };
        if named.name == CALLER {
            let wanted =
                "a field of this name is who called (callers-outside); choose another name";
            return Err(self.wrong(name.span(), wanted));
        }
        let one = std::slice::from_ref(paths.get_ref());
        let all = match paths.get_ref() {
            Value::Array(all) if all.is_empty() => return Err(wrong()),
            Value::Array(all) => all,
            _ => one,
        };
        let field = |path: &Value| {
            let Value::String(path) = path else {
                return Err(wrong());
            };
            Field::named(name.get_ref(), path).map_err(|error| {
                self.wrong(
                    self.within(paths.span(), path, error.at()),
                    &error.to_string(),
                )
            })
        };
        all.iter().map(field).collect()
    }

    /// Where this character of a text stands, which is somewhere in these bytes; all of them where it is written otherwise.
    fn within(&self, span: Range<usize>, text: &str, at: usize) -> Range<usize> {
        let written = self.0.get(span.clone()).unwrap_or_default();
        let character = text.char_indices().nth(at.saturating_sub(1));
        let offset = character.map_or(text.len(), |(offset, _)| offset);
        match written.find(text) {
            Some(begins) => {
                let at = span.start + begins + offset;
                at..at + 1
            }
            None => span,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"description = "calls"
group-by = ["what"]

[[function]]
function = "handle"
file = "*/app.py"
fields = { what = ["message['method']", "message.method"] }
"#;

    #[test]
    fn a_recipe_is_read_with_the_paths_of_a_field_in_their_order() {
        let recipe = parse("own", WHOLE).expect("a recipe");
        assert_eq!(
            (recipe.name.as_str(), recipe.group_by.as_slice()),
            ("own", &["what".to_owned()][..])
        );
        let paths: Vec<String> = recipe.fields().iter().map(ToString::to_string).collect();
        assert_eq!(paths, ["what=message[\"method\"]", "what=message.method"]);
        assert_eq!(recipe.filters().files.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_column_and_the_line_is_shown() {
        let mut said = String::new();
        for (from, to) in [
            ("[\"what\"]", "[\"what\""),
            ("[\"what\"]", "[\"which\"]"),
            ("[\"what\"]", "[]"),
            ("[\"what\"]", "\"what\""),
            ("group-by", "groupby"),
            ("description = \"calls\"\n", ""),
            ("\"calls\"", "\"\"\"two\nlines\"\"\""),
            ("\"handle\"", "\"[handle\""),
            ("\"handle\"", "7"),
            ("message['method']", "message[method]"),
            ("message.method", "message."),
            ("what = [\"", "\"a b\" = [\""),
            ("[\"message['method']\", \"message.method\"]", "7"),
            ("[\"message['method']\", \"message.method\"]", "[]"),
            ("\n[[function]]", "\nstatus = \"code\"\n[[function]]"),
            ("\n[[function]]", "\nrows = \"count\"\n[[function]]"),
            (
                "\n[[function]]",
                "\ncallers-outside = [\"*/own/*\", \"[x\"]\n[[function]]",
            ),
            ("what = [\"", "caller = \"it\", what = [\""),
            ("what = [\"", "\"caller@return\" = \"it\", what = [\""),
            ("what = [\"", "\"what@exit\" = [\""),
            (
                "\n[[function]]",
                "\n[[within]]\nfunction = \"f\"\nfields = { \"what@return\" = \"a\" }\n[[function]]",
            ),
            (
                "\n[[function]]",
                "\n[normalise]\nwhat = \"html\"\n[[function]]",
            ),
            ("[[function]]", "[[within]]"),
        ] {
            let text = WHOLE.replace(from, to);
            assert_ne!(text, WHOLE, "{from}");
            let wrong = parse("own", &text).expect_err(to);
            let _ = writeln!(said, "{}\n{}", wrong.message, wrong.excerpt);
        }
        insta::assert_snapshot!(said);
    }

    #[test]
    fn a_recipe_has_no_more_fields_than_a_session() {
        let mut text = WHOLE.to_owned();
        for number in 0..16 {
            let _ = write!(
                text,
                "[[within]]\nfunction = \"f\"\nfields = {{ f{number} = \"a\" }}\n"
            );
        }
        let wrong = parse("own", &text).expect_err("too many");
        assert!(wrong.message.contains("18 fields"), "{wrong:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_recipe_or_an_error_at_a_place(text in "(description = \"a\"\n|group-by = \\[\"a\"\\]\n|\\[\\[function\\]\\]\n|function = \"[a-z\\[*]{0,3}\"\n|fields = \\{ a = \"\\PC{0,6}\" \\}\n|\\PC{0,12}\n){0,8}") {
            if let Err(wrong) = parse("any", &text) {
                proptest::prop_assert!(!wrong.message.is_empty());
            }
        }
    }
}
