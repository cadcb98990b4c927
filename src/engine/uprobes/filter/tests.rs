use proptest::prelude::*;

use super::*;

/// A small model of what the kernel does with a filter: its expressions, and lib/glob.c for values.
fn kernel_accepts(expression: &[u8], file: &[u8], function: &[u8]) -> bool {
    let of_functions = expression
        .strip_prefix(b"mark >= 3 || (")
        .expect("others pass");
    let (result, rest) = conjunction(of_functions, file, function);
    assert_eq!(rest, b")", "{}", String::from_utf8_lossy(expression));
    result
}

fn conjunction<'a>(mut text: &'a [u8], file: &[u8], function: &[u8]) -> (bool, &'a [u8]) {
    let mut result = true;
    loop {
        let negated = text.starts_with(b"!");
        text = &text[usize::from(negated)..];
        let (term, rest) = disjunction(text.strip_prefix(b"(").expect("a term"), file, function);
        result &= term != negated;
        match rest.strip_prefix(b" && ") {
            Some(rest) => text = rest,
            None => return (result, rest),
        }
    }
}

fn disjunction<'a>(mut text: &'a [u8], file: &[u8], function: &[u8]) -> (bool, &'a [u8]) {
    let mut result = false;
    loop {
        let (name, rest) = match text.strip_prefix(b"function ~ ") {
            Some(rest) => (function, rest),
            None => (file, text.strip_prefix(b"file ~ ").expect("a field")),
        };
        let quote = rest[0];
        let end = 1 + rest[1..]
            .iter()
            .position(|byte| *byte == quote)
            .expect("closed");
        let value = &rest[1..end];
        assert!(value.len() < 256, "longer than the kernel takes");
        result |= value_matches(value, name);
        let rest = &rest[end + 1..];
        match rest.strip_prefix(b" || ") {
            Some(rest) => text = rest,
            None => return (result, rest.strip_prefix(b")").expect("closed")),
        }
    }
}

/// The kernel looks at a value before it takes it for a glob.
fn value_matches(value: &[u8], name: &[u8]) -> bool {
    assert!(
        !value.starts_with(b"!") && !value[0].is_ascii_digit(),
        "{value:?}"
    );
    glob_match(value, name)
}

fn glob_match(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', rest @ ..] => (0..=name.len()).any(|skip| glob_match(rest, &name[skip..])),
        [b'?', rest @ ..] => !name.is_empty() && glob_match(rest, &name[1..]),
        [b'[', class @ ..] => {
            let Some((&wanted, names)) = name.split_first() else {
                return false;
            };
            let inverted = class.first() == Some(&b'!');
            let mut class = &class[usize::from(inverted)..];
            let mut found = false;
            loop {
                let (low, rest) = (class[0], &class[1..]);
                class = rest;
                let mut high = low;
                if class[0] == b'-' && class[1] != b']' {
                    high = class[1];
                    class = &class[2..];
                }
                found |= (low..=high).contains(&wanted);
                if class[0] == b']' {
                    break;
                }
            }
            found != inverted && glob_match(&class[1..], names)
        }
        [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
            name.first() == Some(byte) && glob_match(rest, &name[1..])
        }
    }
}

fn filters(functions: &[&str], files: &[&str], modules: &[&str], not: &[&str]) -> Filters {
    let globs = |patterns: &[&str]| -> Vec<Glob> {
        patterns
            .iter()
            .map(|pattern| Glob::new(pattern).expect("valid"))
            .collect()
    };
    Filters {
        functions: globs(functions),
        files: globs(files),
        modules: modules
            .iter()
            .map(|pattern| Glob::module(pattern).expect("valid"))
            .collect(),
        not_functions: globs(not),
        not_files: Vec::new(),
        not_modules: Vec::new(),
    }
}

fn text(filters: &Filters) -> Option<String> {
    let text = expression(filters, false)?.into_string().expect("UTF-8");
    let of_functions = text.strip_prefix("mark >= 3 || (")?.strip_suffix(')')?;
    Some(of_functions.to_owned())
}

#[test]
fn filters_are_written_in_the_grammar_of_the_kernel() {
    assert_eq!(text(&filters(&[], &[], &[], &[])), None);
    assert_eq!(
        text(&filters(
            &["work", "get_*"],
            &["*/app/*"],
            &[],
            &["_[a-z]*"]
        ))
        .as_deref(),
        Some(
            r#"(function ~ "\work" || function ~ "\get_*") && (file ~ "*/app/*") && !(function ~ "\_[a-z]*")"#
        )
    );
    // A value may not begin with what the kernel takes for something else.
    assert_eq!(
        text(&filters(&["!x", "7"], &[], &[], &[])).as_deref(),
        Some(r#"(function ~ "\!x" || function ~ "\7")"#)
    );
    assert_eq!(
        text(&filters(&["say\"\"", "it's"], &[], &[], &[])).as_deref(),
        Some(r#"(function ~ '\say""' || function ~ "\it's")"#)
    );
}

#[test]
fn what_cannot_be_said_exactly_is_let_through_and_never_left_out() {
    let long = "x".repeat(300);
    // A pattern that is too long for the kernel takes its whole kind along.
    assert_eq!(text(&filters(&[&long, "work"], &[], &[], &[])), None);
    // An exclusion that would exclude too much is left to user space.
    assert_eq!(text(&filters(&[], &[], &[], &["a\"'b"])), None);
    let many: Vec<String> = (0..400)
        .map(|number| format!("function_number_{number}"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(text(&filters(&many, &[], &[], &[])), None);
}

fn pattern() -> impl Strategy<Value = String> {
    "[a-c_.*?!'\"0-9é]{1,6}|\\[[a-c]-[d-f]\\][*?a]{0,2}|\\[!a-b_\\]\\*|\\\\\\*a|\\[\"\\]|\\[\\]a\\]x"
        .prop_filter("a valid pattern", |text| Glob::new(text).is_ok())
}

proptest! {
    #[test]
    fn the_kernel_never_drops_what_user_space_would_accept(
        functions in proptest::collection::vec(pattern(), 0..3),
        files in proptest::collection::vec(pattern(), 0..3),
        not in proptest::collection::vec(pattern(), 0..3),
        names in proptest::collection::vec(
            (proptest::collection::vec(proptest::sample::select("abcdef_.*?!'\"07é]/".as_bytes().to_vec()), 0..6),
             proptest::collection::vec(proptest::sample::select("abcdef_.*?!'\"07é]/".as_bytes().to_vec()), 0..6)),
            1..20),
    ) {
        let filters = filters(
            &functions.iter().map(String::as_str).collect::<Vec<_>>(),
            &files.iter().map(String::as_str).collect::<Vec<_>>(),
            &[],
            &not.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        let all = [&filters.functions, &filters.files, &filters.not_functions];
        let exact = all.into_iter().flatten().all(|glob| ftrace_glob(glob).is_some_and(|glob| glob.exact));
        let Some(expression) = expression(&filters, false) else { return Ok(()) };
        for (file, function) in &names {
            let user = filters.accepts(file, [function; 2]);
            let kernel = kernel_accepts(expression.as_bytes(), file, function);
            prop_assert!(kernel || !user, "{expression:?} {file:?} {function:?}");
            if exact {
                prop_assert_eq!(kernel, user, "{:?} {:?} {:?}", expression, file, function);
            }
        }
    }

    #[test]
    fn modules_are_the_same_in_the_kernel_as_in_user_space(
        module in "[ab](\\.[ab*]){0,2}",
        names in proptest::collection::vec("(/?([ab]/){0,3}([ab]|__init__)\\.py)|<frozen [ab](\\.[ab]){0,2}>", 1..20),
    ) {
        let filters = filters(&[], &[], &[&module], &[]);
        let expression = expression(&filters, false).expect("it can be said");
        for name in &names {
            prop_assert_eq!(
                kernel_accepts(expression.as_bytes(), name.as_bytes(), b"f"),
                filters.accepts(name.as_bytes(), [b"f"; 2]),
                "{:?} {}", expression, name
            );
        }
    }
}

#[test]
fn names_with_classes_pass_where_records_have_them() {
    let filters = filters(&["Server.handle"], &[], &[], &["Server.*"]);
    let said = |qualname| {
        let expression = expression(&filters, qualname).expect("it can be said");
        expression.into_string().expect("UTF-8")
    };
    assert_eq!(
        said(false),
        r#"mark >= 3 || ((function ~ "\Server.handle") && !(function ~ "\Server.*"))"#
    );
    assert_eq!(
        said(true),
        r#"mark >= 3 || ((function ~ "\Server.handle" || qualname ~ "\Server.handle") && !(function ~ "\Server.*"))"#
    );
}
