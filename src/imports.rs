//! The picture of the imports: which file of a crate uses what other file defines. No files may use each other in a
//! circle, since of those none can be understood or changed alone, except within one deep module whose documentation has a
//! section "Circles" that says why.
//!
//! A file uses another when its code, tests aside, names something that the other *defines*. So a re-export is only a
//! door: what comes through it counts as use of the file behind it, and a file that opens one for its children does not
//! use them by that. A `mod` declaration is no use either.
//!
//! `scripts/imports` draws the picture.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What the code of a file is made of, as far as paths are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A name or a keyword.
    Name(String),
    /// `::`
    Into,
    /// Any other character that is no space. Literals are left out.
    Mark(char),
}

/// Splits source code into tokens, without comments and literals.
fn tokens(code: &str) -> Vec<Token> {
    let chars: Vec<char> = code.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if c == '"' {
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' {
            // A character ends with another quote; a lifetime does not.
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            } else {
                i += if at(i + 2) == '\'' { 3 } else { 1 };
            }
        } else if c.is_alphanumeric() || c == '_' {
            let begin = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            let name: String = chars[begin..i].iter().collect();
            let hashes = (i..).take_while(|&i| at(i) == '#').count();
            if matches!(name.as_str(), "r" | "br" | "cr") && at(i + hashes) == '"' {
                let end: String = format!("\"{}", "#".repeat(hashes));
                i += hashes + 1;
                while i < chars.len() && !chars[i..].iter().copied().take(end.len()).eq(end.chars())
                {
                    i += 1;
                }
                i += end.len();
            } else if !c.is_numeric() {
                tokens.push(Token::Name(name));
            }
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push(Token::Into);
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(Token::Mark(c));
            }
            i += 1;
        }
    }
    tokens
}

fn is_mark(token: Option<&Token>, mark: char) -> bool {
    matches!(token, Some(Token::Mark(found)) if *found == mark)
}

fn name_of(token: Option<&Token>) -> Option<&str> {
    match token {
        Some(Token::Name(name)) => Some(name),
        _ => None,
    }
}

/// Leaves out the items that are there for tests only.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut i = 0;
    while let Some(token) = tokens.get(i) {
        let only_for_tests = is_mark(tokens.get(i), '#')
            && is_mark(tokens.get(i + 1), '[')
            && name_of(tokens.get(i + 2)) == Some("cfg")
            && is_mark(tokens.get(i + 3), '(')
            && name_of(tokens.get(i + 4)) == Some("test");
        if !only_for_tests {
            kept.push(token.clone());
            i += 1;
            continue;
        }
        // Its attributes, then the item: up to a semicolon, or to the end of its first braces unless it is a `use`.
        while is_mark(tokens.get(i), '#') {
            i = end_of_group(tokens, i + 1);
        }
        let mut is_use = false;
        while let Some(token) = tokens.get(i) {
            is_use |= name_of(Some(token)) == Some("use");
            i = match token {
                Token::Mark('{' | '(' | '[') => end_of_group(tokens, i),
                _ => i + 1,
            };
            if is_mark(Some(token), ';') || (is_mark(Some(token), '{') && !is_use) {
                break;
            }
        }
    }
    kept
}

/// The index after the group that begins here.
fn end_of_group(tokens: &[Token], begin: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(begin) {
        match token {
            Token::Mark('{' | '(' | '[') => depth += 1,
            Token::Mark('}' | ')' | ']') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// Names with `::` between them.
type Names = Vec<String>;

/// One file of a crate, which is one module.
#[derive(Debug)]
struct File {
    path: PathBuf,
    /// Where it stands in the crate; empty for its root.
    module: Names,
    /// Its children in files of their own.
    children: BTreeSet<String>,
    /// What `use` has brought in: the path for each name.
    uses: BTreeMap<String, Import>,
    /// Paths in its code.
    paths: BTreeSet<Names>,
    /// Whether its documentation says why there are circles in it.
    has_reason: bool,
}

/// A name that `use` has brought in.
#[derive(Debug)]
struct Import {
    path: Names,
    /// It is opened for others.
    is_door: bool,
    /// The file's own code names it, too.
    is_used: bool,
}

impl File {
    fn parse(path: PathBuf, module: Names) -> File {
        let code = fs::read_to_string(&path).expect("a file of the crate");
        let tokens = without_tests(&tokens(&code));
        let mut file = File {
            path,
            module,
            children: BTreeSet::new(),
            uses: BTreeMap::new(),
            paths: BTreeSet::new(),
            has_reason: code.lines().any(|line| line.trim() == "//! # Circles"),
        };
        let mut own = BTreeSet::new();
        let mut i = 0;
        while let Some(token) = tokens.get(i) {
            match (token, tokens.get(i + 1), tokens.get(i + 2)) {
                (Token::Name(word), Some(Token::Name(child)), Some(Token::Mark(';')))
                    if word == "mod" =>
                {
                    file.children.insert(child.clone());
                    i += 3;
                }
                (Token::Name(word), _, _) if word == "use" => {
                    // `pub use`, `pub(crate) use`
                    let before = i.checked_sub(1).and_then(|i| tokens.get(i));
                    let is_door = name_of(before) == Some("pub") || is_mark(before, ')');
                    let end =
                        (i..).find(|&i| tokens.get(i).is_none_or(|it| is_mark(Some(it), ';')));
                    let end = end.unwrap_or(tokens.len());
                    file.tree(&tokens[i + 1..end], &[], is_door);
                    i = end + 1;
                }
                (Token::Name(first), next, _) => {
                    let mut names = vec![first.clone()];
                    let mut end = i + 1;
                    while tokens.get(end) == Some(&Token::Into)
                        && let Some(name) = name_of(tokens.get(end + 1))
                    {
                        names.push(name.to_owned());
                        end += 2;
                    }
                    let before = i.checked_sub(1).and_then(|i| tokens.get(i));
                    let is_field = is_mark(before, '.') && next != Some(&Token::Into);
                    if !is_field && before != Some(&Token::Into) {
                        own.insert(first.clone());
                        if names.len() > 1 {
                            file.paths.insert(names);
                        }
                    }
                    i = end;
                }
                _ => i += 1,
            }
        }
        for (name, import) in &mut file.uses {
            import.is_used = own.contains(name);
        }
        file
    }

    /// Reads what stands between `use` and its semicolon.
    fn tree(&mut self, tokens: &[Token], prefix: &[String], is_door: bool) {
        let mut path = prefix.to_vec();
        let mut i = 0;
        let mut alias = None;
        while let Some(token) = tokens.get(i) {
            match token {
                Token::Name(word) if word == "as" => {
                    alias = name_of(tokens.get(i + 1)).map(str::to_owned);
                    i += 1;
                }
                Token::Name(name) => path.push(name.clone()),
                Token::Mark('{') => {
                    let inside = &tokens[i + 1..end_of_group(tokens, i) - 1];
                    let mut begin = 0;
                    while begin < inside.len() {
                        let mut end = begin;
                        while end < inside.len() && !is_mark(inside.get(end), ',') {
                            end = match inside.get(end) {
                                Some(Token::Mark('{')) => end_of_group(inside, end),
                                _ => end + 1,
                            };
                        }
                        self.tree(&inside[begin..end], &path, is_door);
                        begin = end + 1;
                    }
                    return;
                }
                Token::Mark('*') => path.push("*".to_owned()),
                _ => {}
            }
            i += 1;
        }
        // `a::{self}` is `a`.
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let Some(name) = alias.or_else(|| path.last().cloned()) else {
            return;
        };
        let import = Import {
            path,
            is_door,
            is_used: false,
        };
        // What is not to be named is there for its methods.
        let name = if name == "_" {
            import.path.join("::")
        } else {
            name
        };
        self.uses.insert(name, import);
    }
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    /// A module in a file.
    Module(usize),
    /// Something that this file defines.
    Item(usize),
}

/// The files of a crate, and which uses what of which.
#[derive(Debug)]
struct Picture {
    root: PathBuf,
    files: Vec<File>,
    /// For each file, the others that it uses, with a path that shows it.
    edges: Vec<BTreeMap<usize, String>>,
}

impl Picture {
    /// The picture of the crate whose `lib.rs` is in this directory.
    fn of(root: &Path) -> Picture {
        let mut picture = Picture {
            root: root.to_owned(),
            files: vec![File::parse(root.join("lib.rs"), Vec::new())],
            edges: Vec::new(),
        };
        let mut next = 0;
        while let Some(file) = picture.files.get(next) {
            let children: Vec<Names> = (file.children.iter())
                .map(|child| [file.module.clone(), vec![child.clone()]].concat())
                .collect();
            for module in children {
                let path = root.join(module.join("/"));
                let [flat, nested] = [path.with_extension("rs"), path.join("mod.rs")];
                let path = if flat.exists() { flat } else { nested };
                picture.files.push(File::parse(path, module));
            }
            next += 1;
        }
        picture.edges = (0..picture.files.len())
            .map(|file| picture.used_by(file))
            .collect();
        picture
    }

    fn used_by(&self, user: usize) -> BTreeMap<usize, String> {
        let file = &self.files[user];
        let imported = file.uses.values();
        let imported = imported.filter(|import| !import.is_door || import.is_used);
        let mut used = BTreeMap::new();
        for path in imported.map(|import| &import.path).chain(&file.paths) {
            if let Some(Named::Item(other)) = self.resolve(user, path, &mut Vec::new())
                && other != user
            {
                used.entry(other).or_insert_with(|| path.join("::"));
            }
        }
        used
    }

    fn module(&self, module: &[String]) -> Option<usize> {
        self.files.iter().position(|file| file.module == module)
    }

    /// What a path in this file names; `None` when it is of another crate.
    fn resolve(
        &self,
        file: usize,
        path: &[String],
        seen: &mut Vec<(usize, String)>,
    ) -> Option<Named> {
        let mut at = file;
        let mut rest = path;
        let mut is_relative = true;
        while let Some((first, further)) = rest.split_first() {
            let module = &self.files[at].module;
            at = match first.as_str() {
                "crate" => 0,
                "self" => at,
                "super" => self.module(module.split_last()?.1)?,
                _ => break,
            };
            is_relative = false;
            rest = further;
        }
        while let Some((first, further)) = rest.split_first() {
            let here = &self.files[at];
            let child = [here.module.as_slice(), std::slice::from_ref(first)].concat();
            let import = here.uses.get(first);
            // One name can be a module's and a function's; the last is the function then.
            let import = import.filter(|_| !seen.contains(&(at, first.clone())));
            match (self.module(&child), import) {
                (Some(module), import) if import.is_none() || !further.is_empty() => at = module,
                (_, Some(import)) => {
                    seen.push((at, first.clone()));
                    match self.resolve(at, &import.path, seen)? {
                        Named::Module(module) => at = module,
                        item => return Some(item),
                    }
                }
                // The first name is a module's or brought in, or of another crate.
                _ if is_relative => return None,
                _ => return Some(Named::Item(at)),
            }
            is_relative = false;
            rest = further;
        }
        Some(Named::Module(at))
    }

    /// Files that use each other in circles, each with all that take part, in no order.
    fn circles(&self) -> Vec<Vec<usize>> {
        let reached: Vec<BTreeSet<usize>> = (0..self.files.len())
            .map(|file| {
                let mut reached = BTreeSet::new();
                let mut waiting = vec![file];
                while let Some(file) = waiting.pop() {
                    for &other in self.edges[file].keys() {
                        if reached.insert(other) {
                            waiting.push(other);
                        }
                    }
                }
                reached
            })
            .collect();
        let mut circles: Vec<Vec<usize>> = Vec::new();
        for (file, others) in reached.iter().enumerate() {
            let circle = others.iter().copied();
            let circle: Vec<usize> = circle.filter(|&it| reached[it].contains(&file)).collect();
            if circle.first() == Some(&file) {
                circles.push(circle);
            }
        }
        circles
    }

    /// Whether the files of a circle are all of one module that says why.
    fn is_excused(&self, circle: &[usize]) -> bool {
        self.files.iter().any(|deep| {
            deep.has_reason
                && circle.iter().all(|&file| {
                    let module = &self.files[file].module;
                    module.starts_with(&deep.module)
                })
        })
    }

    fn name(&self, file: usize) -> String {
        let path = &self.files[file].path;
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        path.display().to_string()
    }

    /// A circle in words: who uses whom, and by what.
    fn describe(&self, circle: &[usize]) -> String {
        let mut text = String::new();
        for &file in circle {
            for (other, path) in &self.edges[file] {
                if circle.contains(other) {
                    let (file, other) = (self.name(file), self.name(*other));
                    let _ = writeln!(text, "  {file} uses {other} ({path})");
                }
            }
        }
        text
    }

    /// Panics when there is a circle that nobody has given a reason for.
    fn check(&self) {
        let circles = self.circles();
        let wrong = circles.iter().filter(|circle| !self.is_excused(circle));
        let wrong: Vec<String> = wrong.map(|circle| self.describe(circle)).collect();
        assert!(
            wrong.is_empty(),
            "files under {} use each other in circles (src/imports.rs says what that means):\n{}",
            self.root.display(),
            wrong.join("and\n")
        );
    }

    /// The picture for Graphviz, a box for each room.
    fn dot(&self) -> String {
        let mut rooms: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, file) in self.files.iter().enumerate() {
            let room = file.module.first().map_or("lib", String::as_str);
            rooms.entry(room).or_default().push(index);
        }
        let mut dot = "digraph imports {\n  rankdir=LR;\n  node [shape=box];\n".to_owned();
        for (room, files) in rooms {
            let _ = writeln!(dot, "  subgraph cluster_{room} {{\n    label=\"{room}\";");
            for file in files {
                let _ = writeln!(dot, "    \"{}\";", self.name(file));
            }
            dot.push_str("  }\n");
        }
        for (file, others) in self.edges.iter().enumerate() {
            for &other in others.keys() {
                let _ = writeln!(
                    dot,
                    "  \"{}\" -> \"{}\";",
                    self.name(file),
                    self.name(other)
                );
            }
        }
        dot.push_str("}\n");
        dot
    }
}

/// The picture of the crate in this directory of the repository; drawn into the directory that `PYSTAP_IMPORTS` names.
fn picture(name: &str, directory: &str) -> Picture {
    let picture = Picture::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory));
    if let Some(directory) = std::env::var_os("PYSTAP_IMPORTS") {
        let path = Path::new(&directory).join(format!("{name}.dot"));
        fs::write(path, picture.dot()).expect("the picture can be written");
    }
    picture
}

#[test]
fn no_files_of_pystap_use_each_other_in_circles() {
    let picture = picture("pystap", "src");
    assert!(picture.files.len() > 100, "all files are looked at");
    picture.check();
}

#[test]
fn no_files_of_the_agent_use_each_other_in_circles() {
    let picture = picture("agent", "agent/src");
    assert!(picture.files.len() > 20, "all files are looked at");
    picture.check();
}

/// A crate of these files, and the circles in it that nobody has given a reason for.
fn circles_in(files: &[(&str, &str)]) -> Vec<String> {
    let root = tempfile::tempdir().expect("a directory");
    for (name, code) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        fs::write(path, code).expect("it can be written");
    }
    let picture = Picture::of(root.path());
    let circles = picture.circles();
    let wrong = circles.iter().filter(|circle| !picture.is_excused(circle));
    wrong.map(|circle| picture.describe(circle)).collect()
}

#[test]
fn files_that_use_each_other_are_a_circle() {
    let circles = circles_in(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        (
            "a.rs",
            "use crate::{b::Beta, c}; pub struct Alpha; fn f() { c::g() }",
        ),
        ("b.rs", "pub struct Beta(super::a::Alpha);"),
        ("c.rs", "pub fn g() {}"),
    ]);
    assert_eq!(
        circles,
        ["  a.rs uses b.rs (crate::b::Beta)\n  b.rs uses a.rs (super::a::Alpha)\n"]
    );
}

#[test]
fn a_door_is_not_what_is_behind_it() {
    let files = [
        ("lib.rs", "mod house; mod street;"),
        (
            "house/mod.rs",
            "mod kitchen; mod table; pub use self::table::{Table, Table as Desk};",
        ),
        (
            "house/kitchen.rs",
            "use super::Table; pub struct Stove(crate::street::Gas);",
        ),
        ("house/table.rs", "pub struct Table;"),
        (
            "street.rs",
            "pub struct Gas; fn f(_: crate::house::Desk) {}",
        ),
    ];
    assert_eq!(circles_in(&files), Vec::<String>::new());
    // Once the door does something with what comes through it, it uses that.
    let mut uses = files;
    uses[1].1 =
        "mod kitchen; mod table; pub use self::kitchen::Stove; pub struct Table; fn f(_: Stove) {}";
    assert_eq!(circles_in(&uses).len(), 1);
}

#[test]
fn neither_tests_nor_words_are_uses() {
    let circles = circles_in(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b::B; pub struct A<'a>(&'a B);"),
        (
            "b.rs",
            r##"pub struct B;
            // crate::a::A /* /* */ crate::a::A
            /* /* crate::a::A */ crate::a::A */
            const TEXT: [&str; 2] = ["\"crate::a::A", r#"" crate::a::A "#];
            const QUOTES: [char; 3] = ['"', '\'', '"'];
            #[cfg(test)]
            #[path = "c.rs"]
            mod c;
            #[cfg(test)]
            use crate::{a::A};
            #[cfg(test)]
            mod tests { use crate::a::A; fn f() {} }"##,
        ),
    ]);
    assert_eq!(circles, Vec::<String>::new());
}

#[test]
fn one_deep_module_may_have_its_reasons() {
    let mut files = [
        ("lib.rs", "mod deep; mod other;"),
        (
            "deep/mod.rs",
            "//! # Circles\n//!\n//! Each needs the other.\nmod a; mod b;",
        ),
        ("deep/a.rs", "pub struct A(super::b::B);"),
        ("deep/b.rs", "pub struct B(super::a::A);"),
        ("other.rs", ""),
    ];
    assert_eq!(circles_in(&files), Vec::<String>::new());
    files[3].1 = "pub struct B(super::a::A, crate::other::C);";
    files[4].1 = "pub struct C(crate::deep::b::B);";
    assert_eq!(circles_in(&files).len(), 1, "they do not count for others");
}
